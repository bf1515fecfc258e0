"""Edges, holes and islands: what is cut away, and what stays whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import ConvexHull, cKDTree
from scipy.stats import kstest

sys.path.append(str(Path(__file__).parent))

from sheet_recipes import GRAPHENE, WSE2, recipe, sample

from hpctem.sampling import Streams
from hpctem.structures.flakes import (
    beyond_edge,
    draw_edge,
    draw_outline,
    inside_outline,
    inside_polygon,
)

FIELD = (90.0, 70.0)
A = 2.461
DENSITY = 2 / (A**2 * np.sqrt(3) / 2)


def perfect(made: Any) -> np.ndarray:
    return sample(recipe(GRAPHENE, rotation=f"{made.values['rotation']} rad"), FIELD).positions


@pytest.mark.parametrize("direction", (0.0, 1.0, 2.5, -1.2))
def test_a_straight_edge_leaves_vacuum_beyond_and_the_crystal_before(direction: float) -> None:
    edge = {"distance": "7 A", "direction": f"{direction} rad"}
    made = sample(recipe(GRAPHENE, edge=edge, rotation="0.4 rad"), FIELD)
    whole = sample(recipe(GRAPHENE, rotation="0.4 rad"), FIELD).positions
    normal = np.array([np.cos(direction), np.sin(direction)])
    before = (whole[:, :2] - [45.0, 35.0]) @ normal <= 7.0
    np.testing.assert_allclose(made.positions, whole[before], atol=1e-12)
    assert made.values["edge"] == "yes" and made.values["edge_distance"] == 7.0


def test_a_rough_edge_deviates_as_asked_and_smoothly() -> None:
    """Rms of the border over many edges; neighbouring places differ by little."""
    along = np.arange(0.0, 2400.0, 3.0)
    across = np.arange(-12.0, 12.0, 0.1)
    points = np.stack(np.meshgrid(along, across, indexing="ij"), -1).reshape(-1, 2)[:, ::-1]
    deviations = []
    for index in range(6):
        edge = draw_edge(Streams(1)("structure/edge", index), np.zeros(2), 0.0, 0.0, 2.0)
        beyond = beyond_edge(edge, points).reshape(len(along), len(across))
        border = across[0] + 0.1 * (~beyond).sum(axis=1)
        # Of one value across at every place along: vacuum on the one side alone.
        assert np.all(np.diff(beyond.astype(int), axis=1) >= 0)
        deviations.append(border)
    assert np.std(deviations) == pytest.approx(2.0, rel=0.08)
    # Places 3 A apart: 2 rms^2 (1 - <cos 3 k>), the wavelengths log-uniform from 15 to 150 A.
    wavelengths = np.geomspace(15.0, 150.0, 1001)
    expected = np.sqrt(2 * (1 - np.cos(2 * np.pi * 3.0 / wavelengths).mean())) * 2.0
    steps = np.diff(deviations, axis=1)
    assert np.sqrt((steps**2).mean()) == pytest.approx(expected, rel=0.15)


def test_edges_show_in_their_share_of_the_structures() -> None:
    config = recipe(GRAPHENE, edge={"probability": 0.3, "distance": "5 A"})
    shown = [sample(config, (12.0, 12.0), i).values["edge"] == "yes" for i in range(300)]
    assert abs(sum(shown) - 90) < 5 * np.sqrt(300 * 0.3 * 0.7)


def test_holes_are_empty_and_the_rest_is_whole() -> None:
    holes = {"count": 3, "radius": {"uniform": ["4 A", "9 A"]}}
    for index in range(4):
        made = sample(recipe(GRAPHENE, holes=holes, rotation="0.2 rad"), FIELD, index)
        whole = sample(recipe(GRAPHENE, rotation="0.2 rad"), FIELD, index).positions
        gone = cKDTree(made.positions).query(whole)[0] > 1e-9
        assert made.values["holes"] == 3 and 4.0 <= made.values["mean_hole_radius"] <= 9.0
        assert made.values["hole_fraction"] == pytest.approx(gone.mean(), abs=1e-12)
        # The outlines again, from the streams that the recipe names.
        streams = Streams(5)
        radii, places, outlines = (
            streams(f"structure/{name}", index) for name in ("hole_radii", "hole_places", "holes")
        )
        inside = np.zeros(len(whole), dtype=bool)
        for _ in range(3):
            radius = 4.0 + 5.0 * radii.random()
            outline = draw_outline(outlines, places.random(2) * FIELD, radius, 0.15)
            inside |= inside_outline(outline, whole[:, :2])
        np.testing.assert_array_equal(gone, inside)


def test_holes_lie_anywhere_in_the_field() -> None:
    holes = {"count": 1, "radius": "2 A", "roughness": 0.0}
    centres = []
    for index in range(150):
        made = sample(recipe(GRAPHENE, holes=holes), (30.0, 30.0), index)
        whole = sample(recipe(GRAPHENE), (30.0, 30.0), index).positions
        gone = cKDTree(made.positions).query(whole)[0] > 1e-9
        assert 1 <= gone.sum() <= 8  # 12.6 A^2 of 2.6 A^2 an atom; fewer at the border
        centres.append(whole[gone, :2].mean(axis=0) / 30.0)
    for values in np.transpose(centres):
        assert kstest(values, "uniform").pvalue > 1e-4


def test_a_rough_circle_has_the_asked_radius_and_roughness() -> None:
    directions = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    distances = np.arange(0.0, 25.0, 0.1)
    points = np.stack([np.cos(directions), np.sin(directions)], -1)[:, None] * distances[:, None]
    radii = []
    for index in range(300):
        outline = draw_outline(Streams(1)("structure/holes", index), np.zeros(2), 10.0, 0.15)
        inside = inside_outline(outline, points.reshape(-1, 2)).reshape(90, -1)
        radii.append(0.1 * inside.sum(axis=1))
    assert np.mean(radii) == pytest.approx(10.0, rel=0.01)
    assert np.std(radii) == pytest.approx(1.5, rel=0.06)
    assert np.abs(np.diff(radii, axis=1)).max() < 2.5


def test_defects_in_holes_and_beyond_the_edge_vanish() -> None:
    defects = [
        {"kind": "vacancy", "site": "chalcogen", "rate": 0.3},
        {"kind": "adatom", "site": "hollow", "element": "Au", "rate": 0.3},
    ]
    cuts = {"holes": {"count": 3, "radius": "8 A"}, "edge": {"distance": "5 A"}}
    made = sample(recipe(WSE2, defects=defects, **cuts), FIELD)
    whole = sample(recipe(WSE2, defects=defects), FIELD)
    there = {(row["kind"], round(row["x"], 6), round(row["y"], 6)) for row in made.defects}
    before = {(row["kind"], round(row["x"], 6), round(row["y"], 6)) for row in whole.defects}
    assert there < before  # the draws elsewhere are the same
    left = cKDTree(made.positions[made.tags > 0, :2])
    for row in made.defects:
        assert left.query([row["x"], row["y"]])[0] < 3.5
    share = len(made.positions) / len(whole.positions)
    assert len(there) == pytest.approx(len(before) * share, abs=5 * np.sqrt(len(before)))


@pytest.mark.parametrize("shape, sides", (("triangle", 3), ("hexagon", 6)))
def test_islands_are_polygons_along_the_lattice(shape: str, sides: int) -> None:
    """A further layer 3.354 A higher, of the polygon's area, its sides along lattice vectors."""
    islands = {"count": 1, "radius": "25 A", "shape": shape}
    turned = []
    for index in range(6):
        made = sample(recipe(GRAPHENE, islands=islands, rotation="0.3 rad"), (200.0, 200.0), index)
        z = made.positions[:, 2]
        upper = made.positions[z > z.min() + 1.0, :2]
        assert np.ptp(z) == pytest.approx(3.354)
        hull = ConvexHull(upper)
        if upper.min() < 1.5 or upper.max() > 198.5:
            continue
        area = 0.5 * sides * 25.0**2 * np.sin(2 * np.pi / sides)
        # The border takes or leaves half a row of atoms, 2.13 A from the next.
        perimeter = sides * 2 * 25.0 * np.sin(np.pi / sides)
        assert len(upper) == pytest.approx(area * DENSITY, abs=perimeter * 2.13 / 2 * DENSITY)
        corners = upper[hull.vertices]
        edges = np.roll(corners, -1, axis=0) - corners
        lengths = np.linalg.norm(edges, axis=1)
        angle = np.arctan2(edges[:, 1], edges[:, 0])[lengths > 8.0] - 0.3
        off = (angle + np.pi / 6) % (np.pi / 3) - np.pi / 6
        assert np.abs(off).max() < 0.08
        turned.append(np.sign(np.sin(3 * angle).mean()))
    assert len(turned) >= 3


