"""The lattice of an image: two reciprocal vectors that explain the spots of its power spectrum."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from hpctem.micrographs.spectra import find_spots, sharpen, window_image

# How far a spot may lie from its place in the lattice, in steps of frequency.
TOLERANCE = 1.5
# Within how many steps a spot surely belongs to it.
SURE = 0.4
HIGHEST_INDEX = 8
BASIS_SPOTS = 12
# Of the spots' amplitude, what the lattice must explain.
EXPLAINED = 0.5


@dataclass(frozen=True)
class Lattice:
    """A lattice found in an image.

    `reciprocal` (2, 2): rows are the vectors b1, b2, (x, y) in cycles per pixel, reduced (the
    shortest ones). `indices` (n, 2) are h and k of the spots found, `places` (n, 2) their
    frequencies, `contrasts` (n,) their power over that of the noise. `explained` is the part of all
    spots' amplitude that lies on the lattice, `misfit` the rms distance of spots from it, in cycles
    per pixel.
    """

    reciprocal: np.ndarray
    indices: np.ndarray
    places: np.ndarray
    contrasts: np.ndarray
    explained: float
    misfit: float

    @property
    def vectors(self) -> np.ndarray:
        """Rows are the lattice vectors a1, a2 in pixels, (x, y): b_i . a_j = 1 where i = j."""
        return np.linalg.inv(self.reciprocal).T

    @property
    def angle(self) -> float:
        """Angle between a1 and a2, radian."""
        first, second = self.vectors
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        return math.acos(max(-1.0, min(1.0, float(cosine))))


def find_lattice(image: np.ndarray, highest: float = 0.5) -> Lattice | None:
    """The lattice of an image (ny, nx), or None where no two directions repeat.

    highest: the largest frequency at which spots are looked for, cycles per pixel.

    Pairs of the strongest spots are tried as a basis; the one that explains most of the spots'
    amplitude wins, of equal ones that of the larger cell in frequency. It is then fitted to all
    spots that it explains.
    """
    places, contrasts = find_spots(image, highest)
    basis = _choose_basis(places, contrasts, image.shape)
    if basis is None:
        return None
    basis = reduce_basis(basis)
    indices, inside = index_spots(basis, places, image.shape)
    return fit_lattice(
        Lattice(basis, indices[inside], places[inside], contrasts[inside], 0.0, 0.0),
        float(np.sqrt(contrasts).sum()),
        SURE / min(image.shape),
    )


def fit_lattice(lattice: Lattice, amplitude: float, sure: float) -> Lattice:
    """The same spots, with the vectors that fit them best; amplitude: of all spots, found or not.

    Least squares weighted with each spot's contrast, up to a limit so that one spot never decides;
    spots that lie off by more than three times the median, and by more than `sure` cycles per
    pixel, are left out.
    """
    use = np.ones(len(lattice.places), dtype=bool)
    weights = np.minimum(lattice.contrasts, 300.0)
    for _ in range(4):
        basis = _solve(lattice.indices[use], lattice.places[use], weights[use])
        distance = np.linalg.norm(lattice.places - lattice.indices @ basis, axis=1)
        use = distance <= max(3 * float(np.median(distance)), sure)
        if np.linalg.matrix_rank(lattice.indices[use]) < 2:
            use = np.ones(len(use), dtype=bool)
    misfit = math.sqrt(float(np.average(distance[use] ** 2, weights=weights[use])))
    explained = float(np.sqrt(lattice.contrasts[use]).sum()) / amplitude
    return Lattice(
        basis, lattice.indices[use], lattice.places[use], lattice.contrasts[use], explained, misfit
    )


def fit_patch(image: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Reciprocal vectors (2, 2) of a part (ny, nx) of an image whose lattice is known.

    The spots are looked for beside their places in the whole image.
    """
    strong = np.argsort(-lattice.contrasts)[:12]
    indices = lattice.indices[strong]
    if np.linalg.matrix_rank(indices) < 2:
        indices = lattice.indices
        strong = np.arange(len(indices))
    start = indices @ lattice.reciprocal
    places, amplitudes = sharpen(np.fft.fft2(window_image(image)), start)
    power = np.abs(amplitudes) ** 2
    step = 1.0 / np.array(image.shape[::-1])
    near = (np.abs(places - start) < 2 * step).all(axis=1)
    if np.linalg.matrix_rank(indices[near]) < 2:
        return lattice.reciprocal
    return _solve(indices[near], places[near], np.minimum(power[near], np.median(power[near]) * 10))


def index_spots(
    basis: np.ndarray, places: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Whole h, k (n, 2) of frequencies (n, 2), and which lie within 1.5 steps of that place."""
    indices = np.rint(places @ np.linalg.inv(basis)).astype(np.int64)
    steps = (places - indices @ basis) * np.array(shape[::-1])
    inside = np.hypot(steps[:, 0], steps[:, 1]) < TOLERANCE
    inside &= (np.abs(indices).max(axis=1) <= HIGHEST_INDEX) & (indices != 0).any(axis=1)
    return indices, inside


def reduce_basis(basis: np.ndarray) -> np.ndarray:
    """The shortest two vectors (rows) of the same lattice, at 60 to 90 degrees (Lagrange)."""
    first, second = np.array(basis, dtype=np.float64)
    while True:
        if first @ first > second @ second:
            first, second = second, first
        times = round(float(first @ second / (first @ first)))
        if times == 0:
            break
        second = second - times * first
    if first @ second < 0:
        second = -second
    return np.array([first, second])


def _choose_basis(
    places: np.ndarray, contrasts: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray | None:
    best, best_score = None, 0.0
    amplitudes = np.sqrt(contrasts)
    steps = np.array(shape[::-1])
    for i, j in itertools.combinations(range(min(len(places), BASIS_SPOTS)), 2):
        basis = reduce_basis(places[[i, j]])
        cell = abs(float(np.linalg.det(basis * steps)))
        shortest = float(np.linalg.norm(basis[0] * steps))
        # A flat or a tiny cell has a point near everything.
        if shortest < 4 * TOLERANCE or cell < 0.3 * shortest * np.linalg.norm(basis[1] * steps):
            continue
        _, inside = index_spots(basis, places, shape)
        chance = math.pi * TOLERANCE**2 / cell
        part = float(amplitudes[inside].sum() / amplitudes.sum())
        score = (part - chance) / (1 - chance) * (1 + 0.02 * math.log(cell))
        if part >= EXPLAINED and inside.sum() >= 3 and score > best_score:
            best, best_score = basis, score
    return best


def _solve(indices: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    root = np.sqrt(weights)[:, None]
    return np.linalg.lstsq(indices * root, places * root, rcond=None)[0]
