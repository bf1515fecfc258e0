"""Sheets: every site of the field and none twice, tables that agree, limits, bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

sys.path.append(str(Path(__file__).parent))

from sheet_recipes import (
    ANY_ANGLE,
    GRAPHENE,
    PTSE2,
    STO,
    WSE2,
    every_site,
    recipe,
    sample,
)

from hpctem.errors import ConfigError, SampleError
from hpctem.sampling import Streams
from hpctem.structures.columns import tabulate
from hpctem.structures.filling import prepare_unit
from hpctem.structures.scenes import MARGIN, digest
from hpctem.structures.sheet_crystals import load_crystal
from hpctem.structures.sheets import (
    check_sheet,
    count_atoms,
    count_columns,
    count_defects,
    defect_columns,
    defect_kinds,
    list_elements,
    sample_sheet,
    sheet_columns,
    site_classes,
)

STRAIN = {name: {"uniform": [-0.06, 0.06]} for name in ("xx", "yy", "xy")}
LEAN = {"x": {"uniform": ["-20 deg", "20 deg"]}, "y": {"uniform": ["-20 deg", "20 deg"]}}
FILLED = {
    "graphene": recipe(GRAPHENE, rotation=ANY_ANGLE),
    "strained": recipe(WSE2, rotation=ANY_ANGLE, strain=STRAIN),
    "tilted": recipe(WSE2, rotation=ANY_ANGLE, strain=STRAIN, tilt=LEAN),
    "bilayer": recipe(WSE2, layers={"count": 2}, tilt=LEAN),
    "bernal": recipe(GRAPHENE, layers={"count": 3, "stacking": "AB"}),
    "twisted": recipe(PTSE2, layers={"count": 3, "twist": "7 deg"}, strain=STRAIN, tilt=LEAN),
    "film": recipe(STO, thickness="17 A", rotation=ANY_ANGLE, strain=STRAIN),
    "film 110": recipe(STO, thickness="23 A", zone_axis=[1, 1, 0], tilt=LEAN),
    "film 213": recipe(STO, thickness="12 A", zone_axis=[2, 1, -3], tilt=LEAN, strain=STRAIN),
}


@pytest.mark.parametrize("name", FILLED)
def test_every_site_in_the_field_is_there_once(name: str) -> None:
    """The same set as a brute-force fill of a far larger lattice, up to the border."""
    config, field = FILLED[name], (21.0, 15.0)
    for index in range(3):
        made = sample(config, field, index)
        wanted, numbers = every_site(config, field, made, index)
        # Sites within rounding of the border or of a film's face may fall on either side.
        assert len(made.positions) == len(wanted)
        distance, nearest = cKDTree(wanted).query(made.positions)
        assert distance.max() < 1e-6
        assert len(np.unique(nearest)) == len(wanted)
        np.testing.assert_array_equal(numbers[nearest], made.numbers)


@pytest.mark.parametrize("name", ("graphene", "strained", "tilted", "bilayer", "film"))
def test_the_density_is_that_of_the_cell(name: str) -> None:
    """Sites per area and thickness over a large field, to 1 %."""
    config, field = FILLED[name], (200.0, 180.0)
    made = sample(config, field, 1)
    v = made.values
    area = v["a"] * v["b"] * np.sin(v["gamma"])
    area *= (1 + v["strain_xx"]) * (1 + v["strain_yy"]) - v["strain_xy"] ** 2
    area *= np.cos(np.hypot(v["tilt_x"], v["tilt_y"]))
    atoms = {"graphene": 2, "film": 5 * v["thickness"] / 3.905, "bilayer": 6}.get(name, 3)
    # A film holds whole planes: of SrO one more or fewer than of TiO2.
    tolerance = 0.12 if name == "film" else 0.01
    assert len(made.positions) == pytest.approx(field[0] * field[1] / area * atoms, rel=tolerance)


def test_same_seed_and_index_give_the_same_bytes_in_any_order() -> None:
    config = recipe(
        WSE2, displacement="0.01 A", ripples={"amplitude": "1 A"}, defects=[VACANCY], tilt=LEAN
    )
    forwards = [digest(sample(config, index=i)) for i in (0, 1, 2)]
    backwards = [digest(sample(config, index=i)) for i in (2, 1, 0)]
    assert forwards == backwards[::-1]
    assert len({*forwards, digest(sample(config, seed=6))}) == 4


VACANCY = {"kind": "vacancy", "site": "chalcogen", "rate": 0.05}
ADATOM = {"kind": "adatom", "site": "hollow", "element": "Au", "rate": 0.02}
BUSY: dict[str, Any] = {
    "layers": {"count": {"choice": [1, 2, 3]}, "twist": {"uniform": ["0 deg", "5 deg"]}},
    "displacement": "0.02 A",
    "strain": STRAIN,
    "tilt": LEAN,
    "ripples": {"amplitude": {"uniform": ["0.5 A", "2 A"]}, "wavelength": "80 A"},
    "edge": {"probability": 0.5, "distance": "10 A", "roughness": "1 A"},
    "holes": {"count": {"choice": [0, 2]}, "radius": {"uniform": ["3 A", "6 A"]}},
    "islands": {"count": {"choice": [0, 2]}, "radius": "12 A"},
    "defects": [VACANCY, ADATOM],
}


def test_the_frame_of_a_structure_holds() -> None:
    """Atoms in the field, the lowest at MARGIN, tags of classes, tables of the declared types."""
    config = recipe(WSE2, **BUSY)
    for index in range(12):
        made = sample(config, (55.0, 40.0), index)
        x, y, z = made.positions.T
        assert made.cell[:2] == (55.0, 40.0)
        assert x.min() >= 0 and x.max() < 55.0 and y.min() >= 0 and y.max() < 40.0
        assert z.min() == pytest.approx(MARGIN, abs=1e-9)
        assert made.cell[2] == pytest.approx(z.max() + MARGIN, abs=1e-9)
        assert made.positions.dtype == np.float64
        assert made.numbers.dtype == made.tags.dtype == np.uint8
        for tag, number in ((0, 79), (1, 74), (2, 34)):
            assert set(made.numbers[made.tags == tag].tolist()) <= {number}
        assert made.values["n_atoms"] == len(made.positions) == len(made.tags)
        assert made.values["n_defects"] == len(made.defects)
        assert set(made.values) == {column.name for column in sheet_columns(config)}
        row = tabulate([made.values], sheet_columns(config))
        assert row["material"][0] == b"1H-WSe2" and row["space_group"][0] == 187
        rows = tabulate(made.defects, defect_columns(config))
        np.testing.assert_array_equal(rows["defect"], np.arange(1, len(made.defects) + 1))
    assert site_classes(config) == ("metal", "chalcogen")
    assert defect_kinds(config) == ("chalcogen_vacancy", "Au_hollow_adatom")
    assert list_elements(config) == [34, 74, 79]


def test_what_differs_in_one_setting_agrees_in_the_others() -> None:
    """Two campaigns that differ in displacements or defects have the same lattice and tilt."""
    plain, busy = recipe(rotation=ANY_ANGLE), recipe(rotation=ANY_ANGLE, defects=[VACANCY])
    first, second = sample(plain), sample(busy)
    assert first.values["rotation"] == second.values["rotation"]
    left = cKDTree(first.positions).query(second.positions)[0]
    assert left.max() < 1e-9 and len(second.positions) < len(first.positions)
    displaced = sample(recipe(rotation=ANY_ANGLE, defects=[VACANCY, ADATOM], displacement="0.01 A"))
    vacancies = [row for row in displaced.defects if row["added"] == ""]
    assert len(vacancies) == len(second.defects) > 10
    for one, other in zip(second.defects, vacancies, strict=True):
        assert np.hypot(one["x"] - other["x"], one["y"] - other["y"]) < 0.06


def test_golden_sheet() -> None:
    """Databases hold digests, not atoms: the atoms of a seed must never change."""
    settings = {name: value for name, value in BUSY.items() if name != "ripples"}
    made = sample(recipe(WSE2, **settings), (40.0, 30.0), 7)
    assert digest(made).hex() == "6ce22248d500ed32b69d84679d7d5ede"


def test_holes_and_islands_lie_in_the_view() -> None:
    """Of a field with wide margins only the middle is seen: nothing is cut or added beyond it."""
    field, view = (90.0, 80.0), (30.0, 20.0)
    config = recipe(
        WSE2, holes={"count": 2, "radius": "3 A"}, islands={"count": 1, "radius": "4 A"}
    )
    for index in range(6):
        made = sample_sheet(config, field, Streams(5), index, view)
        whole = sample(recipe(WSE2), field, index).positions
        changed = cKDTree(made.positions).query(whole)[0] > 1e-6
        added = made.positions[made.positions[:, 2] > whole[:, 2].max() + 0.5]
        apart = np.abs(np.concatenate([whole[changed], added])[:, :2] - [45.0, 40.0])
        assert np.all(apart.max(axis=0) < np.array(view) / 2 + 4.0 * 1.6)
        seen = np.all(np.abs(whole[:, :2] - [45.0, 40.0]) <= np.array(view) / 2, axis=1)
        assert 0 < made.values["hole_fraction"] < 1
        assert made.values["hole_fraction"] == pytest.approx(changed[seen].mean(), abs=0.02)
    with pytest.raises(SampleError, match="smaller than the cell"):
        sample_sheet(config, field, Streams(5), 0, (2.0, 20.0))


@pytest.mark.parametrize("sigma", (0.01, 0.1))
def test_displacements_have_the_asked_spread_along_each_axis(sigma: float) -> None:
    field = (120.0, 110.0)
    config = recipe(GRAPHENE, displacement=f"{sigma} A", rotation="0.3 rad")
    rest = sample(recipe(GRAPHENE, rotation="0.3 rad"), field)
    made = sample(config, field)
    distance, nearest = cKDTree(rest.positions[:, :2]).query(made.positions[:, :2])
    paired = distance < 0.7
    moved = (made.positions - rest.positions[nearest])[paired]
    moved -= [0.0, 0.0, moved[:, 2].mean()]
    for k in range(3):
        error = sigma / np.sqrt(2 * paired.sum())
        assert moved[:, k].std() == pytest.approx(sigma, abs=5 * error)
    correlation = np.corrcoef(moved.T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(paired.sum())


def test_a_columns_atoms_are_over_each_other_until_tilted() -> None:
    """Two Se in 1H, 3.34 A apart along the beam; a tilt shifts the upper by 3.34 sin(tilt)."""
    flat = sample(recipe(WSE2))
    leant = sample(recipe(WSE2, tilt={"x": "5 deg"}))
    for made, shift in ((flat, 0.0), (leant, 3.341 * np.sin(np.deg2rad(5.0)))):
        chalcogen = made.positions[made.tags == 2]
        pairs = cKDTree(chalcogen).query_pairs(3.35, output_type="ndarray")
        apart = chalcogen[pairs[:, 1]] - chalcogen[pairs[:, 0]]
        apart *= np.sign(apart[:, 2:])
        apart = apart[np.abs(apart[:, 2]) > 3.2]
        assert len(apart) > 0.45 * len(chalcogen)
        np.testing.assert_allclose(apart[:, 0], shift, atol=1e-9)
        np.testing.assert_allclose(apart[:, 1], 0.0, atol=1e-9)


def test_lattice_offsets_and_rotations_are_uniform() -> None:
    """The first axis points everywhere; the lattice's origin lies anywhere in the cell."""
    config = recipe(GRAPHENE, rotation={"uniform": ["0 deg", "360 deg"]})
    a = 2.461
    phases = []
    for index in range(400):
        made = sample(config, (12.0, 12.0), index)
        turn = made.values["rotation"]
        k = (
            4
            * np.pi
            / (np.sqrt(3) * a)
            * np.array([np.cos(turn + np.pi / 6), np.sin(turn + np.pi / 6)])
        )
        phases.append(np.exp(1j * made.positions[:, :2] @ k).sum())
    phases = np.array(phases)
    assert np.abs(phases).min() > 20  # every one is the same lattice under this vector
    assert abs((phases / np.abs(phases)).mean()) < 5 / np.sqrt(2 * 400)


