"""The loops of incoherent images, chosen by backend: spread, fill a transfer, gather.

`gathering_cpu` (Numba) and `gathering_cuda` (CUDA C through CuPy) hold the same functions with the
same arguments.
"""

from __future__ import annotations

from types import ModuleType

from hpctem.backend import Backend


def gathering_for(backend: Backend) -> ModuleType:
    """Return the module of loops that runs on `backend`."""
    if backend.name == "cupy":
        from hpctem.optics import gathering_cuda

        return gathering_cuda
    from hpctem.optics import gathering_cpu

    return gathering_cpu
