"""Fourier transforms timed alone, the yardstick of every step that consists of them.

A textbook program calls a library's transform of the whole field for each of them. What these calls
take alone is its floor; a program that transforms only what a field holds can come below it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.optics.multislice import GPU_BATCH

Shape = tuple[int, int]
# Sizes timed beside the campaign's own, so that other campaigns can be estimated.
LADDER = (96, 160, 256, 384, 512, 640, 800, 1024, 1280, 1600, 2048)
LEAST_SECONDS, REPEATS = 0.01, 3


def time_transforms(shapes: Iterable[Shape], backend: Backend) -> dict[Shape, float]:
    """Seconds of one complex64 transform of each shape, in place, the best of three.

    On a GPU as many planes at once as exit waves are computed in, divided by their number.
    """
    batch = 1 if backend.name == "numpy" else GPU_BATCH
    seconds = {}
    for shape in dict.fromkeys(shapes):
        plane = backend.xp.ones((batch, *shape), dtype=np.complex64)
        once = _repeat(plane, 2, backend)
        repeats = max(2, math.ceil(LEAST_SECONDS / max(once, 1e-9)) * 2)
        seconds[shape] = min(_repeat(plane, repeats, backend) for _ in range(REPEATS)) / batch
    return seconds


def _repeat(plane: Any, repeats: int, backend: Backend) -> float:
    """Seconds of one transform among `repeats`, there and back in turn so that nothing grows."""
    backend.synchronize()
    begin = time.perf_counter()
    for number in range(repeats):
        if number % 2:
            backend.ifft2(plane, out=plane)
        else:
            backend.fft2(plane, out=plane)
    backend.synchronize()
    return (time.perf_counter() - begin) / repeats


def transform_seconds(shape: Shape, timed: Mapping[Shape, float]) -> float:
    """Seconds of one transform of any shape, from those timed.

    Between two timed sizes the seconds per N log N of N pixels are interpolated over log N;
    outside them those of the nearest size are taken.
    """
    if shape in timed:
        return timed[shape]
    sizes = {math.prod(s): value for s, value in timed.items()}
    known = np.array(sorted(sizes), dtype=float)
    work = known * np.log2(known)
    each = np.array([sizes[int(n)] for n in known]) / work
    pixels = math.prod(shape)
    rate = float(np.interp(math.log(pixels), np.log(known), each))
    return rate * pixels * math.log2(pixels)


def floor_seconds(counts: Mapping[Shape, float], timed: Mapping[Shape, float]) -> float:
    """Seconds that so many transforms of each shape take alone."""
    return sum(count * transform_seconds(shape, timed) for shape, count in counts.items())
