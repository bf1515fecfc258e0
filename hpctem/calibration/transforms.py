"""Fourier transforms timed alone, the yardstick of every step that consists of them.

A transform is named by its shape: (rows, columns) is a whole field by the FFT library, (1, rows,
columns) a real one, there or back; (n,) are eight lines of n by `hpctem.optics.line_transforms`, as
a CPU takes waves through slices and lenses. What
a step's transforms take alone, out of the cache and with nothing done to them, is its floor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.compiling import compile_loop
from hpctem.optics import multislice
from hpctem.optics.grid import fast_size
from hpctem.optics.lanes import LINE
from hpctem.optics.line_transforms import invert, plan_lines, transform

Shape = tuple[int, ...]
# Sizes timed beside the campaign's own, so that other campaigns can be estimated.
FIELDS = (96, 160, 256, 384, 512, 640, 800, 1024, 1280, 1600, 2048)
SHORTEST_LINE, LONGEST_LINE = 64, 2048
# A CPU transforms whole fields for labels and exit waves alone, which are on the image's grid.
LARGEST_LABELS = 1280
# Of frozen phonons, as most campaigns have them.
CONFIGURATIONS = 8
FIELD_SECONDS, LINE_SECONDS, REPEATS = 0.01, 0.0005, 3


def choose_ladder(backend: Backend, shapes: Iterable[Shape]) -> list[Shape]:
    """Transforms to time on any machine of that kind: fields, and lines of every size grids have.

    The time of lines depends on how a length factorises, so none of them is left out. Real fields
    are among them if they are among `shapes`; a campaign that has any has nothing else.
    """
    if any(len(shape) == 3 for shape in shapes):
        return [(1, n, n) for n in FIELDS]
    if backend.name != "numpy":
        return [(n, n) for n in FIELDS]
    ladder: list[Shape] = [(n, n) for n in FIELDS if n <= LARGEST_LABELS]
    n = SHORTEST_LINE
    while (n := fast_size(n)) <= LONGEST_LINE:
        ladder.append((n,))
        n += 1
    return ladder


def time_transforms(shapes: Iterable[Shape], backend: Backend) -> dict[Shape, float]:
    """Seconds of one complex64 transform of each shape, in place, or of a real one: best of three.

    On a GPU as many planes at once as exit waves of 8 configurations, divided by their number.
    """
    time_one = {1: _time_lines, 2: _time_field, 3: _time_real}
    return {shape: time_one[len(shape)](shape, backend) for shape in dict.fromkeys(shapes)}


def _time_field(shape: Shape, backend: Backend) -> float:
    batch = backend.planes_at_once(CONFIGURATIONS, math.prod(shape), multislice.FIELDS)
    plane = backend.xp.ones((batch, *shape), dtype=np.complex64)

    def there_and_back(times: int) -> None:
        for _ in range(times):  # scaled, so that nothing grows
            backend.fft2(plane, out=plane)
            backend.ifft2(plane, out=plane)

    return _time_pairs(there_and_back, FIELD_SECONDS, backend) / batch


def _time_real(shape: Shape, backend: Backend) -> float:
    size = shape[1], shape[2]
    plane = backend.xp.ones(size, dtype=np.float32)

    def there_and_back(times: int) -> None:
        for _ in range(times):
            backend.irfft2(backend.rfft2(plane), size)

    return _time_pairs(there_and_back, FIELD_SECONDS, backend)


def _time_lines(shape: Shape, backend: Backend) -> float:
    block = np.zeros(shape[0] * LINE, np.float32)
    work, plan = np.empty_like(block), plan_lines(shape[0])
    return _time_pairs(lambda times: _repeat_lines(block, plan, work, times), LINE_SECONDS, backend)


@compile_loop
def _repeat_lines(block, plan, work, times):
    """Transform eight lines there and back so often."""
    for _ in range(times):
        transform(block, plan, work)
        invert(block, plan, work)


def _time_pairs(work: Callable[[int], Any], least: float, backend: Backend) -> float:
    """Seconds of half a pair, of which `work` does as many as it is asked for."""

    def repeat(times: int) -> float:
        backend.synchronize()
        begin = time.perf_counter()
        work(times)
        backend.synchronize()
        return (time.perf_counter() - begin) / (2 * times)

    repeat(1)  # compiles, plans
    times = max(1, math.ceil(least / max(repeat(1), 1e-9)))
    return min(repeat(times) for _ in range(REPEATS))


def transform_seconds(shape: Shape, timed: Mapping[Shape, float]) -> float:
    """Seconds of one transform of any shape, from those of its kind that were timed.

    Between two timed sizes the seconds per N log N of N numbers are interpolated over log N;
    outside them those of the nearest size are taken.
    """
    if shape in timed:
        return timed[shape]
    sizes = {math.prod(s): value for s, value in timed.items() if len(s) == len(shape)}
    known = np.array(sorted(sizes), dtype=float)
    work = known * np.log2(known)
    each = np.array([sizes[int(n)] for n in known]) / work
    numbers = math.prod(shape)
    rate = float(np.interp(math.log(numbers), np.log(known), each))
    return rate * numbers * math.log2(numbers)


def floor_seconds(counts: Mapping[Shape, float], timed: Mapping[Shape, float]) -> float:
    """Seconds that so many transforms of each shape take alone."""
    return sum(count * transform_seconds(shape, timed) for shape, count in counts.items() if count)


def add_transforms(counts: dict[Shape, float], shape: Shape, number: float) -> None:
    """Add so many transforms of a shape to what was counted."""
    counts[shape] = counts.get(shape, 0.0) + number
