"""Power of images of a crystal by where it lies: low frequencies, Bragg spots, between them.

Frequencies are (x, y) in cycles per pixel. As in Khan et al. 2023 (supplementary figure 3): what is
slow is contamination, what lies in the spots is the crystal, the rest is noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.errors import ConfigError
from hpctem.micrographs.geometry import ideal_lattice
from hpctem.micrographs.lattice import reduce_basis
from hpctem.micrographs.spectra import power_spectrum, ring_medians

LOW = 0.5  # of the shortest reciprocal vector: what lies below is slow
RADIUS = 3.0  # of the disc about a spot, steps of frequency: a Hann window's peak and 1 % of strain
NARROW = 0.35  # of the shortest reciprocal vector, the most that a disc may have
LEAST_PERIODS = 5.0  # that a patch must hold
HIGHEST = 0.45  # cycles per pixel
MOST_SHELLS = 6
ALIKE = 1.02  # ratio of lengths of one shell
MOST_INDEX = 8
# Lattices of other sets may lie in any direction and have pixels that are a little larger.
ANGLES = np.radians(np.arange(0.0, 180.0, 0.5))
SCALES = np.linspace(0.94, 1.06, 13)
SEARCHED = 3  # shells by which the direction is found


@dataclass(frozen=True)
class Shells:
    """Spots of a lattice by their distance from zero.

    reciprocal   (2, 2) rows b1, b2, cycles per pixel
    indices      (k, 2) int64 h and k of the spots of each shell, +- q both
    radii        mean length of each shell, cycles per pixel
    """

    reciprocal: np.ndarray
    indices: tuple[np.ndarray, ...]
    radii: tuple[float, ...]

    @property
    def shortest(self) -> float:
        """The shortest reciprocal vector's length."""
        return float(np.linalg.norm(self.indices[0] @ self.reciprocal, axis=1).min())


def list_shells(reciprocal: np.ndarray, most: int = MOST_SHELLS) -> Shells:
    """The first shells of a lattice, none beyond 0.45 cycles per pixel.

    reciprocal: (2, 2) rows. Spots whose lengths are alike within 2 % are one shell; of a
    lattice that is nearly hexagonal or square the lengths of that one decide, so that a slight
    distortion does not tear shells apart.

    Raises ConfigError for a lattice without any spot there.
    """
    reciprocal = reduce_basis(reciprocal)
    span = np.arange(-MOST_INDEX, MOST_INDEX + 1)
    every = np.stack(np.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)
    every = every[(every != 0).any(axis=1)]
    vectors = np.linalg.inv(reciprocal).T
    named = ideal_lattice(vectors)
    basis = np.linalg.inv(named[1]).T if named is not None else reciprocal
    if named is not None and (reciprocal[0] @ reciprocal[1]) * (basis[0] @ basis[1]) < 0:
        basis = basis * np.array([[1.0], [-1.0]])  # 60 and 120 degrees are the same lattice
    lengths = np.linalg.norm(every @ basis, axis=1)
    true = np.linalg.norm(every @ reciprocal, axis=1)
    order = np.argsort(lengths, kind="stable")
    breaks = np.flatnonzero(np.diff(np.log(lengths[order])) > math.log(ALIKE)) + 1
    shells = [part for part in np.split(order, breaks) if true[part].max() <= HIGHEST][:most]
    if not shells:
        raise ConfigError("the lattice has no spot below 0.45 cycles per pixel: pixels are too big")
    return Shells(
        np.asarray(reciprocal, dtype=np.float64),
        tuple(every[part] for part in shells),
        tuple(float(true[part].mean()) for part in shells),
    )


def measure_bands(patches: np.ndarray, shells: Shells) -> np.ndarray:
    """Shares of the power of patches (n, side, side): float64 (3 + shells,), means over patches.

    The shares of low frequencies (below half of the shortest reciprocal vector), of Bragg spots
    (discs of 3 steps of frequency) and of all the rest, which add up to 1; then those of each
    shell. Under a Hann window, without the mean and the slopes. Directions of the lattice are found
    patch by patch, and one scale for all patches, within 6 %: a simulated crystal lies as it likes,
    and the size of a pixel may be wrong a little.

    Raises ConfigError for patches that hold less than 5 periods of the lattice.
    """
    side = patches.shape[-1]
    if shells.shortest * side < LEAST_PERIODS:
        raise ConfigError(
            f"patches of {side} pixels hold {shells.shortest * side:.1f} periods of the lattice; "
            f"{LEAST_PERIODS:g} are needed to tell spots from what lies between: "
            f"at least {math.ceil(LEAST_PERIODS / shells.shortest)} pixels"
        )
    powers = [power_spectrum(patch) for patch in patches]
    lattices = find_directions(powers, shells)
    shares = [measure_shares(*pair, shells) for pair in zip(powers, lattices, strict=True)]
    return np.mean(shares, axis=0)


