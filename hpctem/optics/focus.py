"""Intensities of focal planes: from the transforms of waves, through the lens, to |psi|^2.

`FocusByKernels` works on any backend, with batches of configurations, as a GPU wants it;
`focus_cpu` does the same with fewer passes over memory. That both give the same is a test.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from hpctem.backend import Backend
from hpctem.optics.grid import Grid
from hpctem.optics.kernels import kernels_for
from hpctem.optics.passage import fresnel_factors


class Focus(Protocol):
    """Waves behind one lens, to be looked at in many planes.

    `spectra`: complex64 (P, ny, nx), the transforms of the waves of all configurations, scaled
    for an unscaled inverse; `transfer`: complex64 (ny, nx), the lens but for the defocus.
    """

    def __init__(
        self, spectra: Any, transfer: Any, grid: Grid, wavelength: float, backend: Backend
    ) -> None: ...

    def look(self, defocus: float, shares: np.ndarray) -> Any:
        """The sum over configurations of shares[p] |psi_p|^2 in the plane `defocus` (A).

        `shares`: float32 (P,). Returns float32 (ny, nx) on the backend, valid until the next call.
        """

    def add(self, image: Any, weight: float) -> None:
        """Add `weight` times what was looked at last to `image`, float32 (ny, nx)."""


def focus_for(backend: Backend) -> type[Focus]:
    """The way that `backend` takes."""
    if backend.name == "numpy":
        from hpctem.optics.focus_cpu import FocusByPanels

        return FocusByPanels
    return FocusByKernels


class FocusByKernels:
    """The formula as it stands, with the backend's kernels and transforms; see `Focus`."""

    batch = 4  # configurations at once: the fields of four 640-pixel waves stay in a GPU's cache

    def __init__(
        self, spectra: Any, transfer: Any, grid: Grid, wavelength: float, backend: Backend
    ) -> None:
        self.spectra, self.transfer = spectra, backend.asarray(transfer)
        self.grid, self.wavelength, self.backend = grid, wavelength, backend
        batch = min(self.batch, spectra.shape[0])
        self.work = backend.xp.empty((batch, *grid.shape), dtype=np.complex64)
        self.intensity = backend.xp.empty(grid.shape, dtype=np.float32)

    def look(self, defocus: float, shares: np.ndarray) -> Any:
        """See `Focus.look`."""
        backend, kernels = self.backend, kernels_for(self.backend)
        # underfocus looks at a plane before the exit plane: back by the defocus
        legs = fresnel_factors(self.grid, self.wavelength, -defocus)
        along_y, along_x = (backend.asarray(factor) for factor in legs)
        self.intensity.fill(0)
        shares = backend.asarray(shares)
        for begin in range(0, self.spectra.shape[0], self.work.shape[0]):
            block = self.spectra[begin : begin + self.work.shape[0]]
            waves = self.work[: block.shape[0]]
            kernels.focus(waves, block, self.transfer, along_y, along_x)
            backend.ifft2(waves, out=waves, scaled=False)
            kernels.accumulate(self.intensity, waves, shares[begin : begin + block.shape[0]])
        return self.intensity

    def add(self, image: Any, weight: float) -> None:
        """See `Focus.add`."""
        image += self.intensity * np.float32(weight)
