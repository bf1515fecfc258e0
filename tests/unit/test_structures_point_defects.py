"""Point defects: as many as asked, one a column, and what the table says is what the atoms show."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene
from ase.db import connect
from scipy.spatial import cKDTree
from scipy.stats import binom

sys.path.append(str(Path(__file__).parent))

from sheet_recipes import GRAPHENE, PTSE2, STO, WSE2, recipe, sample

from hpctem.structures.point_defects import place_adatoms, plant_defects
from hpctem.structures.scenes import Structure

RATES = {
    "Mo_on_metal": 0.01,
    "metal_vacancy": 0.02,
    "S2_on_chalcogen": 0.02,
    "S_on_chalcogen": 0.03,
    "chalcogen_vacancy": 0.06,
    "chalcogen_vacancy2": 0.02,
    "W_on_Se": 0.01,
    "Au_hollow_adatom": 0.02,
    "Pt_random_adatom": 0.01,
}
DEFECTS: list[dict[str, Any]] = [
    {"kind": "substitution", "site": "metal", "element": "Mo"},
    {"kind": "vacancy", "site": "metal"},
    {"kind": "substitution", "site": "chalcogen", "element": "S", "atoms": 2},
    {"kind": "substitution", "site": "chalcogen", "element": "S"},
    {"kind": "vacancy", "site": "chalcogen"},
    {"kind": "vacancy", "site": "chalcogen", "atoms": 2},
    {"kind": "antisite", "site": "Se", "element": "W"},
    {"kind": "adatom", "site": "hollow", "element": "Au"},
    {"kind": "adatom", "site": "random", "element": "Pt"},
]
FIELD = (150.0, 150.0)


def all_kinds(**settings: Any) -> Any:
    rates = RATES.values()
    defects = [{**defect, "rate": rate} for defect, rate in zip(DEFECTS, rates, strict=True)]
    return recipe(WSE2, defects=defects, **settings)


@pytest.fixture(scope="module")
def made() -> list[Structure]:
    return [sample(all_kinds(displacement="0.01 A"), FIELD, index) for index in range(12)]


def sites_of(made: Structure) -> np.ndarray:
    """All sites (n, 3) of a structure made by `all_kinds`, none of them displaced or vacant."""
    rest = sample(recipe(WSE2, rotation=f"{made.values['rotation']} rad"), FIELD)
    return rest.positions


@pytest.mark.parametrize("kind", RATES)
def test_each_kind_occurs_at_its_rate(kind: str, made: list[Structure]) -> None:
    """Counts over 12 fields lie within five standard deviations of the binomial distribution."""
    cells = FIELD[0] * FIELD[1] / (3.282**2 * np.sqrt(3) / 2)
    counts = [sum(row["kind"] == kind for row in one.defects) for one in made]
    mean, std = cells * RATES[kind], np.sqrt(cells * RATES[kind] * (1 - RATES[kind]))
    assert sum(counts) == pytest.approx(len(made) * mean, abs=5 * std * np.sqrt(len(made)) + 3)
    spread = np.std(counts, ddof=1)
    assert 0.3 * std < spread < 2.0 * std


def test_the_table_is_what_the_atoms_show(made: list[Structure]) -> None:
    """Where a row says an atom is gone there is none, where one has come it is there, and that
    is all that differs from the perfect crystal."""
    for index, one in enumerate(made[:4]):
        perfect = sample(recipe(WSE2, displacement="0.01 A"), FIELD, index)
        there = cKDTree(one.positions)
        numbers = dict(
            zip(("Se", "W", "Mo", "S", "Au", "Pt"), (34, 74, 42, 16, 79, 78), strict=True)
        )
        for row in one.defects:
            place = [row["x"], row["y"], row["z"]]
            added, removed = row["added"].split(), row["removed"].split()
            assert max(len(added), len(removed)) == row["atoms"]
            if row["atoms"] == 2:  # the column's middle: its atoms lie 1.67 A above and below
                assert removed == ["Se", "Se"]
                near = there.query_ball_point(place, 1.8)
                near = [k for k in near if np.hypot(*(one.positions[k] - place)[:2]) < 0.5]
                assert sorted(one.numbers[near]) == [numbers[s] for s in added]
                continue
            distance, k = there.query(place)
            if not added:
                assert distance > 0.5
            else:
                assert distance < 1e-9 and one.numbers[k] == numbers[added[0]]
            if removed:
                assert removed == (["W"] if row["site"] == "metal" else ["Se"])
            else:
                assert one.tags[k] == 0
        changes = sum(row["atoms"] for row in one.defects if row["removed"])
        same = cKDTree(perfect.positions).query(one.positions - [0, 0, shift_z(one, perfect)])
        kept = (same[0] < 1e-6) & (perfect.numbers[same[1]] == one.numbers)
        # Two atoms of a column at the border may lie on either side of it.
        assert abs(len(perfect.positions) - kept.sum() - changes) <= 6


def shift_z(one: Structure, perfect: Structure) -> float:
    """By how much the two frames differ along z: metals lie in one plane."""
    planes = [np.median(s.positions[s.tags == 1, 2]) for s in (one, perfect)]
    tree = cKDTree(perfect.positions[:, :2])
    pairs = tree.query(one.positions[one.tags == 1, :2])
    z = one.positions[one.tags == 1, 2] - perfect.positions[pairs[1], 2]
    return float(np.median(z[np.abs(z - (planes[0] - planes[1])) < 0.1]))


def test_no_column_bears_two_defects(made: list[Structure]) -> None:
    for one in made:
        rows = [row for row in one.defects if row["removed"]]
        places = np.array([[row["x"], row["y"]] for row in rows])
        assert len(cKDTree(places).query_pairs(0.5)) == 0
        adatoms = [row for row in one.defects if not row["removed"]]
        assert len(adatoms) > 0


def test_either_atom_of_a_column_is_taken_as_often(made: list[Structure]) -> None:
    middle = [np.median(one.positions[one.tags == 1, 2]) for one in made]
    above = [
        row["z"] > z
        for one, z in zip(made, middle, strict=True)
        for row in one.defects
        if row["kind"] == "chalcogen_vacancy"
    ]
    low, high = binom.ppf([1e-6, 1 - 1e-6], len(above), 0.5)
    assert low < sum(above) < high


def test_defects_lie_evenly_over_the_field(made: list[Structure]) -> None:
    x, y = np.array([[row["x"], row["y"]] for one in made for row in one.defects]).T
    for values, length in ((x, FIELD[0]), (y, FIELD[1])):
        shares = np.histogram(values, 5, (0, length))[0]
        expected = len(values) / 5
        assert ((shares - expected) ** 2 / expected).sum() < 30.0  # chi square of 4, p = 5e-6
        assert values.min() < 1.5 and values.max() > length - 1.5


def test_rates_are_drawn_and_stored() -> None:
    rate = {"uniform": [0.0, 0.2]}
    config = recipe(WSE2, defects=[{"kind": "vacancy", "site": "chalcogen", "rate": rate}])
    for index in range(5):
        one = sample(config, FIELD, index)
        drawn = one.values["rate_chalcogen_vacancy"]
        cells = FIELD[0] * FIELD[1] / (3.282**2 * np.sqrt(3) / 2)
        std = np.sqrt(cells * drawn * (1 - drawn))
        assert 0 <= drawn <= 0.2 and abs(len(one.defects) - cells * drawn) < 5 * std + 1


def test_exclusive_rates_reach_one() -> None:
    """Half the columns lose one atom and half both: none stays whole."""
    columns = np.repeat(np.arange(5000), 2)
    match = np.ones(10000, dtype=bool)
    generator = np.random.default_rng(2)
    planted = plant_defects(columns, 5000, [match, match], [1, 2], [0.5, 0.5], generator)
    assert len(planted.kinds) == 5000
    taken = np.bincount(columns[planted.sites], minlength=5000)
    np.testing.assert_array_equal(taken, planted.kinds + 1)
    assert 2500 - 5 * 36 < (planted.kinds == 0).sum() < 2500 + 5 * 36


def test_octahedral_chalcogens_are_columns_of_one_atom() -> None:
    config = recipe(PTSE2, defects=[{"kind": "vacancy", "site": "chalcogen", "rate": 0.1}])
    one = sample(config, FIELD)
    columns = 2 * FIELD[0] * FIELD[1] / (3.728**2 * np.sqrt(3) / 2)
    assert len(one.defects) == pytest.approx(columns * 0.1, abs=5 * np.sqrt(columns * 0.09))


def test_janus_columns_lose_the_element_that_is_named() -> None:
    janus = {"prototype": "1H", "elements": ["Mo", "S", "Se"]}
    defects = [{"kind": "vacancy", "site": "S", "rate": 0.1}]
    one = sample(recipe(janus, defects=defects), FIELD)
    assert {row["removed"] for row in one.defects} == {"S"}
    assert {row["site"] for row in one.defects} == {"chalcogen"}
    sulphur, selenium = (one.numbers == 16).sum(), (one.numbers == 34).sum()
    assert abs(selenium - sulphur - len(one.defects)) < 10


def test_a_film_is_one_column_through_its_thickness() -> None:
    """Three of the Ti of a column give way to Nb: one row, three atoms, one place in projection."""
    defects = [{"kind": "substitution", "site": "b_site", "element": "Nb", "atoms": 3, "rate": 0.2}]
    one = sample(recipe(STO, thickness="40 A", defects=defects), FIELD)
    columns = FIELD[0] * FIELD[1] / 3.905**2
    assert len(one.defects) == pytest.approx(columns * 0.2, abs=5 * np.sqrt(columns * 0.16))
    niobium = one.positions[one.numbers == 41]
    near = cKDTree([[row["x"], row["y"]] for row in one.defects]).query(niobium[:, :2])
    assert near[0].max() < 1e-6
    assert set(Counter(near[1].tolist()).values()) == {3}
    assert all(row["added"] == "Nb Nb Nb" for row in one.defects)
    assert len(set(niobium[:, 2].round(3))) >= 10  # anywhere along the beam


@pytest.mark.parametrize(
    "material, site, distance",
    (
        (GRAPHENE, "hollow", 2.461 / np.sqrt(3)),
        (GRAPHENE, "bridge", 2.461 / np.sqrt(3) / 2),
        (GRAPHENE, "top", 0.0),
        (WSE2, "hollow", 3.282 / np.sqrt(3)),
        (WSE2, "bridge", None),
        (WSE2, "top", 0.0),
        (PTSE2, "hollow", 3.728 / np.sqrt(3)),
    ),
)
def test_adatoms_settle_where_they_are_told(
    material: dict[str, Any], site: str, distance: float | None
) -> None:
    """Distance in projection from the nearest atom: of the uppermost planes, for the hollow."""
    defects = [{"kind": "adatom", "site": site, "element": "Au", "rate": 0.1, "height": "2.5 A"}]
    one = sample(recipe(material, defects=defects), (80.0, 80.0))
    adatoms = one.positions[one.tags == 0]
    crystal = one.positions[one.tags > 0]
    highest = crystal[:, 2].max()
    np.testing.assert_allclose(adatoms[:, 2], highest + 2.5, atol=1e-9)
    inner = np.all((adatoms[:, :2] > 5) & (adatoms[:, :2] < 75), axis=1)
    assert inner.sum() > 20
    planes = crystal[crystal[:, 2] > highest - 2.0]
    found = cKDTree(planes[:, :2]).query(adatoms[inner, :2])[0]
    if distance is None:  # between two Se, a / 2 from them; W is nearer
        planes = crystal[crystal[:, 2] > highest - 0.5]
        found, distance = cKDTree(planes[:, :2]).query(adatoms[inner, :2])[0], 3.282 / 2
    np.testing.assert_allclose(found, distance, atol=1e-4)


@pytest.mark.parametrize("a, tilt", ((8.0, 0.0), (2.461, 0.7)))
def test_adatoms_lie_as_densely_at_the_border_as_within(a: float, tilt: float) -> None:
    """One upon every cell, at random places, 10 A high: their density is the lattice's."""
    defects = [
        {"kind": "adatom", "site": "random", "element": element, "rate": 0.5, "height": "10 A"}
        for element in ("Au", "Pt")
    ]
    config = recipe(
        {**GRAPHENE, "a": f"{a} A"}, defects=defects, tilt={"x": f"{tilt} rad", "y": "0 deg"}
    )
    strips, count = np.zeros(4), 0
    for index in range(40):
        one = sample(config, (50.0, 50.0), index)
        x, y = one.positions[one.tags == 0, :2].T
        strips += [(x < 2).sum(), (x > 48).sum(), (y < 2).sum(), (y > 48).sum()]
        count += len(x)
    wanted = 40 * 100.0 / (a**2 * np.sqrt(3) / 2 * np.cos(tilt))
    np.testing.assert_allclose(strips, wanted, atol=4 * np.sqrt(wanted))
    assert strips.sum() == pytest.approx(4 * wanted, abs=8 * np.sqrt(wanted))
    assert count == pytest.approx(25 * wanted, rel=0.03)


