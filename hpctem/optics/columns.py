"""What two atoms behind each other scatter beyond what each of them would alone.

In a column the first atom focuses the beam on the second, and what both scatter interferes along
the beam (see Jesson & Pennycook 1993, Proc. R. Soc. Lond. A 441, 261): the two Se of a WSe2
monolayer give 2.2 to 2.4 times the signal of one, not twice. An incoherent image has that if the
cross sections of the two are multiplied by the gain that multislice gives for the pair. It depends
on how far the second stands beside the first, and is over at `FARTHEST`. Of a thicker crystal,
where a column is more than its pairs, it is a first correction only.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from hpctem.backend import Backend
from hpctem.optics.annuli import Annulus
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import fast_size
from hpctem.optics.neighbours import find_pairs
from hpctem.optics.object_functions import neighbouring_angles
from hpctem.optics.probe import Probe
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.stem import StemMultislice, scan_detectors

FARTHEST = 0.8
"""Distance across the beam in A from which two atoms count as alone."""

DEEPEST = 5.0
"""Distance along the beam in A up to which two atoms are taken for a pair."""

OFFSETS = np.linspace(0, FARTHEST, 9)
"""Distances across the beam at which gains are computed."""

NODE_DEPTH = 0.25
"""Distances along the beam at which gains are computed are multiples of this in A."""

SIDE, APART = 20.0, 15.0
"""Window of the multislice, and between the pairs that it images together, in A."""


def correct_pairs(
    positions: np.ndarray,
    numbers: np.ndarray,
    weights: np.ndarray,
    probe: Probe,
    inner: float,
    outer: float,
    backend: Backend,
    parametrization: str = "lobato",
    blurs: np.ndarray | None = None,
) -> np.ndarray:
    """Cross sections in A^2, float64 (n,), of atoms that stand alone or in front of each other.

    `positions`: float64 (n, 3) in A, the beam along +z; `numbers`: integer (n,); `weights`: the
    cross sections of isolated atoms, float64 (n,); `probe`: of which energy and convergence
    semiangle count; `inner`, `outer` in rad; `blurs`: None or float (n,), one-dimensional rms
    displacement of each atom in A, over which the gain is averaged. Both atoms of a pair are
    multiplied by its gain.
    """
    weights = np.array(weights, dtype=np.float64)
    places = np.ascontiguousarray(positions, dtype=np.float64)
    pairs = find_pairs(places, FARTHEST, NODE_DEPTH, DEEPEST)
    if not len(pairs):
        return weights
    apart = places[pairs[:, 1]] - places[pairs[:, 0]]
    offset, depth = np.hypot(apart[:, 0], apart[:, 1]), apart[:, 2]
    spread = np.zeros(len(pairs)) if blurs is None else np.hypot(*np.asarray(blurs)[pairs].T)
    below = np.floor(depth / NODE_DEPTH).astype(np.int64)
    kinds, which = _sort_pairs(np.asarray(numbers)[pairs].astype(np.int64), below, spread)
    setting = probe.energy, inner, outer, backend, parametrization
    factors = np.ones_like(weights)
    for n, (first, second, step, blur) in enumerate(kinds):
        of_kind = which == n
        above = depth[of_kind] / NODE_DEPTH - step
        added = np.zeros(above.shape)
        for node, share in ((step, 1 - above), (step + 1, above)):
            gains = np.zeros(OFFSETS.size)
            for angle, part in neighbouring_angles(probe.semiangle_cutoff):
                gains += part * pair_gains((first, second), node * NODE_DEPTH, angle, *setting)
            added += share * (np.interp(offset[of_kind], OFFSETS, _smear(gains, blur)) - 1)
        for end in (0, 1):
            np.add.at(factors, pairs[of_kind, end], added)
    return weights * factors


def _sort_pairs(
    numbers: np.ndarray, below: np.ndarray, spread: np.ndarray
) -> tuple[list[tuple[int, int, int, float]], np.ndarray]:
    """The different pairs of atoms, and which of them each one is, int64 (m,).

    numbers: int64 (m, 2); below: int64 (m,), steps of depth; spread: float64 (m,), A.
    """
    blurs, blur = np.unique(spread, return_inverse=True)
    steps = int(below.max()) + 1
    code = ((numbers[:, 0] * 256 + numbers[:, 1]) * steps + below) * blurs.size + blur
    codes, which = np.unique(code, return_inverse=True)
    kinds = []
    for one in codes.tolist():
        of_atoms, rest = divmod(one, steps * blurs.size)
        step, k = divmod(rest, blurs.size)
        kinds.append((*divmod(of_atoms, 256), step, float(blurs[k])))
    return kinds, which


def _smear(gains: np.ndarray, blur: float) -> np.ndarray:
    """Mean gains at `OFFSETS` of pairs whose offset has the rms `blur` in A along each axis."""
    if not blur:
        return gains
    nodes, shares = np.polynomial.hermite_e.hermegauss(12)
    shares = shares / shares.sum()
    along = OFFSETS[:, None, None] + blur * nodes[:, None]
    moved = np.interp(np.hypot(along, blur * nodes), OFFSETS, gains)
    return np.einsum("nij,i,j->n", moved, shares, shares)


@lru_cache(maxsize=1024)
def pair_gains(
    numbers: tuple[int, int],
    depth: float,
    semiangle_cutoff: float,
    energy: float,
    inner: float,
    outer: float,
    backend: Backend,
    parametrization: str = "lobato",
) -> np.ndarray:
    """Signal of a pair of atoms over the sum of what they give alone, at `OFFSETS`: float64 (9,).

    By multislice, the sharpest probe half-way between both; `numbers`: that of the atom that the
    beam meets first, then the other's; `depth` in A from one to the other.
    """
    probe, annulus = Probe(energy, semiangle_cutoff), Annulus(inner, outer)
    # the finest of what the detector needs, a little inside the band limit of two thirds
    side = fast_size(SIDE * 3.1 * (outer + semiangle_cutoff) / wavelength(energy))
    pixel, step = SIDE / side, math.ceil(APART * side / SIDE)
    multislice = StemMultislice((side, side), slice_thickness=1.0, parametrization=parametrization)
    # a row of pairs, one of their first atoms alone and one of their second
    points = ScanGrid((SIDE, SIDE), (3, OFFSETS.size), (step, step), (pixel, pixel))
    place = SIDE + step * pixel * np.arange(OFFSETS.size)
    atoms, chosen = [], []
    for row, shown in enumerate(((0, 1), (0,), (1,))):
        for end in shown:
            x = place + (end - 0.5) * OFFSETS
            atoms += [(at, place[row], 2.0 + end * depth) for at in x]
            chosen += [numbers[end]] * OFFSETS.size
    signals = scan_detectors(
        np.array(atoms)[None], np.array(chosen), depth + 4, points, probe, (annulus,), multislice,
        backend,
    )  # fmt: skip
    pairs, first, second = signals.values[0].astype(np.float64)
    gains = pairs / (first + second)
    gains[-1] = 1.0
    gains.flags.writeable = False
    return gains
