"""Where the beam really goes during a scan, and what that does to the picture.

In the specimen's frame, pixel (row r, column c) of frame f is visited at

    origin + step @ (c, r) + shifts[f, r] + u flyback_amplitude exp(-c / flyback_pixels)

where u is the unit vector along step[:, 0], the direction of the rows. The position is thus a sum
of one vector for each line of each frame and one for each column, and all functions use that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.errors import ConfigError, SampleError

FARTHEST = 6.0
"""Random displacements are cut at so many standard deviations, so that their reach is known."""

SECONDS = 1e-6
"""One microsecond, because drifts are per second and dwell times in microseconds."""


@dataclass(frozen=True)
class ScanPath:
    """The path of one scan of one or more frames, in the specimen's frame.

    shape: (ny, nx) pixels. origin: (x, y) A of pixel (0, 0) before shifts and flyback. step: (2, 2)
    float64 A; its columns are the vectors (x, y) from one pixel to the next along a row and from
    one row to the next, steady drift included. shifts: (frames, ny, 2) float64 A, (x, y) of each
    line. flyback_amplitude: A, along the row; flyback_pixels: pixels in which it falls by e.
    """

    shape: tuple[int, int]
    origin: tuple[float, float]
    step: np.ndarray
    shifts: np.ndarray
    flyback_amplitude: float = 0.0
    flyback_pixels: float = 1.0

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.shifts.shape[0]

    @property
    def pixel_area(self) -> float:
        """Area of the specimen that a pixel stands for, in A^2."""
        return abs(float(np.linalg.det(self.step)))

    @property
    def row_direction(self) -> np.ndarray:
        """Unit vector (x, y) along the rows, (2,) float64."""
        return self.step[:, 0] / math.hypot(*self.step[:, 0])

    @property
    def lines(self) -> np.ndarray:
        """Where each line begins, without flyback: (frames, ny, 2) float64 A, (x, y)."""
        rows = np.arange(self.shape[0])[:, None] * self.step[:, 1]
        return np.asarray(self.origin) + rows + self.shifts

    @property
    def columns(self) -> np.ndarray:
        """From the beginning of a line to each of its pixels: (nx, 2) float64 A, (x, y)."""
        columns = np.arange(self.shape[1])[:, None]
        flyback = self.flyback_amplitude * np.exp(-columns / self.flyback_pixels)
        return columns * self.step[:, 0] + flyback * self.row_direction


@dataclass(frozen=True)
class ScanSettings:
    """What goes wrong with a scan, as plain numbers; the defaults are a perfect scan of one frame.

    frames: how many are averaged. dwell_time: us on each pixel in each frame; line_time: us waited
    after each line. jitter: A, standard deviation of a white displacement of every line of every
    frame along the rows. flagging: A, standard deviation of a smooth one, and flagging_lines, the
    lines L over which it is correlated. drift_x, drift_y: A/s, of the specimen. frame_shift: A,
    standard deviation of each frame's displacement along x and along y. shear: displacement along
    x per length along y. contraction: lengthening of the step along y over that along x. rotation:
    rad, of the rows from +x towards +y. flyback_amplitude: A along the rows at their first pixel;
    flyback_time: us in which it falls by e; streak: share of the signal at a line's end that is
    seen at the start of the next (see `add_streaks`).
    """

    frames: int = 1
    dwell_time: float = 0.0
    line_time: float = 0.0
    jitter: float = 0.0
    flagging: float = 0.0
    flagging_lines: float = 20.0
    drift_x: float = 0.0
    drift_y: float = 0.0
    frame_shift: float = 0.0
    shear: float = 0.0
    contraction: float = 0.0
    rotation: float = 0.0
    flyback_amplitude: float = 0.0
    flyback_time: float = 1.0
    streak: float = 0.0

    @property
    def flyback_pixels(self) -> float:
        """Pixels in which the flyback's displacement and the streaks fall by e.

        Raises ConfigError when there is a flyback but no dwell time to measure it by.
        """
        if self.flyback_amplitude == 0 and self.streak == 0:
            return 1.0
        if self.dwell_time <= 0:
            raise ConfigError(
                f"scan.flyback decays in {self.flyback_time:g} us, but the dwell time is "
                f"{self.dwell_time:g} us: give imaging.beam.dwell_time, above 0"
            )
        return self.flyback_time / self.dwell_time


def draw_path(
    shape: tuple[int, int],
    pixel: float,
    centre: tuple[float, float],
    settings: ScanSettings,
    jitter_generator: np.random.Generator,
    flagging_generator: np.random.Generator,
    frame_generator: np.random.Generator,
) -> ScanPath:
    """Lead the beam over the specimen: an affine grid, drift, jitter, flagging and frame shifts.

    shape: (ny, nx); pixel: A along the rows; centre: (x, y) A, where the middle of the grid,
    between its pixels, lies in the middle of the series. The step matrix is
    pixel R(rotation) [[1, shear], [0, 1]] diag(1, 1 + contraction). A specimen that drifts by v is
    visited at -v t relative to that, with t counted from the middle of the series; a line takes
    nx dwell_time + line_time and a frame ny lines. Drift within a frame is part of `step`, between
    frames of `shifts`.

    Along the rows each line of each frame is displaced by a normal of deviation `jitter`, white,
    and by a stationary normal process of deviation `flagging` whose correlation at d lines is
    exp(-(d / flagging_lines)^2 / 2); it runs on from frame to frame. Each frame is displaced by
    normals of deviation `frame_shift` along x and along y. All are cut at 6 deviations. Each has
    its own generator, so that one effect leaves the others' draws as they are.

    Raises SampleError where the drift within a frame is so fast that the scan no longer covers an
    area, ConfigError for a flyback without a dwell time.
    """
    (ny, nx), frames = shape, settings.frames
    drift = np.array([settings.drift_x, settings.drift_y]) * SECONDS
    line = nx * settings.dwell_time + settings.line_time
    ideal = pixel * _scan_matrix(settings)
    step = ideal - np.stack([drift * settings.dwell_time, drift * line], axis=1)
    if np.linalg.det(step) < 1e-3 * np.linalg.det(ideal):
        raise SampleError(
            f"a drift of ({settings.drift_x:g}, {settings.drift_y:g}) A/s is too fast for lines of "
            f"{line:g} us and pixels of {pixel:g} A: the scan follows the specimen; lower "
            "scan.drift or the times"
        )
    middle = step @ np.array([(nx - 1) / 2, (ny - 1) / 2])
    along = np.zeros((frames, ny))
    if settings.jitter > 0:
        along += settings.jitter * _draw_normals(jitter_generator, (frames, ny))
    if settings.flagging > 0:
        slow = _draw_smooth(flagging_generator, frames * ny, settings.flagging_lines)
        along += settings.flagging * slow.reshape(frames, ny)
    frame_times = (np.arange(frames) - (frames - 1) / 2) * ny * line
    of_frames = -frame_times[:, None] * drift
    if settings.frame_shift > 0:
        of_frames += settings.frame_shift * _draw_normals(frame_generator, (frames, 2))
    direction = step[:, 0] / math.hypot(*step[:, 0])
    return ScanPath(
        shape=shape,
        origin=(float(centre[0] - middle[0]), float(centre[1] - middle[1])),
        step=step,
        shifts=along[:, :, None] * direction + of_frames[:, None, :],
        flyback_amplitude=settings.flyback_amplitude,
        flyback_pixels=settings.flyback_pixels,
    )


def scan_positions(path: ScanPath, frame: int) -> np.ndarray:
    """Where the beam stands at every pixel of one frame: (ny, nx, 2) float64 A, (x, y)."""
    return path.lines[frame][:, None, :] + path.columns[None, :, :]


def bounds(path: ScanPath) -> tuple[float, float, float, float]:
    """The rectangle that holds all positions of all frames: (x0, y0, x1, y1) A, touched by them."""
    lines, columns = path.lines.reshape(-1, 2), path.columns
    x0, y0 = lines.min(axis=0) + columns.min(axis=0)
    x1, y1 = lines.max(axis=0) + columns.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def scan_reach(shape: tuple[int, int], pixel: float, greatest: ScanSettings) -> tuple[float, float]:
    """How far no scan leaves the ideal one: bounds (x, y) A beyond its edges, at least 0.

    shape: (ny, nx); pixel: A, the largest; greatest: for every setting the largest magnitude that
    it can take, whatever its sign. The ideal scan covers nx pixel by ny pixel about the centre; a
    scan drawn by `draw_path` with settings of at most these magnitudes stays within that rectangle
    enlarged by the result on every side.
    """
    ny, nx = shape
    half_y = (ny - 1) / 2 * pixel * (1 + abs(greatest.contraction))
    half_x = (nx - 1) / 2 * pixel + abs(greatest.shear) * half_y
    line = nx * greatest.dwell_time + greatest.line_time
    duration = (greatest.frames * ny * line) * SECONDS
    along = FARTHEST * (greatest.jitter + greatest.flagging) + abs(greatest.flyback_amplitude)
    reach = []
    sides = ((half_x, half_y, nx, greatest.drift_x), (half_y, half_x, ny, greatest.drift_y))
    for own, other, pixels, drift in sides:
        steady = _widest(own, other, abs(greatest.rotation))
        random = along + FARTHEST * greatest.frame_shift
        reach.append(max(0.0, steady + abs(drift) * duration / 2 + random - pixels * pixel / 2))
    return reach[0], reach[1]


def locate(path: ScanPath, points: np.ndarray) -> np.ndarray:
    """At which pixel coordinates a point of the specimen is seen: the path inverted.

    points: (n, 2) float64 A, (x, y). Returns (n, 2) float64 pixel coordinates (column, row), the
    centre of pixel (0, 0) at (0, 0); points outside the scan get coordinates outside the image.

    The lines' shifts are averaged over the frames, interpolated linearly between neighbouring
    lines and held beyond the first and the last. Where a shift moves lines along the rows only, as
    jitter and flagging do, the row follows at once and the result is exact for that path at every
    pixel centre; else it is found by fixed-point iteration to 1e-6 pixels as long as neighbouring
    lines keep their order. The image of an atom is torn where jitter is strong against it; the
    coordinates are then those at the interpolated line through its centre. Where the flyback leads
    the beam back over the same points (flyback_amplitude > flyback_pixels pixels), the later visit
    counts, where the beam is quieter.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    inverse = np.linalg.inv(path.step)
    start = (points - np.asarray(path.origin)) @ inverse.T
    shifts = path.shifts.mean(axis=0) @ inverse.T
    rows = np.arange(path.shape[0])
    row = start[:, 1] - np.interp(start[:, 1], rows, shifts[:, 1])
    for _ in range(100):
        better = start[:, 1] - np.interp(row, rows, shifts[:, 1])
        change = np.abs(better - row).max(initial=0.0)
        row = better
        if change < 1e-9:
            break
    column = start[:, 0] - np.interp(row, rows, shifts[:, 0])
    amplitude = path.flyback_amplitude / math.hypot(*path.step[:, 0])
    return np.stack([_undo_flyback(column, amplitude, path.flyback_pixels), row], axis=1)


