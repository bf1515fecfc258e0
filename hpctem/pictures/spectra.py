"""Power spectra of images, in units in which shot noise is flat.

The spectrum is that of the relative intensity I / mean(I) - 1 per area: with pixels of area A, a
window w and the discrete transform F,

    P(q) = A |F{w (I / mean(I) - 1)}|^2 / sum(w^2)        in A^2

White noise of variance s^2 per pixel gives A s^2 at every frequency. Counted electrons at a dose D
have s^2 = 1 / (D A), so shot noise alone gives P = 1 / D, whatever the pixel.
"""

from __future__ import annotations

import functools

import numpy as np


def power_spectrum(image: np.ndarray, pixel_size: float) -> np.ndarray:
    """P(q) of an image under a Hann window: float32 (ny, nx // 2 + 1) in A^2, as rfft2 orders it.

    image: (ny, nx) of any real dtype; pixel_size in A. An image whose mean is not above zero, or
    not finite, has no spectrum: NaN everywhere.
    """
    from scipy.fft import rfft2

    values = np.asarray(image, dtype=np.float32)
    ny, nx = values.shape
    mean = float(values.mean(dtype=np.float64))
    if not (np.isfinite(mean) and mean > 0):
        return np.full((ny, nx // 2 + 1), np.nan, dtype=np.float32)
    window = _hann(ny)[:, None] * _hann(nx)[None, :]
    # The window's own transform at low frequencies is that of what the mean leaves under it.
    level = float((values * window).sum(dtype=np.float64) / window.sum(dtype=np.float64))
    spectrum = rfft2(window * (values / np.float32(level) - 1))
    power = spectrum.real**2 + spectrum.imag**2
    scale = pixel_size**2 / float((window.astype(np.float64) ** 2).sum())
    return (power * np.float32(scale)).astype(np.float32)


def radial_average(power: np.ndarray, nx: int, pixel_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a spectrum over rings of frequency: the rings' q in 1/A and the means, both (n,).

    power: (ny, nx // 2 + 1) of an image nx pixels wide. Rings are as wide as the larger of the two
    frequency steps and end at Nyquist; the first is around the first step, the centre is left out.
    """
    ring, numbers, weights, step = _rings(power.shape[0], nx)
    sums = np.bincount(ring, weights=(power * weights).ravel(), minlength=len(numbers))
    count = len(numbers) - 1
    q = step * np.arange(1, count) / pixel_size
    return q, (sums[1:count] / numbers[1:count])


def whole_spectrum(power: np.ndarray, nx: int) -> np.ndarray:
    """The spectrum with zero frequency in the middle: (ny, nx), from that of `power_spectrum`."""
    ny = power.shape[0]
    whole = np.empty((ny, nx), dtype=power.dtype)
    whole[:, : nx // 2 + 1] = power
    # P(-q) = P(q) of a real image.
    left = power[:, 1 : (nx + 1) // 2]
    whole[:, nx // 2 + 1 :] = np.roll(left[::-1], 1, axis=0)[:, ::-1]
    return np.fft.fftshift(whole)


def _hann(count: int) -> np.ndarray:
    """A periodic Hann window, (count,) float32, without zero samples."""
    return (np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 2).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _rings(ny: int, nx: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Ring of every frequency, frequencies in each ring, how often each counts, the rings' width.

    The last ring holds what lies beyond Nyquist. The width is in 1 / pixel.
    """
    step = 1.0 / min(ny, nx)
    qy, qx = np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)[None, :]
    count = min(ny, nx) // 2 + 1
    ring = np.minimum(np.rint(np.hypot(qy, qx) / step).astype(np.int64), count).ravel()
    # Columns that the half spectrum leaves out count through their mirror images.
    weights = np.full((ny, nx // 2 + 1), 2.0)
    weights[:, 0] = 1.0
    if nx % 2 == 0:
        weights[:, -1] = 1.0
    numbers = np.bincount(ring, weights=weights.ravel(), minlength=count + 1)
    return ring, numbers, weights, step
