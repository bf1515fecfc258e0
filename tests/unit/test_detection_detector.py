"""Blur, noise and numbers of the camera: what is correlated, what is white, what is cut off."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpctem.backend import select_backend
from hpctem.detection.detector import Detector, detect, to_uint16
from hpctem.detection.dose import count_electrons
from hpctem.detection.mtf import ParametricMTF, TabulatedMTF, apply_mtf, tabulate_mtf
from hpctem.errors import ConfigError, SampleError

CPU = select_backend("cpu")
CAMERA = ParametricMTF(c1=0.1, c2=0.15, c3=1.2)


def record(intensity: np.ndarray, dose: float, detector: Detector, seed: int = 0):
    generators = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    return detect(intensity, dose, 0.04, detector, *generators, CPU)


def test_parametric_mtf_at_known_points():
    assert CAMERA(np.array(0.0)) == 1
    # At q = 2 c2 q_N the falling part is halved, whatever c3.
    assert CAMERA(np.array(0.3)) == pytest.approx(0.9 / 2 + 0.1)
    # c3 = 1, c2 = 0.1 at Nyquist: (1 - c1) / 6 + c1.
    assert ParametricMTF(0.4, 0.1, 1.0)(np.array(1.0)) == pytest.approx(0.6 / 6 + 0.4)
    assert ParametricMTF(-0.6, 0.15, 1.2)(np.array(1.0)) == 0


def test_table_is_interpolated_and_held_beyond_its_end():
    table = TabulatedMTF((0.0, 0.5, 1.0), (1.0, 0.6, 0.2))
    np.testing.assert_allclose(table(np.array([0.25, 0.75, 1.4])), [0.8, 0.4, 0.2])


@pytest.mark.parametrize("shape", [(8, 8), (9, 12)])
def test_mtf_lies_on_the_frequencies_of_the_transform(shape):
    fy, fx = (np.fft.fftfreq(n) for n in shape)
    expected = CAMERA(2 * np.hypot(fy[:, None], fx[None, :]))
    np.testing.assert_allclose(tabulate_mtf(CAMERA, shape), expected, rtol=1e-6)


def test_blur_multiplies_one_wave_by_the_mtf_and_keeps_the_mean():
    y, x = np.mgrid[:60, :80]
    phase = 2 * np.pi * (9 * y / 60 + 16 * x / 80)
    blurred = apply_mtf((5 + np.cos(phase)).astype(np.float32), CAMERA, CPU)
    factor = CAMERA(np.array(2 * math.hypot(9 / 60, 16 / 80)))
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, 5 + factor * np.cos(phase), atol=1e-5)


def test_noise_power_is_that_of_counts_blurred_plus_white_readout():
    """n MTF^2 + s^2 in eight rings of frequency, each within 5 standard errors, 1 / sqrt(N)."""
    detector = Detector(mtf=CAMERA, quantum_efficiency=0.6, readout_noise=1.7)
    size, mean = 256, 900 * 0.04 * 0.6
    flat = np.ones((size, size), dtype=np.float32)
    power = np.zeros((size, size))
    for seed in range(6):
        image, _ = record(flat, 900, detector, seed)
        power += np.abs(np.fft.fft2(image - mean)) ** 2 / size**2 / 6
    expected = mean * tabulate_mtf(CAMERA, (size, size)).astype(float) ** 2 + 1.7**2
    ratio = power / expected
    f = np.fft.fftfreq(size) * 2
    ring = (np.hypot(f[:, None], f[None, :]) * 8).astype(int)
    for k in range(8):
        inside = ratio[ring == k]
        # Each frequency is exponential; it and its negative are one; six images are averaged.
        assert abs(inside.mean() - 1) < 5 * math.sqrt(2 / (6 * inside.size))


def test_ideal_detector_stores_the_counts():
    intensity = np.random.default_rng(1).gamma(4, 0.25, (64, 64)).astype(np.float32)
    image, share = record(intensity, 400, Detector())
    counts = count_electrons(intensity, 400, 0.04, np.random.default_rng([0, 0]))
    assert image.dtype == Detector().dtype == np.uint16
    assert share == 0
    np.testing.assert_array_equal(image, counts)


def test_readout_changes_no_electron():
    """One dose stream gives the same counts before a noisier, brighter, digitizing camera."""
    intensity = np.random.default_rng(2).gamma(4, 0.25, (64, 64)).astype(np.float32)
    counts, _ = record(intensity, 400, Detector())
    noisy, _ = record(intensity, 400, Detector(readout_noise=1e-6, gain=8, offset=100))
    assert noisy.dtype == np.float32
    np.testing.assert_allclose(noisy, counts * 8.0 + 100, rtol=1e-5)
    camera = Detector(readout_noise=0.01, gain=8, offset=100, digitize=True)
    digital, _ = record(intensity, 400, camera)
    assert digital.dtype == camera.dtype == np.uint16
    assert np.abs(digital - (counts * 8.0 + 100)).max() <= 1


def test_only_an_ideal_detector_counts():
    assert Detector(quantum_efficiency=0.3).counting
    for other in (
        Detector(mtf=CAMERA),
        Detector(readout_noise=0.1),
        Detector(gain=2),
        Detector(offset=1),
    ):
        assert not other.counting
        assert other.dtype == np.float32


def test_sixteen_bits_round_cut_and_report():
    image = np.array([[-0.4, 0.5, 1.5, 2.6], [65535.4, 65535.6, 7e4, -3.0]], dtype=np.float32)
    stored, share = to_uint16(image, 0.5)
    assert stored.tolist() == [[0, 0, 2, 3], [65535, 65535, 65535, 0]]
    # Cut are 65535.6, which rounds to 65536, and the two far outside.
    assert share == 3 / 8
    counts = np.array([[65535, 65536]], dtype=np.uint32)
    stored, share = to_uint16(counts, 0.5)
    assert stored.tolist() == [[65535, 65535]]
    assert share == 0.5


def test_saturated_images_and_nan_are_refused():
    counts = np.full((10, 10), 7, dtype=np.uint32)
    counts[0, :2] = 70000
    assert to_uint16(counts, 0.02)[1] == 0.02
    with pytest.raises(SampleError, match=r"2\.00%.*lower the dose"):
        to_uint16(counts, 0.019)
    with pytest.raises(SampleError, match="NaN"):
        to_uint16(np.full((2, 2), np.nan, dtype=np.float32), 1.0)
    bright = np.full((32, 32), 2.0, dtype=np.float32)
    with pytest.raises(SampleError, match="saturation_limit"):
        record(bright, 1e6, Detector())


def test_impossible_cameras_are_refused():
    for fields in (
        {"quantum_efficiency": 0.0},
        {"quantum_efficiency": 1.1},
        {"readout_noise": -1.0},
        {"gain": 0.0},
        {"offset": math.inf},
        {"saturation_limit": 2.0},
    ):
        with pytest.raises(ConfigError, match=f"detector.{next(iter(fields))}"):
            Detector(**fields)
    for c1, c2, c3 in ((1.1, 0.1, 1), (0, 0, 1), (0, 0.1, -1), (math.nan, 0.1, 1)):
        with pytest.raises(ConfigError, match=r"mtf\.c"):
            ParametricMTF(c1, c2, c3)
    for frequencies, values in (
        ((0.0,), (1.0,)),
        ((0.0, 1.0), (1.0, 0.5, 0.2)),
        ((0.1, 1.0), (1.0, 0.5)),
        ((0.0, 1.0), (0.9, 0.5)),
        ((0.0, 0.0), (1.0, 0.5)),
        ((0.0, 1.0), (1.0, 1.5)),
    ):
        with pytest.raises(ConfigError, match="MTF table"):
            TabulatedMTF(frequencies, values)
