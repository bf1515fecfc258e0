"""What two atoms behind each other scatter beyond what each of them would alone.

In a column the first atom focuses the beam on the second, and what both scatter interferes along
the beam (see Jesson & Pennycook 1993, Proc. R. Soc. Lond. A 441, 261): the two Se of a WSe2
monolayer give 2.2 to 2.4 times the signal of one, not twice. An incoherent image has that if the
cross sections of the two are multiplied by the gain that multislice gives for the pair. It depends
on how far the second stands beside the first, and is over at `FARTHEST`. Of a thicker crystal,
where a column is more than its pairs, it is a first correction only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hpctem.backend import Backend
from hpctem.optics.annuli import Annulus
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import fast_size
from hpctem.optics.probe import Probe
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.stem import StemMultislice, scan_detectors

FARTHEST = 0.8
"""Distance across the beam in A from which two atoms count as alone."""

DEEPEST = 5.0
"""Distance along the beam in A up to which two atoms are taken for a pair."""

OFFSETS = np.linspace(0, FARTHEST, 9)
"""Distances across the beam at which gains are computed."""

SIDE, STEPS = 20.0, 0.1
"""Window of the multislice in A, and to what distances along the beam are rounded."""


def correct_pairs(
    positions: np.ndarray,
    numbers: np.ndarray,
    weights: np.ndarray,
    probe: Probe,
    inner: float,
    outer: float,
    backend: Backend,
    parametrization: str = "lobato",
) -> np.ndarray:
    """Cross sections in A^2, float64 (n,), of atoms that stand alone or in front of each other.

    `positions`: float64 (n, 3) in A, the beam along +z; `numbers`: integer (n,); `weights`: the
    cross sections of isolated atoms, float64 (n,); `probe`: of which energy and convergence
    semiangle count; `inner`, `outer` in rad. Both atoms of a pair are multiplied by its gain.
    """
    from scipy.spatial import cKDTree

    weights = np.array(weights, dtype=np.float64)
    if len(numbers) < 2:
        return weights
    pairs = cKDTree(positions[:, :2]).query_pairs(FARTHEST, output_type="ndarray")
    depth = positions[pairs[:, 1], 2] - positions[pairs[:, 0], 2]
    pairs[depth < 0] = pairs[depth < 0, ::-1]
    depth = np.abs(depth)
    near = (depth < DEEPEST) & (depth > STEPS)
    pairs, depth = pairs[near], depth[near]
    offset = np.hypot(*(positions[pairs[:, 1], :2] - positions[pairs[:, 0], :2]).T)
    keys = np.stack([*numbers[pairs].T.astype(int), np.rint(depth / STEPS).astype(int)], axis=1)
    kinds, which = np.unique(keys, axis=0, return_inverse=True)
    factors = np.ones_like(weights)
    setting = (probe.energy, round(probe.semiangle_cutoff, 4), inner, outer)
    for n, (first, second, steps) in enumerate(kinds.tolist()):
        gains = pair_gains((first, second), steps * STEPS, *setting, backend, parametrization)
        of_kind = which.reshape(-1) == n
        added = np.interp(offset[of_kind], OFFSETS, gains) - 1
        for end in (0, 1):
            np.add.at(factors, pairs[of_kind, end], added)
    return weights * factors


@lru_cache(maxsize=256)
def pair_gains(
    numbers: tuple[int, int],
    depth: float,
    energy: float,
    semiangle_cutoff: float,
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
    pixel = (SIDE / side, SIDE / side)
    multislice = StemMultislice((side, side), slice_thickness=1.0, parametrization=parametrization)
    middle = SIDE / 2

    def collect(offset: float, chosen: list[int]) -> float:
        places = np.array([[middle, middle, 2.0], [middle + offset, middle, 2.0 + depth]])
        point = ScanGrid((middle + offset / 2, middle), (1, 1), (1, 1), pixel)
        signals = scan_detectors(
            places[None, chosen], np.array(numbers)[chosen], depth + 4, point, probe, (annulus,),
            multislice, backend,
        )  # fmt: skip
        return float(signals.values[0, 0, 0])

    gains = np.array(
        [collect(x, [0, 1]) / (collect(x, [0]) + collect(x, [1])) for x in OFFSETS.tolist()]
    )
    gains[-1] = 1.0
    return gains
