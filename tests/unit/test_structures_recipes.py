"""Recipes: what a config and a seed give, and that every value follows its distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import chisquare, kstest, truncnorm

from hpctem.errors import ConfigError, SampleError
from hpctem.sampling import Streams
from hpctem.sections.hrtem import Structure as StructureConfig
from hpctem.structures.columns import (
    PARTICLE_COLUMNS,
    PLANAR_DEFECT_COLUMNS,
    STRUCTURE_COLUMNS,
    tabulate,
)
from hpctem.structures.recipes import (
    check_recipe,
    contact_distance,
    count_rows,
    list_elements,
    sample_structure,
)
from hpctem.structures.scenes import MARGIN, Structure, digest

GOLD = {"lattice": "fcc", "elements": ["Au"], "a": "4.08265 A"}
CDSE = {"lattice": "wurtzite", "elements": ["Cd", "Se"], "a": "4.39 A", "c": "7.17 A"}
BOND = 4.08265 / math.sqrt(2)


def recipe(
    cell: tuple[str, str] = ("6 nm", "6 nm"),
    substrate: dict[str, Any] | bool | None = True,
    **particles: Any,
) -> StructureConfig:
    settings = {
        "crystal": GOLD,
        "radius": {"normal": {"mean": "1.5 nm", "std": "0.4 nm", "min": "1 nm", "max": "2 nm"}},
        "edge_distance": "5 A",
        "planar_defects": {"count": {"uniform": [0, 3]}},
        **particles,
    }
    film = {"thickness": {"uniform": ["1 nm", "2 nm"]}} if substrate is True else substrate
    return StructureConfig.model_validate(
        {"cell": list(cell), "particles": settings, "substrate": film or None}
    )


def sample_many(config: StructureConfig, count: int, seed: int = 3) -> list[Structure]:
    streams = Streams(seed)
    return [sample_structure(config, streams, i) for i in range(count)]


@pytest.fixture(scope="module")
def bare() -> list[Structure]:
    """Many particles without a substrate."""
    return sample_many(recipe(substrate=None), 400)


@pytest.fixture(scope="module")
def supported() -> list[Structure]:
    """A few particles on carbon."""
    return sample_many(recipe(), 12)


def test_same_seed_and_index_give_the_same_bytes_in_any_order() -> None:
    config = recipe()
    forwards = [digest(sample_structure(config, Streams(8), i)) for i in (0, 1, 2)]
    backwards = [digest(sample_structure(config, Streams(8), i)) for i in (2, 1, 0)]
    assert forwards == backwards[::-1]
    assert len({*forwards, digest(sample_structure(config, Streams(9), 0))}) == 4


def test_golden_structure() -> None:
    """Databases hold digests, not atoms: the atoms of a seed must never change."""
    structure = sample_structure(recipe(), Streams(20240611), 5)
    assert digest(structure).hex() == "42bcf576fe0e6212000e031c3c12806f"


def test_one_setting_changed_leaves_the_other_draws() -> None:
    base, other = (
        sample_structure(c, Streams(4), 7)
        for c in (
            recipe(),
            recipe(
                substrate={"thickness": "3 nm", "density": "0.09 /A^3"},
                embedding=0.5,
                planar_defects=None,
            ),
        )
    )
    kept = {"radius", "x", "y", "attempts", "offset_a", "offset_b", "offset_c"} | {
        f"quaternion_{c}" for c in "wxyz"
    }
    for name in kept:
        assert base.particles[0][name] == other.particles[0][name], name
    assert base.values["substrate_thickness"] != other.values["substrate_thickness"]


def test_rows_fill_exactly_the_declared_columns(supported: list[Structure]) -> None:
    for structure in supported:
        for rows, columns in (
            ([structure.values], STRUCTURE_COLUMNS),
            (structure.particles, PARTICLE_COLUMNS),
            (structure.planar_defects, PLANAR_DEFECT_COLUMNS),
        ):
            table = tabulate(rows, columns)
            for row in rows:
                assert set(row) == set(table)
            for column in columns:
                assert table[column.name].dtype == column.dtype
                assert table[column.name].shape == (len(rows),)
                assert column.description
    kinds = [d["kind"] for s in supported for d in s.planar_defects]
    codes = np.concatenate(
        [tabulate(s.planar_defects, PLANAR_DEFECT_COLUMNS)["kind"] for s in supported]
    )
    assert codes.tolist() == [("twin", "stacking_fault").index(kind) for kind in kinds]


def test_derived_values_are_those_of_the_atoms(supported: list[Structure]) -> None:
    for structure in supported:
        values, z = structure.values, structure.positions[:, 2]
        assert values["n_atoms"] == len(z)
        assert values["elements"] == "Au C"
        assert values["n_substrate_atoms"] == (structure.tags == 0).sum()
        assert values["n_particle_atoms"] == (structure.tags == 1).sum()
        whole = round(0.11 * 60 * 60 * values["substrate_thickness"])
        assert values["n_displaced_atoms"] == whole - values["n_substrate_atoms"]
        assert values["height"] == structure.cell[2] == pytest.approx(np.ptp(z) + 2 * MARGIN)
        assert z.min() == MARGIN
        (particle,) = structure.particles
        own = structure.positions[structure.tags == 1]
        assert particle["n_atoms"] == len(own)
        centre = np.array([particle[c] for c in "xyz"])
        reach = np.linalg.norm(own - centre, axis=1).max()
        assert particle["radius"] - 1.5 < reach <= particle["radius"] + 1e-9
        volume = 4 / 3 * math.pi * particle["radius"] ** 3
        assert len(own) == pytest.approx(4 / 4.08265**3 * volume, rel=0.05)


def test_embedding_is_a_fraction_of_the_radius_under_the_surface() -> None:
    for fraction in (0.0, 0.2, 1.0):
        structure = sample_structure(recipe(embedding=fraction), Streams(2), 1)
        (particle,) = structure.particles
        bottom = particle["z"] - particle["radius"]
        assert structure.values["surface_z"] - bottom == pytest.approx(
            fraction * particle["radius"]
        )
        substrate = structure.positions[structure.tags == 0]
        assert substrate[:, 2].max() <= structure.values["surface_z"]
        assert structure.values["surface_z"] - substrate[:, 2].max() < 0.2


def test_no_two_atoms_are_closer_than_a_bond_allows(supported: list[Structure]) -> None:
    config = recipe()
    assert contact_distance(config) == pytest.approx((BOND + 1.4) / 2)
    for structure in supported:
        p, box = structure.positions, [*structure.cell[:2], structure.cell[2] + 50]
        gold, carbon = p[structure.tags == 1], p[structure.tags == 0]
        carbons, golds = cKDTree(carbon, boxsize=box), cKDTree(gold, boxsize=box)
        assert carbons.query(carbon, k=2)[0][:, 1].min() >= 1.4 - 1e-9
        assert golds.query(gold, k=2)[0][:, 1].min() == pytest.approx(BOND, abs=1e-6)
        assert golds.query(carbon)[0].min() >= contact_distance(config) - 1e-9
        # Nor does a gap yawn: some carbon touches the gold.
        assert golds.query(carbon)[0].min() < contact_distance(config) + 0.5
        centre = [structure.particles[0][c] for c in "xyz"]
        assert np.linalg.norm(carbon - centre, axis=1).min() > structure.particles[0]["radius"]


def test_lattice_is_turned_by_the_recorded_quaternion_and_offset() -> None:
    structure = sample_structure(recipe(substrate=None, planar_defects=None), Streams(1), 2)
    (row,) = structure.particles
    w, x, y, z = (row[f"quaternion_{c}"] for c in "wxyz")
    # Conjugate: back into the crystal, by v' = v + 2 u x (u x v + w v).
    u = -np.array([x, y, z])
    v = structure.positions - [row[c] for c in "xyz"]
    back = v + 2 * np.cross(u, np.cross(u, v) + w * v)
    sites = (back / 4.08265 + [row["offset_a"], row["offset_b"], row["offset_c"]]) * 2
    np.testing.assert_allclose(sites, np.round(sites), atol=1e-6)
    assert np.all(np.round(sites).sum(axis=1) % 2 == 0), "face-centred"


def test_radius_place_and_offset_follow_their_distributions(bare: list[Structure]) -> None:
    rows = [s.particles[0] for s in bare]
    radius = np.array([r["radius"] for r in rows])
    assert kstest(radius, truncnorm(-1.25, 1.25, 15.0, 4.0).cdf).pvalue > 1e-3
    for name in "xy":
        u = [(r[name] - r["radius"] - 5) / (60 - 2 * (r["radius"] + 5)) for r in rows]
        assert kstest(u, "uniform").pvalue > 1e-3
    for name in ("offset_a", "offset_b", "offset_c"):
        assert kstest([r[name] for r in rows], "uniform").pvalue > 1e-3
    assert kstest([r["quaternion_w"] ** 2 for r in rows], "beta", args=(0.5, 1.5)).pvalue > 1e-3


def test_defect_counts_and_kinds_follow_their_distributions(bare: list[Structure]) -> None:
    requested = [s.values["planar_defects_requested"] for s in bare]
    assert chisquare(np.bincount(requested, minlength=4)).pvalue > 1e-3
    rows = [d for s in bare for d in s.planar_defects]
    twins = sum(d["kind"] == "twin" for d in rows)
    assert abs(twins - len(rows) / 2) < 4 * math.sqrt(len(rows)) / 2
    normals = {(d["normal_h"], d["normal_k"], d["normal_l"]) for d in rows}
    assert len(normals) == 4
    for structure in bare:
        assert len(structure.planar_defects) == structure.values["planar_defects_placed"]
        # A sphere of 1 nm cuts 8 or 9 planes: three on either side leave room for one defect.
        assert min(structure.values["planar_defects_requested"], 1) <= len(structure.planar_defects)
        planes = [d["plane"] for d in structure.planar_defects]
        assert np.all(np.diff(planes) >= 3)
        for d in structure.planar_defects:
            edge = structure.particles[0]["radius"] - abs(d["offset"])
            # Three planes lie outside; a fault is half a spacing nearer to the first of them.
            spacings = 2.5 if d["kind"] == "stacking_fault" else 3.0
            assert edge >= spacings * 4.08265 / math.sqrt(3) - 1e-9
            normal = [d[f"normal_{c}"] for c in "xyz"]
            assert np.linalg.norm(normal) == pytest.approx(1.0)
    fewer = [s for s in bare if len(s.planar_defects) < s.values["planar_defects_requested"]]
    assert fewer, "small particles do not hold three defects, and it is recorded"


def test_recorded_defect_planes_are_where_the_atoms_say(bare: list[Structure]) -> None:
    """A twin's mirror plane is an atomic plane, a fault lies midway between two."""
    checked = 0
    for structure in bare[:60]:
        (row,) = structure.particles
        relative = structure.positions - [row[c] for c in "xyz"]
        for d in structure.planar_defects:
            heights = relative @ [d[f"normal_{c}"] for c in "xyz"] - d["offset"]
            fraction = heights / (4.08265 / math.sqrt(3)) - (d["kind"] == "stacking_fault") / 2
            np.testing.assert_allclose(fraction, np.round(fraction), atol=1e-5)
            checked += 1
    assert checked > 40