@pytest.mark.parametrize("material", (WSE2, STO))
def test_counts_bound_what_is_sampled(material: dict[str, Any]) -> None:
    settings = dict(BUSY)
    if material is STO:
        settings = {k: BUSY[k] for k in ("displacement", "strain", "tilt", "holes")}
        settings |= {"thickness": {"uniform": ["10 A", "30 A"]}}
        settings["defects"] = [{"kind": "vacancy", "site": "anion", "rate": 0.05}]
    config, field = recipe(material, **settings), (40.0, 30.0)
    check_sheet(config, field)
    atoms, defects = count_atoms(config, field), count_defects(config, field)
    columns = count_columns(config, field)
    made = [sample(config, field, i) for i in range(30)]
    most = max(len(one.positions) for one in made)
    assert most <= atoms and most <= columns
    assert max(len(one.defects) for one in made) <= defects


def test_counts_are_not_far_above_what_is_sampled() -> None:
    config, field = recipe(WSE2, displacement="0.01 A", defects=[VACANCY]), (234.0, 234.0)
    made = sample(config, field)
    assert len(made.positions) < count_atoms(config, field) < 1.1 * len(made.positions)
    columns = len(made.positions) * 2 / 3
    assert columns < count_columns(config, field) < 1.1 * columns
    assert len(made.defects) < count_defects(config, field) < 1.4 * len(made.defects)


