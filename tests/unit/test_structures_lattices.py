"""Lattices: cells, bonds and densities of the named ones, and what files give or refuse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.structures.lattices import (
    LATTICES,
    build_crystal,
    is_fcc,
    nearest_neighbour_distance,
    read_crystal,
)
from hpctem.structures.volumes import carve_sphere, to_cartesian, within_slab, wrap

A = 4.0
IDEAL_C = math.sqrt(8 / 3) * A

# name -> (elements, c, shortest bond, bonds of an atom, atoms in the cell)
EXPECTED = {
    "fcc": ((79,), None, A / math.sqrt(2), 12, 4),
    "bcc": ((26,), None, A * math.sqrt(3) / 2, 8, 2),
    "hcp": ((22,), IDEAL_C, A, 12, 2),
    "diamond": ((14,), None, A * math.sqrt(3) / 4, 4, 8),
    "zincblende": ((31, 33), None, A * math.sqrt(3) / 4, 4, 8),
    "wurtzite": ((48, 34), IDEAL_C, 0.375 * IDEAL_C, 4, 4),
    "rocksalt": ((11, 17), None, A / 2, 6, 8),
}


def test_every_lattice_is_expected() -> None:
    assert set(EXPECTED) == set(LATTICES)


@pytest.mark.parametrize("name", LATTICES)
def test_named_lattice_has_its_bonds_and_density(name: str) -> None:
    numbers, c, bond, coordination, atoms = EXPECTED[name]
    crystal = build_crystal(name, numbers, A, c)
    assert len(crystal.numbers) == atoms
    assert nearest_neighbour_distance(crystal) == pytest.approx(bond, abs=1e-9)
    positions, kinds = carve_sphere(crystal, 30.0, (0.3, 0.2, 0.1))
    density = atoms / np.linalg.det(crystal.cell)
    assert len(positions) == pytest.approx(density * 4 / 3 * math.pi * 30.0**3, rel=0.01)
    for atom in np.flatnonzero((positions**2).sum(axis=1) < 10.0**2)[:20]:
        distances = np.linalg.norm(positions - positions[atom], axis=1)
        near = np.flatnonzero(distances < bond * 1.05)
        assert len(near) == coordination + 1  # and itself
        if len(numbers) == 2:  # every bond joins unlike atoms
            assert set(kinds[near[near != atom]]) == set(numbers) - {kinds[atom]}


def test_carved_sphere_holds_exactly_the_lattice_points_within_it() -> None:
    crystal = build_crystal("wurtzite", (48, 34), 4.39, 7.17)
    centre = np.array([13.0, -7.0, 21.0])
    positions, numbers = carve_sphere(crystal, 17.0, centre)
    index = np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    everything = (index + crystal.fractional).reshape(-1, 3) @ crystal.cell - centre
    wanted = everything[np.linalg.norm(everything, axis=1) <= 17.0]
    order = lambda p: p[np.lexsort(np.round(p, 6).T)]  # noqa: E731
    np.testing.assert_allclose(order(positions), order(wanted), atol=1e-9)
    assert abs(int((numbers == 48).sum()) - int((numbers == 34).sum())) < 0.05 * len(numbers)


def test_slab_and_wrapping() -> None:
    points = np.array([[0.0, 0, -1], [0, 0, 0], [0, 0, 0.5], [0, 0, 1]])
    assert within_slab(points, np.array([0, 0, 1.0]), 0.0, 1.0).tolist() == [0, 1, 1, 0]
    moved = wrap(np.array([[-1e-18, 12.0, -5.0]]), np.array([10.0, 10.0, math.inf]))
    assert moved.tolist() == [[0.0, 2.0, -5.0]]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("fccc", (79,), 4.0), "unknown lattice"),
        (("fcc", (79, 29), 4.0), "takes 1 element"),
        (("rocksalt", (11,), 4.0), "takes 2 elements"),
        (("hcp", (22,), 4.0), "needs the constant c"),
        (("fcc", (79,), 4.0, 6.0), "has no constant c"),
        (("fcc", (79,), -4.0), "must be positive"),
    ],
)
def test_bad_lattice_is_refused(arguments: tuple, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_crystal(*arguments)


CIF = """data_gold
_cell_length_a 4.08265
_cell_length_b 4.08265
_cell_length_c 4.08265
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
_symmetry_Int_Tables_number 225
loop_
_symmetry_equiv_pos_as_xyz
'x,y,z'
'x,y+1/2,z+1/2'
'x+1/2,y,z+1/2'
'x+1/2,y+1/2,z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Au1 Au 0 0 0 {occupancy}
"""


def test_cif_is_read_and_known_as_fcc(tmp_path: Path) -> None:
    path = tmp_path / "gold.cif"
    path.write_text(CIF.format(occupancy=1))
    crystal = read_crystal(path)
    assert crystal.numbers.tolist() == [79] * 4
    assert nearest_neighbour_distance(crystal) == pytest.approx(4.08265 / math.sqrt(2), abs=1e-6)
    assert is_fcc(crystal)


def test_partly_occupied_cif_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vacancies.cif"
    path.write_text(CIF.format(occupancy=0.5))
    with pytest.raises(ConfigError, match=r"vacancies\.cif has partly occupied sites"):
        read_crystal(path)


@pytest.mark.parametrize("name", ["POSCAR", "cell.vasp", "cell.xyz"])
def test_poscar_and_extended_xyz_are_read(tmp_path: Path, name: str) -> None:
    from ase import Atoms
    from ase.io import write

    wurtzite = build_crystal("wurtzite", (48, 34), 4.39, 7.17, u=0.38)
    atoms = Atoms(
        numbers=wurtzite.numbers, scaled_positions=wurtzite.fractional, cell=wurtzite.cell, pbc=True
    )
    write(tmp_path / name, atoms, format="extxyz" if name.endswith("xyz") else "vasp")
    crystal = read_crystal(tmp_path / name)
    assert sorted(crystal.numbers) == sorted(wurtzite.numbers)
    np.testing.assert_allclose(crystal.cell, wurtzite.cell, atol=1e-6)
    read = to_cartesian(crystal.fractional, crystal.cell)
    written = to_cartesian(wurtzite.fractional, wurtzite.cell)
    for atom in written:
        assert np.linalg.norm(read - atom, axis=1).min() < 1e-5
    assert not is_fcc(crystal)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("missing.cif", None, "does not exist"),
        ("broken.cif", "no crystal at all\n", "cannot be read"),
        ("broken.xyz", "three\natoms\n", "cannot be read"),
        ("molecule.xyz", "1\n\nAu 0 0 0\n", "not periodic in three dimensions"),
        (
            "twice.xyz",
            '2\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nAu 0 0 0\nAu 0 0 0.1\n',
            "closer than 0.5 A",
        ),
    ],
)
def test_bad_file_is_refused_with_its_name(
    tmp_path: Path, name: str, text: str | None, reason: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_crystal(tmp_path / name)
    assert name in str(caught.value)


def test_is_fcc_tells_lattices_apart() -> None:
    assert is_fcc(build_crystal("fcc", (79,), 4.08))
    for name in set(LATTICES) - {"fcc"}:
        numbers, c, *_ = EXPECTED[name]
        assert not is_fcc(build_crystal(name, numbers, A, c))
