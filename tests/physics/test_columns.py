"""Columns of two atoms: brighter than twice one, as multislice on a raster has them."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.backend import select_backend
from hpctem.optics.annuli import Annulus
from hpctem.optics.columns import correct_pairs
from hpctem.optics.cross_sections import annular_cross_section
from hpctem.optics.probe import Probe
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.stem import StemMultislice, scan_detectors

INNER, OUTER = 0.063, 0.2


def sum_raster(positions: np.ndarray, numbers: np.ndarray, probe: Probe) -> float:
    """All that is collected on a raster of 6 x 6 A."""
    raster = ScanGrid((12.0, 12.0), (13, 13), (10, 10), (0.05, 0.05))
    multislice = StemMultislice((400, 400), slice_thickness=1.0)
    annuli = (Annulus(INNER, OUTER),)
    cpu = select_backend("cpu")
    signals = scan_detectors(positions[None], numbers, 8.0, raster, probe, annuli, multislice, cpu)
    return float(signals.values.sum(dtype=np.float64))


@pytest.mark.parametrize(
    "number, depth, energy", [(34, 3.36, 60e3), (34, 3.36, 80e3), (16, 3.13, 60e3)]
)
def test_two_chalcogens_are_as_much_brighter_as_by_multislice(number, depth, energy) -> None:
    probe, numbers = Probe(energy, 0.025), np.array([number, number])
    places = np.array([[15.0, 15.0, 2.0 + depth], [15.0, 15.0, 2.0]])
    exact = sum_raster(places, numbers, probe) / sum_raster(places[:1], numbers[:1], probe)
    sigma = annular_cross_section(number, energy, INNER, OUTER, semiangle_cutoff=0.025)
    cpu = select_backend("cpu")
    weights = correct_pairs(places, numbers, np.full(2, sigma), probe, INNER, OUTER, cpu)
    assert exact > 2.1
    assert weights.sum() / sigma == pytest.approx(exact, rel=0.03)


def test_atoms_beside_each_other_are_alone() -> None:
    """In a tilted layer a pair opens; other columns, and atoms far below, are not touched."""
    probe, cpu = Probe(80e3, 0.025), select_backend("cpu")
    places = np.array(
        [[5, 5, 2], [5.2, 5, 5.4], [9, 9, 2], [9.9, 9, 5.4], [20, 20, 2], [20, 20, 12]], float
    )
    numbers = np.array([34, 34, 34, 34, 74, 74])
    weights = correct_pairs(places, numbers, np.arange(1.0, 7.0), probe, INNER, OUTER, cpu)
    np.testing.assert_array_equal(weights[2:], np.arange(3.0, 7.0))
    assert weights[0] == pytest.approx(weights[1] / 2) and weights[0] > 1.05
    alone = correct_pairs(places[:1], numbers[:1], np.ones(1), probe, INNER, OUTER, cpu)
    np.testing.assert_array_equal(alone, [1.0])
