"""Image formation: many images from a few exit waves.

An image is the incoherent sum, over defoci of the focal spread and over phonon configurations, of
|F^-1[exp(-i chi) A E psi_hat]|^2 with the objective aperture A and the envelope E of the
illumination's spatial coherence (Reimer & Kohl 2008, Transmission Electron Microscopy, ch. 6). The
transform of each exit wave is taken once; each defocus is one inverse transform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError
from hpctem.optics.aberrations import Aberrations, chi, chi_gradient
from hpctem.optics.electron import wavelength
from hpctem.optics.focus import focus_for
from hpctem.optics.grid import Grid, copy_frequencies, fast_size
from hpctem.optics.kernels import kernels_for


@dataclass(frozen=True)
class Imaging:
    """The conditions of one image.

    `energy` in eV; `defocus` in A, > 0 is underfocus, measured from the plane `reference`:
    'exit_plane' or 'cell_centre' (then `height`, the cell's height in A, is needed: half of it is
    added); `aberrations`: their C10 must be 0, since `defocus` is -C10; `focal_spread`: standard
    deviation of the defocus in A (1/sqrt(2) of the 1/e half width that some programs ask for);
    `spread_nodes`: 'auto' or the number of planes to +-3 sigma; `objective_aperture`: semiangle in
    rad or None; `convergence`: in rad, the illumination's angles are distributed as
    exp(-theta^2 / convergence^2) (0: parallel); `plasmon`: (weight, background) or None.
    """

    energy: float
    defocus: float = 0.0
    aberrations: Aberrations = field(default_factory=Aberrations)
    focal_spread: float = 0.0
    spread_nodes: int | str = "auto"
    objective_aperture: float | None = None
    convergence: float = 0.0
    reference: str = "exit_plane"
    height: float | None = None
    plasmon: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        wavelength(self.energy)
        if self.reference not in ("exit_plane", "cell_centre"):
            raise ConfigError(
                f"defocus reference '{self.reference}' is unknown: exit_plane or cell_centre."
            )
        if self.reference == "cell_centre" and self.height is None:
            raise ConfigError("defocus from the cell centre needs the cell's height.")
        if self.aberrations.C10:
            raise ConfigError("give the defocus (-C10) as defocus, not as aberration C10.")
        if not (self.focal_spread >= 0 and self.convergence >= 0):
            raise ConfigError("focal spread and convergence must not be negative.")
        if self.objective_aperture is not None and not self.objective_aperture > 0:
            raise ConfigError(
                f"the objective aperture {self.objective_aperture} rad must be positive."
            )
        nodes = self.spread_nodes
        if nodes != "auto" and not (isinstance(nodes, int) and nodes >= 1):
            raise ConfigError(f"focal spread nodes '{nodes}' must be auto or a whole number >= 1.")
        if self.plasmon is not None:
            weight, background = self.plasmon
            if not (0 <= weight <= 1 and background >= 0):
                raise ConfigError(
                    f"plasmon weight {weight} must lie in 0 to 1 and background {background} "
                    f"must not be negative."
                )

    @property
    def exit_defocus(self) -> float:
        """Defocus measured from the exit plane in A."""
        if self.reference == "cell_centre":
            assert self.height is not None
            return self.defocus + self.height / 2
        return self.defocus


ALIAS = 0.7
"""How far beyond the fastest beat, in cycles per standard deviation, planes may repeat it: what
the focal spread leaves there is exp(-2 pi^2 0.7^2) = 6e-5."""

REACH = 4.0
"""Planes are taken to this many standard deviations on either side."""

FINEST = 0.4
"""Cycles of the fastest beat from one plane to the next, at most, for a number of planes that is
asked for: unlike a Gaussian's, their weights end with a step, which is felt at every beat."""


def asked_planes(focal_spread: float, nodes: int | str) -> tuple[np.ndarray, np.ndarray]:
    """Defocus offsets in A and weights (sum 1), float64, of the focal spread that is asked for.

    `nodes`: a number n means n planes over +-3 standard deviations `focal_spread` (A) with
    Gaussian weights, 'auto' the Gaussian itself, as 129 planes over +-5.
    """
    if focal_spread == 0 or nodes == 1:
        return np.zeros(1), np.ones(1)
    count, span = (129, 5.0) if nodes == "auto" else (int(nodes), 3.0)
    position = np.linspace(-span, span, count)
    weights = np.exp(-(position**2) / 2)
    return position * focal_spread, weights / weights.sum()


