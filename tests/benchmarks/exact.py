"""The same waves and images in float64 with direct sums over the atoms: right, and slow.

With hpctem are shared the scattering factors and the parts of them below a depth, which have tests
of their own, and what is asked for: the planes where slices act and those of the focal spread.
Potentials, apertures, multislice and lenses are not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from hpctem.optics.scattering_factors import potential_below, scattering_factor
from hpctem.optics.transfer import Imaging, asked_planes

sys.path.insert(0, str(Path(__file__).parents[1] / "physics"))

from direct_sums import (
    BAND,
    aperture,
    deviation,
    frequencies,
    image_error,
    interaction_constant,
    wavelength,
)
from scipy.constants import e, h, m_e

__all__ = [
    "deviation",
    "finite_slices",
    "image_error",
    "image_exactly",
    "infinite_slices",
    "pass_exactly",
]

Shape, Extent = tuple[int, int], tuple[float, float]
Depth = Callable[[np.ndarray, np.ndarray], np.ndarray]
TAIL = 1e-6  # of an atom's scattering, where it ends in finite projection
RANK = 1e-7  # of the largest singular value: products of functions of k and depth that are kept


class Sums:
    """Potentials from sums over atoms: half of the frequencies, for potentials are real."""

    def __init__(self, shape: Shape, extent: Extent) -> None:
        self.shape, self.extent = shape, extent
        ky, kx = frequencies(shape, extent)
        edge_y, edge_x = BAND * shape[0] / extent[0], BAND * shape[1] / extent[1]
        self.rows = np.flatnonzero(np.abs(ky[:, 0]) <= edge_y)
        right = kx[0, : shape[1] // 2]
        self.ky, self.kx = ky[self.rows, 0], right[right <= edge_x]
        k = np.hypot(self.ky[:, None], self.kx)
        self.k, self.place = np.unique(k.round(9), return_inverse=True)
        self.total = np.zeros(k.shape, complex)

    def add(self, factors: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> None:
        """Add sum_r factors_r(k) sum_a weights_ra exp(-2 pi i k r_a).

        factors: (R, len(k)) at the frequencies `k`; positions (N, 3) in A; weights (R, N).
        """
        along_y = np.exp(-2j * np.pi * self.ky[:, None] * positions[:, 1])
        along_x = np.exp(-2j * np.pi * positions[:, 0, None] * self.kx)
        for factor, weight in zip(factors, weights, strict=True):
            part = (along_y * weight) @ along_x
            part *= factor[self.place].reshape(part.shape)
            self.total += part

    def collect(self) -> np.ndarray:
        """The potential in V A, float64 (ny, nx), of all that was added since the last time."""
        half = np.zeros((self.shape[0], self.shape[1] // 2 + 1), complex)
        half[self.rows, : len(self.kx)] = self.total
        self.total[:] = 0
        volts = h**2 / (2 * np.pi * m_e * e) * 1e20 / (self.extent[0] * self.extent[1])
        return np.fft.irfft2(half, self.shape) * (volts * self.shape[0] * self.shape[1])


def infinite_slices(
    positions: np.ndarray, numbers: np.ndarray, shape: Shape, extent: Extent,
    edges: np.ndarray, parametrization: str,
) -> Iterator[np.ndarray | None]:  # fmt: skip
    """Potential of each slice, whole atoms in the slice that holds them; None for an empty one."""
    sums = Sums(shape, extent)
    elements = np.unique(numbers).tolist()
    factors = {n: scattering_factor(n, sums.k, parametrization) for n in elements}
    for lower, upper in pairwise(edges.tolist()):
        inside = (positions[:, 2] >= lower) & (positions[:, 2] < upper)
        for number, factor in factors.items():
            chosen = positions[inside & (numbers == number)]
            if len(chosen):
                sums.add(factor[None], chosen, np.ones((1, len(chosen))))
        yield sums.collect() if inside.any() else None


def finite_slices(
    positions: np.ndarray, numbers: np.ndarray, shape: Shape, extent: Extent,
    edges: np.ndarray, parametrization: str,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Potential of each slice, atoms divided over slices; the outermost take all beyond them."""
    sums = Sums(shape, extent)
    thickness, last = float(edges[1] - edges[0]), len(edges) - 2
    kinds: dict[tuple[int, bool, bool], tuple[np.ndarray, Depth]] = {}
    for s in range(last + 1):
        for number in np.unique(numbers).tolist():
            kind = number, s == 0, s == last
            if kind not in kinds:
                part = _part_of(number, thickness, kind[1], kind[2], parametrization)
                reach = _find_reach(number, sums.k, parametrization)
                kinds[kind] = separate(part, sums.k, thickness, reach)
            factors, weigh = kinds[kind]
            depth = positions[:, 2] - edges[s]
            reach = _find_reach(number, sums.k, parametrization)
            near = (depth > -reach) & (depth < thickness + reach) & (numbers == number)
            if near.any():
                sums.add(factors, positions[near], weigh(depth[near]))
        yield sums.collect()


