"""Pairs of atoms along the beam, against distances between all atoms."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.optics.neighbours import find_pairs


def list_pairs(positions: np.ndarray, across: float, nearest: float, deepest: float) -> set:
    """The same by every distance: (first that the beam meets, second)."""
    apart = positions[None] - positions[:, None]
    depth = apart[..., 2]
    near = np.hypot(apart[..., 0], apart[..., 1]) <= across
    return set(zip(*np.nonzero(near & (depth > nearest) & (depth < deepest)), strict=True))


@pytest.mark.parametrize("count, width", [(0, 5.0), (1, 5.0), (40, 9.0), (600, 12.0), (200, 1.0)])
def test_pairs_are_those_that_every_distance_gives(count: int, width: float) -> None:
    generator = np.random.default_rng(count)
    # also below 0, and so dense that there are far more pairs than atoms
    positions = generator.uniform(-width / 2, width / 2, (count, 3))
    found = find_pairs(positions, 0.8, 0.25, 5.0)
    assert found.shape == (len(found), 2) and found.dtype == np.int64
    assert len(found) == len(set(map(tuple, found.tolist())))
    assert set(map(tuple, found.tolist())) == list_pairs(positions, 0.8, 0.25, 5.0)


def test_bins_that_share_a_list_give_each_pair_once() -> None:
    """Few lists for many bins: atoms far apart meet in one list all the time."""
    generator = np.random.default_rng(3)
    places = np.column_stack([generator.uniform(-3e4, 3e4, (300, 2)), np.zeros(300)])
    positions = np.concatenate([places, places + np.array([0.3, 0.0, 3.0])])
    found = find_pairs(positions, 0.8, 0.25, 5.0)
    assert sorted(map(tuple, found.tolist())) == [(n, n + 300) for n in range(300)]


def test_the_beam_meets_the_lower_atom_first_and_equal_heights_are_no_pair() -> None:
    positions = np.array([[0.0, 0.0, 4.0], [0.1, 0.0, 1.0], [0.0, 0.1, 1.0], [0.0, 0.0, 9.5]])
    found = find_pairs(positions, 0.8, 0.25, 5.0)
    assert sorted(map(tuple, found.tolist())) == [(1, 0), (2, 0)]
    assert len(find_pairs(positions, 0.05, 0.25, 6.0)) == 1
