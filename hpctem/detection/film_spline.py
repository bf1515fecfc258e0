"""Cubic B-splines on a periodic grid: made from a spectrum, evaluated along a scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpctem.compiling import compile_lanes

NODES = 6.0
"""Nodes of the spline in the shortest wavelength; with the roll-off, the band ends at a fifth of a
cycle per node, where the spline's aliases are (0.2 / 0.8)^4 = 0.4 % and the power least."""

ROLL_OFF = 0.2
"""Half width of the band's edge, as a fraction of the highest frequency."""


def fit_spline(spectrum: np.ndarray, shape: Sequence[int], nodes: Sequence[int]) -> np.ndarray:
    """Coefficients of the spline that has a given spectrum on a finer grid of the same period.

    spectrum: complex128 (ny, nx // 2 + 1), the amplitudes c of the sum of c exp(2 pi i k x) over a
    period with `shape` (ny, nx), in the order of `rfft2`, without Nyquist frequencies; nodes: (my,
    mx), larger. Returns float32 (my, mx). A B-spline's transform is sinc^4 of the cycles per node,
    which is divided out.
    """
    (ny, nx), (my, mx) = shape, nodes
    finer = np.zeros((my, mx // 2 + 1), dtype=np.complex128)
    # Without the Nyquist frequency, ny // 2 rows lie above zero and (ny - 1) // 2 below.
    above, below, across = (ny + 1) // 2, (ny - 1) // 2, (nx + 1) // 2
    finer[:above, :across] = spectrum[:above, :across]
    finer[my - below :, :across] = spectrum[ny - below :, :across]
    blur_y = np.sinc(np.fft.fftfreq(my)) ** 4
    blur_x = np.sinc(np.arange(mx // 2 + 1) / mx) ** 4
    finer /= blur_y[:, None] * blur_x
    return (np.fft.irfft2(finer, s=(my, mx)) * (my * mx)).astype(np.float32)


def evaluate_spline(
    coefficients: np.ndarray, lines: np.ndarray, columns: np.ndarray, mean: float, variation: float
) -> np.ndarray:
    """max(0, mean (1 + variation s)) with the spline s at lines[r] + columns[c]: float32 (ny, nx).

    coefficients: (my, mx) float32, periodic; lines: (ny, 2), columns: (nx, 2), float64 grid
    coordinates (column, row).
    """
    wrapped = np.pad(coefficients, ((0, 3), (0, 3)), mode="wrap")
    out = np.empty((len(lines), len(columns)), dtype=np.float32)
    _evaluate(
        wrapped,
        np.ascontiguousarray(lines - 1.0),
        np.ascontiguousarray(columns),
        np.float32(mean),
        np.float32(mean * variation),
        out,
    )
    return out


@compile_lanes
def _evaluate(wrapped, lines, columns, mean, deviation, out):
    my, mx = wrapped.shape[0] - 3, wrapped.shape[1] - 3
    sixth = np.float32(1.0 / 6.0)
    one, three, four, six = np.float32(1), np.float32(3), np.float32(4), np.float32(6)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            u = lines[r, 0] + columns[c, 0]
            v = lines[r, 1] + columns[c, 1]
            u -= mx * np.floor(u / mx)
            v -= my * np.floor(v / my)
            j = min(int(u), mx - 1)
            i = min(int(v), my - 1)
            s, t = np.float32(u - j), np.float32(v - i)
            s0 = (one - s) * (one - s) * (one - s) * sixth
            s1 = (s * s * (three * s - six) + four) * sixth
            s3 = s * s * s * sixth
            s2 = one - s0 - s1 - s3
            t0 = (one - t) * (one - t) * (one - t) * sixth
            t1 = (t * t * (three * t - six) + four) * sixth
            t3 = t * t * t * sixth
            t2 = one - t0 - t1 - t3
            value = (
                t0 * (s0 * wrapped[i, j] + s1 * wrapped[i, j + 1]
                      + s2 * wrapped[i, j + 2] + s3 * wrapped[i, j + 3])
                + t1 * (s0 * wrapped[i + 1, j] + s1 * wrapped[i + 1, j + 1]
                        + s2 * wrapped[i + 1, j + 2] + s3 * wrapped[i + 1, j + 3])
                + t2 * (s0 * wrapped[i + 2, j] + s1 * wrapped[i + 2, j + 1]
                        + s2 * wrapped[i + 2, j + 2] + s3 * wrapped[i + 2, j + 3])
                + t3 * (s0 * wrapped[i + 3, j] + s1 * wrapped[i + 3, j + 1]
                        + s2 * wrapped[i + 3, j + 2] + s3 * wrapped[i + 3, j + 3])
            )  # fmt: skip
            out[r, c] = max(np.float32(0), mean + deviation * value)
