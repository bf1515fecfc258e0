"""A specimen as slices: where a stack of atomic planes is cut, and what each does to a wave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.optics.electron import interaction_constant
from hpctem.optics.grid import Grid, antialias_aperture
from hpctem.optics.kernels import find_support, kernels_for
from hpctem.optics.multislice import CENTROID_FREQUENCY
from hpctem.optics.potential import Atomic, add_potentials, make_channels
from hpctem.optics.scattering_factors import scattering_factor
from hpctem.optics.spreading import window_table

GAP = 0.25
"""Atoms further apart along the beam than this share of the slice thickness lie in two slices."""


@dataclass(frozen=True, eq=False)
class Layers:
    """Slices of a specimen: `index` int64 (n,), the slice of each atom; `planes` (S,): heights in A
    where they act, rising."""

    index: np.ndarray
    planes: np.ndarray


def plan_layers(
    z: np.ndarray, numbers: np.ndarray, slice_thickness: float, parametrization: str = "lobato"
) -> Layers:
    """Cut a specimen between its atomic planes; `z` float64 (n,) in A are its atoms at rest.

    Where there are no gaps, or planes are rough, into equal slices no thicker than
    `slice_thickness`. Each acts at the mean height of its atoms, weighted with the square of their
    scattering factors (`hpctem.optics.multislice.plan_slices`).
    """
    if len(z) == 0:
        return Layers(np.zeros(0, np.int64), np.zeros(1))
    order = np.argsort(z, kind="stable")
    rising = z[order]
    group = np.cumsum(np.diff(rising, prepend=rising[0]) > GAP * slice_thickness)
    lowest = rising[np.flatnonzero(np.diff(group, prepend=-1))]
    highest = rising[np.flatnonzero(np.diff(group, append=group[-1] + 1))]
    parts = np.maximum(np.ceil((highest - lowest) / slice_thickness - 1e-9), 1)
    share = (rising - lowest[group]) / np.maximum((highest - lowest)[group], 1e-9)
    part = np.minimum(np.floor(share * parts[group]), parts[group] - 1)
    _, index = np.unique(np.stack([group, part]), axis=1, return_inverse=True)
    weight = np.zeros(len(z))
    for number in np.unique(numbers).tolist():
        f = scattering_factor(number, CENTROID_FREQUENCY, parametrization)
        weight[numbers == number] = float(f) ** 2
    layer = np.empty(len(z), np.int64)
    layer[order] = index.ravel()
    return Layers(layer, np.bincount(layer, weight * z) / np.bincount(layer, weight))


def transmit(
    places: np.ndarray,
    layer: np.ndarray,
    numbers: np.ndarray,
    count: int,
    grid: Grid,
    energy: float,
    parametrization: str,
    taper: float,
    backend: Backend,
) -> Any:
    """Transmission functions exp(i sigma V) of `count` slices, within the antialiasing aperture.

    `places`: float64 (n, 2), x and y in A, periodic in `grid`; `layer`: int64 (n,), the slice of
    each atom; `energy` in eV; `parametrization`: of the scattering factors; `taper`: as for
    `antialias_aperture`. Returns complex64 (count, ny, nx) on the backend.
    """
    kernels = kernels_for(backend)
    sigma = interaction_constant(energy)
    half = (antialias_aperture(grid, taper) / grid.pixels).astype(np.float32)
    half, support = backend.asarray(half), backend.asarray(find_support(half))
    transmissions = backend.xp.ones((count, *grid.shape), dtype=np.complex64)
    if len(numbers) == 0:
        return transmissions
    atoms = np.column_stack([places, layer + 0.5])[None]
    channels = make_channels(
        atoms, numbers, grid, Atomic(parametrization), count, 1.0, False, backend
    )
    potential, work = (backend.xp.empty((1, *grid.shape), dtype=np.complex64) for _ in range(2))
    table = backend.asarray(window_table())
    for s in range(0, count, 2):
        pair = (s, s + 1 if s + 1 < count else -1)
        add_potentials(potential, work, channels, pair, table, backend)
        for part in range(min(2, count - s)):
            transmission = transmissions[s + part : s + part + 1]
            kernels.phase_object(transmission, potential, part, sigma)
            backend.fft2(transmission, out=transmission)
            kernels.combine(transmission, transmission, half, support, False)
            backend.ifft2(transmission, out=transmission, scaled=False)
    return transmissions
