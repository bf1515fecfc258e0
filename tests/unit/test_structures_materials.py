"""Unit cells of prototypes and files, their symmetry, layers upon one another and zone axes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctem.errors import ConfigError
from hpctem.sampling import Streams
from hpctem.sections import stem
from hpctem.structures.materials import (
    BRAVAIS_CLASSES,
    Material,
    bravais_class,
    check_material,
    class_names,
    layer_distance,
    load_material,
    orient,
    space_group,
    stack_layers,
)
from hpctem.structures.prototypes import DICHALCOGENIDES, PEROVSKITES
from hpctem.structures.sheet_crystals import take_crystal
from hpctem.structures.zone_axes import complete_basis


def prototype(kind: str, *elements: str, **constants: str) -> Material:
    return load_material(stem.Material(prototype=kind, elements=elements, **constants))


def read(path: Path) -> Material:
    return load_material(stem.Material(file=str(path)))


def structure(material: dict, **keys: object) -> stem.Structure:
    return stem.Structure(material=stem.Material(**material), **keys)


def images(material: Material, reach: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Positions and numbers of the atoms of the cells about the first."""
    along = [range(-reach, reach + 1)] * material.periodic + [(0,)] * (3 - material.periodic)
    shifts = np.array(list(itertools.product(*along)), dtype=float) @ material.cell
    positions = (shifts[:, None] + material.positions).reshape(-1, 3)
    return positions, np.tile(material.numbers, len(shifts))


def shortest_bond(material: Material, first: int, second: int) -> float:
    positions, numbers = images(material)
    ends = material.positions[material.numbers == first]
    apart = np.linalg.norm(ends[:, None] - positions[None, numbers == second], axis=2)
    return float(apart[apart > 0.1].min())


def holds(material: Material, positions: np.ndarray, numbers: np.ndarray) -> bool:
    """Whether every one of the atoms given is an atom of the periodic material."""
    fractions = np.linalg.inv(material.cell)
    for position, number in zip(positions, numbers, strict=True):
        apart = (material.positions[material.numbers == number] - position) @ fractions
        apart[:, : material.periodic] -= np.round(apart[:, : material.periodic])
        if not (np.linalg.norm(apart @ material.cell, axis=1) < 1e-6).any():
            return False
    return True


# Bonds in A: measured, of the bulk or the layer.
BONDS = [
    (("graphene",), 6, 6, 1.42),
    (("hbn",), 5, 7, 1.446),
    (("1H", "Mo", "S"), 42, 16, 2.41),
    (("1H", "Mo", "Se"), 42, 34, 2.53),
    (("1H", "Mo", "Te"), 42, 52, 2.73),
    (("1H", "W", "S"), 74, 16, 2.405),
    (("1H", "W", "Se"), 74, 34, 2.53),
    (("1H", "Nb", "Se"), 41, 34, 2.59),
    (("1H", "Ta", "S"), 73, 16, 2.48),
    (("1T", "Ti", "S"), 22, 16, 2.43),
    (("1T", "Ti", "Se"), 22, 34, 2.55),
    (("1T", "Zr", "S"), 40, 16, 2.57),
    (("1T", "Hf", "S"), 72, 16, 2.55),
    (("1T", "Ta", "S"), 73, 16, 2.46),
    (("1T", "Pt", "Se"), 78, 34, 2.51),
    (("1T", "Pt", "Te"), 78, 52, 2.68),
    (("1T", "Sn", "S"), 50, 16, 2.56),
    (("1T", "Sn", "Se"), 50, 34, 2.68),
    (("1T", "V", "Se"), 23, 34, 2.49),
    (("1T", "Cd", "I"), 48, 53, 2.99),
    (("perovskite", "Sr", "Ti", "O"), 22, 8, 1.9525),
    (("perovskite", "Sr", "Ti", "O"), 38, 8, 2.761),
]