def test_several_particles_keep_gap_and_edges_and_record_what_fits() -> None:
    config = recipe(
        cell=("9 nm", "8 nm"),
        substrate=None,
        count=8,
        radius={"uniform": ["0.8 nm", "1.6 nm"]},
        gap="6 A",
        edge_distance="4 A",
        attempts=20,
    )
    structures = sample_many(config, 15)
    assert count_rows(config) == {"particles": 8, "planar_defects": 24}
    placed = [s.values["particles_placed"] for s in structures]
    assert {s.values["particles_requested"] for s in structures} == {8}
    assert min(placed) >= 2 and min(placed) < 8
    for structure in structures:
        rows = structure.particles
        assert len(rows) == structure.values["particles_placed"]
        assert [r["particle"] for r in rows] == list(range(1, len(rows) + 1))
        assert np.all(np.diff([r["draw"] for r in rows]) > 0)
        assert set(structure.tags) == {r["particle"] for r in rows}
        for i, one in enumerate(rows):
            assert one["attempts"] <= 20
            assert one["radius"] + 4 <= one["x"] <= 90 - 4 - one["radius"]
            assert one["radius"] + 4 <= one["y"] <= 80 - 4 - one["radius"]
            for two in rows[:i]:
                dx = abs(one["x"] - two["x"])
                dy = abs(one["y"] - two["y"])
                apart = math.hypot(min(dx, 90 - dx), min(dy, 80 - dy))
                assert apart >= one["radius"] + two["radius"] + 6 - 1e-9