def test_only_columns_with_enough_atoms_bear_a_defect() -> None:
    columns = np.array([0, 1, 1, 2, 3, 3, 3])
    match = np.array([1, 1, 1, 1, 1, 0, 1], dtype=bool)
    planted = plant_defects(columns, 4, [match], [2], [1.0], np.random.default_rng(1))
    np.testing.assert_array_equal(planted.sites, [1, 2, 4, 6])
    np.testing.assert_array_equal(planted.defects, [0, 0, 1, 1])


def test_hollows_of_an_oblique_net_are_its_circumcentres() -> None:
    """One atom in a cell of 3 x 4 A at 75 degrees: two triangles, both of the same circumradius."""
    periods = np.array([[3.0, 0.0], [4 * np.cos(np.deg2rad(75)), 4 * np.sin(np.deg2rad(75))]])
    uniform = np.stack([np.linspace(0.01, 0.99, 40), np.zeros(40)], axis=1)
    places = place_adatoms("hollow", np.zeros((1, 3)), periods, uniform)
    side = np.linalg.norm(periods[0] - periods[1])
    radius = 3.0 * 4.0 * side / (4 * 0.5 * 3.0 * 4.0 * np.sin(np.deg2rad(75)))
    net = np.array([i * periods[0] + j * periods[1] for i in range(-3, 4) for j in range(-3, 4)])
    np.testing.assert_allclose(cKDTree(net).query(places)[0], radius, atol=1e-4)
    assert len(np.unique(places.round(3), axis=0)) == 2


