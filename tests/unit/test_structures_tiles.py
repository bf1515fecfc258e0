"""A user's tile of amorphous material: repeated, cut, and kept apart at the seam."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from hpctem.errors import ConfigError, SampleError
from hpctem.structures.amorphous import amorphous
from hpctem.structures.tiles import cut_tile, read_tile

SIDE = 15.0
DENSITY = 0.09


def write_tile(
    path: Path, pbc: tuple[bool, bool, bool] = (True, True, True), vacuum: float = 0.0
) -> np.ndarray:
    from ase import Atoms
    from ase.io import write

    positions = amorphous((SIDE, SIDE, SIDE), DENSITY, 1.5, np.random.default_rng(2))
    numbers = np.where(np.arange(len(positions)) % 3, 8, 14)
    cell = (SIDE, SIDE, SIDE + vacuum)
    write(path, Atoms(numbers=numbers, positions=positions, cell=cell, pbc=pbc), format="extxyz")
    return positions


def shortest(positions: np.ndarray, lx: float, ly: float) -> float:
    tree = cKDTree(positions, boxsize=[lx, ly, 1000.0])
    return float(tree.query(positions, k=2)[0][:, 1].min())


@pytest.fixture
def tile_path(tmp_path: Path) -> Path:
    write_tile(tmp_path / "silica.xyz")
    return tmp_path / "silica.xyz"


def test_whole_periods_keep_every_atom(tile_path: Path) -> None:
    tile = read_tile(tile_path, 1.5)
    assert tile.stacks
    positions, numbers = cut_tile(tile, (30.0, 45.0, 15.0), 1.5, np.random.default_rng(0))
    # 2 x 3 copies of a full period in z: the number is exact, whatever the random offset.
    assert len(positions) == 6 * len(tile.positions)
    assert (numbers == 14).sum() == 6 * (tile.numbers == 14).sum()
    assert shortest(positions, 30.0, 45.0) >= 1.4999
    # The pattern repeats with the tile's period.
    moved = positions + np.array([15.0, 0, 0])
    moved[:, 0] %= 30.0
    tree = cKDTree(positions, boxsize=[30.0, 45.0, 1000.0])
    assert tree.query(moved)[0].max() < 1e-6


def test_seam_keeps_the_minimum_bond_and_nearly_the_density(tile_path: Path) -> None:
    extent = (37.3, 22.2, 41.0)
    tile = read_tile(tile_path, 1.5)
    positions, numbers = cut_tile(tile, extent, 1.5, np.random.default_rng(1))
    assert len(positions) == len(numbers)
    assert shortest(positions, *extent[:2]) >= 1.4999
    assert len(positions) / np.prod(extent) == pytest.approx(DENSITY, rel=0.05)
    assert np.all(positions >= 0) and np.all(positions <= extent)


def test_offset_is_random_but_a_function_of_the_generator(tile_path: Path) -> None:
    tile = read_tile(tile_path, 1.5)
    films = [
        cut_tile(tile, (15.0, 15.0, 10.0), 1.5, np.random.default_rng(seed))[0].tobytes()
        for seed in (3, 3, 4)
    ]
    assert films[0] == films[1] != films[2]


def test_a_film_in_vacuum_is_cut_within_its_height(tmp_path: Path) -> None:
    for name, pbc, vacuum in (
        ("a.xyz", (True, True, True), 20.0),
        ("b.xyz", (True, True, False), 0),
    ):
        written = write_tile(tmp_path / name, pbc, vacuum)
        tile = read_tile(tmp_path / name, 1.5)
        assert not tile.stacks
        assert tile.period[2] == pytest.approx(np.ptp(written[:, 2]), abs=1e-6)
        positions, _ = cut_tile(tile, (30.0, 30.0, 8.0), 1.5, np.random.default_rng(0))
        assert positions[:, 2].min() >= 0 and 7.0 < positions[:, 2].max() <= 8.0
        with pytest.raises(SampleError, match="less than the substrate thickness of 16 A"):
            cut_tile(tile, (30.0, 30.0, 16.0), 1.5, np.random.default_rng(0))


def test_bad_tiles_are_refused(tmp_path: Path, tile_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_tile(tmp_path / "none.xyz", 1.4)
    with pytest.raises(ConfigError, match=r"silica\.xyz has \d+ bonds under the minimum bond"):
        read_tile(tile_path, 1.7)
    (tmp_path / "text.xyz").write_text("nothing\n")
    with pytest.raises(ConfigError, match=r"text\.xyz cannot be read"):
        read_tile(tmp_path / "text.xyz", 1.4)
    (tmp_path / "skew.xyz").write_text(
        '1\nLattice="9 0 0 4 9 0 0 0 9" pbc="T T T" Properties=species:S:1:pos:R:3\nC 0 0 0\n'
    )
    with pytest.raises(ConfigError, match="rectangular cell"):
        read_tile(tmp_path / "skew.xyz", 1.4)
    write_tile(tmp_path / "open.xyz", (True, False, False))
    with pytest.raises(ConfigError, match="periodic in x and y"):
        read_tile(tmp_path / "open.xyz", 1.4)