@pytest.mark.parametrize(("words", "first", "second", "bond"), BONDS)
def test_bonds_are_those_measured(
    words: tuple[str, ...], first: int, second: int, bond: float
) -> None:
    assert shortest_bond(prototype(*words), first, second) == pytest.approx(bond, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "metal", "x"),
    [(kind, *pair) for kind in DICHALCOGENIDES for pair in DICHALCOGENIDES[kind]],
)
def test_every_known_dichalcogenide_is_plausible(kind: str, metal: str, x: str) -> None:
    """Bonds near the sum of covalent radii, layers apart by a van der Waals gap of 2.3 to 3.6 A."""
    from ase.data import atomic_numbers, covalent_radii

    material = prototype(kind, metal, x)
    m, n = atomic_numbers[metal], atomic_numbers[x]
    bond = covalent_radii[m] + covalent_radii[n]
    assert shortest_bond(material, m, n) == pytest.approx(bond, rel=0.15)
    config = structure({"prototype": kind, "elements": (metal, x)})
    assert 2.3 < layer_distance(config, material) - material.height < 3.6


def test_perovskites_are_plausible() -> None:
    """B at the middle of six anions, A at that of twelve."""
    for elements, a in PEROVSKITES.items():
        material = prototype("perovskite", *elements)
        assert 3.7 < a < 6.4
        assert material.periodic == 3
        assert len(material.numbers) == 5
        numbers = material.numbers
        bond = shortest_bond(material, int(numbers[1]), int(numbers[2]))
        assert bond == pytest.approx(a / 2)
        assert shortest_bond(material, int(numbers[0]), int(numbers[2])) == pytest.approx(
            bond * math.sqrt(2)
        )


def test_layers_stand_as_they_should() -> None:
    for words in (("graphene",), ("hbn",), ("1H", "W", "Se"), ("1T", "Sn", "S")):
        material = prototype(*words)
        a, b, c = material.cell
        assert material.periodic == 2
        assert a[0] > 0 and a[1] == a[2] == 0
        assert b @ a == pytest.approx(-(a @ a) / 2)
        assert b[1] > 0 and c[:2].tolist() == [0, 0]
        assert material.positions[:, 2].min() == 0
        assert material.cell[2, 2] > material.height + 6


def test_prismatic_layer_is_its_mirror_image_and_octahedral_one_its_inverse() -> None:
    prismatic, octahedral = prototype("1H", "W", "Se"), prototype("1T", "Pt", "Se")
    janus = prototype("1H", "Mo", "S", "Se")
    for material, mirrored, inverted in (
        (prismatic, True, False),
        (octahedral, False, True),
        (janus, False, False),
    ):
        metal = material.positions[material.classes == 0][0]
        away = material.positions - metal
        up = np.array([1.0, 1.0, -1.0])
        assert holds(material, metal + away * up, material.numbers) == mirrored
        assert holds(material, metal - away, material.numbers) == inverted


def test_janus_layer_has_its_first_chalcogen_above_and_both_bonds() -> None:
    material = prototype("1H", "Mo", "S", "Se")
    heights = dict(zip(material.numbers.tolist(), material.positions[:, 2].tolist(), strict=True))
    assert heights[16] > heights[42] > heights[34] == 0
    assert shortest_bond(material, 42, 16) == pytest.approx(2.41, rel=0.02)
    assert shortest_bond(material, 42, 34) == pytest.approx(2.53, rel=0.02)
    # Lu et al., Nat. Nanotechnol. 12, 744 (2017): a of MoSSe lies between those of MoS2 and MoSe2.
    assert 3.16 < material.cell[0, 0] < 3.29
    assert material.class_names == ("metal", "chalcogen")
    assert material.classes.tolist() == [0, 1, 1]
    stretched = prototype("1H", "Mo", "S", "Se", a="3.4 A")
    for number in (16, 34):  # bonds keep their length
        assert shortest_bond(stretched, 42, number) == pytest.approx(
            shortest_bond(material, 42, number), abs=1e-9
        )
    given = prototype("1H", "Mo", "S", "Se", a="3.25 A", thickness="3.2 A")
    assert given.height == pytest.approx(3.2)


def test_constants_given_are_those_of_the_cell() -> None:
    """Khan et al. took WSe2 with a = 3.3 A and Se at +-1.7975 A."""
    material = prototype("1H", "W", "Se", a="3.3 A", thickness="3.595 A")
    assert material.cell[0, 0] == 3.3
    middle = material.positions[material.numbers == 74][0, 2]
    np.testing.assert_allclose(
        material.positions[material.numbers == 34][:, 2] - middle, [1.7975, -1.7975], atol=1e-12
    )
    unknown = prototype("1H", "Re", "Se", a="3.3 A", thickness="3.2 A")
    assert unknown.positions[unknown.numbers == 34][:, 2].tolist() == [3.2, 0]


