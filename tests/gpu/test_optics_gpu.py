"""Waves and images on the GPU: equal to the CPU's to rounding, and the same bytes twice."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.optics.aberrations import Aberrations
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid
from hpctem.optics.multislice import Multislice, exit_waves, propagate_waves
from hpctem.optics.potential import projected_potential
from hpctem.optics.transfer import Imaging, form_images

EXTENT = (40.0, 36.0)
GRID = Grid((320, 288), EXTENT)
ABERRATIONS = Aberrations(C12=30.0, phi12=0.4, C21=500.0, phi21=1.0, C30=1e5)
IMAGINGS = [
    Imaging(300e3, defocus=d, focal_spread=15.0, aberrations=a, objective_aperture=aperture,
            plasmon=(0.5, 1.0))
    for d in (0.0, 300.0)
    for a in (Aberrations(), ABERRATIONS)
    for aperture in (None, 0.012)
]  # fmt: skip


@pytest.fixture(scope="module")
def atoms() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    positions = generator.uniform(0, 1, (1500, 3)) * [36.0, 40.0, 30.0] + [0, 0, 2]
    phonons = positions + generator.normal(0, 0.08, (6, 1500, 3))
    return phonons, generator.choice([6, 79], 1500, p=[0.9, 0.1])


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))


def compute_waves(backend, atoms, **settings):
    positions, numbers = atoms
    multislice = Multislice(300e3, tilt=(0.005, -0.003), **settings)
    return exit_waves(positions, numbers, 34.0, GRID, multislice, backend, output_shape=(160, 144))


def test_transforms(cpu, gpu) -> None:
    parts = np.random.default_rng(1).standard_normal((2, 3, 60, 64))
    waves = (parts[0] + 1j * parts[1]).astype(np.complex64)
    for scaled in (True, False):
        on_gpu = gpu.asarray(waves)
        forward = gpu.fft2(on_gpu, out=on_gpu)
        assert forward is on_gpu
        assert relative(gpu.to_host(forward), cpu.fft2(waves)) < 1e-6
        back = gpu.to_host(gpu.ifft2(forward, scaled=scaled))
        assert relative(back, cpu.ifft2(cpu.fft2(waves), scaled=scaled)) < 1e-6


def test_potential(cpu, gpu, atoms) -> None:
    positions, numbers = atoms
    found = gpu.to_host(projected_potential(positions[0], numbers, GRID, gpu))
    assert relative(found, projected_potential(positions[0], numbers, GRID, cpu)) < 1e-5


@pytest.mark.parametrize("projection", ["infinite", "finite"])
def test_exit_waves(cpu, gpu, atoms, projection) -> None:
    found = compute_waves(gpu, atoms, projection=projection)
    expected = compute_waves(cpu, atoms, projection=projection)
    assert found.dtype == np.complex64
    assert relative(gpu.to_host(found), expected) < 5e-5


def test_images(cpu, gpu, atoms) -> None:
    waves = compute_waves(cpu, atoms)
    found = gpu.to_host(form_images(waves, EXTENT, IMAGINGS, gpu))
    for image, expected in zip(found, form_images(waves, EXTENT, IMAGINGS, cpu), strict=True):
        assert relative(image, expected) < 2e-5


def test_a_focal_series(cpu, gpu, atoms) -> None:
    """More images than a thread sums, from more planes than are kept; each as if it were alone."""
    waves = compute_waves(cpu, atoms)
    series = [
        Imaging(
            300e3, defocus=40.0 * n, focal_spread=20.0, spread_nodes=25, aberrations=ABERRATIONS
        )
        for n in range(11)
    ]
    found = gpu.to_host(form_images(waves, EXTENT, series, gpu))
    for image, expected in zip(found, form_images(waves, EXTENT, series, cpu), strict=True):
        assert relative(image, expected) < 2e-5
    alone = gpu.to_host(form_images(waves, EXTENT, series[5:6], gpu))
    assert alone[0].tobytes() == found[5].tobytes()


def test_the_same_again_takes_no_more_memory(gpu, atoms) -> None:
    import cupy

    def run() -> int:
        form_images(compute_waves(gpu, atoms), EXTENT, IMAGINGS, gpu)
        return cupy.get_default_memory_pool().total_bytes()

    assert run() == run()


def test_propagation(cpu, gpu, atoms) -> None:
    waves = compute_waves(cpu, atoms)
    found = gpu.to_host(propagate_waves(waves, EXTENT, -17.0, wavelength(300e3), gpu))
    assert relative(found, propagate_waves(waves, EXTENT, -17.0, wavelength(300e3), cpu)) < 1e-5


def test_same_bytes_twice(gpu, atoms) -> None:
    def run() -> bytes:
        waves = compute_waves(gpu, atoms)
        images = form_images(waves, EXTENT, IMAGINGS, gpu)
        return gpu.to_host(waves).tobytes() + gpu.to_host(images).tobytes()

    assert run() == run()


def test_identity(gpu) -> None:
    identity = gpu.identity()
    assert identity["backend"] == "cupy" and identity["fft"].startswith("cufft")
    assert {"cupy", "cuda", "device", "fft_digest"} <= set(identity)