def test_islands_continue_the_stacking() -> None:
    """The layer of an island lies as the second layer of a bilayer does."""
    islands = {"count": 2, "radius": "15 A", "shape": "rough"}
    made = sample(recipe(WSE2, islands=islands), FIELD, 1)
    bilayer = sample(recipe(WSE2, layers={"count": 2}), FIELD, 1)
    assert cKDTree(bilayer.positions).query(made.positions)[0].max() < 1e-9
    single = sample(recipe(WSE2), FIELD, 1)
    assert len(single.positions) < len(made.positions) < len(bilayer.positions)
    assert made.values["islands"] == 2 and made.values["mean_island_radius"] == 15.0


def test_an_island_is_cut_by_the_edge_and_by_holes() -> None:
    settings = {
        "islands": {"count": 3, "radius": "30 A"},
        "edge": {"distance": "0 A", "direction": "0 rad"},
        "holes": {"count": 3, "radius": "8 A"},
    }
    made = sample(recipe(GRAPHENE, **settings), FIELD, 1)
    assert made.positions[:, 0].max() <= 45.0
    upper = made.positions[made.positions[:, 2] > made.positions[:, 2].min() + 1.0]
    lower = made.positions[made.positions[:, 2] < made.positions[:, 2].min() + 1.0]
    assert len(upper) > 20
    inner = upper[np.all((upper[:, :2] > 2) & (upper[:, :2] < [43, 68]), axis=1)]
    assert cKDTree(lower[:, :2]).query(inner[:, :2])[0].max() < 3.0


def test_a_polygon_holds_its_apothem_and_not_its_circumcircle() -> None:
    points = np.array([[4.9, 0.0], [5.1, 0.0], [-9.9, 0.0], [-10.1, 0.0]])
    inside = inside_polygon(np.zeros(2), 10.0, 3, 0.0, points)
    assert inside.tolist() == [True, False, True, False]
