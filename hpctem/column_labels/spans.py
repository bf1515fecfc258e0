"""Which pixels of a scan lie near given points of the specimen.

All is computed in the scan's own frame: `along` the rows and `across` them, both in A, is the
specimen's frame turned, so distances are the same. Pixel (row r, column c) lies at
(along[r] + offset[c], across[r]): only that much of the path is needed, whatever moved its lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctem.compiling import compile_loop, inline_loop
from hpctem.detection.scan import ScanPath

ROUNDING = 1e-9
"""In A: far more than distances in a specimen are rounded by, far less than any pixel."""


@dataclass(frozen=True)
class Lines:
    """The lines of one frame, or of the mean over all frames, in the scan's own frame.

    along, across: (ny,) float64 A, where each line begins; offset: (nx,) float64 A, from there to
    each of its pixels; axis: unit vector (x, y) along the rows in the specimen's frame. order:
    (ny,) the lines in the order of `across`. reached, ahead: (nx,) float64, the largest offset up
    to each column and the smallest one from it on; both rise even where the flyback leads back,
    which it does once in a line, at its start, if at all.
    """

    along: np.ndarray
    across: np.ndarray
    offset: np.ndarray
    axis: np.ndarray
    order: np.ndarray
    reached: np.ndarray
    ahead: np.ndarray


@dataclass(frozen=True)
class Spans:
    """Runs of pixels near points: point, row, first column and the column after the last.

    Each int64 (n,), in the order of the points. `points` are theirs, (m, 2) float64 A, in the
    scan's own frame: along, across.
    """

    point: np.ndarray
    row: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    points: np.ndarray


def lay_lines(path: ScanPath, frame: int | None = None) -> Lines:
    """The lines of one frame; without `frame` of the mean over the frames."""
    lines = path.lines
    if frame is None and path.frames > 1:
        lines = lines.mean(axis=0, keepdims=True)
    starts = lines[frame or 0]
    axis = path.row_direction
    across = starts @ np.array([-axis[1], axis[0]])
    offset = path.columns @ axis
    return Lines(
        along=starts @ axis,
        across=across,
        offset=offset,
        axis=axis,
        order=np.argsort(across, kind="stable"),
        reached=np.maximum.accumulate(offset),
        ahead=np.minimum.accumulate(offset[::-1])[::-1].copy(),
    )


def turn_points(points: np.ndarray, lines: Lines) -> np.ndarray:
    """Points (n, 2) float64 A, (x, y) of the specimen, in the scan's own frame: along, across."""
    (ux, uy) = lines.axis
    return np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 2) @ np.array(
        [[ux, -uy], [uy, ux]]
    )


def find_spans(points: np.ndarray, lines: Lines, radius: float) -> Spans:
    """The pixels within `radius` A of each of the points (n, 2), (x, y) of the specimen.

    Pixels at the radius belong to it, whichever way their distance is rounded.
    """
    turned = turn_points(points, lines)
    point, row, first, stop = _find_spans(
        turned,
        lines.along,
        lines.across[lines.order],
        lines.order,
        lines.offset,
        lines.reached,
        lines.ahead,
        radius + ROUNDING,
    )
    return Spans(point, row, first, stop, turned)


@inline_loop
def seek(rising, value, guess):
    """The first index at which rising numbers are at least `value`, sought from a guess on."""
    k = min(max(guess, 0), len(rising))
    while k > 0 and rising[k - 1] >= value:
        k -= 1
    while k < len(rising) and rising[k] < value:
        k += 1
    return k


@compile_loop
def _find_spans(points, along, across, order, offset, reached, ahead, radius):
    """`across` is in the order of `order`, rising; the rest as in `Lines` and `Spans`."""
    last = len(offset) - 1
    pixel = max(offset[last] - offset[last - 1], 1e-3)
    begin = np.searchsorted(across, points[:, 1] - radius)
    rows = np.searchsorted(across, points[:, 1] + radius, side="right") - begin
    # Where the flyback leads back, a line passes a point twice.
    spans = np.empty((4, 2 * rows.sum()), np.int64)
    count = 0
    for p in range(len(points)):
        for k in range(begin[p], begin[p] + rows[p]):
            row = order[k]
            distance = across[k] - points[p, 1]
            half = np.sqrt(max(0.0, radius * radius - distance * distance))
            low = points[p, 0] - along[row] - half
            high = low + 2 * half
            c = seek(reached, low, last - int((offset[last] - low) / pixel))
            stop = seek(ahead, high, last - int((offset[last] - high) / pixel))
            turns = c < stop and ahead[c] < offset[c]
            while c < stop:
                end = stop
                if turns:
                    while c < stop and not low <= offset[c] <= high:
                        c += 1
                    end = c
                    while end < stop and low <= offset[end] <= high:
                        end += 1
                if end > c:
                    spans[0, count], spans[1, count] = p, row
                    spans[2, count], spans[3, count] = c, end
                    count += 1
                c = end
    return spans[0, :count], spans[1, :count], spans[2, :count], spans[3, :count]
