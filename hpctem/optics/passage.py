"""The way of a wave through the slices, on any backend: one kernel or one transform at a time.

A GPU goes this way, with batches of configurations. A CPU does the same with fewer passes over
memory (`passage_cpu`); that both arrive at the same wave is a test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hpctem.backend import Backend
from hpctem.optics.grid import Grid
from hpctem.optics.kernels import find_support, kernels_for
from hpctem.optics.potential import Channel, add_potentials
from hpctem.optics.spreading import window_table


def fresnel_factors(
    grid: Grid,
    wavelength: float,
    distances: Any,
    tilt: tuple[float, float] = (0.0, 0.0),
    xp: Any = np,
) -> tuple[Any, Any]:
    """Factors of Fresnel propagators along y (..., ny) and x (..., nx), complex64 arrays of `xp`.

    `wavelength` in A; `distances`: float64 (...) in A; `tilt` of the beam towards x and y in rad.
    exp(-i pi lambda dz k^2 - 2 pi i dz k tan(tilt)) is their product, phases in float64. The
    second term, from the cross term of |k + k_t|^2, shifts the wave along the tilted beam.
    """
    distance = xp.asarray(distances, dtype=np.float64)[..., None]
    scale = wavelength * distance
    ky, kx = (xp.asarray(k) for k in grid.frequencies())
    shift_x, shift_y = (math.tan(angle) * distance for angle in tilt)
    along_y = xp.exp(-1j * np.pi * (scale * ky**2 + 2 * shift_y * ky))
    along_x = xp.exp(-1j * np.pi * (scale * kx**2 + 2 * shift_x * kx))
    return along_y.astype(np.complex64), along_x.astype(np.complex64)


@dataclass(frozen=True, eq=False)
class Path:
    """What a wave meets on its way: everything but the atoms.

    `wavelength` in A; `sigma`, the interaction constant, in rad / (V A); `tilt` in rad; `planes`
    (S,), the heights where the slices act, and `height`, that of the exit plane, in A; `half`:
    the antialiasing aperture over the number of pixels, float32 (ny // 2 + 1, nx).
    """

    grid: Grid
    wavelength: float
    sigma: float
    tilt: tuple[float, float]
    planes: np.ndarray
    height: float
    half: np.ndarray

    def legs(self, occupied: list[int], xp: Any = np) -> tuple[Any, Any]:
        """Fresnel factors from each occupied slice to the next, the last to the exit plane.

        Complex64 (len(occupied), ny) and (len(occupied), nx), arrays of `xp`.
        """
        distances = np.diff(self.planes[occupied], append=self.height)
        return fresnel_factors(self.grid, self.wavelength, distances, self.tilt, xp)


class Passage(Protocol):
    """A backend's way along a path; its work arrays serve one batch after the other."""

    def __init__(self, path: Path, backend: Backend) -> None: ...

    def pass_through(self, channels: list[Channel], occupied: list[int]) -> Any:
        """Send a plane wave through the occupied slices.

        Returns the transform of the exit waves, scaled for an unscaled inverse: complex64
        [batch, ny, nx] on the backend, valid until the next call.
        """


def passage_for(backend: Backend) -> type[Passage]:
    """The way that `backend` takes."""
    if backend.name == "numpy":
        from hpctem.optics.passage_cpu import PanelPassage

        return PanelPassage
    return KernelPassage


class KernelPassage:
    """The formula as it stands, with the backend's kernels and transforms."""

    def __init__(self, path: Path, backend: Backend) -> None:
        self.path, self.backend = path, backend
        self.half = backend.asarray(path.half)
        self.support = backend.asarray(find_support(path.half))
        self.table = backend.asarray(window_table())
        self.fields = backend.xp.empty((4, 0, *path.grid.shape), dtype=np.complex64)

    def _take_fields(self, batch: int) -> Any:
        """Four fields of `batch` planes each; the batches of a structure work in the same ones."""
        if batch > self.fields.shape[1]:
            self.fields = self.backend.xp.empty(
                (4, batch, *self.path.grid.shape), dtype=np.complex64
            )
        return self.fields[:, :batch]

    def pass_through(self, channels: list[Channel], occupied: list[int]) -> Any:
        """Send plane waves through the occupied slices; see `Passage`."""
        backend, kernels = self.backend, kernels_for(self.backend)
        deposits = channels[0].deposits
        batch = (deposits.first.size - 1) // (deposits.slices * math.prod(deposits.bins))
        wave, transmission, potential, work = self._take_fields(batch)
        legs = zip(occupied, *self.path.legs(occupied, backend.xp), strict=True)
        for n, (s, along_y, along_x) in enumerate(legs):
            if n % 2 == 0:
                pair = (s, occupied[n + 1] if n + 1 < len(occupied) else -1)
                add_potentials(potential, work, channels, pair, self.table, backend)
            kernels.phase_object(transmission, potential, n % 2, self.path.sigma)
            backend.fft2(transmission, out=transmission)
            kernels.combine(transmission, transmission, self.half, self.support, False)
            backend.ifft2(transmission, out=transmission, scaled=False)
            if n == 0:  # a plane wave arrives unchanged, whatever lies before the first slice
                wave[...] = transmission
            else:
                backend.ifft2(wave, out=wave, scaled=False)
                kernels.multiply(wave, transmission)
            backend.fft2(wave, out=wave)
            kernels.propagate(wave, along_y, along_x, self.half, self.support)
        return wave
