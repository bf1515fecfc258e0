"""The way of probes through the slices on a CPU: two passes over the window for each slice.

    psi  back along y, times the window of t, along y; along x, times the propagator, and back
    end  as above along y; along x, and the squares to the detectors

Between two lines the wave is transformed along y alone and kept on the rows inside the antialiasing
aperture (`hpctem.optics.panels`); behind the last slice only on those that a detector reaches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.compiling import compile_lanes
from hpctem.optics import passes
from hpctem.optics.lanes import LANES, LINE, load, splat, store
from hpctem.optics.line_transforms import invert, plan_lines, transform
from hpctem.optics.panels import (
    Band,
    arrange_half,
    count_panels,
    empty_lines,
    gather_rows,
    keep_band,
    keep_rows,
    line_blocks,
    spread_band,
)
from hpctem.optics.probe_passage import Way

NOTHING = np.zeros((0, 0), np.complex64)


class PanelPassage:
    """One probe at a time; see `hpctem.optics.probe_passage.ProbePassage`."""

    def __init__(self, way: Way, backend: Backend) -> None:
        self.way, self.legs = way, way.legs()
        ny, nx = way.grid.shape
        self.along_y, self.along_x = plan_lines(ny), plan_lines(nx)
        row = np.minimum(np.arange(ny), ny - np.arange(ny))
        self.band = keep_rows(way.half.any(axis=1)[row])
        self.aperture = arrange_half(way.half, self.band)
        self.end = keep_rows(way.weights.any(axis=(0, 2)))
        self.weights = _arrange_weights(way.weights, self.end)
        panels = count_panels(nx)
        self.wave = empty_lines(panels, self.band.place.size * LINE)
        self.last = empty_lines(panels, self.end.place.size * LINE)
        self.whole = keep_rows(np.ones(ny, bool))

    def enter(self, transmissions: Any) -> None:
        """See `ProbePassage.enter`."""
        slices, height, width = transmissions.shape
        self.planes = np.zeros((slices, 2, height, width + LANES), np.float32)
        self.planes[:, 0, :, :width] = transmissions.real
        self.planes[:, 1, :, :width] = transmissions.imag

    def pass_probes(
        self, incident: np.ndarray, corners: np.ndarray, patterns: np.ndarray | None = None
    ) -> np.ndarray:
        """See `ProbePassage.pass_probes`."""
        first = _arrange_field(incident)
        signals = np.empty((len(corners), len(self.weights)), np.float32)
        end, last, weights = self.end, self.last, self.weights
        if patterns is not None:  # every frequency is wanted, not only what the detectors collect
            end, weights = self.whole, _arrange_weights(self.way.weights, self.whole)
            last = empty_lines(len(self.last), end.place.size * LINE)
        for n, (row, column) in enumerate(corners.tolist()):
            for s, planes in enumerate(self.planes):
                final = s + 1 == len(self.planes)
                target, band = (last, end) if final else (self.wave, self.band)
                if s == 0:
                    enter_window(target, first, planes, row, column, band, self.along_y)
                else:
                    cross_window(
                        target, self.wave, planes, row, column, self.band, band, self.along_y
                    )
                if not final:
                    passes.propagate_lines(
                        self.wave, self.aperture, *self.legs[s], self.along_x, NOTHING, self.band
                    )
            pattern = np.zeros((0, 0), np.float32) if patterns is None else patterns[n]
            signals[n] = collect(last, weights, self.along_x, pattern, end)
        return signals


def _arrange_field(field: np.ndarray) -> np.ndarray:
    """Complex64 (ny, nx) as panels of all rows in their natural order: (panels, ny x 16)."""
    ny, nx = field.shape
    panels = count_panels(nx)
    padded = np.zeros((ny, panels * LANES), np.complex64)
    padded[:, :nx] = field
    columns = padded.reshape(ny, panels, LANES).transpose(1, 0, 2)
    out = empty_lines(panels, ny, LINE)
    out[..., :LANES], out[..., LANES:] = columns.real, columns.imag
    return out.reshape(panels, ny * LINE)


def _arrange_weights(weights: np.ndarray, band: Band) -> np.ndarray:
    """Weights (K, ny, nx) as `collect` meets them: (K, R / 8, nx x 8); no row counts twice."""
    order = plan_lines(weights.shape[2]).order
    chosen = weights[:, band.frequency[:, None], order]
    chosen[:, 1:][:, np.diff(band.place) == 0] = 0
    count, rows, nx = chosen.shape
    lanes = chosen.reshape(count, rows // LANES, LANES, nx).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(lanes, dtype=np.float32).reshape(count, rows // LANES, -1)


@compile_lanes
def enter_window(target, incident, planes, row, column, band, plan):
    """Multiply the incident wave by the window of t, and transform along y.

    `incident`: float32 (panels, ny x 16); `planes`: float32 (2, height, width), real and imaginary
    part of t, which reach 7 columns beyond every window; the window begins at `row` and `column`.
    """
    ny, width = band[2], planes.shape[2]
    flat, imaginary = planes.reshape(planes.size), planes.shape[1] * width
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    for p in range(target.shape[0]):
        start = row * width + column + p * LANES
        for i in range(ny):
            t_re, t_im = load(flat, start), load(flat, imaginary + start)
            re, im = load(incident[p], i * LINE), load(incident[p], i * LINE + LANES)
            store(block, i * LINE, re * t_re - im * t_im)
            store(block, i * LINE + LANES, re * t_im + im * t_re)
            start += width
        transform(block, plan, work)
        keep_band(target[p], block, band)


@compile_lanes
def cross_window(target, wave, planes, row, column, band, kept, plan):
    """Go back along y, multiply by the window of t, and transform along y, keeping rows `kept`.

    `wave` has the rows of `band`, `target`, which may be `wave`, those of `kept`; others as for
    `enter_window`.
    """
    ny, width = band[2], planes.shape[2]
    flat, imaginary = planes.reshape(planes.size), planes.shape[1] * width
    block, work = np.empty(ny * LINE, np.float32), np.empty(ny * LINE, np.float32)
    for p in range(wave.shape[0]):
        spread_band(block, wave[p], band)
        invert(block, plan, work)
        start = row * width + column + p * LANES
        for i in range(0, ny * LINE, LINE):
            t_re, t_im = load(flat, start), load(flat, imaginary + start)
            re, im = load(block, i), load(block, i + LANES)
            store(block, i, re * t_re - im * t_im)
            store(block, i + LANES, re * t_im + im * t_re)
            start += width
        transform(block, plan, work)
        keep_band(target[p], block, kept)


@compile_lanes
def collect(panels, weights, plan, pattern, band):
    """Transform along x and sum the squares with each detector's weights: float64 (K,).

    `weights`: float32 (K, R / 8, nx x 8); where `pattern`, float32 (ny, nx) in the FFT's order, is
    not empty, the squares are added to it.
    """
    nx = weights.shape[2] // LANES
    frequency, order = band[0], plan[3]
    block, work = line_blocks(panels, nx)
    line = block[: nx * LINE]
    squares, lanes = np.empty(nx * LANES, np.float32), np.empty(LANES, np.float32)
    totals = np.zeros(weights.shape[0])
    for b in range(weights.shape[1]):
        gather_rows(block, panels, b, nx)
        transform(line, plan, work)
        for j in range(nx):
            re, im = load(line, j * LINE), load(line, j * LINE + LANES)
            store(squares, j * LANES, re * re + im * im)
        for k in range(weights.shape[0]):
            total = splat(np.float32(0))
            for j in range(0, nx * LANES, LANES):
                total = total + load(squares, j) * load(weights[k, b], j)
            store(lanes, 0, total)
            for lane in range(LANES):
                totals[k] += lanes[lane]
        if pattern.size:
            for lane in range(LANES):
                r = b * LANES + lane
                if r == 0 or band[1][r] != band[1][r - 1]:  # the last row may be repeated
                    for j in range(nx):
                        pattern[frequency[r], order[j]] += squares[j * LANES + lane]
    return totals