def _part_of(number: int, thickness: float, first: bool, last: bool, table: str) -> Depth:
    """What of an atom at a depth (above the slice's lower edge, in A) lies in the slice: (K, M)."""

    def part(k: np.ndarray, depth: np.ndarray) -> np.ndarray:
        below_top = (
            scattering_factor(number, k, table)[:, None] + np.zeros(len(depth))
            if last
            else potential_below(number, k, thickness - depth, table)
        )
        return below_top if first else below_top - potential_below(number, k, -depth, table)

    return part


def _find_reach(number: int, k: np.ndarray, table: str) -> float:
    """A, beyond which an atom has less than `TAIL` of its scattering."""
    distance = np.arange(0.5, 20, 0.25)
    sample = np.linspace(0, k.max(), 16)
    tail = potential_below(number, sample, -distance, table).max(axis=0)
    return float(distance[np.argmax(tail < TAIL * scattering_factor(number, 0.0, table))])


def separate(
    part: Depth, k: np.ndarray, thickness: float, reach: float
) -> tuple[np.ndarray, Depth]:
    """Functions of k (R, K), and those of depth (R, M), whose products add up to `part`.

    By singular values of samples, a Chebyshev grid between each two depths where `part` has a
    kink. Raises AssertionError where they are not right to ten times `RANK`.
    """
    nodes = 0.5 + 0.5 * np.cos(np.pi * (np.arange(48) + 0.5) / 48)
    pieces = ((-reach, 0.0), (0.0, thickness), (thickness, thickness + reach))
    depths = np.concatenate([low + (high - low) * nodes for low, high in pieces])
    sample = np.linspace(0, k.max(), 256)
    left, sizes, right = np.linalg.svd(part(sample, depths), full_matrices=False)
    kept = sizes > RANK * sizes[0]
    left, right = left[:, kept].T, right[kept] / sizes[kept, None]
    factors = right @ part(k, depths).T

    def weigh(depth: np.ndarray) -> np.ndarray:
        return left @ part(sample, depth)

    some = np.random.default_rng(0)
    chosen, at = some.integers(0, len(k), 300), some.uniform(-reach, thickness + reach, 300)
    exact = part(k[chosen], at)
    assert np.abs(factors[:, chosen].T @ weigh(at) - exact).max() < 10 * RANK * sizes[0]
    return factors, weigh


def pass_exactly(
    potentials: Iterator[np.ndarray | None],
    planes: Sequence[np.ndarray],
    height: float,
    shape: Shape,
    extent: Extent,
    energy: float,
) -> list[np.ndarray]:
    """Exit waves, complex128 (ny, nx), of slices that act at each of several sets of planes (A)."""
    ky, kx = frequencies(shape, extent)
    lam, sigma = wavelength(energy), interaction_constant(energy)
    limit, square = aperture(shape, extent), ky**2 + kx**2

    def carry(wave: np.ndarray, distance: float) -> np.ndarray:
        phase = np.exp(-1j * np.pi * lam * distance * square) * limit
        return np.fft.ifft2(np.fft.fft2(wave) * phase)

    waves: list[np.ndarray] = [np.ones(shape, complex) for _ in planes]
    here: list[float | None] = [None] * len(planes)
    for s, potential in enumerate(potentials):
        if potential is None:
            continue
        t = np.fft.ifft2(np.fft.fft2(np.exp(1j * sigma * potential)) * limit)
        for n, heights in enumerate(planes):
            before, plane = here[n], float(heights[s])
            if before is not None:
                waves[n] = carry(waves[n], plane - before)
            waves[n], here[n] = waves[n] * t, plane
    return [carry(w, height - z) for w, z in zip(waves, here, strict=True) if z is not None]


def image_exactly(
    wave: np.ndarray, extent: Extent, imaging: Imaging, nodes: int | str
) -> np.ndarray:
    """Image of a wave without aberrations, every plane that is asked for by itself; float64."""
    ky, kx = frequencies(wave.shape, extent)
    phase = np.pi * wavelength(imaging.energy) * (ky**2 + kx**2)
    spectrum = np.fft.fft2(wave)
    image = np.zeros(wave.shape)
    for offset, weight in zip(*asked_planes(imaging.focal_spread, nodes), strict=True):
        lens = np.exp(1j * (imaging.defocus + offset) * phase)
        image += weight * np.abs(np.fft.ifft2(spectrum * lens)) ** 2
    return image