@pytest.mark.parametrize(
    ("words", "names", "symbols"),
    [
        (("graphene",), ("carbon",), [["C"]]),
        (("hbn",), ("boron", "nitrogen"), [["B"], ["N"]]),
        (("1T", "Hf", "S", "Se"), ("metal", "chalcogen"), [["Hf"], ["S", "Se"]]),
        (
            ("perovskite", "La", "Al", "O"),
            ("a_site", "b_site", "anion"),
            [["La"], ["Al"], ["O"]],
        ),
    ],
)
def test_classes_of_sites_hold_their_elements(
    words: tuple[str, ...], names: tuple[str, ...], symbols: list[list[str]]
) -> None:
    from ase.data import chemical_symbols

    material = prototype(*words)
    assert material.class_names == names
    config = stem.Material(prototype=words[0], elements=words[1:])
    assert class_names(config) == names
    for index, wanted in enumerate(symbols):
        found = {chemical_symbols[z] for z in material.numbers[material.classes == index]}
        assert found == set(wanted)


@pytest.mark.parametrize(
    ("words", "number", "symbol", "lattice"),
    [
        (("graphene",), 191, "P6/mmm", "hexagonal"),
        (("hbn",), 187, "P-6m2", "hexagonal"),
        (("1H", "Mo", "S"), 187, "P-6m2", "hexagonal"),
        (("1T", "Pt", "Se"), 164, "P-3m1", "hexagonal"),
        (("1H", "Mo", "S", "Se"), 156, "P3m1", "hexagonal"),
        (("perovskite", "Sr", "Ti", "O"), 221, "Pm-3m", "square"),
    ],
)
def test_space_groups_of_prototypes(
    words: tuple[str, ...], number: int, symbol: str, lattice: str
) -> None:
    material = prototype(*words)
    assert space_group(material) == (number, symbol)
    assert bravais_class(material) == lattice


