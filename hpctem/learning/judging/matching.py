"""Which positions that were found are true ones: matched one to one within a radius."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctem.learning.prediction.positions import is_inside


@dataclass(frozen=True)
class Judged:
    """Positions of one image, judged.

    pairs    (p, 2) int64, numbers of a true and a found position that were matched
    right    (n,) bool, true positions within the border that were found
    missed   (n,) bool, true positions within the border that were not
    false    (m,) bool, found positions within the border that are nothing

    True positions that are neither, and found ones that are neither matched nor false, are left
    out: they lie in the border, or nobody is sure of them.
    """

    pairs: np.ndarray
    right: np.ndarray
    missed: np.ndarray
    false: np.ndarray


def match_positions(truth: np.ndarray, found: np.ndarray, radius: float) -> np.ndarray:
    """Pairs (p, 2) int64 of positions (n, 2) and (m, 2) not farther apart than `radius`.

    As many pairs as there can be, each position in one at most; of such matchings that of the
    least sum of distances (Kuhn, Naval Research Logistics Quarterly 2, 83, 1955). Positions that
    no chain of distances within the radius connects are matched apart from each other, so that
    thousands of them cost little.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    truth, found = np.reshape(truth, (-1, 2)), np.reshape(found, (-1, 2))
    n, m = len(truth), len(found)
    if n == 0 or m == 0:
        return np.zeros((0, 2), np.int64)
    near = cKDTree(truth).query_ball_tree(cKDTree(found), radius)
    first = np.repeat(np.arange(n), [len(some) for some in near])
    second = np.array([k for some in near for k in some], dtype=np.int64)
    if not len(first):
        return np.zeros((0, 2), np.int64)
    distances = np.linalg.norm(truth[first] - found[second], axis=1)
    graph = coo_matrix((np.ones(len(first)), (first, n + second)), shape=(n + m, n + m))
    _, parts = connected_components(graph, directed=False)
    order = np.argsort(parts[first], kind="stable")
    starts = np.flatnonzero(np.diff(parts[first][order], prepend=-1))
    pairs = []
    for edges in np.split(order, starts[1:]):
        rows, i = np.unique(first[edges], return_inverse=True)
        columns, j = np.unique(second[edges], return_inverse=True)
        # One pair more is worth any distances: a pair that is not allowed costs more than all.
        never = 2 * radius * min(len(rows), len(columns)) + 1.0
        costs = np.full((len(rows), len(columns)), never)
        costs[i, j] = distances[edges]
        chosen = np.stack(linear_sum_assignment(costs))
        chosen = chosen[:, costs[chosen[0], chosen[1]] < never]
        pairs.append(np.stack([rows[chosen[0]], columns[chosen[1]]], axis=1))
    joined = np.concatenate(pairs).astype(np.int64)
    return joined[np.argsort(joined[:, 0], kind="stable")]


def judge_positions(
    truth: np.ndarray,
    found: np.ndarray,
    shape: tuple[int, ...],
    radius: float,
    border: float,
    counted: np.ndarray | None = None,
) -> Judged:
    """Judge found positions (m, 2) by true ones (n, 2), all (x, y) in pixels of an image (ny, nx).

    radius and border in pixels. Positions in the strip along the edges are matched like all others
    but not counted: a true one there is never missed, a found one never false. A pair counts where
    its true position does: so a defect just inside that is found just outside is found, and one
    just outside that is found just inside is not held against the network. True positions beyond
    the image may be among `truth` for that reason. Those that `counted` (n,) bool leaves out, as
    nobody is sure of them, are treated alike.
    """
    truth, found = np.reshape(truth, (-1, 2)), np.reshape(found, (-1, 2))
    pairs = match_positions(truth, found, radius)
    paired = np.zeros(len(truth), bool)
    paired[pairs[:, 0]] = True
    used = np.zeros(len(found), bool)
    used[pairs[:, 1]] = True
    inside = is_inside(truth[:, 0], truth[:, 1], shape, border)
    if counted is not None:
        inside &= counted
    false = ~used & is_inside(found[:, 0], found[:, 1], shape, border)
    return Judged(pairs, paired & inside, ~paired & inside, false)


def tally_positions(
    judged: Judged, truth: np.ndarray, found: np.ndarray, shape: tuple[int, ...], blocks: int = 1
) -> np.ndarray:
    """Tallies int64 (blocks^2, 3) of an image cut into blocks x blocks parts, row by row.

    Right and missed ones count where they truly are, false ones where they were found.
    """
    counts = np.zeros((blocks**2, 3), np.int64)
    parts = (truth, judged.right), (found, judged.false), (truth, judged.missed)
    for column, (points, chosen) in enumerate(parts):
        places = np.reshape(points, (-1, 2))[chosen]
        cells = np.floor((places + 0.5) * blocks / np.array(shape[::-1])).astype(np.int64)
        cells = np.clip(cells, 0, blocks - 1)
        number = cells[:, 1] * blocks + cells[:, 0]
        counts[:, column] = np.bincount(number, minlength=blocks**2)
    return counts


def count_kinds(
    truth: np.ndarray,
    truth_kinds: np.ndarray,
    found: np.ndarray,
    found_kinds: np.ndarray,
    judged: Judged,
    classes: int,
) -> np.ndarray:
    """Which kind was taken for which, of positions judged whatever their kind: (K + 1, K + 1).

    truth_kinds, found_kinds: (n,), (m,) int, 1 ... K. Row 0 are found positions that are nothing,
    column 0 true ones that were missed.
    """
    table = np.zeros((classes + 1, classes + 1), np.int64)
    counted = judged.right[judged.pairs[:, 0]]
    pairs = judged.pairs[counted]
    np.add.at(table, (truth_kinds[pairs[:, 0]], found_kinds[pairs[:, 1]]), 1)
    np.add.at(table[:, 0], truth_kinds[judged.missed], 1)
    np.add.at(table[0], found_kinds[judged.false], 1)
    return table