def measure_shares(power: np.ndarray, reciprocal: np.ndarray, shells: Shells) -> np.ndarray:
    """The same of one power spectrum (side, side), zero in the middle, whose lattice is known.

    Discs reach no farther than 0.35 of the shortest reciprocal vector, so that neither two of them
    nor one and the low frequencies share a pixel.
    """
    side = len(power)
    steps = np.arange(side) - side // 2
    y, x = steps[:, None], steps[None, :]
    low = np.hypot(x, y) < LOW * shells.shortest * side
    radius = min(RADIUS, NARROW * shells.shortest * side)
    parts, total = [float(power[low].sum())], float(power.sum())
    reach = np.arange(-math.ceil(radius) - 1, math.ceil(radius) + 2)
    for indices in shells.indices:
        amount = 0.0
        for spot in indices @ reciprocal * side:
            middle = np.rint(spot).astype(np.int64)
            near_x, near_y = middle[0] + reach[None, :], middle[1] + reach[:, None]
            disc = np.hypot(near_x - spot[0], near_y - spot[1]) <= radius
            rows = (np.broadcast_to(near_y, disc.shape)[disc] + side // 2) % side
            columns = (np.broadcast_to(near_x, disc.shape)[disc] + side // 2) % side
            amount += float(power[rows, columns].sum())
        parts.append(amount)
    slow, spots = parts[0], sum(parts[1:])
    return np.array([slow, spots, total - slow - spots, *parts[1:]]) / total


def find_directions(powers: Sequence[np.ndarray], shells: Shells) -> list[np.ndarray]:
    """Reciprocal vectors (2, 2) of each power spectrum (side, side): turned, mirrored, scaled.

    Of all directions in steps of half a degree that one under which the first three shells' spots
    stand out most of the noise about them; the scale is common to all spectra.
    """
    spots = np.concatenate(shells.indices[:SEARCHED]) @ shells.reciprocal
    spots = spots[(spots[:, 1] > 0) | ((spots[:, 1] == 0) & (spots[:, 0] > 0))]
    turned = _turns() @ spots.T  # (2, angles, 2, spots)
    places = turned[None] * SCALES[:, None, None, None, None]
    scores = np.array([_stand_out(power, places) for power in powers])  # (n, scales, 2, angles)
    scale = int(np.argmax(scores.max(axis=(2, 3)).sum(axis=0)))
    found = []
    for score in scores[:, scale]:
        mirror, angle = np.unravel_index(int(np.argmax(score)), score.shape)
        turn = _turns()[mirror, angle]
        found.append(SCALES[scale] * shells.reciprocal @ turn.T)
    return found


def _turns() -> np.ndarray:
    """Rotations and reflections (2, angles, 2, 2) of vectors (x, y)."""
    cosine, sine = np.cos(ANGLES), np.sin(ANGLES)
    turns = np.moveaxis(np.array([[cosine, -sine], [sine, cosine]]), -1, 0)
    return np.stack([turns, turns @ np.diag([1.0, -1.0])])


def _stand_out(power: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Mean of log(1 + power / noise) over places (..., 2, spots), the best of 3 x 3 steps each."""
    from scipy.ndimage import maximum_filter

    side = len(power)
    _, medians, rings = ring_medians(power)
    ratio = power / np.maximum(medians[rings], 1e-12 * power.max())
    height = maximum_filter(np.log1p(ratio), size=3, mode="wrap")
    steps = np.rint(places * side).astype(np.int64) + side // 2
    return height[steps[..., 1, :] % side, steps[..., 0, :] % side].mean(axis=-1)


def compare_bands(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances of shares (k,): the amount of ln(share / share of the reference)."""
    return np.abs(np.log(np.maximum(other, 1e-12) / np.maximum(reference, 1e-12)))
