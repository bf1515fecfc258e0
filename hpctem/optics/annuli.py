"""What STEM detectors collect: weights of the frequencies of a diffraction pattern.

An annulus from an inner to an outer angle, whole or cut into sectors of equal angle, is weighed by
the share of each frequency's pixel that lies in it, so that signals change smoothly with the angles
although a window of a few nanometres resolves only one or two milliradians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpctem.errors import ConfigError
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid

SUBDIVISIONS = 16
"""A pixel at an edge is divided into this many parts along each axis."""


@dataclass(frozen=True)
class Annulus:
    """A detector from `inner` to `outer` angle in rad (`inner` 0: a disk).

    `segments` sectors of equal angle, the first of which begins at the azimuth `rotation` in rad,
    from +x to +y. Raises ConfigError for angles that are not in order, or no segments.
    """

    inner: float
    outer: float
    segments: int = 1
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.inner < self.outer:
            raise ConfigError(
                f"a detector from {1e3 * self.inner:g} to {1e3 * self.outer:g} mrad collects "
                f"nothing: the inner angle must be below the outer, and neither negative."
            )
        if self.segments < 1:
            raise ConfigError(f"a detector of {self.segments} segments; at least 1 is needed.")


def check_angles(energy: float, sampling: float, outer: float) -> None:
    """Raise ConfigError if waves of pixel `sampling` (A) do not reach the angle `outer` (rad).

    They hold angles up to lambda / (3 sampling), the antialiasing limit of 2/3 Nyquist (see
    Kirkland 2010). `energy` in eV.
    """
    needed = wavelength(energy) / (3 * outer)
    if sampling > needed * (1 + 1e-9):
        raise ConfigError(
            f"a sampling of {sampling:g} A holds scattering up to "
            f"{1e3 * wavelength(energy) / (3 * sampling):.1f} mrad at {energy / 1e3:g} kV, but the "
            f"detector's outer angle is {1e3 * outer:g} mrad; set simulation.sampling to "
            f"{math.floor(needed * 1e3) / 1e3:g} A or finer."
        )


@lru_cache(maxsize=8)
def weigh_annuli(grid: Grid, wavelength: float, annuli: tuple[Annulus, ...]) -> np.ndarray:
    """Share of every frequency's pixel that each segment of each detector collects.

    `wavelength` in A. Returns float32 (K, ny, nx), frequencies in the order of the FFT, K the
    number of all segments in the order of the detectors. The segments of a detector add up to it
    exactly. Frequencies beyond the grid are lost: see `check_angles`.
    """
    ky, kx = (wavelength * k for k in grid.frequencies())
    step = [wavelength / length for length in grid.extent]
    return np.concatenate([_weigh_annulus(ky, kx, step, annulus) for annulus in annuli])


def weigh_circle(angle: float, width: float, annuli: Sequence[Annulus]) -> np.ndarray:
    """Share of a ring of `angle` and `width` in rad that each segment collects, float64 (K,)."""
    turns = 2 * np.pi * (np.arange(720) + 0.5) / 720
    radii = angle + width * ((np.arange(SUBDIVISIONS) + 0.5) / SUBDIVISIONS - 0.5)
    y, x = (np.multiply.outer(radii, part(turns)).ravel() for part in (np.sin, np.cos))
    return np.concatenate(
        [np.bincount(_segment(y, x, a) + 1, minlength=a.segments + 1)[1:] / y.size for a in annuli]
    )


def _weigh_annulus(
    ky: np.ndarray, kx: np.ndarray, step: Sequence[float], annulus: Annulus
) -> np.ndarray:
    weights = np.zeros((annulus.segments, ky.size * kx.size), np.float32)
    y, x = (part.ravel() for part in np.meshgrid(ky, kx, indexing="ij"))
    radius, reach = np.hypot(y, x), 0.5 * math.hypot(*step)
    within = (radius < annulus.outer + reach) & (radius > annulus.inner - reach)
    edge = np.minimum(np.abs(radius - annulus.inner), np.abs(radius - annulus.outer)) < reach
    if annulus.segments > 1:
        width = 2 * np.pi / annulus.segments
        turn = np.remainder(np.arctan2(y, x) - annulus.rotation, width)
        edge |= radius * np.sin(np.minimum(np.minimum(turn, width - turn), np.pi / 2)) < reach
    whole, cut = np.flatnonzero(within & ~edge), np.flatnonzero(within & edge)
    weights[_segment(y[whole], x[whole], annulus), whole] = 1
    parts = (np.arange(SUBDIVISIONS) + 0.5) / SUBDIVISIONS - 0.5
    for v in parts * step[0]:
        for u in parts * step[1]:
            segment = _segment(y[cut] + v, x[cut] + u, annulus)
            inside = segment >= 0
            weights[segment[inside], cut[inside]] += SUBDIVISIONS**-2
    return weights.reshape(-1, ky.size, kx.size)


def _segment(y: np.ndarray, x: np.ndarray, annulus: Annulus) -> np.ndarray:
    """The segment that collects each direction (y, x) in rad, -1 for none."""
    radius = np.hypot(y, x)
    turn = np.remainder(np.arctan2(y, x) - annulus.rotation, 2 * np.pi)
    segment = np.minimum(turn * (annulus.segments / (2 * np.pi)), annulus.segments - 1)
    inside = (radius >= annulus.inner) & (radius < annulus.outer)
    return np.where(inside, segment.astype(np.int64), -1)
