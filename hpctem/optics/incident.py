"""The wave that enters the window of a probe.

A window of 15 to 25 A holds all but one or two per cent of a probe: the rest lies in the rings that
the sharp edge of the aperture makes. Were the aperture sampled on the window's own frequencies,
these rings would return from the other side, and the middle of the probe be too bright by what they
hold. So the probe is computed on frequencies many times finer and cut out. What passes outside is
the light of the aperture's edge: it is counted as plane waves of that angle (`edge_waves`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hpctem.errors import ConfigError
from hpctem.optics.grid import SMALLEST_SIDE, Grid, fast_size
from hpctem.optics.probe import Probe, probe_spectrum, ray_reach

FREE = 200.0
"""Length in A over which a free probe is computed, at least."""

RINGS = 4.0
"""Radius of the rings that a window should hold, over 1 / the aperture's radius in 1/A: 98 %."""

MISSED = 0.15
"""Largest share of the beam that may pass outside the window."""


@dataclass(frozen=True, eq=False)
class Incident:
    """A probe in the middle of its window: pixel (ny // 2, nx // 2).

    `field`: complex64 (ny, nx); the squares of its transform add up to the share of the beam in the
    window; `missed`: the rest.
    """

    field: np.ndarray
    missed: float


def choose_window(
    probe: Probe, thickness: float, outer: float, pixel: tuple[float, float]
) -> tuple[int, int]:
    """Pixels (ny, nx) of a window that holds a probe on all its way through a specimen.

    It holds all rays of the lens, 98 % of its rings, and what is scattered to the angle `outer`
    (rad) at the entrance. `thickness` of the specimen and `pixel` (dy, dx) in A.
    """
    ends = (replace(probe, defocus=probe.defocus + end * thickness) for end in (-0.5, 0.5))
    rays = max(ray_reach(end) for end in ends)
    side = 2 * (rays + RINGS / probe.cutoff + thickness * math.tan(outer))
    return fast_size(side / pixel[0]), fast_size(side / pixel[1])


def free_probe(probe: Probe, grid: Grid, offset: float, repeated: bool = False) -> Incident:
    """The probe in the window `grid`, its defocus changed by `offset` A.

    Cut out of a single one or, if `repeated`, one of a lattice of probes, a window apart. The cut
    makes no wave more than two of the window's frequencies beyond the aperture. Raises ConfigError
    if much of the probe lies outside the window, or its aperture beyond the band limit.
    """
    if probe.cutoff > grid.antialias_radius:
        raise ConfigError(
            f"a probe of {1e3 * probe.semiangle_cutoff:.3g} mrad needs a sampling of at most "
            f"{1 / (3 * probe.cutoff):.3g} A, but the waves have {max(grid.sampling):.3g} A; make "
            f"simulation.sampling finer."
        )
    times = [1 if repeated else max(4, math.ceil(FREE / length)) for length in grid.extent]
    extent = grid.extent[0] * times[0], grid.extent[1] * times[1]
    coarse = [max(SMALLEST_SIDE, fast_size(2.2 * probe.cutoff * side + 4)) for side in extent]
    field = probe_spectrum(probe, Grid((coarse[0], coarse[1]), extent), offset)
    field /= np.sqrt(np.sum(np.abs(field) ** 2))
    for axis, n in enumerate(grid.shape):
        field = _sum_waves(field, axis, n, n * times[axis])
    field /= math.sqrt(grid.pixels * grid.pixels * times[0] * times[1])
    missed = 0.0
    if not repeated:
        field = _limit_angles(field, grid, probe.cutoff)
        missed = 1 - grid.pixels * float(np.sum(np.abs(field) ** 2))
    if missed > MISSED:
        raise ConfigError(
            f"{100 * missed:.0f} % of the probe lies outside its window of {grid.extent[1]:.1f} A; "
            f"make simulation.window wider, or leave it out."
        )
    return Incident(field.astype(np.complex64), missed)


def edge_waves(probe: Probe, grid: Grid) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Plane waves from four points of the aperture's edge, each with a sum of squares of 1.

    Returns the row and column of each one's frequency and the wave, complex64 (ny, nx).
    """
    waves = []
    for azimuth in np.pi * (np.arange(4) / 2 + 0.2):
        ky, kx = probe.cutoff * np.sin(azimuth), probe.cutoff * np.cos(azimuth)
        cycles = [round(k * length) for k, length in zip((ky, kx), grid.extent, strict=True)]
        along_y, along_x = (
            np.exp(2j * np.pi * m * np.arange(n) / n)
            for m, n in zip(cycles, grid.shape, strict=True)
        )
        wave = along_y[:, None] * along_x / grid.pixels
        place = cycles[0] % grid.shape[0], cycles[1] % grid.shape[1]
        waves.append((place, wave.astype(np.complex64)))
    return waves


def _limit_angles(field: np.ndarray, grid: Grid, cutoff: float) -> np.ndarray:
    """Take away what is more than two frequencies of the window beyond the aperture, smoothly."""
    ky, kx = grid.frequencies()
    beyond = np.hypot(ky[:, None], kx) - cutoff
    kept = np.clip(2.5 - beyond * min(grid.extent), 0, 1)
    return np.fft.ifft2(np.fft.fft2(field) * kept)


def _sum_waves(spectrum: np.ndarray, axis: int, n: int, whole: int) -> np.ndarray:
    """Go back along `axis` to `whole` points, of which n about the origin are kept."""
    m = spectrum.shape[axis]
    shape = list(spectrum.shape)
    shape[axis] = whole
    padded = np.zeros(shape, np.complex128)
    low = np.fft.fftfreq(m, 1 / m).astype(int)
    chosen = np.flatnonzero(np.abs(low) < min(m, whole) / 2)
    place: list[slice | np.ndarray] = [slice(None), slice(None)]
    place[axis] = low[chosen] % whole
    padded[tuple(place)] = np.take(spectrum, chosen, axis)
    field = np.fft.ifft(padded, axis=axis) * whole
    return np.take(field, np.arange(-(n // 2), n - n // 2), axis, mode="wrap")
