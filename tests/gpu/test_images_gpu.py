"""Labels, detector and copies on the GPU: the CPU's results to rounding."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.detection.filters import crop
from hpctem.detection.mtf import ParametricMTF, TabulatedMTF, apply_mtf
from hpctem.labels import (
    blur_gaussian,
    map_instances,
    mask_by_intensity,
    mask_by_phase_shift,
    mask_by_wave_phase,
    measure_wave_phase,
    smooth_phase,
)
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.electron import interaction_constant, wavelength
from hpctem.optics.transfer import Imaging, form_images

EXTENT = (32.0, 30.0)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.complex64])
def test_copy_later(gpu, dtype):
    """What is copied beside later work is what stood there, also once memory is given back."""
    numbers = (np.random.default_rng(0).random((3, 517, 300)) * 200).astype(dtype)
    fetches, expected = [], []
    for n in range(8):
        field = gpu.asarray(numbers) * gpu.asarray(np.array(n, dtype))
        expected.append(gpu.to_host(field))
        fetches.append(gpu.copy_later(field))
        del field
        gpu.xp.full(numbers.shape, 77, dtype=dtype)  # would take its memory if that were free
    for fetch, before in zip(fetches, expected, strict=True):
        found = fetch()
        assert found.dtype == dtype and type(found) is np.ndarray
        np.testing.assert_array_equal(found, before)
        np.testing.assert_array_equal(fetch(), before)


def test_crop(gpu):
    image = np.arange(2 * 40 * 50, dtype=np.float32).reshape(2, 40, 50)
    window = crop(gpu.asarray(image), (3, 7), (20, 30))
    assert window.flags.c_contiguous
    np.testing.assert_array_equal(gpu.copy_later(window)(), crop(image, (3, 7), (20, 30)))


@pytest.mark.parametrize(
    "mtf", [ParametricMTF(-0.3, 0.2, 1.2), TabulatedMTF((0, 0.5, 1), (1, 0.6, 0.1))]
)
def test_mtf(cpu, gpu, mtf):
    counts = np.random.default_rng(1).poisson(20, (96, 90)).astype(np.float32)
    blurred = gpu.to_host(apply_mtf(gpu.asarray(counts), mtf, gpu))
    assert blurred.dtype == np.float32
    assert relative(blurred, apply_mtf(counts, mtf, cpu)) < 2e-6


def test_convergence(cpu, gpu):
    parts = np.random.default_rng(2).standard_normal((2, 3, 128, 120)) * 0.1
    waves = (1 + parts[0] + 1j * parts[1]).astype(np.complex64)
    lens = {"aberrations": Aberrations(C30=1e6), "objective_aperture": 0.02, "focal_spread": 10.0}
    settings = [
        Imaging(300e3, defocus=defocus, convergence=angle, **lens)
        for defocus in (0.0, 300.0)
        for angle in (0.0, 3e-4)
    ]
    found = gpu.to_host(form_images(waves, EXTENT, settings, gpu))
    expected = form_images(waves, EXTENT, settings, cpu)
    for image, on_cpu in zip(found, expected, strict=True):
        assert relative(image, on_cpu) < 2e-5
    assert relative(expected[3], expected[2]) > 3e-3


def test_labels(cpu, gpu):
    """Every function of labels, on two smooth bumps that overlap."""
    y, x = np.mgrid[:128, :120] * (EXTENT[0] / 128)
    bumps = [
        (1500 * np.exp(-((x - cx) ** 2 + (y - 14) ** 2) / 18)).astype(np.float32) for cx in (11, 17)
    ]
    sigma, lam = interaction_constant(300e3), wavelength(300e3)
    maps = []
    for backend in (cpu, gpu):
        fields = [backend.asarray(bump) for bump in bumps]
        phases = [smooth_phase(field, sigma, EXTENT, backend) for field in fields]
        masks = [mask_by_phase_shift(phase) for phase in phases]
        waves = backend.xp.exp(1j * sigma * backend.xp.stack(fields)).astype(np.complex64)
        measured = measure_wave_phase(waves, lam, EXTENT, 20.0, backend)
        by_phase = mask_by_wave_phase(measured, backend, smoothing=2.0)
        intensity = form_images(waves, EXTENT, [Imaging(300e3, defocus=300.0)], backend)[0]
        by_intensity = mask_by_intensity(intensity, backend, threshold=0.03, smoothing=2.0)
        instances = map_instances(masks, phases)
        blurred = blur_gaussian(instances == 1, (3.0, 2.0), backend)
        maps.append([backend.to_host(a) for a in
                     (*phases, measured, blurred, instances, by_phase, by_intensity)])  # fmt: skip
    for found, expected in zip(maps[1], maps[0], strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        if found.dtype == np.float32:
            assert relative(found, expected) < 1e-4
        else:
            assert 0 < np.count_nonzero(expected) < expected.size
            assert np.count_nonzero(found != expected) <= 3
    assert set(np.unique(maps[0][4])) == {0, 1, 2}
