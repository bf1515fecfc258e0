"""The detector's modulation transfer function (MTF): how much contrast survives at each frequency.

Frequencies are fractions of Nyquist, q / q_N with q_N = half a cycle per pixel, so that an MTF
belongs to the camera's pixel and needs no length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError


@dataclass(frozen=True)
class ParametricMTF:
    """A scintillator's sharp peak on a broad pedestal, in three numbers.

    MTF(q) = max(0, (1 - c1) / (1 + (q / (2 c2 q_N))^c3) + c1), with q_N the Nyquist frequency:
    the form of J. Madsen et al., Adv. Theory Simul. 1 (2018) 1800037, whose c1 -0.6..0.2,
    c2 0.1..0.2, c3 0.6..1.8 Larsen et al. (table 1) sample. With c1 < 0 the
    printed form turns negative below Nyquist; an MTF is a modulus, so it ends at 0 there.
    """

    c1: float
    c2: float
    c3: float

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("c1", self.c1, self.c1 <= 1),
            ("c2", self.c2, self.c2 > 0),
            ("c3", self.c3, self.c3 > 0),
        ):
            if not (math.isfinite(value) and allowed):
                limit = "finite and at most 1" if name == "c1" else "finite and above 0"
                raise ConfigError(f"mtf.{name} is {value}: it must be {limit}")

    def __call__(self, frequency: np.ndarray) -> np.ndarray:
        """MTF at frequencies in fractions of Nyquist: float64 of any shape, from 1 at zero."""
        falling = (1 - self.c1) / (1 + (frequency / (2 * self.c2)) ** self.c3) + self.c1
        return np.maximum(falling, 0.0)


@dataclass(frozen=True)
class TabulatedMTF:
    """A measured MTF: straight lines between points, the last value beyond the last point.

    frequencies: fractions of Nyquist, rising from 0; values: between 0 and 1, beginning with 1
    (what is lost at zero frequency belongs in the gain and the quantum efficiency).
    """

    frequencies: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.frequencies) != len(self.values) or len(self.values) < 2:
            raise ConfigError(
                f"an MTF table needs two or more points, as many frequencies as values; "
                f"it has {len(self.frequencies)} and {len(self.values)}"
            )
        if self.frequencies[0] != 0 or self.values[0] != 1:
            raise ConfigError("an MTF table begins with the value 1 at frequency 0: normalise it")
        if not all(np.diff(self.frequencies) > 0):
            raise ConfigError("the frequencies of an MTF table must rise from point to point")
        if not all(0 <= value <= 1 for value in self.values):
            raise ConfigError("the values of an MTF table must lie between 0 and 1")

    def __call__(self, frequency: np.ndarray) -> np.ndarray:
        """MTF at frequencies in fractions of Nyquist: float64 of any shape, from 1 at zero."""
        return np.interp(frequency, self.frequencies, self.values)


MTF = ParametricMTF | TabulatedMTF


def apply_mtf(signal: Any, mtf: MTF, backend: Backend) -> Any:
    """Blur what was detected, so that noise is blurred with it and neighbours are correlated.

    signal: (ny, nx) real, periodic (the whole simulated cell, before any crop), counts or
    intensity. Returns float32 (ny, nx) on the backend's device; the mean is kept.
    """
    spectrum = backend.fft2(backend.asarray(signal).astype(np.complex64))
    spectrum *= backend.asarray(tabulate_mtf(mtf, signal.shape))
    return backend.ifft2(spectrum).real.astype(np.float32)


def tabulate_mtf(mtf: MTF, shape: tuple[int, int]) -> np.ndarray:
    """The MTF on the frequencies of an image's FFT: float32 (ny, nx), radial, even in x and y."""
    ny, nx = shape
    y = np.arange(ny // 2 + 1) * (2.0 / ny)
    x = np.arange(nx // 2 + 1) * (2.0 / nx)
    quarter = mtf(np.hypot(y[:, None], x[None, :])).astype(np.float32)
    rows = np.minimum(np.arange(ny), ny - np.arange(ny))
    columns = np.minimum(np.arange(nx), nx - np.arange(nx))
    return quarter[rows[:, None], columns[None, :]]