def test_counts_hold_the_layer_of_an_island() -> None:
    """Two layers and an island over all of the field are three layers."""
    islands = {"count": 1, "radius": "300 A", "shape": "hexagon"}
    config = recipe(GRAPHENE, layers={"count": 2}, islands=islands)
    made = [len(sample(config, (60.0, 50.0), index).positions) for index in range(4)]
    assert max(made) == pytest.approx(3 * 2 * 60.0 * 50.0 / 5.2452, rel=0.01)
    assert max(made) <= count_atoms(config, (60.0, 50.0)) < 1.3 * max(made)


def test_a_column_holds_sites_of_one_class_at_one_place() -> None:
    """Of SrTiO3 along [001]: Sr, Ti, the O above Ti, two more O. A cell's border divides none."""
    unit = load_crystal(recipe(STO, thickness="9 A").material, (0, 0, 1)).unit
    assert unit.n_columns == 5
    vectors = np.array([[3.0, 0.0, 0.0], [-1.5, 2.6, 0.0]])
    basis = np.array([[0.01, 0.01, 0.0], [2.99, -0.01, 3.0], [-1.48, 2.6, 6.0], [1.5, 0.0, 1.0]])
    split = prepare_unit(vectors, basis, np.full(4, 6, np.uint8), np.zeros(4, np.uint8))
    np.testing.assert_array_equal(split.columns, [0, 0, 0, 1])
    assert np.ptp(split.basis[:3, :2], axis=0).max() < 0.05
    apart = (split.basis - basis)[:, :2] @ np.linalg.inv(vectors[:, :2])
    np.testing.assert_allclose(apart, np.rint(apart), atol=1e-12)


