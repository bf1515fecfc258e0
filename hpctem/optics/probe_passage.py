"""The way of many probes through the slices of a tile, each in its own window, to the detectors.

All probes are the same wave in the middle of their windows; what differs is which window of the
transmission functions they meet, so moving a probe by whole pixels costs nothing. Behind the last
slice only the transform is needed.

Two ways lead to the same signals, which is a test: `BatchPassage` takes many probes at once through
the backend's transforms and kernels, as a GPU wants it; `hpctem.optics.probe_passage_cpu` takes one
at a time with fewer passes over memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hpctem.backend import Backend
from hpctem.optics.grid import Grid
from hpctem.optics.kernels import find_support, kernels_for
from hpctem.optics.passage import fresnel_factors

GPU_BATCH = 64
"""Probes at once on a GPU: three fields of 512 x 512 pixels of 64 probes fill 0.4 GB."""


@dataclass(frozen=True, eq=False)
class Way:
    """What all probes have in common, but for the atoms.

    `grid`: of the window; `wavelength` in A; `steps` (S - 1,): distances from slice to slice in A;
    `half`: the antialiasing aperture over the number of pixels, float32 (ny // 2 + 1, nx);
    `weights`: float32 (K, ny, nx), what the detectors collect, in the order of the FFT.
    """

    grid: Grid
    wavelength: float
    steps: np.ndarray
    half: np.ndarray
    weights: np.ndarray

    def legs(self, xp: Any = np) -> list[tuple[Any, Any]]:
        """Fresnel factors along y and x from each slice to the next, arrays of `xp`."""
        along = fresnel_factors(self.grid, self.wavelength, self.steps, xp=xp)
        return list(zip(*along, strict=True))


class ProbePassage(Protocol):
    """A backend's way; its work arrays serve one tile after the other."""

    def __init__(self, way: Way, backend: Backend) -> None: ...

    def enter(self, transmissions: Any) -> None:
        """Take a tile's transmission functions, complex64 (S, height, width) on the backend."""

    def pass_probes(
        self, incident: np.ndarray, corners: np.ndarray, patterns: np.ndarray | None = None
    ) -> np.ndarray:
        """Signals of probes whose windows begin at `corners` (m, 2), int64 rows and columns.

        `incident`: complex64 (ny, nx), the wave that meets the first slice; where it fills its
        spectrum with a sum of squares of 1, the signals, float32 (m, K), are shares of the beam.
        `patterns`: float32 (m, ny, nx) to which every |F psi|^2 is added, in the order of the FFT.
        """


def passage_for(backend: Backend) -> type[ProbePassage]:
    """The way that `backend` takes."""
    if backend.name == "numpy":
        from hpctem.optics.probe_passage_cpu import PanelPassage

        return PanelPassage
    return BatchPassage


class BatchPassage:
    """Many probes at once; see `ProbePassage`."""

    def __init__(self, way: Way, backend: Backend) -> None:
        self.backend, self.shape = backend, way.grid.shape
        self.half = backend.asarray(way.half)
        self.support = backend.asarray(find_support(way.half))
        self.legs = way.legs(backend.xp)
        self.weights = backend.asarray(way.weights.reshape(len(way.weights), -1).T)
        rows, columns = (backend.xp.arange(n, dtype=np.int32) for n in self.shape)
        self.rows, self.columns = rows[:, None], columns

    def enter(self, transmissions: Any) -> None:
        """See `ProbePassage.enter`."""
        self.transmissions = transmissions

    def pass_probes(
        self, incident: np.ndarray, corners: np.ndarray, patterns: np.ndarray | None = None
    ) -> np.ndarray:
        """See `ProbePassage.pass_probes`."""
        backend, kernels = self.backend, kernels_for(self.backend)
        first = backend.asarray(incident)
        signals = []
        for begin in range(0, len(corners), GPU_BATCH):
            chosen = slice(begin, begin + GPU_BATCH)
            row, column = (
                backend.asarray(c, dtype=np.int32)[:, None, None] for c in corners[chosen].T
            )
            windows = (row + self.rows) * self.transmissions.shape[2] + (column + self.columns)
            wave = self.transmissions[0].ravel()[windows]
            wave *= first
            backend.fft2(wave, out=wave)
            for transmission, (along_y, along_x) in zip(
                self.transmissions[1:], self.legs, strict=True
            ):
                kernels.propagate(wave, along_y, along_x, self.half, self.support)
                backend.ifft2(wave, out=wave, scaled=False)
                kernels.multiply(wave, transmission.ravel()[windows])
                backend.fft2(wave, out=wave)
            intensity = wave.real**2 + wave.imag**2
            if patterns is not None:
                patterns[chosen] += backend.to_host(intensity)
            signals.append(intensity.reshape(len(intensity), -1) @ self.weights)
        return backend.to_host(backend.xp.concatenate(signals))