@pytest.mark.parametrize(
    ("material", "reason"),
    [
        ({"prototype": "1H", "elements": ("Re", "S")}, "structure.material.a: 3.2 A"),
        (
            {"prototype": "1H", "elements": ("Re", "S"), "a": "3.2 A"},
            "structure.material.thickness",
        ),
        (
            {"prototype": "1H", "elements": ("Mo", "S", "Po"), "a": "3.2 A"},
            "known constant 'thickness'",
        ),
        ({"prototype": "perovskite", "elements": ("Eu", "Ti", "O")}, "structure.material.a"),
        ({"prototype": "graphene", "elements": ("Si",)}, "structure.material.a"),
        (
            {"prototype": "1H", "elements": ("Rf", "S"), "a": "3.2 A", "thickness": "3.0 A"},
            "element 104",
        ),
    ],
)
def test_unknown_constants_and_elements_are_refused(material: dict, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_material(stem.Material(**material))


# Bravais classes -----------------------------------------------------------------------------


def layer(a: tuple[float, float], b: tuple[float, float], *sites: tuple[float, float]) -> Material:
    """A layer of carbon with sites at fractions of a and b."""
    cell = np.array([(*a, 0.0), (*b, 0.0), (0.0, 0.0, 20.0)])
    places = np.array([(*site, 0.0) for site in (sites or ((0.0, 0.0),))]) @ cell
    count = len(places)
    return Material(
        cell,
        places,
        np.full(count, 6, dtype=np.uint8),
        np.zeros(count, dtype=np.uint8),
        ("C",),
        "C",
        2,
        "layer",
    )


HALF = math.sqrt(3) / 2
LATTICES = {
    "hexagonal at 120 degrees": (layer((3, 0), (-1.5, 3 * HALF)), "hexagonal"),
    "hexagonal at 60 degrees": (layer((3, 0), (1.5, 3 * HALF)), "hexagonal"),
    "hexagonal, oblique cell": (layer((3, 0), (7.5, 3 * HALF)), "hexagonal"),
    "hexagonal, centred cell": (layer((3, 0), (0, 6 * HALF), (0, 0), (0.5, 0.5)), "hexagonal"),
    "square": (layer((3, 0), (0, 3)), "square"),
    "square, centred cell": (layer((3, 0), (0, 3), (0, 0), (0.5, 0.5)), "square"),
    "square, doubled cell": (layer((6, 0), (0, 3), (0, 0), (0.5, 0)), "square"),
    "square with a height of its side": (layer((3, 0), (0, 3), (0.2, 0.1)), "square"),
    "rectangular": (layer((3, 0), (0, 4)), "rectangular"),
    "rectangular, oblique cell": (layer((3, 0), (9, 4)), "rectangular"),
    "rectangular, not quite square": (layer((3, 0), (0, 3.03)), "rectangular"),
    "rhombus, primitive": (layer((3, 1), (3, -1)), "rhombus"),
    "rhombus, nearly square": (layer((3, 0), (0.2, 2.99)), "rhombus"),
    "rhombus, centred cell": (layer((3, 0), (0, 5), (0, 0), (0.5, 0.5)), "rhombus"),
    "rhombus, long": (layer((3, 0), (0, 12), (0, 0), (0.5, 0.5)), "rhombus"),
    "rhombus, not quite hexagonal": (layer((3, 0), (1.5, 3 * HALF * 1.01)), "rhombus"),
    "oblique": (layer((3, 0), (0.7, 4)), "oblique"),
    "oblique, near rectangular": (layer((3, 0), (0.06, 4)), "oblique"),
    "oblique, doubled cell": (layer((6, 0), (0.7, 4), (0, 0), (0.5, 0)), "oblique"),
}


@pytest.mark.parametrize("name", LATTICES)
def test_bravais_class_is_that_of_the_lattice_not_of_its_cell(name: str) -> None:
    material, wanted = LATTICES[name]
    assert bravais_class(material) == wanted


def test_every_class_is_met() -> None:
    assert {wanted for _, wanted in LATTICES.values()} == set(BRAVAIS_CLASSES)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(LATTICES)),
    st.tuples(*[st.integers(-3, 3)] * 3),
    st.floats(-3.1, 3.1),
)
def test_bravais_class_knows_neither_choice_of_vectors_nor_rotation(
    name: str, steps: tuple[int, int, int], angle: float
) -> None:
    material, wanted = LATTICES[name]
    p, q, r = steps
    change = np.array([[1, p, 0], [0, 1, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [q, 1, 0], [0, 0, 1]]
    )
    change = change @ np.array([[1, r, 0], [0, 1, 0], [0, 0, 1]])
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    other = Material(
        change @ material.cell @ turn,
        material.positions @ turn,
        material.numbers,
        material.classes,
        ("C",),
        "C",
        2,
        "layer",
    )
    assert bravais_class(other) == wanted


def test_layer_is_not_taken_for_a_cubic_crystal() -> None:
    """One atom in a square cell as high as wide: 123, where the cell as it is would give 221."""
    square = layer((25, 0), (0, 25))
    cube = replace(square, cell=np.diag([25.0, 25.0, 25.0]))
    assert space_group(cube) == space_group(square) == (123, "P4/mmm")
    assert space_group(replace(cube, periodic=3)) == (221, "Pm-3m")


def test_motif_without_symmetry_keeps_the_lattice_and_loses_the_group() -> None:
    material = layer((3, 0), (0, 3), (0, 0), (0.2, 0.31))
    assert bravais_class(material) == "square"
    assert space_group(material)[0] in (2, 10)  # p2/m of a flat pair


@pytest.mark.parametrize(
    ("axis", "wanted"),
    [
        ((0, 0, 1), "square"),
        ((0, 1, 0), "square"),
        ((1, 1, 0), "rectangular"),
        ((1, -1, 1), "hexagonal"),
        ((0, 0, 2), "square"),
        ((2, 1, 0), "rectangular"),
        ((1, 1, 2), "rectangular"),
        ((1, 2, 3), "oblique"),
    ],
)
def test_a_bulk_crystal_shows_the_lattice_of_its_projection(
    axis: tuple[int, int, int], wanted: str
) -> None:
    """Projections of the primitive cubic lattice."""
    assert bravais_class(prototype("perovskite", "Sr", "Ti", "O"), axis) == wanted


def test_face_centred_crystal_along_110_is_centred(tmp_path: Path) -> None:
    from ase.build import bulk

    write(tmp_path / "gold.vasp", bulk("Au", cubic=True), format="vasp")
    gold = read(tmp_path / "gold.vasp")
    assert bravais_class(gold, (1, 1, 0)) == "rhombus"
    assert bravais_class(gold, (0, 0, 1)) == "square"
    assert bravais_class(gold, (1, 1, 1)) == "hexagonal"
    assert space_group(gold) == (225, "Fm-3m")


# Files ---------------------------------------------------------------------------------------


def janus_atoms() -> Atoms:
    """MoSSe, S above, as ASE atoms in a cell of 22 A along c."""
    material = prototype("1H", "Mo", "S", "Se")
    cell = material.cell.copy()
    cell[2, 2] = 22.0
    positions = material.positions + np.array([0.3, 0.4, 9.0])
    return Atoms(material.numbers, positions=positions, cell=cell, pbc=True)


def permuted(atoms: Atoms, order: tuple[int, int, int]) -> Atoms:
    """The same layer with cell vectors in another order and the whole turned with them."""
    cell = np.array(atoms.cell)[list(order)][:, list(order)]
    return Atoms(atoms.numbers, positions=atoms.positions[:, list(order)], cell=cell, pbc=True)


def check_janus(material: Material, upside_down: bool = False) -> None:
    assert material.periodic == 2
    assert material.class_names == ("Mo", "S", "Se")
    assert material.name == "MoSSe"
    a, b, c = material.cell
    assert a[1] == a[2] == b[2] == c[0] == c[1] == 0
    assert a[0] > 0 and b[1] > 0 and c[2] > 6
    heights = dict(zip(material.numbers.tolist(), material.positions[:, 2].tolist(), strict=True))
    known = prototype("1H", "Mo", "S", "Se")
    assert material.height == pytest.approx(known.height, abs=1e-4)
    assert (heights[16] < heights[42]) == upside_down
    assert min(heights.values()) == 0
    for pair in ((42, 16), (42, 34), (16, 34), (42, 42)):
        assert shortest_bond(material, *pair) == pytest.approx(
            shortest_bond(known, *pair), abs=1e-4
        )
    assert bravais_class(material) == "hexagonal"
    assert space_group(material) == (156, "P3m1")


@pytest.mark.parametrize("name", ["POSCAR", "layer.cif", "layer.xyz"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_layer_of_a_file_stands_whatever_axis_is_empty(
    tmp_path: Path, name: str, order: tuple[int, int, int]
) -> None:
    atoms = permuted(janus_atoms(), order)
    write(tmp_path / name, atoms, format={"R": "vasp", "f": "cif", "z": "extxyz"}[name[-1]])
    check_janus(read(tmp_path / name))


def test_layer_across_the_boundary_is_put_together(tmp_path: Path) -> None:
    atoms = janus_atoms()
    atoms.positions[:, 2] -= 10.0  # through z = 0
    atoms.wrap()
    assert np.ptp(atoms.positions[:, 2]) > 10
    write(tmp_path / "POSCAR", atoms, format="vasp")
    check_janus(read(tmp_path / "POSCAR"))


def test_layer_in_a_leaning_left_handed_or_turned_cell_stands(tmp_path: Path) -> None:
    atoms = janus_atoms()
    leaning = np.array(atoms.cell)
    leaning[2] += 2 * leaning[0] - leaning[1]
    left_handed = np.array(atoms.cell)[[1, 0, 2]]
    for number, cell in enumerate((leaning, left_handed)):
        other = Atoms(atoms.numbers, positions=atoms.positions, cell=cell, pbc=True)
        if number == 0:
            other.rotate(37, (1, 2, 3), rotate_cell=True)
        write(tmp_path / "layer.xyz", other, format="extxyz")
        check_janus(read(tmp_path / "layer.xyz"))


def test_file_may_say_that_the_layer_repeats_along_two_vectors_only(tmp_path: Path) -> None:
    atoms = janus_atoms()
    atoms.cell[2, 2] = 5.0  # less than a gap, and the layer beyond the cell
    left_handed = atoms.copy()
    left_handed.set_cell(np.array(atoms.cell)[[1, 0, 2]])
    without_third = atoms.copy()
    without_third.cell[2] = 0.0
    for number, one in enumerate((atoms, left_handed, without_third)):
        one.pbc = (True, True, False)
        write(tmp_path / f"layer{number}.xyz", one, format="extxyz")
        check_janus(read(tmp_path / f"layer{number}.xyz"))


def test_van_der_waals_crystal_is_bulk(tmp_path: Path) -> None:
    """2H MoS2: the planes of sulphur that face each other are 2.98 A apart."""
    cell = np.diag([3.160, 3.160 * HALF, 12.294])
    cell[1, 0] = -1.58
    pair = [(1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.75)]
    z = 0.621
    sulphur = [
        (1 / 3, 2 / 3, z),
        (2 / 3, 1 / 3, z + 0.5),
        (2 / 3, 1 / 3, -z),
        (1 / 3, 2 / 3, 0.5 - z),
    ]
    atoms = Atoms("Mo2S4", scaled_positions=[*pair, *sulphur], cell=cell, pbc=True)
    write(tmp_path / "mos2.cif", atoms)
    material = read(tmp_path / "mos2.cif")
    assert material.periodic == 3
    assert space_group(material) == (194, "P6_3/mmc")
    assert material.name == "MoS2"
    # The measured crystal is what 1H layers in AA' stacking make.
    layers = prototype("1H", "Mo", "S")
    lower, upper = stack_layers(layers, 2, 12.294 / 2, "AA'")
    turned = -layers.positions
    turned[:, :2] += upper.shift
    turned[:, 2] = layers.positions[:, 2] + upper.z
    both = np.concatenate([layers.positions, turned])
    stacked = Material(
        cell,
        both,
        np.tile(layers.numbers, 2),
        np.tile(layers.classes, 2),
        layers.class_names,
        "2H",
        3,
        "stack",
    )
    assert not lower.turned and upper.turned
    assert space_group(stacked) == (194, "P6_3/mmc")
    assert shortest_bond(stacked, 42, 16) == pytest.approx(
        shortest_bond(material, 42, 16), abs=2e-3
    )


@pytest.mark.parametrize(
    ("cell", "pbc", "reason"),
    [
        ((10, 10, 3), "T T T", "is a chain with vacuum about it"),
        ((10, 10, 10), "T T T", "is a molecule with vacuum about it"),
        ((10, 10, 3), "F F T", "is not periodic in two dimensions"),
    ],
)
def test_chains_and_molecules_are_refused(
    tmp_path: Path, cell: tuple[float, ...], pbc: str, reason: str
) -> None:
    a, b, c = cell
    text = f'1\nLattice="{a} 0 0 0 {b} 0 0 0 {c}" pbc="{pbc}"\nC 1 1 1\n'
    (tmp_path / "wire.xyz").write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        read(tmp_path / "wire.xyz")
    assert "wire.xyz" in str(caught.value)


def test_element_that_does_not_scatter_is_refused(tmp_path: Path) -> None:
    atoms = Atoms("Rf", cell=[3, 3, 3], pbc=True)
    write(tmp_path / "rf.xyz", atoms, format="extxyz")
    with pytest.raises(ConfigError, match="number 104, beyond the 103"):
        read(tmp_path / "rf.xyz")


# What a campaign asks of its material --------------------------------------------------------


def test_dimensions_must_be_those_of_the_campaign() -> None:
    strontium = {"prototype": "perovskite", "elements": ("Sr", "Ti", "O")}
    thickness = "10 nm"
    check_material(structure({"prototype": "graphene"}))
    check_material(structure(strontium, thickness=thickness, zone_axis=(1, 1, 0)))
    with pytest.raises(ConfigError, match=r"SrTiO3 is a bulk crystal .* give structure.thickness"):
        check_material(structure(strontium))
    with pytest.raises(ConfigError, match=r"graphene is two-dimensional .* leave that key out"):
        check_material(structure({"prototype": "graphene"}, thickness=thickness))
    with pytest.raises(ConfigError, match=r"zone_axis \[1, 1, 0\] is for a bulk crystal"):
        check_material(structure({"prototype": "graphene"}, zone_axis=(1, 1, 0)))
    with pytest.raises(ConfigError, match="is no direction"):
        check_material(structure(strontium, thickness=thickness, zone_axis=(0, 0, 0)))
    with pytest.raises(ConfigError, match=r"structure.layers is for a two-dimensional"):
        check_material(structure(strontium, thickness=thickness, layers=stem.Layers(stacking="AA")))


def test_one_material_serves_every_structure() -> None:
    config = structure({"prototype": "graphene"})
    assert take_crystal(config, Streams(1), 5) is take_crystal(config, Streams(2), 0)


# Stacking ------------------------------------------------------------------------------------


def stacked_columns(material: Material, stacking: str) -> set[tuple[tuple[int, ...], ...]]:
    """The elements of the second layer that lie over atoms of the first, and those of the first."""
    _, upper = stack_layers(material, 2, 6.0, stacking)
    sign = -1.0 if upper.turned else 1.0
    over = sign * material.positions[:, :2] + upper.shift
    inverse = np.linalg.inv(material.cell[:2, :2])
    columns = set()
    for place, number in zip(over, material.numbers, strict=True):
        apart = (material.positions[:, :2] - place) @ inverse
        apart = (apart - np.round(apart)) @ material.cell[:2, :2]
        below = material.numbers[np.linalg.norm(apart, axis=1) < 0.01]
        columns.add((int(number), tuple(sorted(set(below.tolist())))))
    return columns


def otherwise_written(material: Material) -> list[Material]:
    """The same layer in a cell at 60 degrees, with another origin, and in a rectangular cell."""
    a, b, c = material.cell
    sixty = np.array([a, a + b, c])
    rectangular = np.array([a, a + 2 * b, c])
    moved = material.positions + 0.4 * a + 0.7 * b
    twice = np.concatenate([material.positions, material.positions + a + b])
    keep = (material.class_names, material.name, 2, "")
    return [
        material,
        Material(sixty, material.positions, material.numbers, material.classes, *keep),
        Material(material.cell, moved, material.numbers, material.classes, *keep),
        Material(
            rectangular, twice, np.tile(material.numbers, 2), np.tile(material.classes, 2), *keep
        ),
    ]


@pytest.mark.parametrize(
    ("words", "stacking", "wanted"),
    [
        (("graphene",), "AA", {(6, (6,))}),
        (("graphene",), "AB", {(6, (6,)), (6, ())}),
        (("hbn",), "AA'", {(5, (7,)), (7, (5,))}),
        (("1H", "Mo", "S"), "AA", {(42, (42,)), (16, (16,))}),
        (("1H", "Mo", "S"), "AA'", {(42, (16,)), (16, (42,))}),
        (("1H", "Mo", "S"), "AB", {(42, (16,)), (16, ())}),
        (("1T", "Pt", "Se"), "AA", {(78, (78,)), (34, (34,))}),
    ],
)
def test_layers_lie_where_the_stacking_says(
    words: tuple[str, ...], stacking: str, wanted: set
) -> None:
    for material in otherwise_written(prototype(*words)):
        assert stacked_columns(material, stacking) == wanted


def test_bernal_graphene_has_its_group() -> None:
    """Bilayer in AB stacking: layer group p-3m1, as space group 164 with vacuum."""
    graphene = prototype("graphene")
    for stacking, wanted in (("AB", (164, "P-3m1")), ("AA", (191, "P6/mmm"))):
        _, upper = stack_layers(graphene, 2, 3.354, stacking)
        second = graphene.positions + np.array([*upper.shift, upper.z])
        pair = Material(
            graphene.cell,
            np.concatenate([graphene.positions, second]),
            np.tile(graphene.numbers, 2),
            np.tile(graphene.classes, 2),
            graphene.class_names,
            "bilayer",
            2,
            "",
        )
        assert space_group(pair) == wanted


def test_layers_rise_alternate_and_twist() -> None:
    placements = stack_layers(prototype("1H", "W", "Se"), 4, 6.5, "AA'", twist=0.02)
    assert [one.z for one in placements] == [0.0, 6.5, 13.0, 19.5]
    assert [one.turned for one in placements] == [False, True, False, True]
    np.testing.assert_allclose([one.angle for one in placements], [0.0, 0.02, 0.04, 0.06])
    assert placements[0].shift == placements[2].shift == (0.0, 0.0)
    shifted = stack_layers(prototype("graphene"), 3, 3.35, "AB")
    assert [math.hypot(*one.shift) for one in shifted] == pytest.approx(
        [0, 2.461 / math.sqrt(3), 0]
    )


@pytest.mark.parametrize(
    ("material", "layers", "wanted"),
    [
        ({"prototype": "graphene"}, {}, 3.354),
        ({"prototype": "hbn"}, {}, 3.33),
        ({"prototype": "1H", "elements": ("Mo", "S")}, {}, 6.147),
        ({"prototype": "1H", "elements": ("Mo", "S")}, {"distance": "7 A"}, 7.0),
        ({"prototype": "1H", "elements": ("Re", "S"), "a": "3.2 A", "thickness": "3.1 A"}, {}, 6.4),
        (
            {"prototype": "1H", "elements": ("Mo", "S"), "a": "3.2 A", "thickness": "3.0 A"},
            {},
            6.3,
        ),
        ({"prototype": "graphene", "elements": ("Si",), "a": "3.8 A"}, {}, 3.3),
        ({"prototype": "1H", "elements": ("Mo", "S", "Se")}, {}, (6.147 + 6.464) / 2),
    ],
)
def test_distance_of_layers_is_given_known_or_estimated(
    material: dict, layers: dict, wanted: float
) -> None:
    config = structure(material, layers=stem.Layers(**layers))
    assert layer_distance(config, load_material(config.material)) == pytest.approx(wanted)


# Zone axes -----------------------------------------------------------------------------------

AXES = [
    (0, 0, 1),
    (0, 0, -1),
    (1, 0, 0),
    (0, 2, 0),
    (1, 1, 0),
    (1, -1, 0),
    (1, 1, 1),
    (1, 2, 3),
    (-3, 0, 2),
]


@pytest.mark.parametrize("axis", AXES)
def test_basis_with_a_zone_axis_spans_all_whole_numbers(axis: tuple[int, int, int]) -> None:
    reduced = tuple(np.array(axis) // math.gcd(*axis))
    rows = complete_basis(reduced)
    assert rows[2].tolist() == list(reduced)
    assert np.array_equal(rows, np.round(rows))
    assert np.linalg.det(rows) == pytest.approx(1.0)


@pytest.mark.parametrize("axis", AXES)
def test_oriented_cell_is_the_same_crystal_turned(axis: tuple[int, int, int]) -> None:
    """Atoms of the oriented cell about an atom against the crystal's own, turned independently."""
    cell = np.array([[5.1, 0.0, 0.0], [0.8, 4.3, 0.0], [-0.6, 0.9, 6.2]])
    sites = np.array([[0.1, 0.2, 0.3], [0.6, 0.55, 0.8], [0.9, 0.1, 0.5]])
    numbers = np.array([22, 38, 8], dtype=np.uint8)
    crystal = Material(
        cell, sites @ cell, numbers, np.arange(3, dtype=np.uint8), ("a", "b", "c"), "ABC", 3, ""
    )
    oriented = orient(crystal, axis)
    beam = np.array(axis) @ cell
    length = np.linalg.norm(beam) / math.gcd(*axis)
    np.testing.assert_allclose(oriented.cell[2], [0, 0, length], atol=1e-9)
    assert np.linalg.det(oriented.cell) == pytest.approx(np.linalg.det(cell))
    assert np.cross(oriented.cell[0], oriented.cell[1])[2] > 0
    # Short in projection: Gauss's condition.
    p, q = oriented.cell[:2, :2]
    assert p[0] > -1e-9
    assert axis == (0, 0, 1) or (p @ p <= q @ q + 1e-9 and abs(p @ q) <= p @ p / 2 + 1e-9)
    # The turn: the beam onto z, the first vector not along it onto +x in projection.
    z = beam / np.linalg.norm(beam)
    first = next(v for v in cell if np.linalg.norm(np.cross(v, z)) > 1e-6)
    x = first - (first @ z) * z
    x /= np.linalg.norm(x)
    turn = np.array([x, np.cross(z, x), z])
    shifts = np.array(list(itertools.product(range(-5, 6), repeat=3)))
    everything = ((shifts[:, None] + sites).reshape(-1, 3) - sites[0]) @ cell @ turn.T
    wanted = everything[np.linalg.norm(everything, axis=1) < 9.0]
    positions, kinds = images(oriented, reach=12 if length > 20 else 9)
    about = positions - oriented.positions[0]
    near = np.linalg.norm(about, axis=1) < 9.0
    order = lambda points: points[np.lexsort(np.round(points, 5).T)]  # noqa: E731
    np.testing.assert_allclose(order(about[near]), order(wanted), atol=1e-7)
    assert np.bincount(kinds[near])[38] == sum(
        np.linalg.norm((shifts + sites[1] - sites[0]) @ cell, axis=1) < 9.0
    )
    assert oriented.classes.tolist() == [0, 1, 2]


def test_plain_zone_axis_keeps_the_cell() -> None:
    crystal = prototype("perovskite", "Sr", "Ti", "O")
    oriented = orient(crystal, (0, 0, 3))
    np.testing.assert_allclose(oriented.cell, crystal.cell, atol=1e-12)
    np.testing.assert_allclose(oriented.positions, crystal.positions, atol=1e-9)


def test_zone_axis_of_zeros_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no direction"):
        orient(prototype("perovskite", "Sr", "Ti", "O"), (0, 0, 0))
