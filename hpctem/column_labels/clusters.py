"""Which atoms overlap in projection: the compiled loops of `columns.find_columns`."""

from __future__ import annotations

import numpy as np

from hpctem.compiling import compile_loop, inline_loop


@inline_loop
def root_of(parent, a):
    """The atom that stands for the group of atom a; the way to it is halved."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    return a


@compile_loop
def link_atoms(points, tolerance):
    """Chains of atoms: the number of the first atom of its chain for each one, int64 (n,).

    points: (n, 2) float64 A; two atoms nearer than or at `tolerance` A belong to one chain. Atoms
    are looked up in square bins as wide as that, whose lists are kept in a hash table, so that the
    extent of the specimen does not matter.
    """
    n = len(points)
    parent = np.arange(n)
    bins = 16
    while bins < 2 * n:
        bins *= 2
    head = np.full(bins, -1, np.int64)
    following = np.full(n, -1, np.int64)
    for a in range(n):
        x, y = points[a, 0], points[a, 1]
        column, row = int(np.floor(x / tolerance)), int(np.floor(y / tolerance))
        for j in range(row - 1, row + 2):
            for i in range(column - 1, column + 2):
                b = head[(i * 73856093 ^ j * 19349663) & (bins - 1)]
                while b >= 0:
                    dx, dy = points[b, 0] - x, points[b, 1] - y
                    if dx * dx + dy * dy <= tolerance * tolerance:
                        one, other = root_of(parent, a), root_of(parent, b)
                        if one < other:
                            parent[other] = one
                        else:
                            parent[one] = other
                    b = following[b]
        place = (column * 73856093 ^ row * 19349663) & (bins - 1)
        following[a] = head[place]
        head[place] = a
    for a in range(n):
        parent[a] = root_of(parent, a)
    return parent


@compile_loop
def cut_chain(points, reach):
    """Cut a chain that spreads too far: the number of each atom's piece, int64 (n,), from 0.

    points: (n, 2) float64 A, in the order in which they are taken. Each atom joins the piece whose
    middle so far is nearest, if that is within `reach` A, else it begins a piece of its own.
    """
    n = len(points)
    piece = np.empty(n, np.int64)
    middle = np.empty((n, 2))
    size = np.zeros(n, np.int64)
    pieces = 0
    for a in range(n):
        best, nearest = pieces, reach * reach
        for k in range(pieces):
            dx, dy = middle[k, 0] - points[a, 0], middle[k, 1] - points[a, 1]
            square = dx * dx + dy * dy
            if square <= nearest:
                best, nearest = k, square
        if best == pieces:
            pieces += 1
            middle[best, 0], middle[best, 1] = 0.0, 0.0
        piece[a] = best
        size[best] += 1
        middle[best, 0] += (points[a, 0] - middle[best, 0]) / size[best]
        middle[best, 1] += (points[a, 1] - middle[best, 1]) / size[best]
    return piece
