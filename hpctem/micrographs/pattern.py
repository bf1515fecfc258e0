"""The lattice part of an image: a Fourier series over its spots, on a smoothly distorted grid.

    L(c, r) = sum_g A_g exp(2 pi i g . (x, y)),    (x, y) = (c, r) + warp(c, r) + (shift_r, 0)

`warp` is a smooth distortion (a polynomial in c and r), `shift` one number for each line. Both are
found by linear least squares of the image on the derivatives of L.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctem.micrographs.lattice import Lattice

DEGREE = 3
SEGMENT = 1.5  # periods along a line that give one displacement
BLOCK = 2.0  # periods along each side that give one displacement of the warp
ODD = 6.0  # squared residuals so many times the usual one are of no lattice


@dataclass(frozen=True)
class Pattern:
    """A fitted lattice image.

    places: (n, 2) frequencies, (x, y) in cycles per pixel, one of each pair +-g. amplitudes: (n,)
    complex128. noise: variance of the real and imaginary part of one amplitude together. warp:
    (2, ny, nx) float64 pixels along x and y. usual: (ny, nx) bool, pixels that show the lattice.
    """

    places: np.ndarray
    amplitudes: np.ndarray
    noise: float
    warp: np.ndarray
    usual: np.ndarray

    @property
    def variance(self) -> float:
        """Variance of the lattice image, what noise adds to it taken away."""
        return float(2 * np.maximum(np.abs(self.amplitudes) ** 2 - self.noise, 0).sum())


def fit_pattern(image: np.ndarray, lattice: Lattice, noise: float, highest: float = 0.5) -> Pattern:
    """Fit amplitudes and warp in turn to an image (ny, nx) whose slow variations are removed.

    noise: its variance per pixel. highest: the largest frequency of the series, cycles per pixel.
    """
    places = series_of(lattice, highest)
    warp = np.zeros((2, *image.shape), dtype=np.float32)
    usual = np.ones(image.shape, dtype=bool)
    period = find_period(lattice)
    strong = np.ones(len(places), dtype=bool)
    for _ in range(3):
        amplitudes, error = fit_amplitudes(image, places[strong], warp, usual, noise)
        keep = np.abs(amplitudes) ** 2 > 9 * error
        if keep.sum() >= 2:
            strong[strong] = keep
            amplitudes = amplitudes[keep]
        value, slope_x, slope_y = evaluate(places[strong], amplitudes, warp)
        usual = _find_usual(image - value, period)
        warp = warp + _fit_warp(image - value, slope_x, slope_y, usual, period)
    amplitudes, error = fit_amplitudes(image, places[strong], warp, usual, noise)
    return Pattern(places[strong], amplitudes, error, warp, usual)


def series_of(lattice: Lattice, highest: float) -> np.ndarray:
    """Frequencies (n, 2) of the lattice up to `highest`, one of each pair +-g, without zero."""
    span = np.arange(-8, 9)
    indices = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    half = (indices[:, 0] > 0) | ((indices[:, 0] == 0) & (indices[:, 1] > 0))
    places = indices[half] @ lattice.reciprocal
    return places[np.linalg.norm(places, axis=1) <= highest]


def find_period(lattice: Lattice) -> float:
    """Largest distance of neighbouring lattice lines, pixels."""
    return float(1 / np.linalg.norm(lattice.reciprocal, axis=1).min())


def evaluate(
    places: np.ndarray, amplitudes: np.ndarray, warp: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The series and its derivatives along x and y: float32 (ny, nx) each.

    warp: (2, ny, nx) pixels, added to each pixel's own place.
    """
    shape = warp.shape[1:]
    value, slope_x, slope_y = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    for (fx, fy), amplitude in zip(places, amplitudes, strict=True):
        wave = _wave(fx, fy, warp)
        wave *= np.complex64(2 * amplitude)
        value += wave.real
        slope_x -= np.float32(2 * np.pi * fx) * wave.imag
        slope_y -= np.float32(2 * np.pi * fy) * wave.imag
    return value, slope_x, slope_y


