"""Which atoms stand behind each other along the beam: the compiled loop of `columns`."""

from __future__ import annotations

import numpy as np

from hpctem.compiling import compile_loop


@compile_loop
def find_pairs(positions, across, nearest, deepest):
    """Pairs of atoms, int64 (m, 2): that which the beam meets first, then the other.

    positions: (n, 3) float64 A, the beam along +z. Two atoms are a pair at a distance of up to
    `across` A in projection and of more than `nearest` and less than `deepest` A along the beam.
    Ordered by the later of both, then by the earlier one's bin. Atoms are looked up in square bins
    as wide as `across`, whose lists are kept in a hash table.
    """
    n = len(positions)
    bins = 16
    while bins < 2 * n:
        bins *= 2
    head = np.full(bins, -1, np.int64)
    following = np.full(n, -1, np.int64)
    pairs = np.empty((max(n, 16), 2), np.int64)
    count = 0
    for a in range(n):
        x, y, z = positions[a]
        column, row = int(np.floor(x / across)), int(np.floor(y / across))
        for j in range(row - 1, row + 2):
            for i in range(column - 1, column + 2):
                b = head[(i * 73856093 ^ j * 19349663) & (bins - 1)]
                while b >= 0:
                    dx, dy, depth = positions[b, 0] - x, positions[b, 1] - y, z - positions[b, 2]
                    # two bins may share a list: each atom counts in its own bin alone
                    own = np.floor(positions[b, 0] / across) == i
                    own = own and np.floor(positions[b, 1] / across) == j
                    if own and dx * dx + dy * dy <= across * across:
                        if nearest < abs(depth) < deepest:
                            if count == len(pairs):
                                larger = np.empty((2 * count, 2), np.int64)
                                larger[:count] = pairs
                                pairs = larger
                            pairs[count, 0], pairs[count, 1] = (b, a) if depth > 0 else (a, b)
                            count += 1
                    b = following[b]
        place = (column * 73856093 ^ row * 19349663) & (bins - 1)
        following[a] = head[place]
        head[place] = a
    return pairs[:count].copy()
