"""Incoherent images on a GPU: what the CPU gives, to the precision of float32."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.detection.looking import look
from hpctem.detection.scan import ScanPath
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.incoherent import form_picture
from hpctem.optics.point_spread import gaussian_transfer, tabulated_transfer
from hpctem.optics.probe import Probe, probe_transfer

EXTENT = (80.0, 90.0)
LENS = Aberrations(C12=20, phi12=0.3, C21=700, phi21=0.5, C30=1e4)
SPOT = np.exp(-(np.hypot(*np.mgrid[-30:31, -30:31]) ** 2) / (2 * 4.5**2))
TRANSFERS = {
    "gaussian": gaussian_transfer(0.5),
    "given": tabulated_transfer(SPOT, 0.1),
    "round": probe_transfer(Probe(80e3, 0.025, defocus=30)),
    "aberrated": probe_transfer(Probe(80e3, 0.025, 20, LENS, 20, 0.7)),
}


@pytest.fixture(scope="module")
def atoms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    positions = generator.uniform(0, 1, (2000, 2)) * EXTENT[::-1]
    return positions, generator.uniform(0.5, 2, 2000), generator.choice([0.05, 0.1], 2000)


def make_path(turned: bool) -> ScanPath:
    shifts = np.random.default_rng(3).normal(0, 0.3, (4, 200, 2))
    step = np.array([[0.25, 0.03 * turned], [-0.02 * turned, 0.26]])
    return ScanPath((200, 230), (8.0, 12.0), step, shifts, 2.0, 10.0)


def test_transforms_of_real_planes(cpu, gpu) -> None:
    plane = np.random.default_rng(1).standard_normal((60, 63)).astype(np.float32)
    half = gpu.rfft2(gpu.asarray(plane))
    assert half.dtype == np.complex64
    assert np.abs(gpu.to_host(half) - cpu.rfft2(plane)).max() < 1e-4
    for scaled, factor in ((True, 1), (False, plane.size)):
        back = gpu.to_host(gpu.irfft2(half.copy(), plane.shape, scaled)) / factor
        assert back.dtype == np.float32 and np.abs(back - plane).max() < 1e-5


@pytest.mark.parametrize("name", TRANSFERS)
def test_images(cpu, gpu, atoms, name: str) -> None:
    positions, weights, blurs = atoms
    for path in (make_path(False), make_path(True)):
        images = []
        for backend in (cpu, gpu):
            picture = form_picture(positions, weights, EXTENT, TRANSFERS[name], backend, blurs)
            images.append(backend.to_host(look(picture, path, backend)))
        assert images[1].dtype == np.float32
        assert np.abs(images[1] - images[0]).max() < 2e-5 * images[0].max()


def test_same_bytes_twice(gpu, atoms) -> None:
    def run() -> bytes:
        picture = form_picture(*atoms[:2], EXTENT, TRANSFERS["aberrated"], gpu)
        return gpu.to_host(look(picture, make_path(True), gpu)).tobytes()

    assert run() == run()
