"""Power spectra of an image and what stands out in them.

Frequencies are (x, y) in cycles per pixel throughout. Spectra are scaled so that white noise of
variance v has the power v at every frequency.
"""

from __future__ import annotations

import numpy as np

# Mean over median of an exponential distribution, that of the power of noise.
MEAN_OVER_MEDIAN = 1.0 / np.log(2.0)
# Spots stand this far above the noise's mean power: noise alone does so once in 10^6 frequencies.
STANDS_OUT = 14.0
MOST_SPOTS = 80
# Steps of frequency about a spot from which the transform between the steps is taken.
LOCAL = 24


def hann_window(shape: tuple[int, ...]) -> np.ndarray:
    """A Hann window (ny, nx) float64 whose mean square is 1."""
    wy, wx = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    window = wy[:, None] * wx[None, :]
    return window / np.sqrt(np.mean(window**2))


def window_image(image: np.ndarray) -> np.ndarray:
    """The image (ny, nx) under a Hann window, its mean and its slopes removed: float64."""
    ny, nx = image.shape
    y, x = np.linspace(-1, 1, ny)[:, None], np.linspace(-1, 1, nx)[None, :]
    values = np.asarray(image, dtype=np.float64)
    values = values - values.mean()
    values = (
        values - (values * y).mean() / (y**2).mean() * y - (values * x).mean() / (x**2).mean() * x
    )
    window = hann_window((ny, nx))
    return window * (values - (values * window).mean() / window.mean())


def power_spectrum(image: np.ndarray) -> np.ndarray:
    """Power of an image under a Hann window: float64 (ny, nx), zero frequency in the middle.

    Its mean over frequencies is the image's variance; white noise of variance v gives v.
    """
    spectrum = np.fft.fftshift(np.fft.fft2(window_image(image)))
    return (spectrum.real**2 + spectrum.imag**2) / image.size


def frequencies(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies along x (1, nx) and y (ny, 1) of `power_spectrum`, cycles per pixel."""
    ny, nx = shape
    return np.fft.fftshift(np.fft.fftfreq(nx))[None, :], np.fft.fftshift(np.fft.fftfreq(ny))[
        :, None
    ]


def ring_medians(power: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean power of the noise around each radius, from the medians of rings: spots do not count.

    power: (ny, nx) of `power_spectrum`. Returns the radii (n,) in cycles per pixel up to 0.5, the
    powers (n,), and the ring of every frequency (ny, nx); beyond the last ring, n - 1.
    """
    fx, fy = frequencies(power.shape)
    width = 2.0 / min(power.shape)
    rings = (np.hypot(fx, fy) / width).astype(np.int64)
    count = max(2, int(0.5 / width))
    rings = np.minimum(rings, count - 1)
    order = np.argsort(rings, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(rings.ravel(), minlength=count))
    parts = np.split(power.ravel()[order], ends[:-1])
    medians = np.array([np.median(part) if len(part) else np.nan for part in parts])
    return (np.arange(count) + 0.5) * width, medians * MEAN_OVER_MEDIAN, rings


def find_spots(image: np.ndarray, highest: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of the power spectrum that stand out of the noise about them, the strongest first.

    image: (ny, nx). highest: the largest frequency to look at, cycles per pixel. Returns
    frequencies (n, 2) as (x, y) in cycles per pixel, of each pair +-q the one with y > 0, and the
    power of each over that of what lies about it (n,). At most 80; none nearer to zero than four
    steps of frequency. What lies about a peak is the noise of its ring or, where that is more, of
    the streak along y that lines displaced at random draw through the spots.
    """
    from scipy.ndimage import maximum_filter, uniform_filter1d

    spectrum = np.fft.fft2(window_image(image))
    power = np.fft.fftshift(spectrum.real**2 + spectrum.imag**2) / image.size
    power = np.maximum(power, 1e-12 * power.max())
    _, medians, rings = ring_medians(power)
    streaks = np.exp(uniform_filter1d(np.log(power), 61, axis=0, mode="wrap") + np.euler_gamma)
    contrast = power / np.maximum(medians[rings], streaks)
    fx, fy = frequencies(power.shape)
    ny, nx = power.shape
    upper = (fy > 0) | ((fy == 0) & (fx > 0))
    away = (np.hypot(fx * nx, fy * ny) >= 4) & (np.hypot(fx, fy) <= highest)
    peaks = (contrast == maximum_filter(contrast, size=7)) & upper & away & (contrast > STANDS_OUT)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-contrast[rows, columns], kind="stable")[:MOST_SPOTS]
    rows, columns = rows[order], columns[order]
    places = np.stack([fx[0, columns], fy[rows, 0]], axis=1)
    return sharpen(spectrum, places)[0], contrast[rows, columns]


def sharpen(
    spectrum: np.ndarray, places: np.ndarray, rounds: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Move frequencies onto the peaks of power beside them, to a small part of a step.

    spectrum: complex (ny, nx), fft2 of an image under a Hann window. places: (n, 2) in cycles per
    pixel, within a step of a peak. The logarithm of the power is a parabola about the peak of that
    window's transform; it is evaluated at half steps from the spectrum about it. Returns the
    frequencies (n, 2) and the transform there, complex (n,).
    """
    ny, nx = spectrum.shape
    size = np.array([nx, ny])
    places = np.array(places, dtype=np.float64).reshape(-1, 2)
    start = np.rint(places * size).astype(np.int64)
    local = _demodulate(spectrum, start)
    shift = places * size - start
    crosses = 0.5 * np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])
    for _ in range(rounds):
        height = np.log(np.abs(_transform(local, shift[:, None, :] + crosses)) + 1e-300)
        for axis in range(2):
            low, middle, high = height[:, 1 + 2 * axis], height[:, 0], height[:, 2 + 2 * axis]
            bend = low + high - 2 * middle
            move = np.where(bend < 0, 0.5 * (low - high) / np.where(bend < 0, bend, 1), 0.0)
            shift[:, axis] += 0.5 * np.clip(move, -1, 1)
    return (start + shift) / size, _transform(local, shift[:, None, :])[:, 0]


def _demodulate(spectrum: np.ndarray, start: np.ndarray) -> np.ndarray:
    """What lies about each step of frequency (n, 2), as a small image: (n, LOCAL, LOCAL)."""
    ny, nx = spectrum.shape
    span = np.arange(LOCAL) - LOCAL // 2
    rows = (start[:, 1, None, None] + span[None, :, None]) % ny
    columns = (start[:, 0, None, None] + span[None, None, :]) % nx
    return np.fft.ifft2(np.fft.ifftshift(spectrum[rows, columns], axes=(1, 2)))


def _transform(local: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Fourier sums of small images (n, L, L) at shifts (n, m, 2) in steps: complex (n, m)."""
    place = np.arange(LOCAL) / LOCAL
    along_y = np.exp(-2j * np.pi * shifts[..., 1, None] * place)
    along_x = np.exp(-2j * np.pi * shifts[..., 0, None] * place)
    return np.einsum("nmy,nyx,nmx->nm", along_y, local, along_x, optimize=True)