def test_negatives_and_bare_substrates() -> None:
    none = sample_structure(recipe(count=0), Streams(0), 0)
    assert none.values["particles_placed"] == 0 and none.values["mean_radius"] == 0
    assert set(none.tags) == {0} and none.particles == []
    mixed = sample_many(recipe(count={"choice": [0, 1]}), 12)
    assert {s.values["particles_placed"] for s in mixed} == {0, 1}
    film = StructureConfig.model_validate(
        {"cell": ["3 nm", "3 nm"], "substrate": {"element": "Si", "density": "0.05 /A^3",
         "minimum_bond": "2.2 A", "thickness": "2 nm"}}
    )  # fmt: skip
    check_recipe(film)
    structure = sample_structure(film, Streams(0), 0)
    assert set(structure.numbers) == {14} and len(structure.numbers) == 900
    assert count_rows(film) == {"particles": 0, "planar_defects": 0}
    with pytest.raises(SampleError, match="no atoms"):
        sample_structure(recipe(count=0, substrate=None), Streams(0), 0)


def test_fixed_zone_axis_is_kept_and_its_angle_recorded() -> None:
    config = recipe(
        substrate=None,
        planar_defects=None,
        orientation={"zone_axis": [1, 1, 0], "in_plane": {"uniform": ["0 deg", "90 deg"]}},
    )
    angles = []
    for structure in sample_many(config, 5):
        # Along [110] gold is a stack of planes a / (2 sqrt 2) apart.
        z = structure.positions[:, 2] / (4.08265 / math.sqrt(8))
        z = z - z[0]
        np.testing.assert_allclose(z, np.round(z), atol=1e-6)
        angles.append(structure.particles[0]["in_plane"])
    assert len(set(angles)) == 5 and 0 <= min(angles) and max(angles) <= math.pi / 2


def test_compound_particles_on_carbon() -> None:
    config = recipe(crystal=CDSE, planar_defects=None)
    check_recipe(config)
    assert list_elements(config) == (6, 34, 48)
    structure = sample_structure(config, Streams(6), 0)
    assert set(structure.numbers.tolist()) == {6, 34, 48}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"crystal": CDSE}, "planar defects lie on .111. of an fcc element, not of wurtzite"),
        ({"crystal": {"file": "/nowhere/x.cif"}}, "/nowhere/x.cif does not exist"),
        ({"count": 2, "gap": "1 A"}, "gap 1 A is under the shortest bond"),
        ({"radius": "2.9 nm", "edge_distance": "0 A"}, "meets its own periodic image"),
        ({"substrate": {"thickness": "1 nm", "density": "0.25 /A^3"}}, "beyond reach"),
        ({"substrate": {"thickness": "1 nm", "tile": "/no/tile.xyz"}}, "tile.xyz does not exist"),
    ],
)
def test_what_no_sample_could_mend_is_refused_beforehand(
    settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_recipe(recipe(**settings))
    check_recipe(recipe())
