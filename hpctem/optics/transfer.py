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
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError
from hpctem.optics.aberrations import Aberrations, chi, chi_gradient
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import Grid, copy_frequencies
from hpctem.optics.kernels import kernels_for
from hpctem.optics.multislice import GPU_BATCH, fresnel_factors


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


def focal_planes(
    focal_spread: float, nodes: int | str, energy: float, band: float
) -> tuple[np.ndarray, np.ndarray]:
    """Defocus offsets in A and weights (sum 1), float64, that stand for a Gaussian focal spread.

    `focal_spread`: standard deviation sigma in A; `energy` in eV; `band`: largest frequency k of
    the wave in 1/A. `nodes='auto'`: a trapezoid over +-3.5 sigma. The fastest beat over defocus
    has lambda k^2 / 2 cycles per A; with ceil(1 + 7 (sigma lambda k^2 / 2 + 0.6)) nodes its alias
    stays 0.6 / sigma away, which leaves an error exp(-2 pi^2 0.6^2) = 8e-4 (Trefethen & Weideman
    2014, SIAM Rev. 56, 385). A whole number: that many planes over +-3 sigma, Gaussian weights.
    """
    if focal_spread == 0 or nodes == 1:
        return np.zeros(1), np.ones(1)
    if nodes == "auto":
        beat = wavelength(energy) * band**2 / 2
        count, span = math.ceil(1 + 7 * (focal_spread * beat + 0.6)), 3.5
    else:
        count, span = int(nodes), 3.0
    position = np.linspace(-span, span, count)
    weights = np.exp(-(position**2) / 2)
    return position * focal_spread, weights / weights.sum()


def transfer_function(grid: Grid, imaging: Imaging) -> np.ndarray:
    """Contrast transfer function without the defocus of the focal planes, complex64 (ny, nx).

    exp(-i chi) of the aberrations without C10, inside the objective aperture, times the envelope
    exp(-(convergence / 2)^2 |grad chi|^2), grad over the angle and with the mean defocus (Frank
    1973, Optik 38, 519). Phases in float64.
    """
    ky, kx = grid.frequencies()
    lam = wavelength(imaging.energy)
    alpha = lam * np.hypot(ky[:, None], kx[None, :])
    phi = np.arctan2(ky[:, None], kx[None, :])
    transfer = np.exp(-1j * chi(alpha, phi, lam, imaging.aberrations))
    if imaging.objective_aperture is not None:
        transfer *= alpha <= imaging.objective_aperture
    if imaging.convergence:
        focused = replace(imaging.aberrations, C10=-imaging.exit_defocus)
        radial, azimuthal = chi_gradient(alpha, phi, lam, focused)
        transfer *= np.exp(-((imaging.convergence / 2) ** 2) * (radial**2 + azimuthal**2))
    return transfer.astype(np.complex64)


def _same_transfer(imaging: Imaging) -> Imaging:
    """What `transfer_function` depends on: images that agree in this share one."""
    defocus = imaging.exit_defocus if imaging.convergence else 0.0
    return Imaging(
        imaging.energy,
        defocus,
        imaging.aberrations,
        objective_aperture=imaging.objective_aperture,
        convergence=imaging.convergence,
    )


def form_images(
    exit_waves: Any,
    extent: tuple[float, float],
    imagings: Sequence[Imaging],
    backend: Backend,
    batch: int | None = None,
) -> Any:
    """Form one image per entry of `imagings` from the exit waves of all phonon configurations.

    `exit_waves`: complex64 (P, ny, nx) at the exit plane, with mean intensity 1 in vacuum;
    `extent` (ly, lx) in A; `batch`: configurations at once (default 1 on a CPU, else 4). Returns
    float32 (len(imagings), ny, nx), mean over the P configurations, on the backend; vacuum is 1.
    Where the objective aperture leaves a band so small that a coarser grid holds twice of it,
    the work is done there and the intensity interpolated by Fourier transform, without loss. The
    bytes of an image depend neither on the others nor, on a CPU, on the batch.
    Raises ConfigError if an aperture lies beyond the grid's Nyquist frequency.
    """
    waves = backend.asarray(exit_waves)
    grid = Grid(tuple(waves.shape[-2:]), (float(extent[0]), float(extent[1])))
    if batch is None:
        batch = 1 if backend.name == "numpy" else GPU_BATCH
    images = backend.xp.zeros((len(imagings), *grid.shape), dtype=np.float32)
    if not imagings:
        return images
    spectra_of: dict[tuple[int, int], Any] = {}
    groups: dict[Imaging, list[int]] = {}
    for index, imaging in enumerate(imagings):
        groups.setdefault(_same_transfer(imaging), []).append(index)
    for common, indices in groups.items():
        small = Grid(_intensity_shape(grid, _band(grid, common)), grid.extent)
        if small.shape not in spectra_of:
            spectra_of[small.shape] = _transform_waves(waves, small, backend)
        spectra = spectra_of[small.shape]
        transfer = backend.asarray(transfer_function(small, common))
        means = np.ones(len(spectra))
        if any(imagings[index].plasmon for index in indices):
            means = _mean_intensities(spectra, transfer, backend)
        for index in indices:
            imaging = imagings[index]
            intensity = _form_one(spectra, transfer, means, small, imaging, backend, batch)
            images[index] = _interpolate(intensity, grid, backend)
    return images


