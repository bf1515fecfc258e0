"""How loops are compiled: by Numba, for the target of `hpctem.processor`, kept for the next start.

With `compile_loop` every operation is rounded as it is written; with `compile_lanes` a product and
a sum may be contracted to one fused operation, but nothing is reordered. What they call in their
innermost loops is put in place by `inline_loop` and `inline_lanes`.
"""

from __future__ import annotations

import hpctem.processor  # isort: skip  # noqa: F401  sets Numba's target before Numba is read

from numba import njit

_FLAGS = {"contract", "nsz", "nnan", "ninf"}

compile_loop = njit(cache=True)
inline_loop = njit(cache=True, inline="always")
compile_lanes = njit(cache=True, fastmath=_FLAGS, boundscheck=False, error_model="numpy")
inline_lanes = njit(fastmath=_FLAGS, boundscheck=False, error_model="numpy", inline="always")
