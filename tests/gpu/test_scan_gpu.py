"""On the GPU: what a scan does to an image, equal to the CPU's."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.detection.contamination import FilmSettings, draw_film, scan_film
from hpctem.detection.detector import Detector, detect
from hpctem.detection.dose import electrons_per_pixel
from hpctem.detection.scan import ScanSettings, add_streaks, draw_path


@pytest.fixture(scope="module")
def intensity() -> np.ndarray:
    return np.random.default_rng(0).gamma(4, 0.005, (300, 200)).astype(np.float32)


@pytest.mark.parametrize(("share", "decay"), [(0.3, 4.0), (1.0, 500.0), (0.0, 4.0)])
def test_streaks_equal_the_cpu(cpu, gpu, intensity, share, decay):
    on_gpu = add_streaks(gpu.asarray(intensity), share, decay, gpu)
    assert isinstance(on_gpu, gpu.xp.ndarray)
    on_cpu = add_streaks(intensity, share, decay, cpu)
    # Sums over a line in another order.
    np.testing.assert_allclose(gpu.to_host(on_gpu), on_cpu, rtol=2e-6)


def test_a_film_is_added_on_the_device(gpu, intensity):
    """The film is made on the host and moved once."""
    generators = [np.random.default_rng(i) for i in range(3)]
    path = draw_path(intensity.shape, 0.5, (60.0, 80.0), ScanSettings(jitter=0.1), *generators)
    film = draw_film((170.0, 120.0), FilmSettings(10.0), np.random.default_rng(4))
    thickness = scan_film(film, path)
    total = gpu.asarray(intensity) + np.float32(1e-4) * gpu.asarray(thickness)
    np.testing.assert_allclose(
        gpu.to_host(total), intensity + np.float32(1e-4) * thickness, rtol=1e-6
    )


@pytest.mark.parametrize("current", [1.0, 30.0, 1000.0])
def test_electrons_are_counted_as_on_the_cpu(cpu, gpu, intensity, current):
    electrons = electrons_per_pixel(current, 2.0, 10)
    counts = [
        backend.to_host(
            detect(
                backend.asarray(intensity),
                electrons,
                1.0,
                Detector(),
                np.random.default_rng(1),
                np.random.default_rng(2),
                backend,
            )[0]
        )
        for backend in (cpu, gpu)
    ]
    np.testing.assert_array_equal(*counts)
