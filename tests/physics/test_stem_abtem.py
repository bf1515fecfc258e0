"""Multislice STEM against abTEM 1.0: MoS2, at rest and with frozen displacements.

abTEM has a probe in every periodic cell, measures its defocus from the entrance plane, and lets its
slices act at their upper edge: here the cell fills the window, and the slices begin at the atomic
planes. Its potential departs from the sum over scattering factors in proportion to the square of
the pixel, more between pixels than on them (see test_abtem.py), so the pixels are small and all
atoms lie on them.
"""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.optics.aberrations import Aberrations
from hpctem.optics.annuli import Annulus, weigh_annuli
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid
from hpctem.optics.probe import Probe
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.stem import StemMultislice, scan_detectors

abtem = pytest.importorskip("abtem")
ase = pytest.importorskip("ase")

ENERGY = 80e3
PIXEL = 3.16 / 144
UNIT = np.array([144, 252]) * PIXEL  # MoS2 as a rectangular cell, stretched by 1 % along y
TIMES = np.array([3, 2])
SHAPE = 504, 432
EXTENT = 504 * PIXEL, 432 * PIXEL
PLANES, HEIGHT = (2.0, 3.585, 5.17), 7.17
POINTS = np.array([(0, 0), (72, 42), (36, 21), (17, 150), (110, 61)]) * PIXEL  # x, y
CASES = {
    "in focus": Probe(ENERGY, 0.025),
    "aberrated": Probe(ENERGY, 0.03, 30.0, Aberrations(C12=20.0, phi12=0.4, C21=500.0, C30=1e4)),
}
ANNULI = {
    "bf": Annulus(0, 0.02),
    "abf": Annulus(0.011, 0.023),
    "adf": Annulus(0.04, 0.065),
    "haadf": Annulus(0.065, 0.2),
    "segments": Annulus(0.04, 0.12, 4, 0.3),
}


def make_cell(displaced: bool) -> tuple[np.ndarray, np.ndarray]:
    basis = [
        (x, y + dy, z, number)
        for x, y in ((0, 0), (0.5, 0.5))
        for dy, z, number in ((0, PLANES[1], 42), (1 / 3, PLANES[0], 16), (1 / 3, PLANES[2], 16))
    ]
    atoms = np.array(
        [((i + x) * UNIT[0], (j + y) * UNIT[1], z, number)
         for i in range(TIMES[0]) for j in range(TIMES[1]) for x, y, z, number in basis]
    )  # fmt: skip
    positions = atoms[:, :3]
    if displaced:
        shifts = np.random.default_rng(4).normal(0, 0.06, (len(positions), 2))
        positions[:, :2] += np.round(shifts / PIXEL) * PIXEL
    return positions, atoms[:, 3].astype(int)


def pass_abtem(positions, numbers, probe: Probe) -> tuple[np.ndarray, np.ndarray]:
    """Patterns [point, y, x] about the direct beam, and the signals of abTEM's own detectors."""
    abtem.config.set({"diagnostics.progress_bar": False})
    above = positions + np.array([0, 0, 1e-3])  # just beyond the edge at which the slice begins
    cell = (EXTENT[1], EXTENT[0], HEIGHT)
    potential = abtem.Potential(
        ase.Atoms(numbers, above, cell=cell, pbc=True), gpts=SHAPE[::-1],
        slice_thickness=(PLANES[0], *np.diff(PLANES), HEIGHT - PLANES[-1]),
        projection="infinite", parametrization="lobato",
    ).build(lazy=False)  # fmt: skip
    beam = abtem.Probe(
        energy=ENERGY, semiangle_cutoff=1e3 * probe.semiangle_cutoff,
        defocus=probe.defocus + HEIGHT / 2,
        **{name: value for name, value in vars(probe.aberrations).items() if name != "C10"},
    )  # fmt: skip
    beam.grid.match(potential)
    detectors = [abtem.PixelatedDetector(max_angle=205.0)]
    detectors += [abtem.AnnularDetector(40, 65), abtem.AnnularDetector(65, 200)]
    measured = beam.multislice(
        potential, scan=abtem.CustomScan(POINTS), detectors=detectors, lazy=False
    )
    patterns = np.asarray(measured[0].array).transpose(0, 2, 1)
    return patterns, np.stack([np.asarray(m.array).ravel() for m in measured[1:]])


@pytest.mark.parametrize("displaced", [False, True], ids=["at rest", "frozen"])
@pytest.mark.parametrize("case", CASES)
def test_every_detector_agrees_with_abtem(case, displaced, cpu) -> None:
    """Below 1e-2 in every detector at every point; patterns below 2e-3 of their norm."""
    probe = CASES[case]
    positions, numbers = make_cell(displaced)
    patterns, own = pass_abtem(positions, numbers, probe)
    steps = np.array([(i, j) for i in range(3) for j in range(3)]) * EXTENT[::-1]
    around = np.concatenate([positions + np.array([x, y, 0.0]) for x, y in steps])
    annuli = tuple(ANNULI.values())
    weights = weigh_annuli(Grid(SHAPE, EXTENT), wavelength(ENERGY), annuli)
    for n, point in enumerate(POINTS):
        scan = ScanGrid(tuple(point + EXTENT[::-1]), (1, 1), (8, 8), (PIXEL, PIXEL))
        found = scan_detectors(
            around[None], np.tile(numbers, 9), HEIGHT, scan, probe, annuli,
            StemMultislice(SHAPE, repeated=True), cpu, patterns=True,
        )  # fmt: skip
        pattern = found.patterns[0, 0]
        cut = [(a - b) // 2 for a, b in zip(patterns.shape[1:], pattern.shape, strict=True)]
        middle = [m // 2 for m in patterns.shape[1:]]
        theirs = patterns[n][
            tuple(slice(c - s // 2, c + s // 2 + 1)
                  for c, s in zip(middle, pattern.shape, strict=True))
        ]  # fmt: skip
        assert min(cut) >= 0
        assert np.linalg.norm(pattern - theirs) < 2e-3 * np.linalg.norm(theirs)
        y, x = (np.arange(s) - s // 2 for s in pattern.shape)
        expected = (weights[:, y[:, None], x] * theirs).sum(axis=(1, 2))
        np.testing.assert_allclose(found.values[:, 0, 0], expected, rtol=1e-2)
        # whole pixels at the edges of their rings, 3 mrad wide
        np.testing.assert_allclose(found.values[2:4, 0, 0], own[:, n], rtol=0.05)
