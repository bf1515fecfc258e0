"""The distance of every pixel to the nearest of many points, exactly.

The area is cut into cells, each four times smaller than its parent, and every cell keeps the points
that may be the nearest one somewhere in it. A point a is out where the point b nearest to the
cell's middle is nearer all over the cell: |r - a|^2 - |r - b|^2 is linear in r, so its least
value over the cell is known. A few points remain for each cell, also far out in the vacuum.
"""

from __future__ import annotations

import math

import numpy as np

from hpctem.column_labels.spans import Lines, turn_points
from hpctem.compiling import compile_loop

DEEPEST = 10
"""Cells are divided so many times at most: a million of them."""


def measure_distances(points: np.ndarray, lines: Lines) -> np.ndarray:
    """Distance of each pixel to the nearest point: float32 (ny, nx), A.

    points: (n, 2) float64 A, (x, y) of the specimen, at least one.
    """
    turned = turn_points(points, lines)
    low = np.array([lines.along.min() + lines.ahead[0], lines.across.min()])
    high = np.array([lines.along.max() + lines.reached[-1], lines.across.max()])
    extent = np.maximum(high - low, 1e-6)
    first = np.array([0, len(turned)])
    members = np.arange(len(turned))
    # As many cells as points, or up to three times more: two to five points remain in each.
    levels = min(DEEPEST, math.ceil(math.log2(max(len(turned), 1)) / 2))
    for level in range(1, levels + 1):
        first, members = _divide_cells(first, members, turned, low, extent / 2**level, 2**level)
    places = (lines.along, lines.across, lines.offset)
    return _measure(turned[members], first, low, extent / 2**levels, 2**levels, *places)


@compile_loop
def _divide_cells(first, members, points, low, side, cells):
    """From each parent cell's points to those of its four children.

    first: (parents + 1,), members: the points of parent k are members[first[k]:first[k + 1]], rows
    of cells after one another; side: (along, across) of a child, A; cells: children along a side.
    Returns first and members of the children.
    """
    begin = np.empty(cells * cells + 1, np.int64)
    kept = np.empty(4 * len(members), np.int64)
    count = 0
    for i in range(cells):
        middle_y = low[1] + (i + 0.5) * side[1]
        for j in range(cells):
            middle_x = low[0] + (j + 0.5) * side[0]
            parent = (i // 2) * (cells // 2) + j // 2
            best, nearest = -1, 1e300
            for m in range(first[parent], first[parent + 1]):
                dx, dy = points[members[m], 0] - middle_x, points[members[m], 1] - middle_y
                if dx * dx + dy * dy < nearest:
                    best, nearest = members[m], dx * dx + dy * dy
            begin[i * cells + j] = count
            for m in range(first[parent], first[parent + 1]):
                a = members[m]
                dx, dy = points[a, 0] - middle_x, points[a, 1] - middle_y
                spread = side[0] * abs(points[a, 0] - points[best, 0])
                spread += side[1] * abs(points[a, 1] - points[best, 1])
                if dx * dx + dy * dy - nearest <= spread + 1e-9:
                    kept[count] = a
                    count += 1
    begin[cells * cells] = count
    return begin, kept[:count].copy()


@compile_loop
def _measure(candidates, first, low, side, cells, along, across, offset):
    """The least distance of each pixel to the points of its cell, float32 (ny, nx)."""
    ny, nx = len(across), len(offset)
    distance = np.empty((ny, nx), np.float32)
    per_x, per_y = 1.0 / side[0], 1.0 / side[1]
    for i in range(ny):
        y = across[i]
        row = min(max(int((y - low[1]) * per_y), 0), cells - 1) * cells
        for j in range(nx):
            x = along[i] + offset[j]
            cell = row + min(max(int((x - low[0]) * per_x), 0), cells - 1)
            nearest = 1e300
            for m in range(first[cell], first[cell + 1]):
                dx, dy = candidates[m, 0] - x, candidates[m, 1] - y
                nearest = min(nearest, dx * dx + dy * dy)
            distance[i, j] = math.sqrt(nearest)
    return distance