def _band(grid: Grid, imaging: Imaging) -> float:
    """Radius in 1/A that holds every frequency of the image's wave on this grid."""
    if imaging.objective_aperture is None:
        return grid.nyquist
    band = imaging.objective_aperture / wavelength(imaging.energy)
    if band > grid.nyquist:
        raise ConfigError(
            f"the objective aperture of {1e3 * imaging.objective_aperture:.3g} mrad needs a "
            f"sampling of at most {0.5 / band:.3g} A; the exit wave has {max(grid.sampling):.3g} A."
        )
    return band


def _intensity_shape(grid: Grid, band: float) -> tuple[int, int]:
    """Smallest convenient grid that holds an intensity (twice the wave's `band`), if it pays."""
    ny, nx = (_next_smooth(max(32, math.floor(4 * band * length) + 2)) for length in grid.extent)
    return (ny, nx) if ny < 0.9 * grid.shape[0] and nx < 0.9 * grid.shape[1] else grid.shape


def _next_smooth(n: int) -> int:
    """Smallest even number >= n whose only prime factors are 2, 3 and 5: a quick FFT."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and n % 2 == 0:
            return n
        n += 1


def _transform_waves(waves: Any, small: Grid, backend: Backend) -> Any:
    """Transform every exit wave, keep the frequencies of `small`, scale for unscaled inverses."""
    shape = tuple(waves.shape[-2:])
    spectra = backend.xp.empty((waves.shape[0], *small.shape), dtype=np.complex64)
    for p in range(waves.shape[0]):
        copy_frequencies(backend.fft2(waves[p]), spectra[p])
    spectra *= np.float32(1 / (shape[0] * shape[1]))
    return spectra


def _mean_intensities(spectra: Any, transfer: Any, backend: Backend) -> np.ndarray:
    """Mean intensity of each configuration's image, float64 (P,): Parseval, at any defocus."""
    xp = backend.xp
    passed = xp.abs(transfer) ** 2
    means = [xp.sum(xp.abs(spectrum) ** 2 * passed, dtype=np.float64) for spectrum in spectra]
    return np.array([float(mean) for mean in means])


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


def _form_one(
    spectra: Any,
    transfer: Any,
    means: np.ndarray,
    grid: Grid,
    imaging: Imaging,
    backend: Backend,
    batch: int,
) -> Any:
    """Intensity on `grid`, float32: the sum over focal planes and configurations."""
    kernels = kernels_for(backend)
    configurations = spectra.shape[0]
    band = _band(grid, imaging)
    offsets, weights = focal_planes(
        imaging.focal_spread, imaging.spread_nodes, imaging.energy, band
    )
    slope, offset = _plasmon_line(means, imaging)
    intensity = backend.xp.zeros(grid.shape, dtype=np.float32)
    work = backend.xp.empty((min(batch, configurations), *grid.shape), dtype=np.complex64)
    lam = wavelength(imaging.energy)
    planes = [
        # underfocus looks at a plane before the exit plane: back by the defocus
        [backend.asarray(f) for f in fresnel_factors(grid, lam, -float(defocus))]
        for defocus in imaging.exit_defocus + offsets
    ]
    for weight, (along_y, along_x) in zip(weights, planes, strict=True):
        shares = backend.asarray((weight / configurations * slope).astype(np.float32))
        for begin in range(0, configurations, batch):
            block = spectra[begin : begin + batch]
            waves = work[: block.shape[0]]
            kernels.focus(waves, block, transfer, along_y, along_x)
            backend.ifft2(waves, out=waves, scaled=False)
            kernels.accumulate(intensity, waves, shares[begin : begin + batch])
    intensity += np.float32(offset.mean())
    return intensity


def _interpolate(intensity: Any, grid: Grid, backend: Backend) -> Any:
    """Interpolate a band-limited image to the shape of `grid` by zero-padding its transform."""
    if intensity.shape == grid.shape:
        return intensity
    small = intensity.shape
    spectrum = backend.fft2(intensity.astype(np.complex64))
    padded = backend.xp.zeros(grid.shape, dtype=np.complex64)
    copy_frequencies(spectrum, padded)
    padded *= np.float32(1 / (small[0] * small[1]))
    return backend.ifft2(padded, out=padded, scaled=False).real
