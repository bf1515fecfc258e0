"""Transfer functions of point spreads: what becomes of each spatial frequency of an object.

A `Transfer` is the Fourier transform of a point spread function of integral 1: 1 at frequency 0,
and 0 beyond its band. That of a probe's intensity is `hpctem.optics.probe.probe_transfer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError

FAINT = 1e-6
"""What is left of a Gaussian at the end of its band."""

UNRESOLVED = 0.02
"""Of a tabulated point spread function, what may be left at its Nyquist frequency."""


@dataclass(frozen=True)
class Transfer:
    """Transform of a point spread function of integral 1.

    `band`: radius in 1/A beyond which it is 0; `fill(ky, kx, backend)`: its values at the
    frequencies ky (ny,) and kx (m,), float64 in 1/A, kx >= 0, as float32 or complex64 (ny, m) on
    the backend.
    """

    band: float
    fill: Callable[[np.ndarray, np.ndarray, Backend], Any]


def gaussian_transfer(width: float) -> Transfer:
    """Transfer of a Gaussian of standard deviation `width` in A, exp(-2 pi^2 width^2 k^2).

    Raises ConfigError if the width is not positive.
    """
    if not 0 < width < math.inf:
        raise ConfigError(f"the width {width} A of the point spread function must be positive.")
    power = 2 * math.pi**2 * width**2

    def fill(ky: np.ndarray, kx: np.ndarray, backend: Backend) -> Any:
        along = (backend.asarray(np.exp(-power * k**2), dtype=np.float32) for k in (ky, kx))
        along_y, along_x = along
        return along_y[:, None] * along_x[None, :]

    return Transfer(math.sqrt(-math.log(FAINT) / power), fill)


def tabulated_transfer(psf: np.ndarray, sampling: float) -> Transfer:
    """Transfer of a point spread function that is given at the points of a square grid.

    `psf`: float (ny, nx), its centre at the middle (ny // 2, nx // 2), 0 outside; `sampling`: the
    grid's pixel in A. Between the points it is what its frequencies up to Nyquist (1 / 2 sampling)
    say. Scaled to integral 1. Raises ConfigError for a psf that is no plane of numbers, has no
    positive sum, or whose frequencies have not died away at Nyquist.
    """
    psf = np.asarray(psf, dtype=np.float64)
    if psf.ndim != 2 or min(psf.shape) < 2 or not np.isfinite(psf).all() or not psf.sum() > 0:
        raise ConfigError(
            f"a point spread function must be a plane of at least 2 x 2 finite numbers with a "
            f"positive sum; this one has the shape {psf.shape} and the sum {psf.sum():g}."
        )
    if not 0 < sampling < math.inf:
        raise ConfigError(f"the point spread function's sampling {sampling} A must be positive.")
    psf = psf / psf.sum()
    y, x = ((np.arange(n) - n // 2) * sampling for n in psf.shape)

    def transform(ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
        rows = np.exp(-2j * np.pi * np.outer(ky, y))
        return rows @ psf @ np.exp(-2j * np.pi * np.outer(x, kx))

    nyquist = 0.5 / sampling
    radii = np.linspace(0, nyquist, 129)
    lengths = np.hypot(radii[:, None], radii[None, :])
    falls = np.maximum(*(np.abs(transform(sign * radii, radii)) for sign in (1, -1)))
    left = float(np.max(falls[lengths >= nyquist]))
    if left > UNRESOLVED:
        raise ConfigError(
            f"the point spread function is sampled too coarsely: {left:.2g} of it is left at the "
            f"highest frequencies that {sampling:g} A can hold; give it on finer points."
        )
    band = min(float(np.max(lengths[falls > FAINT])) + radii[1], nyquist)

    def fill(ky: np.ndarray, kx: np.ndarray, backend: Backend) -> Any:
        inside = np.hypot(ky[:, None], kx[None, :]) <= band
        return backend.asarray(np.where(inside, transform(ky, kx), 0), dtype=np.complex64)

    return Transfer(band, fill)