def test_adatoms_on_an_island_lie_upon_it() -> None:
    defects = [{"kind": "adatom", "site": "hollow", "element": "Au", "rate": 0.1}]
    config = recipe(
        GRAPHENE, islands={"count": 1, "radius": "30 A", "shape": "hexagon"}, defects=defects
    )
    one = sample(config, (100.0, 100.0), 2)
    adatoms = one.positions[one.tags == 0]
    layers = np.unique(one.positions[one.tags > 0][:, 2].round(6))
    assert len(layers) == 2
    assert set(adatoms[:, 2].round(6)) == set((layers + 1.8).round(6))
    island = one.positions[(one.tags > 0) & (one.positions[:, 2] > layers[1] - 0.1)]
    covered = cKDTree(island[:, :2]).query(adatoms[:, :2])[0] < 1.5
    high = adatoms[:, 2] > layers[1] + 1.0
    assert (covered == high).mean() > 0.95


def test_materials_of_a_database_bear_what_their_elements_allow(tmp_path: Any) -> None:
    """An antisite needs the element in the crystal, a vacancy by symbol the site."""
    path = tmp_path / "materials.json"
    with connect(path) as database:
        database.write(graphene(vacuum=10.0))
        nitride = graphene(formula="BN", a=2.5, vacuum=10.0)
        database.write(nitride)
        database.write(Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.2]]))
    config = recipe(
        {"database": str(path)},
        defects=[
            {"kind": "vacancy", "site": "C", "rate": 0.1},
            {"kind": "antisite", "site": "atom", "element": "N", "rate": 0.1},
        ],
    )
    seen = {}
    for index in range(3):
        try:
            one = sample(config, (40.0, 40.0), index)
        except Exception as error:
            seen["O2"] = type(error).__name__
        else:
            seen[one.values["material"]] = {row["kind"] for row in one.defects}
    assert seen == {"C": {"C_vacancy"}, "BN": {"N_on_atom"}, "O2": "SampleError"}
