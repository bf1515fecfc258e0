"""The grid of the wave function, its frequencies, and the antialiasing aperture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.errors import ConfigError

SMALLEST_SIDE = 32


@dataclass(frozen=True)
class Grid:
    """A periodic grid: `shape` (ny, nx) pixels over `extent` (ly, lx) A, pixel (0, 0) at (0, 0).

    Raises ConfigError for fewer than 32 pixels a side or an extent that is not positive.
    """

    shape: tuple[int, int]
    extent: tuple[float, float]

    def __post_init__(self) -> None:
        if min(self.shape) < SMALLEST_SIDE:
            raise ConfigError(
                f"a grid of {self.shape[1]} x {self.shape[0]} pixels is too small; at least "
                f"{SMALLEST_SIDE} x {SMALLEST_SIDE} are needed (a finer sampling or a larger cell)."
            )
        if not all(math.isfinite(length) and length > 0 for length in self.extent):
            raise ConfigError(f"the cell's extent {self.extent} A must be positive.")

    @property
    def sampling(self) -> tuple[float, float]:
        """Pixel sizes (dy, dx) in A."""
        return self.extent[0] / self.shape[0], self.extent[1] / self.shape[1]

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    @property
    def nyquist(self) -> float:
        """Radius in 1/A of the largest circle of frequencies that the grid holds."""
        return 0.5 / max(self.sampling)

    @property
    def antialias_radius(self) -> float:
        """Two thirds of Nyquist, in 1/A: products of two waves within it alias only outside it.

        (See Kirkland 2010.)
        """
        return 2 / 3 * self.nyquist

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Spatial frequencies (ky (ny,), kx (nx,)) in 1/A, float64, in the order of the FFT."""
        (ny, nx), (dy, dx) = self.shape, self.sampling
        return np.fft.fftfreq(ny, dy), np.fft.fftfreq(nx, dx)

    def half_radii(self) -> np.ndarray:
        """|k| in 1/A on rows 0..ny//2 of the transform, float64 (ny // 2 + 1, nx)."""
        ky, kx = self.frequencies()
        return np.hypot(np.abs(ky[: self.shape[0] // 2 + 1, None]), kx[None, :])

    def wrap(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates (row, column), float64 in [0, n), of `positions` [..., (x, y, z)] A."""
        (ny, nx), (dy, dx) = self.shape, self.sampling
        row = np.mod(positions[..., 1] / dy, ny)
        column = np.mod(positions[..., 0] / dx, nx)
        return np.where(row >= ny, 0.0, row), np.where(column >= nx, 0.0, column)


def fast_size(length: float) -> int:
    """The smallest even integer of at least `length` that factorises into 2, 3 and 5."""
    size = max(2, math.ceil(length - 1e-6))
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and size % 2 == 0:
            return size
        size += 1


def antialias_aperture(grid: Grid, taper: float = 0.01) -> np.ndarray:
    """Circle of 2/3 Nyquist with an inner cosine edge, as one half, float64 (ny // 2 + 1, nx).

    `taper`: width of the edge in units of 1 / pixel size (0: sharp; 0.01, that is 2 % of Nyquist,
    is what abTEM uses), so that between two codes even the edge agrees.
    """
    k = grid.half_radii()
    radius = grid.antialias_radius
    if taper <= 0:
        return (k <= radius).astype(np.float64)
    width = taper / max(grid.sampling)
    edge = 0.5 * (1 + np.cos(np.pi * np.clip((k - radius + width) / width, 0, 1)))
    return np.where(k > radius, 0.0, edge)


def nyquist_circle(shape: tuple[int, int], extent: tuple[float, float]) -> np.ndarray:
    """Frequencies inside the Nyquist circle of `shape` (ny, nx) over `extent` (ly, lx) A.

    bool (ny, nx), in the order of the FFT. Waves are cut to it where they are kept on fewer pixels.
    """
    sampling = [length / n for n, length in zip(shape, extent, strict=True)]
    ky, kx = (np.fft.fftfreq(n, step) for n, step in zip(shape, sampling, strict=True))
    return np.hypot(ky[:, None], kx[None, :]) < 0.5 / max(sampling)


def copy_frequencies(source: Any, target: Any) -> None:
    """Copy the lowest frequencies that both transforms hold from `source` to `target`.

    Both complex [..., ny, nx] in the order of the FFT, of any two shapes, on one backend. A
    smaller target is cropped; in a larger one, all other coefficients are left as they are.
    """
    parts = []
    for n in map(min, source.shape[-2:], target.shape[-2:]):
        positive = (n + 1) // 2
        parts.append((slice(0, positive), slice(positive - n, None) if n > positive else None))
    for rows in parts[0]:
        for columns in parts[1]:
            if rows is not None and columns is not None:
                target[..., rows, columns] = source[..., rows, columns]