BAD: dict[str, tuple[dict[str, Any], tuple[float, float], str]] = {
    "unknown site": ({"defects": [{**VACANCY, "site": "chalcogn"}]}, (50, 50), "'chalcogen'"),
    "no such element": ({"defects": [{**VACANCY, "site": "Mo"}]}, (50, 50), "W"),
    "rates": (
        {"defects": [{**VACANCY, "rate": 0.5}, {**VACANCY, "rate": 0.5, "atoms": 2},
                     {**VACANCY, "rate": 0.1, "site": "Se"}]}, (50, 50), "sum to 1.1"),
    "adatom's place": ({"defects": [{**ADATOM, "site": "holow"}]}, (50, 50), "'hollow'"),
    "own element": (
        {"defects": [{"kind": "substitution", "site": "metal", "element": "W", "rate": 0.1}]},
        (50, 50), "hold W already"),
    "antisite": (
        {"defects": [{"kind": "antisite", "site": "metal", "element": "Mo", "rate": 0.1}]},
        (50, 50), "W"),
    "three of two": ({"defects": [{**VACANCY, "atoms": 3}]}, (50, 50), "holds 2 atoms"),
    "field": ({}, (3.0, 50.0), "smaller than the cell"),
    "thickness": ({"thickness": "10 A"}, (50, 50), "two-dimensional"),
    "bulk": ({"material": STO}, (50, 50), "structure.thickness"),
    "islands": (
        {"material": STO, "thickness": "9 A", "islands": {"count": 1, "radius": "9 A"}},
        (50, 50), "islands"),
    "constant": ({"material": {"prototype": "1H", "elements": ["Au", "O"]}}, (50, 50), "a"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_name(name: str) -> None:
    settings, field, word = BAD[name]
    with pytest.raises(ConfigError, match=word):
        check_sheet(recipe(**{"material": WSE2, **settings}), field)


def test_a_database_of_which_nothing_can_be_imaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    entry = {"lattice_mat": [[3, 0, 0], [0, 3, 0], [0, 0, 20]], "elements": ["C", "C"]}
    entry |= {"coords": [[0, 0, 5], [0, 0, 5.1]], "cartesian": True}
    path.write_text(json.dumps([{"jid": "J-1", "atoms": entry}]))
    config = recipe({"database": str(path)})
    with pytest.raises(ConfigError, match="can be imaged"):
        check_sheet(config, (50.0, 50.0))
    with pytest.raises(SampleError, match="J-1"):
        sample(config)


def test_what_one_sample_cannot_be_is_a_sample_error() -> None:
    with pytest.raises(SampleError, match="no atoms"):
        sample(recipe(WSE2, edge={"distance": "-200 A"}))
    with pytest.raises(SampleError, match="smaller than the cell"):
        sample_sheet(recipe(WSE2), (3.0, 3.0), Streams(1), 0)
