"""The CUDA sources, run on the CPU by a C++ compiler, give the bytes of the numba loops."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from cuda_on_cpu import compile_for_gpu

from hpctem.detection import counting, cuda_source, kernels, median
from hpctem.detection.counter_random import draw_words

# What a C++ compiler lacks of CUDA; the driver below visits every thread of every block in turn.
SHIM = """
#include <cmath>
#define __global__
#define __device__ static
struct Dim { int x; };
static Dim blockIdx, blockDim, threadIdx;
template <typename Kernel> static void visit(int n, Kernel kernel)
{
    blockDim.x = 64;
    for (blockIdx.x = 0; blockIdx.x < (n + 63) / 64; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < 64; ++threadIdx.x) kernel();
}
"""
COUNTING_DRIVER = """
extern "C" void run_poisson(const float* a, double scale, const u64* words, u32* out, int n)
{ visit(n, [=] { draw_poisson(a, scale, words, out, n); }); }
extern "C" void run_normal(const float* a, double scale, const u64* words, float* out, int n)
{ visit(n, [=] { add_normal(a, scale, words, out, n); }); }
"""
MEDIAN_DRIVER = """
extern "C" void run_median(const pixel* image, pixel* out, int ny, int nx)
{ visit(ny * nx, [=] { median_pixels(image, out, ny, nx); }); }
"""


def compile_on_cpu(source: str, folder: Path) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine")
    (folder / "kernel.cpp").write_text(SHIM + source)
    command = [compiler, "-O2", "-march=x86-64-v3", "-ffp-contract=off", "-shared", "-fPIC"]
    if subprocess.run(["uname", "-m"], capture_output=True, text=True).stdout.strip() != "x86_64":
        command.remove("-march=x86-64-v3")
    command += ["-o", str(folder / "kernel.so"), str(folder / "kernel.cpp")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture(scope="module")
def counting_library(tmp_path_factory) -> ctypes.CDLL:
    source = cuda_source.write_counting_source() + COUNTING_DRIVER
    return compile_on_cpu(source, tmp_path_factory.mktemp("counting"))


@pytest.mark.parametrize("scale", [0.5, 9.0, 40.0, 1e3, 1e6])
def test_counts_are_the_same_bytes(counting_library, scale):
    generator = np.random.default_rng(int(scale))
    intensity = generator.gamma(4, 0.25, 200_003).astype(np.float32)
    words = draw_words(generator)
    counts = np.zeros(intensity.size, dtype=np.uint32)
    counting_library.run_poisson(
        pointer(intensity), ctypes.c_double(scale), pointer(words), pointer(counts), counts.size
    )
    np.testing.assert_array_equal(counts, counting.draw_poisson(intensity, scale, words))
    assert abs(counts.mean() / scale - 1) < 0.05


def test_readout_noise_is_the_same_bytes(counting_library):
    generator = np.random.default_rng(5)
    signal = generator.random(100_001, dtype=np.float32) * 100
    words = draw_words(generator)
    noisy = np.zeros_like(signal)
    counting_library.run_normal(
        pointer(signal), ctypes.c_double(2.5), pointer(words), pointer(noisy), noisy.size
    )
    np.testing.assert_array_equal(noisy, counting.add_normal(signal, 2.5, words))
    assert abs((noisy - signal).std() - 2.5) < 0.05


@pytest.mark.parametrize(("dtype", "pixel"), [(np.uint16, "unsigned short"), (np.float32, "float")])
def test_median_is_the_same_bytes(tmp_path, dtype, pixel):
    library = compile_on_cpu(cuda_source.write_median_source(pixel) + MEDIAN_DRIVER, tmp_path)
    image = (np.random.default_rng(6).random((67, 41)) * 50).astype(dtype)
    filtered = np.zeros_like(image)
    library.run_median(pointer(image), pointer(filtered), *image.shape)
    np.testing.assert_array_equal(filtered, median.median_rows(image))


def test_the_sources_are_compiled_for_gpus() -> None:
    compile_for_gpu(cuda_source.write_counting_source(), *kernels.CUDA_OPTIONS)
    for pixel in ("unsigned short", "float"):
        compile_for_gpu(cuda_source.write_median_source(pixel))