def add_streaks(intensity: Any, share: float, decay: float, backend: Backend) -> Any:
    """The signal lags: at the start of a line, part of it is still that of the last line's end.

    intensity: (ny, nx) float32, before counting, on the backend's device; share: of the signal at
    the first pixel that is still the last line's, 0..1; decay: pixels in which that falls by e.
    Pixel c becomes (1 - w) times its own intensity plus w times the mean over the end of the line
    before, weighted by exp(-distance to the end / decay), with w = share exp(-c / decay). The first
    line follows the last one of the frame before. Returns float32 (ny, nx); the range of the
    intensity is kept, and its mean but for the difference between the two ends of the lines.
    """
    if share == 0:
        return intensity
    # Beyond 20 decay lengths, 2e-9, nothing is left in float32.
    near = min(intensity.shape[1], math.ceil(20 * decay) + 1)
    fading = np.exp(-np.arange(near) / decay)
    last = backend.asarray(fading[::-1] / fading.sum(), dtype=np.float32)
    weight = backend.asarray(share * fading, dtype=np.float32)
    before = backend.xp.roll((intensity[:, -near:] * last).sum(axis=1), 1)[:, None]
    streaked = intensity.copy()
    streaked[:, :near] += weight * (before - intensity[:, :near])
    return streaked


