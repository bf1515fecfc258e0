"""Multislice STEM on the GPU: equal to the CPU's to rounding, and the same bytes twice."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.optics.aberrations import Aberrations
from hpctem.optics.annuli import Annulus
from hpctem.optics.probe import Probe
from hpctem.optics.scan_grid import ScanGrid, picture_of_scan
from hpctem.optics.stem import StemMultislice, scan_detectors

PROBES = [Probe(80e3, 0.025), Probe(60e3, 0.03, 20.0, Aberrations(C21=300.0, C30=1e4), 15.0)]
ANNULI = Annulus(0, 0.02), Annulus(0.06, 0.2), Annulus(0.04, 0.1, 4, 0.3)
SCAN = ScanGrid((12.0, 13.0), (9, 10), (8, 8), (0.05, 0.05), 2)


def scan(backend, probe, patterns=False):
    generator = np.random.default_rng(2)
    positions = generator.uniform(0, 1, (900, 3)) * [30.0, 30.0, 8.0] + [0, 0, 2]
    phonons = positions + generator.normal(0, 0.08, (2, 900, 3))
    numbers = generator.choice([6, 42], 900, p=[0.9, 0.1])
    multislice = StemMultislice((240, 240))
    return scan_detectors(
        phonons, numbers, 12.0, SCAN, probe, ANNULI, multislice, backend, patterns
    )


@pytest.mark.parametrize("probe", PROBES, ids=["focused", "aberrated"])
def test_signals_and_patterns(cpu, gpu, probe) -> None:
    found, expected = (scan(backend, probe, patterns=True) for backend in (gpu, cpu))
    peak = expected.values.max(axis=(1, 2), keepdims=True)
    assert np.abs((found.values - expected.values) / peak).max() < 5e-5
    error = np.abs(found.patterns - expected.patterns).max()
    assert error < 5e-5 * expected.patterns.max()


def test_pictures(cpu, gpu) -> None:
    values = scan(cpu, PROBES[0]).values[1]
    found = gpu.to_host(picture_of_scan(values, SCAN, gpu, source_size=0.8).values)
    expected = picture_of_scan(values, SCAN, cpu, source_size=0.8).values
    assert np.abs(found - expected).max() < 1e-6 * expected.max()


def test_same_bytes_twice(gpu) -> None:
    first, second = (scan(gpu, PROBES[1], patterns=True) for _ in range(2))
    assert first.values.tobytes() == second.values.tobytes()
    assert first.patterns.tobytes() == second.patterns.tobytes()
