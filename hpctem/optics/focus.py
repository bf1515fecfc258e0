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

    def add_planes(
        self, images: Any, defoci: np.ndarray, weights: np.ndarray, shares: np.ndarray
    ) -> None:
        """Add to images[m] the sum of weights[n, m] shares[p] |psi_p|^2 in the planes defoci[n].

        `images`: float32 (M, ny, nx) on the backend; `defoci`: float64 (N,) in A; `weights`:
        float32 (N, M), 0 where an image has no part in a plane; `shares`: float32 (P,). Planes are
        added in their order, so the bytes of an image do not depend on the others.
        """


def focus_for(backend: Backend) -> type[Focus]:
    """The way that `backend` takes."""
    if backend.name == "numpy":
        from hpctem.optics.focus_cpu import FocusByPanels

        return FocusByPanels
    return FocusByKernels


FIELDS = 3
"""Fields that a GPU's cache should hold of the configurations at once: spectra, waves, planes."""

PLANES = 16
"""Planes that are kept until images are summed from them: each image is read and written once."""


class FocusByKernels:
    """The formula as it stands, with the backend's kernels and transforms; see `Focus`."""

    def __init__(
        self, spectra: Any, transfer: Any, grid: Grid, wavelength: float, backend: Backend
    ) -> None:
        self.spectra, self.transfer = spectra, transfer
        self.grid, self.wavelength, self.backend = grid, wavelength, backend
        batch = backend.planes_at_once(spectra.shape[0], grid.pixels, FIELDS)
        self.work = backend.xp.empty((batch, *grid.shape), dtype=np.complex64)

    def add_planes(
        self, images: Any, defoci: np.ndarray, weights: np.ndarray, shares: np.ndarray
    ) -> None:
        """See `Focus.add_planes`."""
        backend = self.backend
        # underfocus looks at a plane before the exit plane: back by the defocus
        legs = fresnel_factors(self.grid, self.wavelength, -defoci, xp=backend.xp)
        weights, shares = backend.asarray(weights), backend.asarray(shares)
        planes = backend.xp.empty((min(PLANES, len(defoci)), *self.grid.shape), dtype=np.float32)
        for begin in range(0, len(defoci), PLANES):
            chosen = slice(begin, begin + PLANES)
            looked = planes[: len(defoci[chosen])]
            looked.fill(0)
            for plane, along_y, along_x in zip(looked, *(leg[chosen] for leg in legs), strict=True):
                self._look(plane, along_y, along_x, shares)
            kernels_for(backend).add_planes(images, looked, weights[chosen])

    def _look(self, plane: Any, along_y: Any, along_x: Any, shares: Any) -> None:
        """Add the intensities of all configurations at one defocus to `plane`, float32 (ny, nx)."""
        kernels, count = kernels_for(self.backend), self.work.shape[0]
        for begin in range(0, self.spectra.shape[0], count):
            block = self.spectra[begin : begin + count]
            waves = self.work[: block.shape[0]]
            kernels.focus(waves, block, self.transfer, along_y, along_x)
            self.backend.ifft2(waves, out=waves, scaled=False)
            kernels.accumulate(plane, waves, shares[begin : begin + count])