def _scan_matrix(settings: ScanSettings) -> np.ndarray:
    cos, sin = math.cos(settings.rotation), math.sin(settings.rotation)
    along_y = 1 + settings.contraction
    skewed = np.array([[1.0, settings.shear * along_y], [0.0, along_y]])
    return np.array([[cos, -sin], [sin, cos]]) @ skewed


def _draw_normals(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.clip(generator.standard_normal(shape), -FARTHEST, FARTHEST)


def _draw_smooth(generator: np.random.Generator, lines: int, length: float) -> np.ndarray:
    """A stationary process of unit variance and correlation exp(-(d / length)^2 / 2): (lines,).

    White noise under a Gaussian of deviation length / sqrt(2), whose own autocorrelation it is (to
    1.5 % for a length of 1, to rounding beyond 3). No periodic wrap: the noise is longer by the
    Gaussian's reach.
    """
    deviation = length / math.sqrt(2)
    reach = math.ceil(5 * deviation)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel /= math.sqrt((kernel**2).sum())
    noise = generator.standard_normal(lines + 2 * reach)
    spectrum = np.fft.rfft(noise) * np.fft.rfft(kernel, noise.size)
    return np.clip(np.fft.irfft(spectrum, noise.size)[2 * reach :], -FARTHEST, FARTHEST)


def _widest(own: float, other: float, rotation: float) -> float:
    """Largest own |cos t| + other |sin t| for |t| <= rotation: a turned rectangle's half width."""
    if rotation >= math.atan2(other, own):
        return math.hypot(own, other)
    return own * math.cos(rotation) + other * math.sin(rotation)


def _undo_flyback(column: np.ndarray, amplitude: float, decay: float) -> np.ndarray:
    """The c with c + amplitude exp(-c / decay) = column, float64 (n,); amplitude in pixels.

    The later of two visits; left of the first pixel the displacement is held at `amplitude`.
    Newton's method, begun where it comes down upon that root from one side, whatever the numbers:
    the function bends one way, and the start lies beyond its turning point.
    """
    if amplitude == 0:
        return column
    turning = decay * math.log(amplitude / decay) if amplitude > decay else 0.0
    first = turning + amplitude * math.exp(-turning / decay)
    inside = column >= first
    target = column[inside]
    root = np.maximum(target, turning)
    for _ in range(60):
        displaced = amplitude * np.exp(-root / decay)
        slope = 1 - displaced / decay
        step = np.divide(
            root + displaced - target, slope, out=np.zeros_like(root), where=slope > 1e-9
        )
        root = np.maximum(root - step, turning)
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    true = column - amplitude
    true[inside] = root
    return true
