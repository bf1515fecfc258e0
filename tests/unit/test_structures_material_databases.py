"""Databases of materials: ASE's, lists as JARVIS's, extractions; what is chosen, what refused."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect

from hpctem.errors import ConfigError, SampleError
from hpctem.sampling import Streams
from hpctem.sections import stem
from hpctem.structures.materials import (
    Materials,
    bravais_class,
    check_material,
    choose_material,
    class_names,
    extract_materials,
    list_materials,
    load_material,
    read_materials,
    space_group,
)
from hpctem.structures.sheet_crystals import take_crystal

GRAPHENE = Atoms(
    "C2",
    scaled_positions=[(1 / 3, 2 / 3, 0.5), (2 / 3, 1 / 3, 0.5)],
    cell=[[2.46, 0, 0], [-1.23, 2.46 * 3**0.5 / 2, 0], [0, 0, 18]],
    pbc=(True, True, False),
)
MOS2 = Atoms(
    "MoS2",
    positions=[(0, 0, 9.0), (1.58, 0.912, 10.586), (1.58, 0.912, 7.414)],
    cell=[[3.16, 0, 0], [1.58, 3.16 * 3**0.5 / 2, 0], [0, 0, 18]],
    pbc=(True, True, False),
)
TIN = Atoms("Sn2", [(0, 0, 0), (1.5, 2.0, 1.0)], cell=[3.0, 4.0, 20.0], pbc=True)
SALT = Atoms("NaCl", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=[2.8, 2.8, 2.8], pbc=True)
EMPTY = Atoms(cell=[3, 3, 20], pbc=(True, True, False))
MOLECULE = Atoms("CO", [(0, 0, 0), (0, 0, 1.13)])
CRUSHED = Atoms("C2", [(0, 0, 9), (0.1, 0, 9)], cell=[3, 3, 18], pbc=(True, True, False))

ROWS = {
    "graphene": (GRAPHENE, {"gap": 0.0, "stable": True}),
    "mos2": (MOS2, {"gap": 1.8, "crystal": "MoS2"}),
    "tin": (TIN, {"gap": 0.1}),
    "salt": (SALT, {"gap": 8.5}),
    "empty": (EMPTY, {"gap": 8.5}),
    "molecule": (MOLECULE, {"gap": 9.5}),
    "crushed": (CRUSHED, {"gap": 0.2}),
}
LAYERS = ("graphene", "mos2", "tin")


def write_ase(path: Path, *names: str) -> Path:
    database = connect(path)
    for name in names or tuple(ROWS):
        atoms, values = ROWS[name]
        database.write(atoms, uid=name, **values, data={"orbitals": [1.0, 2.0]})
    return path


def entry(name: str) -> dict:
    """A row as JARVIS writes it; of odd ones with fractional coordinates."""
    atoms, values = ROWS[name]
    cell = atoms.cell.copy()
    if not cell[2].any():
        cell[2] = (0, 0, 18.0)
    cartesian = name != "tin"
    coords = atoms.positions if cartesian else atoms.get_scaled_positions()
    return {
        "jid": name,
        "formula": atoms.get_chemical_formula(),
        "gap": values["gap"],
        "hse_gap": "na",
        "atoms": {
            "lattice_mat": cell.tolist(),
            "coords": coords.tolist(),
            "elements": [f"{symbol} " for symbol in atoms.get_chemical_symbols()],
            "abc": [1, 1, 1],
            "cartesian": cartesian,
            "props": [""] * len(atoms),
        },
    }


def write_list(path: Path, *names: str, extra: tuple = ()) -> Path:
    path.write_text(json.dumps([*(entry(name) for name in names), *extra]))
    return path


def write_any(kind: str, folder: Path, *names: str) -> Path:
    return (write_list if kind == "list" else write_ase)(
        folder / ("materials.db" if kind == "db" else "materials.json"), *names
    )


KINDS = ("db", "json", "list")


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_read_from_any_kind_of_database(tmp_path: Path, kind: str) -> None:
    path = write_any(kind, tmp_path, *LAYERS)
    materials = read_materials(path)
    assert len(materials) == 3
    assert materials.identifiers == LAYERS
    assert materials.names == ("C", "MoS2", "Sn")
    areas = [np.linalg.det(one.cell[:2, :2]) for one in (materials[0], materials[1], materials[2])]
    wanted = [2.46**2 * 3**0.5 / 2, 3.16**2 * 3**0.5 / 2, 12.0]
    np.testing.assert_allclose(areas, wanted, rtol=1e-5)
    for index, (atoms, symmetry) in enumerate(
        [(GRAPHENE, (191, "hexagonal")), (MOS2, (187, "hexagonal")), (TIN, (None, "rectangular"))]
    ):
        material = materials[index]
        assert material.periodic == 2
        assert material.numbers.tolist() == atoms.numbers.tolist()
        assert material.class_names == ("atom",) and not material.classes.any()
        assert material.identifier == LAYERS[index]
        distance = atoms.get_distance(0, 1)
        apart = np.linalg.norm(material.positions[0] - material.positions[1])
        wrapped = atoms.get_distance(0, 1, mic=True)
        assert min(abs(apart - distance), abs(apart - wrapped)) < 2e-6 or len(atoms) == 3
        assert material.height == pytest.approx(np.ptp(atoms.positions[:, 2]), abs=2e-6)
        assert bravais_class(material) == symmetry[1]
        assert symmetry[0] in (None, space_group(material)[0])
    mos2 = materials[1]
    assert mos2.positions[:, 2] == pytest.approx([1.586, 3.172, 0.0], abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("filter", "wanted"),
    [
        ("natoms<=2", ["graphene", "tin"]),
        ("natoms>2", ["mos2"]),
        ("Mo", ["mos2"]),
        ("S=2", ["mos2"]),
        ("Mo=0", ["graphene", "tin"]),
        ("C,natoms<5", ["graphene"]),
        ("gap<1", ["graphene", "tin"]),
        ("0.05<gap<1", ["tin"]),
        ("gap", ["graphene", "mos2", "tin"]),
        ("formula=MoS2", ["mos2"]),
    ],
)
def test_filter_selects(tmp_path: Path, kind: str, filter: str, wanted: list[str]) -> None:
    path = write_any(kind, tmp_path, *LAYERS)
    assert list(read_materials(path, filter).identifiers) == wanted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("filter", "reason"),
    [
        ("natoms<0", "'natoms<0' selects none of the materials"),
        ("gapp<1", "asks for 'gapp', which no row of .* has; did you mean 'gap'"),
        ("hull", "asks for 'hull', which no row"),
        ("natoms<=x", "is no ASE selection"),
        ("natoms<=", "is no ASE selection"),
        ("gap<1<2<3", "is no ASE selection"),
        ("gap=1=2", "is no ASE selection"),
        ("1gap>2", "'1gap' is no key"),
        ("gap or 1=1", "is no ASE selection"),
        ("'; DROP TABLE systems; --", "is no ASE selection"),
    ],
)
def test_bad_filter_is_refused(tmp_path: Path, kind: str, filter: str, reason: str) -> None:
    path = write_any(kind, tmp_path, *LAYERS)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_materials(path, filter)
    assert "structure.material.filter" in str(caught.value)
    assert len(read_materials(path)) == 3


@pytest.mark.parametrize("kind", ["db", "json"])
def test_rows_that_cannot_be_imaged_fail_when_taken(tmp_path: Path, kind: str) -> None:
    materials = read_materials(write_ase(tmp_path / f"rows.{kind}"))
    names = materials.identifiers
    assert names == tuple(ROWS)
    faults = {
        "empty": "material empty of rows.* holds no atoms",
        "molecule": r"material molecule \(CO\) of rows.* is not periodic in two dimensions",
        "crushed": r"material crushed \(C\) of rows.* has atoms closer than 0.5 A",
    }
    for name in names:
        if name in faults:
            with pytest.raises(SampleError, match=faults[name]):
                materials[names.index(name)]
        else:
            assert materials[names.index(name)].periodic == (3 if name == "salt" else 2)
    salt = materials[names.index("salt")]
    np.testing.assert_allclose(salt.cell, 2.8 * np.eye(3), atol=1e-9)
    assert space_group(salt) == (221, "Pm-3m")


def test_entries_with_partial_data_fail_when_taken(tmp_path: Path) -> None:
    broken = {
        "no_atoms": {},
        "no_cell": {"coords": [[0, 0, 0]], "elements": ["C"], "cartesian": True},
        "no_coords": {"lattice_mat": TIN.cell.tolist(), "elements": ["C"]},
        "too_few": {"lattice_mat": TIN.cell.tolist(), "coords": [[0, 0, 0]], "elements": ["C"] * 2},
        "ghost": {"lattice_mat": TIN.cell.tolist(), "coords": [[0, 0, 0]], "elements": ["Qq"]},
        "nan": {
            "lattice_mat": TIN.cell.tolist(),
            "coords": [[0, 0, float("nan")]],
            "elements": ["C"],
        },
        "heavy": {"lattice_mat": TIN.cell.tolist(), "coords": [[0, 0, 0]], "elements": ["Og"]},
        "words": {"lattice_mat": "none", "coords": "none", "elements": "C"},
    }
    extra = (*({"jid": key, "atoms": atoms} for key, atoms in broken.items()), 7, {"jid": "bare"})
    materials = read_materials(write_list(tmp_path / "list.json", "tin", extra=extra))
    reasons = {
        "no_atoms": "holds no atoms",
        "no_cell": "is not periodic in two dimensions",
        "no_coords": "no readable positions of its 1 atoms",
        "too_few": "no readable positions of its 2 atoms",
        "ghost": "atoms of unknown element",
        "nan": "no readable positions",
        "heavy": "number 118, beyond the 103",
        "words": "holds no atoms",
        "10": "holds no atoms",
        "bare": "holds no atoms",
    }
    assert materials.identifiers == ("tin", *reasons)
    assert materials[0].numbers.tolist() == [50, 50]
    for index, (name, reason) in enumerate(reasons.items(), start=1):
        with pytest.raises(SampleError, match=reason) as caught:
            materials[index]
        assert f"material {name}" in str(caught.value)
        assert "list.json" in str(caught.value)
    # And so they do in what a campaign keeps of them.
    kept = tmp_path / "kept" / "list.json"
    kept.parent.mkdir()
    kept.write_text(extract_materials(tmp_path / "list.json"))
    assert_same(read_materials(kept), materials)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.db", None, "missing.db cannot be read: No such file"),
        ("text.db", b"these are no materials\n", "text.db is no database of materials"),
        ("empty.db", b"", "empty.db is no database of materials"),
        ("random.db", bytes(range(128, 256)) * 8, "random.db is no database of materials"),
        ("torn.json", b'[{"jid": "1"', "torn.json cannot be read as JSON"),
        ("other.json", b'{"a": 1}', "other.json cannot be read by ASE"),
        ("none.json", b"[]", "none.json holds no materials"),
        ("torn.db", b"SQLite format 3\0" + bytes(84), "torn.db cannot be read"),
        ("kept.json", b'{"hpctem_materials":1,"rows":[{"id":"1"}]}', "kept.json are damaged"),
    ],
)
def test_what_is_no_database_is_refused(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        read_materials(tmp_path / name)
    with pytest.raises(ConfigError, match=reason):
        extract_materials(tmp_path / name)
    with pytest.raises(ConfigError, match=reason):
        check_material(stem.Structure(material=stem.Material(database=str(tmp_path / name))))


def test_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_materials(tmp_path)


def test_foreign_sqlite_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "foreign.db"
    with sqlite3.connect(path) as tables:
        tables.execute("CREATE TABLE songs (name TEXT)")
    tables.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"foreign\.db is no ASE database"):
        read_materials(path)
    assert path.read_bytes() == before


def test_reading_leaves_no_trace(tmp_path: Path) -> None:
    path = write_ase(tmp_path / "rows.db")
    before = path.read_bytes()
    tmp_path.chmod(0o500)
    try:
        read_materials(path, "natoms<4")
    finally:
        tmp_path.chmod(0o700)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["rows.db"]


def assert_same(first: Materials, second: Materials) -> None:
    assert first.identifiers == second.identifiers
    assert first.names == second.names
    assert dict(first.faults) == dict(second.faults)
    for name in ("cells", "starts", "positions", "numbers", "periodic"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("kind", KINDS)
def test_extraction_gives_the_very_same_materials(tmp_path: Path, kind: str) -> None:
    names = LAYERS if kind == "list" else ()
    path = write_any(kind, tmp_path, *names)
    text = extract_materials(path, "gap<5")
    kept = tmp_path / "kept" / path.name
    kept.parent.mkdir()
    kept.write_text(text, encoding="utf-8")
    assert_same(read_materials(kept, "gap<5"), read_materials(path, "gap<5"))
    assert extract_materials(kept, "gap<5") == text
    content = json.loads(text)
    assert content["hpctem_materials"] == 1
    assert set(content["rows"][0]) == {"id", "formula", "cell", "numbers", "positions"}


def test_extraction_does_not_depend_on_how_rows_are_kept(tmp_path: Path) -> None:
    texts = {
        extract_materials(write_ase(tmp_path / name, *LAYERS), "natoms<3")
        for name in ("first.db", "second.db", "third.json")
    }
    assert len(texts) == 1
    other = extract_materials(write_ase(tmp_path / "fourth.db", *LAYERS), "natoms<4")
    assert other not in texts
    assert "orbitals" not in other and "gap" not in other


def test_database_is_read_once(tmp_path: Path) -> None:
    """What a campaign images does not change while it runs, whatever happens to the file."""
    path = write_ase(tmp_path / "rows.db", "graphene")
    first = read_materials(path)
    connect(path).write(MOS2, uid="mos2")
    assert read_materials(str(path)) is first
    path.unlink()
    assert read_materials(path) is first


def test_values_of_a_list_that_are_no_numbers_meet_no_comparison(tmp_path: Path) -> None:
    other = entry("mos2") | {"hse_gap": 2.1}
    path = write_list(tmp_path / "list.json", "graphene", "tin", extra=(other,))
    assert read_materials(path, "hse_gap>1").identifiers == ("mos2",)
    assert read_materials(path, "hse_gap=na").identifiers == ("graphene", "tin")


def test_each_pass_takes_every_material_once(tmp_path: Path) -> None:
    database = connect(tmp_path / "many.db")
    with database:
        for number in range(41):
            atoms = GRAPHENE.copy()
            atoms.set_cell(atoms.cell * [1 + number / 100, 1 + number / 100, 1], scale_atoms=True)
            database.write(atoms, uid=f"carbon{number}")
    materials = read_materials(tmp_path / "many.db")
    streams = Streams(7)
    taken = [choose_material(materials, streams, index) for index in range(3 * 41)]
    for turn in range(3):
        assert sorted(taken[turn * 41 : (turn + 1) * 41]) == list(range(41))
    assert taken[:41] != taken[41:82] != list(range(41))
    assert Counter(taken) == {number: 3 for number in range(41)}
    # In any order, from anywhere: a pure function of seed and index.
    assert [choose_material(materials, Streams(7), i) for i in reversed(range(123))] == taken[::-1]
    assert [choose_material(materials, Streams(8), i) for i in range(41)] != taken[:41]
    config = stem.Structure(material=stem.Material(database=str(tmp_path / "many.db")))
    for index in (0, 40, 41, 122):
        # Of one material there is one crystal, whichever structure takes it.
        crystal = take_crystal(config, streams, index)
        assert crystal.material.identifier == f"carbon{taken[index]}"
        again = taken.index(taken[index], index + 1) if index < 82 else taken.index(taken[index])
        assert take_crystal(config, streams, again) is crystal


def test_bulk_row_where_a_layer_is_needed_fails_by_name(tmp_path: Path) -> None:
    path = write_ase(tmp_path / "rows.db", "salt", "tin")
    layers = stem.Structure(material=stem.Material(database=str(path)))
    films = stem.Structure(material=stem.Material(database=str(path)), thickness="5 nm")
    check_material(layers)
    check_material(films)
    by_name = {
        read_materials(path).identifiers[choose_material(read_materials(path), Streams(1), i)]: i
        for i in (0, 1)
    }
    assert take_crystal(layers, Streams(1), by_name["tin"]).material.name == "Sn"
    assert take_crystal(films, Streams(1), by_name["salt"]).material.name == "NaCl"
    with pytest.raises(SampleError, match=r"material salt \(NaCl\) of rows.db is a bulk crystal"):
        take_crystal(layers, Streams(1), by_name["salt"])
    with pytest.raises(SampleError, match=r"material tin \(Sn\) of rows.db is two-dimensional"):
        take_crystal(films, Streams(1), by_name["tin"])


def test_database_without_a_fitting_material_is_refused(tmp_path: Path) -> None:
    bulk = stem.Material(database=str(write_ase(tmp_path / "bulk.db", "salt", "empty")))
    flat = stem.Material(database=str(write_ase(tmp_path / "flat.db", "tin", "empty")))
    with pytest.raises(ConfigError, match=r"none of the 2 .* of bulk.db is a two-dimensional"):
        check_material(stem.Structure(material=bulk))
    with pytest.raises(ConfigError, match=r"none of the 2 .* of flat.db is a bulk crystal"):
        check_material(stem.Structure(material=flat, thickness="5 nm"))
    with pytest.raises(ConfigError, match="a database of materials"):
        load_material(bulk)
    assert class_names(bulk) == ("atom",)
    assert list_materials(bulk) is read_materials(bulk.database)
    assert list_materials(stem.Material(prototype="graphene")) is None
