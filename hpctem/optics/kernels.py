"""The inner loops of multislice and image formation, chosen once by backend.

`kernels_cpu` (Numba) and `kernels_cuda` (CUDA C through CuPy) hold the same functions with the
same arguments; no other module asks which backend it runs on. All arrays of fields are complex64
[batch, y, x], C-contiguous; a kernel works in place and returns nothing. Sums run in an order
that is fixed by the data alone: no atomics, so the same input gives the same bytes.

Even functions of the row frequency (scattering factors, apertures) are stored as one half, rows
0..ny//2 of `fftfreq` order, float32 (ny//2 + 1, nx), with `support`, int32 (ny//2 + 1,): row i is
zero from column `support[i]` to column nx - `support[i]`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from hpctem.backend import Backend


class Deposits(NamedTuple):
    """Atoms to be spread on the grid, sorted by configuration, slice and bin of pixels.

    `row`, `column`: int32 (M,), the first of the kernel's pixels, within the grid;
    `row_phase`, `column_phase`: float32 (M,), where in its pixel the atom lies, 0 to 1;
    `weight`: float32 (M,); `first`: int32 (batch * slices * bins + 1,), where each bin begins;
    `slices`: number of slices; `bins`: (rows, columns) of bins per slice; `side`: pixels per bin.
    """

    row: Any
    column: Any
    row_phase: Any
    column_phase: Any
    weight: Any
    first: Any
    slices: int
    bins: tuple[int, int]
    side: tuple[int, int]


def kernels_for(backend: Backend) -> ModuleType:
    """Return the module of kernels that runs on `backend`."""
    if backend.name == "cupy":
        from hpctem.optics import kernels_cuda

        return kernels_cuda
    from hpctem.optics import kernels_cpu

    return kernels_cpu


def find_support(half: np.ndarray) -> np.ndarray:
    """Return `support` (int32) of a real array stored as one half; see the module's text."""
    nx = half.shape[1]
    columns = np.minimum(np.arange(nx), nx - np.arange(nx))
    return np.max(np.where(half != 0, columns + 1, 0), axis=1).astype(np.int32)