def focal_planes(
    focal_spread: float, nodes: int | str, energy: float, band: float, defocus: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Few planes that stand for all that are asked for: defoci in A and weights (sum 1), float64.

    `focal_spread` in A and `nodes` as in `asked_planes`; `energy` in eV; `band`: largest frequency
    k of the wave in 1/A; `defocus` in A. Over defocus an image is a sum of beats with at most
    lambda k^2 / 2 cycles per A, so what it is in any plane follows from planes of a grid that
    samples these. The grid is that of whole multiples of its spacing, whatever the defocus, so
    that images of different defocus share planes. The weights make the response to all beats that
    of the asked planes, in the mean square. Where the grid has no fewer planes than are asked for,
    these are returned.
    """
    offsets, shares = asked_planes(focal_spread, nodes)
    beat = wavelength(energy) * band**2 / 2
    if offsets.size == 1 or beat == 0:
        return np.array([defocus]), np.ones(1)
    spacing = 1 / (beat + ALIAS / focal_spread)
    if nodes != "auto":
        spacing = min(spacing, FINEST / beat)
    reach = REACH * focal_spread
    first, last = math.ceil((defocus - reach) / spacing), math.floor((defocus + reach) / spacing)
    planes = np.arange(first, last + 1) * spacing
    if nodes != "auto" and planes.size >= offsets.size:
        return defocus + offsets, shares
    weights = _fit_weights(planes, defocus + offsets, shares, beat)
    return planes, weights


def _fit_weights(
    planes: np.ndarray, asked: np.ndarray, shares: np.ndarray, beat: float
) -> np.ndarray:
    """Weights of equidistant `planes` whose response to beats up to `beat` (1/A) is nearest to
    that of the planes `asked` with their `shares`: the normal equations of its mean square.
    """
    from scipy.linalg import solve_toeplitz

    products = np.sinc(2 * beat * (planes - planes[0]))
    products[0] += 1e-10  # beats that the planes hardly tell apart must not swell the weights
    projections = (shares * np.sinc(2 * beat * (asked - planes[:, None]))).sum(axis=1)
    weights = solve_toeplitz(products, projections)
    return weights / weights.sum()


def transfer_function(grid: Grid, imaging: Imaging, xp: Any = np) -> Any:
    """Contrast transfer function without the defocus of the focal planes.

    exp(-i chi) of the aberrations without C10, inside the objective aperture, times the envelope
    exp(-(convergence / 2)^2 |grad chi|^2), grad over the angle and with the mean defocus (Frank
    1973, Optik 38, 519). Phases in float64. Returns complex64 (ny, nx), an array of `xp`.
    """
    ky, kx = (xp.asarray(k) for k in grid.frequencies())
    lam = wavelength(imaging.energy)
    alpha = lam * xp.hypot(ky[:, None], kx[None, :])
    turned = any(m for _, m, _, _ in imaging.aberrations.terms())
    phi = xp.arctan2(ky[:, None], kx[None, :]) if turned else xp.zeros(1)
    transfer = xp.exp(-1j * chi(alpha, phi, lam, imaging.aberrations, xp))
    if imaging.objective_aperture is not None:
        transfer *= alpha <= imaging.objective_aperture
    if imaging.convergence:
        focused = replace(imaging.aberrations, C10=-imaging.exit_defocus)
        radial, azimuthal = chi_gradient(alpha, phi, lam, focused, xp)
        transfer *= xp.exp(-((imaging.convergence / 2) ** 2) * (radial**2 + azimuthal**2))
    return transfer.astype(np.complex64)


@dataclass(frozen=True)
class _Look:
    """What images must agree in to be sums of the same planes."""

    transfer: Imaging
    focal_spread: float
    nodes: int | str
    plasmon: tuple[float, float] | None


def _look(imaging: Imaging) -> _Look:
    """The transfer function depends on the defocus only through the convergence's envelope."""
    transfer = Imaging(
        imaging.energy,
        imaging.exit_defocus if imaging.convergence else 0.0,
        imaging.aberrations,
        objective_aperture=imaging.objective_aperture,
        convergence=imaging.convergence,
    )
    return _Look(transfer, imaging.focal_spread, imaging.spread_nodes, imaging.plasmon)


def form_images(
    exit_waves: Any,
    extent: tuple[float, float],
    imagings: Sequence[Imaging],
    backend: Backend,
) -> Any:
    """Form one image per entry of `imagings` from the exit waves of all phonon configurations.

    `exit_waves`: complex64 (P, ny, nx) at the exit plane, with mean intensity 1 in vacuum;
    `extent` (ly, lx) in A. Returns float32 (len(imagings), ny, nx), mean over the P
    configurations, on the backend; vacuum is 1. Images that differ in defocus alone share the
    planes of their focal spreads. Where the objective aperture leaves a band so small that a
    coarser grid holds twice of it, the work is done there and the intensity interpolated by
    Fourier transform, without loss. The bytes of an image do not depend on the others.
    Raises ConfigError if an aperture lies beyond the grid's Nyquist frequency.
    """
    waves = backend.asarray(exit_waves)
    grid = Grid(tuple(waves.shape[-2:]), (float(extent[0]), float(extent[1])))
    images = backend.xp.zeros((len(imagings), *grid.shape), dtype=np.float32)
    if not imagings:
        return images
    bands = {imaging: _aperture_band(grid, imaging) for imaging in imagings}
    whole = _transform_waves(waves, backend)
    filled = _measure_band(whole, grid, backend)
    spectra_of = {grid.shape: whole}
    groups: dict[_Look, list[int]] = {}
    for index, imaging in enumerate(imagings):
        groups.setdefault(_look(imaging), []).append(index)
    for look, indices in groups.items():
        band = min(bands[imagings[indices[0]]], filled)
        small = Grid(intensity_shape(grid, band), grid.extent)
        if small.shape not in spectra_of:
            spectra_of[small.shape] = _crop_spectra(whole, small.shape, backend)
        spectra = spectra_of[small.shape]
        transfer = _limit_transfer(small, look.transfer, band, backend)
        if small.shape == grid.shape and len(groups) == 1:
            formed = images
        else:
            formed = backend.xp.zeros((len(indices), *small.shape), dtype=np.float32)
        _form_group(formed, spectra, transfer, [imagings[i] for i in indices], small, band, backend)
        for index, image in zip(indices, formed, strict=True):
            if small.shape != grid.shape:
                images[index] = _interpolate(image, grid, backend)
            elif formed is not images:
                images[index] = image
    return images


def _aperture_band(grid: Grid, imaging: Imaging) -> float:
    """Radius in 1/A of the objective aperture, or of the grid without one."""
    if imaging.objective_aperture is None:
        return grid.nyquist
    band = imaging.objective_aperture / wavelength(imaging.energy)
    if band > grid.nyquist:
        raise ConfigError(
            f"the objective aperture of {1e3 * imaging.objective_aperture:.3g} mrad needs a "
            f"sampling of at most {0.5 / band:.3g} A; the exit wave has {max(grid.sampling):.3g} A."
        )
    return band


def intensity_shape(grid: Grid, band: float) -> tuple[int, int]:
    """Smallest convenient grid that holds an intensity (twice the wave's `band`), if it pays."""
    ny, nx = (fast_size(max(32, math.floor(4 * band * length) + 2)) for length in grid.extent)
    return (ny, nx) if ny < 0.9 * grid.shape[0] and nx < 0.9 * grid.shape[1] else grid.shape


def _transform_waves(waves: Any, backend: Backend) -> Any:
    """Transform every exit wave, scaled for unscaled inverses."""
    spectra = backend.fft2(waves)
    spectra *= np.float32(1 / (waves.shape[-2] * waves.shape[-1]))
    return spectra


def _crop_spectra(spectra: Any, shape: tuple[int, int], backend: Backend) -> Any:
    """The frequencies that a coarser grid of `shape` holds."""
    cropped = backend.xp.empty((spectra.shape[0], *shape), dtype=np.complex64)
    copy_frequencies(spectra, cropped)
    return cropped


DARK = 1e-8
"""Share of the scattered intensity that may lie outside the band that is taken for the waves'."""


def _measure_band(spectra: Any, grid: Grid, backend: Backend) -> float:
    """Radius in 1/A beyond which lies no more than `DARK` of what is scattered."""
    power = backend.xp.zeros(grid.shape, dtype=np.float32)
    kernels_for(backend).accumulate(power, spectra, backend.xp.ones(len(spectra), np.float32))
    step = 1 / max(grid.extent)
    power = np.bincount(_number_rings(grid, step), backend.to_host(power).ravel())
    power[0] = 0  # the beam that is not scattered
    outside = np.cumsum(power[::-1])[::-1]
    lit = np.flatnonzero(outside > DARK * outside[0])
    return min(float(step * (lit[-1] + 1)), grid.nyquist) if lit.size else step


@lru_cache(maxsize=2)
def _number_rings(grid: Grid, step: float) -> np.ndarray:
    """The ring of width `step` (1/A) about zero that holds each frequency, int64 (ny nx,)."""
    ky, kx = grid.frequencies()
    return (np.hypot(ky[:, None], kx[None, :]) / step).astype(np.int64).ravel()


# Most campaigns have one lens for all their structures, and it takes as long as several planes.
@lru_cache(maxsize=2)
def _limit_transfer(grid: Grid, imaging: Imaging, band: float, backend: Backend) -> Any:
    """`transfer_function` on the backend without the rows beyond `band` (1/A), not to be changed.

    A GPU makes it itself: a lens for every image would keep the host busier than the GPU.
    """
    transfer = transfer_function(grid, imaging, backend.xp)
    ky, _ = grid.frequencies()
    transfer[backend.asarray(np.flatnonzero(np.abs(ky) > band * (1 + 1e-6)))] = 0
    if backend.name == "numpy":
        transfer.flags.writeable = False
    return transfer


def _mean_intensities(spectra: Any, transfer: Any, backend: Backend) -> np.ndarray:
    """Mean intensity of each configuration's image, float64 (P,): Parseval, at any defocus."""
    xp = backend.xp
    passed = xp.abs(transfer) ** 2
    means = [xp.sum(xp.abs(spectrum) ** 2 * passed, dtype=np.float64) for spectrum in spectra]
    return backend.to_host(xp.stack(means))


def _plasmon_line(means: np.ndarray, imaging: Imaging) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset (P,) of the plasmon background, which is linear in the intensity.

    I' = (1 - w) I + w (I + b) mean(I) / mean(I + b), for each phonon configuration (our reading
    of Rangel DaCosta et al. 2024): the mean stays, the contrast falls.
    """
    if imaging.plasmon is None:
        return np.ones_like(means), np.zeros_like(means)
    weight, background = imaging.plasmon
    ratio = means / (means + background) if background else np.ones_like(means)
    return 1 - weight + weight * ratio, weight * background * ratio


def _form_group(
    formed: Any,
    spectra: Any,
    transfer: Any,
    imagings: list[Imaging],
    grid: Grid,
    band: float,
    backend: Backend,
) -> None:
    """Add to the images of one group, float32 (M, ny, nx), the planes of their focal spreads."""
    first = imagings[0]
    configurations = spectra.shape[0]
    means = np.ones(configurations)
    if first.plasmon:
        means = _mean_intensities(spectra, transfer, backend)
    slope, offset = _plasmon_line(means, first)
    shares = (slope / configurations).astype(np.float32)
    spreads = [
        focal_planes(one.focal_spread, one.spread_nodes, one.energy, band, one.exit_defocus)
        for one in imagings
    ]
    defoci = np.unique(np.concatenate([planes for planes, _ in spreads]))
    weights = np.zeros((defoci.size, len(imagings)), dtype=np.float32)
    for m, (planes, of_planes) in enumerate(spreads):
        weights[np.searchsorted(defoci, planes), m] = of_planes
    focus = focus_for(backend)(spectra, transfer, grid, wavelength(first.energy), backend)
    focus.add_planes(formed, defoci, weights, shares)
    formed += np.float32(offset.mean())


def _interpolate(intensity: Any, grid: Grid, backend: Backend) -> Any:
    """Interpolate a band-limited image to the shape of `grid` by zero-padding its transform."""
    small = intensity.shape
    spectrum = backend.fft2(intensity.astype(np.complex64))
    padded = backend.xp.zeros(grid.shape, dtype=np.complex64)
    copy_frequencies(spectrum, padded)
    padded *= np.float32(1 / (small[0] * small[1]))
    return backend.ifft2(padded, out=padded, scaled=False).real
