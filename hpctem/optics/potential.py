"""Projected potentials of slices, as Fourier sums of scattering factors over the atoms.

V_s(r) = C / area * sum_k exp(2 pi i k r) sum_elements f(k) sum_atoms w_s(k, z) exp(-2 pi i k r_a),
with C = h^2 / (2 pi m0 e) (see Kirkland 2010). In infinite projection w_s is 1 for the slice
that holds the atom; in finite projection it is the part of the atom's potential that lies in the
slice (`hpctem.optics.depth`).

The sum runs over frequencies to 90 % of Nyquist along each axis, beyond the antialiasing circle
of the transmission function exp(i sigma V): products of high frequencies of a strong potential
fall inside the circle. For columns of gold at 0.1 A sampling this halves the error of the wave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError, SampleError
from hpctem.optics.depth import divide_over_slices, expand_depth
from hpctem.optics.electron import POTENTIAL_PER_SCATTERING_FACTOR
from hpctem.optics.grid import Grid
from hpctem.optics.kernels import Deposits, find_support, kernels_for
from hpctem.optics.scattering_factors import (
    PENG_LIMIT,
    check_elements,
    debye_waller_factor,
    scattering_factor,
)
from hpctem.optics.spreading import make_deposits, window_correction, window_table


@dataclass(frozen=True)
class Atomic:
    """How one atom scatters: `parametrization` and, instead of phonons, `rms` (A) per element Z."""

    parametrization: str = "lobato"
    rms: Mapping[int, float] | None = None

    def displacement(self, number: int) -> float:
        """The Debye-Waller displacement of element `number` in A, 0 without Debye-Waller factors.

        Raises ConfigError for an element that is missing from `rms`.
        """
        if self.rms is None:
            return 0.0
        if number not in self.rms:
            raise ConfigError(
                f"element Z = {number} has no thermal displacement for its Debye-Waller factor; "
                f"set it under simulation.phonons.rms."
            )
        return float(self.rms[number])


class Channel(NamedTuple):
    """What is spread and transformed together: one element (and depth function) of all slices.

    `half`: float32 (ny // 2 + 1, nx), V A^2 per atom over the window; `support`: of `half`;
    `held`: bool (slices,) on the host, whether a slice of any configuration holds an atom.
    """

    deposits: Deposits
    half: Any
    support: Any
    held: np.ndarray


Factor = tuple[np.ndarray, np.ndarray]
"""What a channel's transform is multiplied by, as one half, and its support."""


@lru_cache(maxsize=8)
def _scaled_correction(grid: Grid) -> np.ndarray:
    return window_correction(grid) * (POTENTIAL_PER_SCATTERING_FACTOR / np.prod(grid.extent))


def _band(grid: Grid, parametrization: str) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies |k| in 1/A of one half, clipped to the potential's band, and where that is.

    The band is that of the window, and for Peng's Gaussians what they were fitted to.
    """
    k = grid.half_radii()
    inside = _scaled_correction(grid) != 0
    if parametrization == "peng":
        inside &= k <= PENG_LIMIT
    return np.minimum(k, k[inside].max()), inside


@lru_cache(maxsize=16)
def _element_factor(grid: Grid, number: int, parametrization: str, rms: float) -> Factor:
    k, inside = _band(grid, parametrization)
    factor = scattering_factor(number, k, parametrization, rms) * _scaled_correction(grid)
    half = np.where(inside, factor, 0).astype(np.float32)
    return half, find_support(half)


# A structure's slices have a thickness of their own, so only one structure's factors are kept.
@lru_cache(maxsize=1)
def _depth_factors(
    grid: Grid, elements: tuple[tuple[int, float], ...], parametrization: str, thickness: float
) -> dict[int, list[Factor]]:
    """The factor of every function of depth, float32 (ny // 2 + 1, nx), by atomic number.

    `elements`: pairs of atomic number and Debye-Waller displacement in A. The same arrays for every
    configuration, so that what is made of one is made once.
    """
    k, inside = _band(grid, parametrization)
    factors: dict[int, list[Factor]] = {}
    for number, rms in elements:
        expansion = expand_depth(number, parametrization, thickness, float(k.max()))
        scale = np.where(inside, debye_waller_factor(k, rms) * _scaled_correction(grid), 0)
        halves = [(factor * scale).astype(np.float32) for factor in expansion.evaluate_factors(k)]
        factors[number] = [(half, find_support(half)) for half in halves]
    return factors


def check_positions(positions: np.ndarray) -> None:
    """Raise SampleError if a coordinate is not a finite number."""
    if not np.isfinite(positions).all():
        raise SampleError("an atom's position is not a finite number; check the structure.")


def make_channels(
    positions: np.ndarray,
    numbers: np.ndarray,
    grid: Grid,
    atomic: Atomic,
    slices: int,
    thickness: float,
    finite: bool,
    backend: Backend,
) -> list[Channel]:
    """Sort the atoms of a batch of configurations for the potentials of their slices.

    `positions`: float64 (B, N, 3) in A, slice s holding z in [s, s + 1) `thickness`;
    `numbers`: integer (N,). Raises ConfigError for elements without scattering factor.
    """
    check_elements(numbers, atomic.parametrization, grid.antialias_radius)
    configurations = positions.shape[0]
    elements = np.unique(numbers).tolist()
    displaced = tuple((number, atomic.displacement(number)) for number in elements)
    channels = []
    for number, rms in displaced:
        chosen = positions[:, numbers == number]
        row, column = (values.ravel() for values in grid.wrap(chosen))
        configuration = np.repeat(np.arange(configurations), chosen.shape[1])
        z = chosen[..., 2].ravel()
        if not finite:
            layer = configuration * slices + slice_of(z, thickness, slices)
            deposits, _ = make_deposits(row, column, layer, (configurations, slices), grid, backend)
            factors = [_element_factor(grid, number, atomic.parametrization, rms)]
            weights = None
        else:
            k, _ = _band(grid, atomic.parametrization)
            expansion = expand_depth(number, atomic.parametrization, thickness, float(k.max()))
            atom, slice_index, weights = divide_over_slices(expansion, z, slices)
            layer = configuration[atom] * slices + slice_index
            deposits, order = make_deposits(
                row[atom], column[atom], layer, (configurations, slices), grid, backend
            )
            weights = weights[:, order]
            parametrization = atomic.parametrization
            factors = _depth_factors(grid, displaced, parametrization, thickness)[number]
        held = np.bincount(layer % slices, minlength=slices) > 0
        for n, (half, support) in enumerate(factors):
            if weights is not None:
                deposits = deposits._replace(weight=backend.asarray(weights[n], dtype=np.float32))
            channels.append(
                Channel(deposits, backend.asarray(half), backend.asarray(support), held)
            )
    return channels


def choose_channels(channels: list[Channel], slices: list[int]) -> list[Channel]:
    """Those that hold atoms in any of the slices."""
    return [channel for channel in channels if channel.held[slices].any()]


def slice_of(z: np.ndarray, thickness: float, slices: int) -> np.ndarray:
    """Index (int64) of the slice that holds each z (A); what lies outside joins the outermost."""
    return np.clip(np.floor(z / thickness), 0, slices - 1).astype(np.int64)


def add_potentials(
    potential: Any,
    work: Any,
    channels: list[Channel],
    slices: tuple[int, int],
    table: Any,
    backend: Backend,
) -> None:
    """Set `potential` to the projected potentials (V A) of two slices: real and imaginary part.

    `potential`, `work`: complex64 (B, ny, nx) of the backend; `slices`: two indices, the second
    may be -1; `table`: `window_table()` on the backend.
    """
    kernels = kernels_for(backend)
    chosen = choose_channels(channels, [s for s in slices if s >= 0])
    if not chosen:
        potential.fill(0)
        return
    for n, channel in enumerate(chosen):
        target = work if n else potential
        kernels.spread(target, channel.deposits, slices, table)
        backend.fft2(target, out=target)
        kernels.combine(potential, target, channel.half, channel.support, n > 0)
    backend.ifft2(potential, out=potential, scaled=False)


def projected_potential(
    positions: np.ndarray,
    numbers: np.ndarray,
    grid: Grid,
    backend: Backend,
    parametrization: str = "lobato",
    rms: Mapping[int, float] | None = None,
) -> np.ndarray:
    """Potential of all atoms projected along the beam, to 90 % of Nyquist along each axis.

    `positions`: float64 (N, 3) in A; `numbers`: integer (N,); `rms`: Debye-Waller displacement
    in A per atomic number. Returns float32 (ny, nx) in V A, on the backend; its mean is the mean
    of the scattering factors at k = 0. Raises ConfigError for elements that are not tabulated.
    """
    check_positions(positions)
    if len(numbers) == 0:
        return backend.xp.zeros(grid.shape, dtype=np.float32)
    atomic = Atomic(parametrization, rms)
    channels = make_channels(positions[None], numbers, grid, atomic, 1, 1.0, False, backend)
    potential = backend.xp.empty((1, *grid.shape), dtype=np.complex64)
    work = backend.xp.empty_like(potential)
    table = backend.asarray(window_table())
    add_potentials(potential, work, channels, (0, -1), table, backend)
    return backend.xp.ascontiguousarray(potential[0].real)
