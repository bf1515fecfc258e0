"""On the GPU: the same counts, noise and medians as on the CPU, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.detection.detector import add_readout_noise, to_uint16
from hpctem.detection.dose import count_electrons
from hpctem.detection.filters import filter_median


@pytest.mark.parametrize("dose", [10, 100, 1200, 1e6])
def test_counts_equal_the_cpu(dose):
    import cupy

    intensity = np.random.default_rng(0).gamma(4, 0.25, (300, 200)).astype(np.float32)
    on_cpu = count_electrons(intensity, dose, 0.04, np.random.default_rng(1))
    on_gpu = count_electrons(cupy.asarray(intensity), dose, 0.04, np.random.default_rng(1))
    assert isinstance(on_gpu, cupy.ndarray)
    np.testing.assert_array_equal(cupy.asnumpy(on_gpu), on_cpu)


def test_readout_noise_equals_the_cpu():
    import cupy

    signal = np.random.default_rng(2).random((300, 200), dtype=np.float32) * 50
    on_cpu = add_readout_noise(signal, 2.5, np.random.default_rng(3))
    on_gpu = add_readout_noise(cupy.asarray(signal), 2.5, np.random.default_rng(3))
    np.testing.assert_array_equal(cupy.asnumpy(on_gpu), on_cpu)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_median_equals_the_cpu(dtype):
    import cupy

    images = (np.random.default_rng(4).random((2, 67, 41)) * 50).astype(dtype)
    on_gpu = filter_median(cupy.asarray(images))
    np.testing.assert_array_equal(cupy.asnumpy(on_gpu), filter_median(images))


def test_storing_in_16_bits_equals_the_cpu():
    import cupy

    image = np.random.default_rng(5).normal(60000, 5000, (64, 64)).astype(np.float32)
    on_cpu, share = to_uint16(image, 1.0)
    on_gpu, share_on_gpu = to_uint16(cupy.asarray(image), 1.0)
    assert share == share_on_gpu > 0
    np.testing.assert_array_equal(cupy.asnumpy(on_gpu), on_cpu)