def fit_amplitudes(
    image: np.ndarray, places: np.ndarray, warp: np.ndarray, usual: np.ndarray, noise: float
) -> tuple[np.ndarray, float]:
    """Amplitudes (n,) complex128 of the series in an image (ny, nx), and their variance by noise.

    Sums weighted by a Hann window and by `usual`: little is left out, so that the waves are as
    good as orthogonal.
    """
    ny, nx = image.shape
    wy, wx = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (ny, nx))
    weight = wy[:, None] * wx[None, :] * usual
    total = weight.sum()
    mean = float((image * weight).sum() / total)
    weighted = ((image - mean) * weight).astype(np.float32)
    amplitudes = np.array([np.vdot(_wave(fx, fy, warp), weighted) for fx, fy in places]) / total
    return amplitudes, noise * float((weight**2).sum() / total**2)


def _wave(fx: float, fy: float, warp: np.ndarray) -> np.ndarray:
    """exp(2 pi i g . (x, y)) at every pixel: complex64 (ny, nx)."""
    _, ny, nx = warp.shape
    along_y = np.exp(2j * np.pi * fy * np.arange(ny)).astype(np.complex64)[:, None]
    along_x = np.exp(2j * np.pi * fx * np.arange(nx)).astype(np.complex64)[None, :]
    if not warp.any():
        return along_y * along_x
    bent = warp[0] * np.float32(2 * np.pi * fx) + warp[1] * np.float32(2 * np.pi * fy)
    wave = np.empty((ny, nx), dtype=np.complex64)
    wave.real, wave.imag = np.cos(bent), np.sin(bent)
    wave *= along_x
    wave *= along_y
    return wave


def _find_usual(residual: np.ndarray, period: float) -> np.ndarray:
    """Where the image is not odd: residuals smoothed over a period within six times the median."""
    from scipy.ndimage import uniform_filter

    size = max(3, round(period))
    smooth = uniform_filter(residual**2, size)
    usual = smooth < ODD * np.median(smooth)
    return usual if usual.mean() > 0.5 else np.ones_like(usual)


def _fit_warp(
    residual: np.ndarray, slope_x: np.ndarray, slope_y: np.ndarray, usual: np.ndarray, period: float
) -> np.ndarray:
    """The smooth displacement (2, ny, nx) in pixels that takes the residual away best."""
    ny, nx = residual.shape
    side = max(8, round(BLOCK * period))
    rows, columns = max(1, ny // side), max(1, nx // side)

    def add_up(values: np.ndarray) -> np.ndarray:
        bands = np.add.reduceat(
            np.where(usual, values, 0.0), edges(ny, rows), axis=0, dtype=np.float64
        )
        return np.add.reduceat(bands, edges(nx, columns), axis=1).ravel()

    xx, xy, yy = add_up(slope_x**2), add_up(slope_x * slope_y), add_up(slope_y**2)
    bx, by = add_up(slope_x * residual), add_up(slope_y * residual)
    floor = 1e-3 * max(float(np.median(xx + yy)), 1e-300)
    xx, yy = xx + floor, yy + floor
    determinant = xx * yy - xy**2
    moves = np.stack([(yy * bx - xy * by), (xx * by - xy * bx)]) / determinant
    moves = np.clip(moves, -0.3 * period, 0.3 * period)
    weights = np.sqrt(np.maximum(determinant / (xx + yy), 0))
    degree = min(DEGREE, rows - 1), min(DEGREE, columns - 1)
    y = (edges(ny, rows) + side / 2) / ny * 2 - 1
    x = (edges(nx, columns) + side / 2) / nx * 2 - 1
    at_blocks = _polynomials(y, x, degree).reshape(-1, rows * columns)
    fitted = [
        np.linalg.lstsq((at_blocks * weights).T, move * weights, rcond=None)[0] for move in moves
    ]
    whole = _polynomials(
        (np.arange(ny) + 0.5) / ny * 2 - 1, (np.arange(nx) + 0.5) / nx * 2 - 1, degree
    )
    return np.stack([np.tensordot(factors, whole, axes=1) for factors in fitted]).astype(np.float32)


def edges(size: int, parts: int) -> np.ndarray:
    """Where each of so many parts of an axis begins."""
    return (np.arange(parts) * size // parts).astype(np.int64)


def _polynomials(y: np.ndarray, x: np.ndarray, degree: tuple[int, int]) -> np.ndarray:
    """Products of powers up to a total degree: (m, ny, nx)."""
    return np.stack(
        [
            y[:, None] ** i * x[None, :] ** j
            for i in range(degree[0] + 1)
            for j in range(degree[1] + 1)
            if i + j <= DEGREE
        ]
    )
