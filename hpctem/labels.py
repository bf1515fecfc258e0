"""What is true of an image: which pixel shows which particle.

A mask is computed from the particle alone, on the cell of its image, and cropped with it. All
masks are periodic in x and y, as the cell is. Arrays are NumPy or CuPy, as the backend says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError, SampleError
from hpctem.optics.multislice import propagate_waves

# Instance maps are uint8 and 0 is background.
MOST_PARTICLES = 255


def smooth_phase(
    potential: Any,
    interaction_constant: float,
    extent: tuple[float, float],
    backend: Backend,
    smoothing: float = 1.0,
) -> Any:
    """The phase shift that a particle alone gives a fast electron, without detail below an atom.

    sigma V_z, convolved with a normalised Gaussian (see E. J. Kirkland, Advanced Computing in
    Electron Microscopy, 2nd ed. 2010, for the phase): smooth between columns, and free of
    the wrapping, channelling and Fresnel fringes of the exit wave.

    potential: (ny, nx) projected potential of the particle, V A; interaction_constant: rad/(V A);
    extent: (ly, lx) of the cell, A; smoothing: standard deviation of the Gaussian, A.
    Returns float32 (ny, nx) in rad. Raises ConfigError for a negative smoothing.
    """
    ny, nx = potential.shape
    pixels = (smoothing * ny / extent[0], smoothing * nx / extent[1])
    return blur_gaussian(potential, pixels, backend) * np.float32(interaction_constant)


def mask_by_phase_shift(phase: Any, threshold: float = 0.1) -> Any:
    """The default mask: the pixels where the smoothed phase shift exceeds `threshold`.

    phase: (ny, nx) float32, rad, of `smooth_phase`; threshold: rad. Returns bool (ny, nx).
    Raises ConfigError for a threshold that is not above 0, SampleError for a phase with NaN.
    """
    return _exceeds(phase, threshold, "rad")


def measure_wave_phase(
    waves: Any,
    wavelength: float,
    extent: tuple[float, float],
    distance: float,
    backend: Backend,
) -> Any:
    """Phase of a particle's waves in vacuum, taken back from the exit plane, mean over phonons.

    The wave is carried back by `distance` (half the cell height, to reach the cell centre) with
    the Fresnel propagator exp(+i pi lambda distance k^2); then the phases, each in -pi..pi, are
    averaged. This is how L. Rangel DaCosta et al. (arXiv:2309.06122, supplement)
    label all but their Baseline images, as we read them: they name neither threshold nor plane.
    Channelling in thick columns wraps it: on an 8 nm gold sphere at 300 kV its mask at 0.1 rad
    overlaps the disc by 0.82 ([100], [110]) to 0.96 (random), with holes; the default by 0.98.

    waves: (P, ny, nx) complex64 exit waves of the particle alone, one per phonon configuration;
    wavelength, distance: A; extent: (ly, lx), A. Returns float32 (ny, nx) in rad.
    """
    xp = backend.xp
    total = xp.zeros(waves.shape[-2:], dtype=xp.float32)
    for wave in waves:
        total += xp.angle(propagate_waves(wave, extent, -distance, wavelength, backend))
    return total / np.float32(len(waves))


def mask_by_wave_phase(
    phase: Any, backend: Backend, threshold: float = 0.1, smoothing: float = 0.0
) -> Any:
    """Their mask: `measure_wave_phase` above `threshold`, its outline smoothed if asked.

    phase: (ny, nx) float32, rad; threshold: rad; smoothing: Gaussian sigma in pixels, 0 for none.
    Returns bool (ny, nx). Raises ConfigError for a threshold not above 0 or a negative smoothing.
    """
    return smooth_mask(_exceeds(phase, threshold, "rad"), smoothing, backend)


def mask_by_intensity(
    intensity: Any, backend: Backend, threshold: float = 0.1, smoothing: float = 5.0
) -> Any:
    """Where the image of the particle in vacuum differs from the incident beam, smoothed.

    Both fringes count: |I - 1| > threshold, then the mask is blurred by a Gaussian and cut at one
    half. So L. Rangel DaCosta et al. (arXiv:2309.06122) label their Baseline images (sigma 5
    pixels), as we read them: they name no threshold.

    intensity: (ny, nx) float32, 1 in vacuum, noise-free; smoothing: Gaussian sigma in pixels.
    Returns bool (ny, nx). Raises ConfigError for a threshold not above 0 or a negative smoothing.
    """
    return smooth_mask(_exceeds(abs(intensity - 1), threshold, "of the beam"), smoothing, backend)


def smooth_mask(mask: Any, smoothing: float, backend: Backend) -> Any:
    """Blur a mask (bool, (ny, nx)) by a Gaussian of sigma `smoothing` pixels, cut it at one half.

    Raises ConfigError for a negative smoothing.
    """
    if smoothing == 0:
        return mask
    return blur_gaussian(mask, (smoothing, smoothing), backend) > 0.5


def map_instances(masks: Sequence[Any], phases: Sequence[Any]) -> Any:
    """One map that names the particle each pixel shows: 0 for none, k for particle k.

    Where the masks of several overlap, the particle with the largest phase shift there has the
    pixel; at equal phase, the first one.

    masks: one bool (ny, nx) per particle, particle 1 first; phases: float32 (ny, nx) each, rad.
    Returns uint8 (ny, nx). Raises ConfigError for more than 255 particles, or none.
    """
    if not 0 < len(masks) <= MOST_PARTICLES:
        raise ConfigError(
            f"an instance map holds 1 to {MOST_PARTICLES} particles; there are {len(masks)}"
        )
    instances = masks[0].astype(np.uint8)
    strongest = phases[0] * masks[0]
    for number, (mask, phase) in enumerate(zip(masks[1:], phases[1:], strict=True), start=2):
        wins = mask & ((instances == 0) | (phase > strongest))
        instances[wins] = number
        strongest[wins] = phase[wins]
    return instances


def blur_gaussian(image: Any, sigma: tuple[float, float], backend: Backend) -> Any:
    """Convolve with a normalised Gaussian, periodic, exactly: a product in Fourier space.

    image: (ny, nx) real or bool; sigma: standard deviations in pixels (y, x). Returns float32
    (ny, nx) on the backend's device. Raises ConfigError for a negative sigma.
    """
    if not min(sigma) >= 0:
        raise ConfigError(f"the smoothing is {min(sigma):g} px: it must be at least 0")
    xp = backend.xp
    fy, fx = (np.fft.fftfreq(n) for n in image.shape)
    gauss_y = np.exp(-2 * (math.pi * sigma[0] * fy) ** 2).astype(np.float32)
    gauss_x = np.exp(-2 * (math.pi * sigma[1] * fx) ** 2).astype(np.float32)
    spectrum = backend.fft2(backend.asarray(image).astype(xp.complex64))
    spectrum *= backend.asarray(gauss_y)[:, None] * backend.asarray(gauss_x)[None, :]
    return backend.ifft2(spectrum).real.astype(xp.float32)


def _exceeds(values: Any, threshold: float, unit: str) -> Any:
    if not threshold > 0:
        raise ConfigError(f"the mask threshold is {threshold} {unit}: it must be above 0")
    if not math.isfinite(float(values.sum())):
        raise SampleError("the particle's phase or image holds NaN or infinity: it has no mask")
    return values > np.float32(threshold)
