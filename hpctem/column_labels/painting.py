"""Pixels near points, painted one by one: the compiled loops of `maps`.

All take the arrays of `spans.Spans` and of `spans.Lines`, as documented there.
"""

from __future__ import annotations

import math

import numpy as np

from hpctem.compiling import compile_lanes, compile_loop, inline_lanes


@compile_loop
def paint_nearest(labels, values, point, row, first, stop, points, along, across, offset):
    """Set `labels`, uint8 (ny, nx), in all runs to the value of the nearest of their points.

    values: uint8 (m,), one for each point. At equal distance the first point has the pixel.
    """
    nearest = np.full(labels.shape, np.inf, np.float32)
    for s in range(len(point)):
        p, i = point[s], row[s]
        dy = across[i] - points[p, 1]
        for j in range(first[s], stop[s]):
            dx = along[i] + offset[j] - points[p, 0]
            square = np.float32(dx * dx + dy * dy)
            if square < nearest[i, j]:
                nearest[i, j] = square
                labels[i, j] = values[p]


@compile_loop
def paint_disks(labels, row, first, stop):
    """Set `labels`, uint8 (ny, nx), to 1 in all runs."""
    for s in range(len(row)):
        labels[row[s], first[s] : stop[s]] = 1


@compile_loop
def paint_gaussians(labels, width, point, row, first, stop, points, along, across, offset):
    """Raise `labels`, uint8 (ny, nx), to 255 exp(-r^2 / 2 width^2) about each point, rounded."""
    scale = -0.5 / (width * width)
    for s in range(len(point)):
        p, i = point[s], row[s]
        dy = across[i] - points[p, 1]
        for j in range(first[s], stop[s]):
            dx = along[i] + offset[j] - points[p, 0]
            value = np.uint8(255.0 * math.exp(scale * (dx * dx + dy * dy)) + 0.5)
            if value > labels[i, j]:
                labels[i, j] = value


@inline_lanes
def interpolate(flat, n, y, x):
    """A table of n columns between its entries, linearly; y, x in its pixels, within it by one."""
    upper, left = np.int32(y), np.int32(x)
    v, u = y - np.float32(upper), x - np.float32(left)
    place = np.uint32(upper * n + left)
    above = flat[place] + u * (flat[place + np.uint32(1)] - flat[place])
    place += np.uint32(n)
    below = flat[place] + u * (flat[place + np.uint32(1)] - flat[place])
    return above + v * (below - above)


@compile_lanes
def add_images(
    image, table, sampling, axis, point, row, first, stop, points, along, across, offset
):
    """Add to `image`, float32 (ny, nx), the image of an atom at each point, in all runs.

    table: float32 (n, n), that image in the specimen's frame, the atom at (n // 2, n // 2), to be
    interpolated linearly; sampling: A. It is larger than all runs by one of its pixels.
    """
    n = np.int32(table.shape[0])
    flat = table.reshape(table.size)
    ux, uy = axis[0] / sampling, axis[1] / sampling
    for s in range(len(point)):
        p, i = point[s], row[s]
        dx, dy = along[i] - points[p, 0], across[i] - points[p, 1]
        x0, y0 = n // 2 + ux * dx - uy * dy, n // 2 + uy * dx + ux * dy
        line, places = image[i, first[s] : stop[s]], offset[first[s] : stop[s]]
        for j in range(len(line)):
            x, y = np.float32(x0 + ux * places[j]), np.float32(y0 + uy * places[j])
            line[j] += interpolate(flat, n, y, x)


@compile_lanes
def sum_images(sums, row, column, table, sampling, axis, reach, points, along, across, offset):
    """Add to `sums`, float32 (k,), the images of all atoms within `reach` A of each of k pixels.

    row, column: int64 (k,), the pixels; points: in the order of their places across the lines; the
    table as in `add_images`, larger than `reach` by one of its pixels.
    """
    n = np.int32(table.shape[0])
    flat = table.reshape(table.size)
    ux, uy = axis[0] / sampling, axis[1] / sampling
    for k in range(len(sums)):
        x, y = along[row[k]] + offset[column[k]], across[row[k]]
        p = np.searchsorted(points[:, 1], y - reach)
        while p < len(points) and points[p, 1] <= y + reach:
            dx, dy = x - points[p, 0], y - points[p, 1]
            if dx * dx + dy * dy <= reach * reach:
                to_x, to_y = n // 2 + ux * dx - uy * dy, n // 2 + uy * dx + ux * dy
                sums[k] += interpolate(flat, n, np.float32(to_y), np.float32(to_x))
            p += 1
