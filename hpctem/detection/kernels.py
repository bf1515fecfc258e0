"""The three loops over pixels, on the device where their array lies.

NumPy arrays are handled by numba, CuPy arrays by the CUDA twins; both give the same bytes. Nothing
else in `detection` asks which it is.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from hpctem.detection import counting, cuda_source, median

THREADS = 256
# Without this nvrtc fuses multiplications with additions and the last bit differs from the CPU's.
CUDA_OPTIONS = ("--fmad=false",)
PIXEL_TYPES = {
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "float32": "float",
    "float64": "double",
}


def draw_poisson(intensity: Any, scale: float, words: np.ndarray) -> Any:
    """Poisson counts, uint32, with means intensity (float32, any shape) times scale."""
    if not on_gpu(intensity):
        flat = np.ascontiguousarray(intensity, dtype=np.float32).reshape(-1)
        return counting.draw_poisson(flat, float(scale), words).reshape(intensity.shape)
    return _launch_per_pixel("draw_poisson", intensity, scale, words, np.uint32)


def add_normal(signal: Any, deviation: float, words: np.ndarray) -> Any:
    """signal (any shape) plus normal noise of the given standard deviation, as float32."""
    if not on_gpu(signal):
        flat = np.ascontiguousarray(signal, dtype=np.float32).reshape(-1)
        return counting.add_normal(flat, float(deviation), words).reshape(signal.shape)
    return _launch_per_pixel("add_normal", signal, deviation, words, np.float32)


def median_pixels(image: Any) -> Any:
    """Median over 3 x 3 pixels of one image (ny, nx), edges repeated, in the image's dtype."""
    if not on_gpu(image):
        return median.median_rows(np.ascontiguousarray(image))
    import cupy

    image = cupy.ascontiguousarray(image)
    filtered = cupy.empty_like(image)
    ny, nx = image.shape
    kernel = _compile_median(PIXEL_TYPES[image.dtype.name])
    kernel(_blocks(image.size), (THREADS,), (image, filtered, np.int32(ny), np.int32(nx)))
    return filtered


def on_gpu(array: Any) -> bool:
    """True for CuPy arrays."""
    return hasattr(array, "__cuda_array_interface__")


def _launch_per_pixel(name: str, values: Any, scale: float, words: np.ndarray, dtype: type) -> Any:
    import cupy

    values = cupy.ascontiguousarray(values, dtype=cupy.float32)
    result = cupy.empty(values.shape, dtype)
    arguments = (
        values,
        np.float64(scale),
        cupy.asarray(words, dtype=cupy.uint64),
        result,
        np.int32(values.size),
    )
    _compile_counting().get_function(name)(_blocks(values.size), (THREADS,), arguments)
    return result


def _blocks(pixels: int) -> tuple[int]:
    return (-(-pixels // THREADS),)


@functools.cache
def _compile_counting() -> Any:
    import cupy

    return cupy.RawModule(code=cuda_source.write_counting_source(), options=CUDA_OPTIONS)


@functools.cache
def _compile_median(pixel: str) -> Any:
    import cupy

    return cupy.RawKernel(cuda_source.write_median_source(pixel), "median_pixels")
