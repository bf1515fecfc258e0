"""The least time that transforms could take on this machine, whoever writes them.

Of arithmetic: the usual count of a fast transform's operations, 5 n log2 n for n complex numbers,
at the rate of a matrix product, the fastest arithmetic there is. Of memory: a wave that is taken
back, changed and transformed again along one axis has to be read and written once, at the rate at
which fields as large are copied here, be that from a cache or from memory. The longer of both is
the roof (Williams, Waterman & Patterson, Commun. ACM 52 (2009) 65). It knows nothing of the
transforms that are used, so a slow one cannot come near it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.calibration.transforms import Shape
from hpctem.optics.lanes import LANES

MATRIX, REPEATS, LEAST = 1024, 5, 0.02
# Fields that a slice goes through: the wave, the transmission function, the potential, their sum.
FIELDS = 4


@dataclass(frozen=True)
class Roofs:
    """What one rank of this machine does at most; 0 where it is not known.

    operations  of float32 numbers, a second
    bytes       read and written, a second
    """

    operations: float = 0.0
    bytes: float = 0.0


def measure_roofs(backend: Backend, pixels: float) -> Roofs:
    """Time a matrix product, and copies of complex64 fields of so many pixels.

    Of a CPU a product's time is that of the processor, since its library may use several cores.
    """
    xp = backend.xp
    matrix = xp.full((MATRIX, MATRIX), 1 / MATRIX, dtype=np.float32)
    product = xp.empty_like(matrix)
    clock = time.process_time if backend.name == "numpy" else time.perf_counter
    multiplying = _time(lambda: xp.matmul(matrix, matrix, out=product), clock, backend)
    source = xp.zeros((FIELDS // 2, round(pixels)), dtype=np.complex64)
    target = xp.ones_like(source)
    copying = _time(lambda: xp.copyto(target, source), time.perf_counter, backend)
    return Roofs(2.0 * MATRIX**3 / multiplying, 2.0 * source.nbytes / copying)


def _time(work: Callable[[], Any], clock: Callable[[], float], backend: Backend) -> float:
    """Seconds of one call, the best of several turns of so many."""

    def repeat(times: int) -> float:
        backend.synchronize()
        begin = clock()
        for _ in range(times):
            work()
        backend.synchronize()
        return (clock() - begin) / times

    repeat(1)
    times = max(1, math.ceil(LEAST / max(repeat(1), 1e-9)))
    return min(repeat(times) for _ in range(REPEATS))


def count_operations(shape: Shape) -> float:
    """Of one transform of a shape as `hpctem.calibration.transforms` names it."""
    numbers = math.prod(shape)
    if len(shape) == 1:  # eight lines
        return LANES * 5 * numbers * math.log2(numbers)
    return (2.5 if len(shape) == 3 else 5.0) * numbers * math.log2(numbers)


def count_bytes(shape: Shape) -> float:
    """That one transform has to read and write, if the next one is done before it is put back.

    Of a whole field: half of what it takes to read and write it along each of the two axes.
    """
    numbers = math.prod(shape)
    if len(shape) == 1:
        return LANES * 8.0 * numbers
    return (8.0 if len(shape) == 3 else 16.0) * numbers


def roof_seconds(counts: Mapping[Shape, float], roofs: Roofs) -> float:
    """The least seconds for so many transforms of each shape; 0 where no roof is known."""
    if not roofs.operations or not roofs.bytes:
        return 0.0
    operations = sum(number * count_operations(shape) for shape, number in counts.items())
    moved = sum(number * count_bytes(shape) for shape, number in counts.items())
    return max(operations / roofs.operations, moved / roofs.bytes)
