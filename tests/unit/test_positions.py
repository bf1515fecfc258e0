"""Positions from maps of probabilities: known things are found where they are, to sub-pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hpctem.errors import ConfigError
from hpctem.learning.prediction.positions import (
    RADIUS,
    Found,
    find_positions,
    is_inside,
    radius_in_pixels,
)
from hpctem.sampling import Streams

NY, NX = 90, 140
PIXEL = 0.2  # A


def draw_dots(points: np.ndarray, sigma: float = 2.0, shape=(NY, NX)) -> np.ndarray:
    """The largest of Gaussians of height 1 at points (x, y): (ny, nx)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    dots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in points]
    return np.max([np.zeros(shape), *dots], axis=0)


def stack(*maps: np.ndarray) -> np.ndarray:
    """The maps of the classes with the background's before them: (classes + 1, ny, nx)."""
    return np.stack([1 - np.max(maps, axis=0), *maps]).astype(np.float32)


def nearest(found: Found, points: np.ndarray) -> np.ndarray:
    """Distance in pixels of each point from what was found nearest to it."""
    away = np.hypot(found.x[None] - points[:, :1], found.y[None] - points[:, 1:])
    return away.min(axis=1)


def scatter(count: int, apart: float, index: int = 0) -> np.ndarray:
    """Points (x, y) that are `apart` pixels from each other and 8 from the edges."""
    random = Streams(3)("positions", index)
    points: list[np.ndarray] = []
    while len(points) < count:
        point = random.uniform((8, 8), (NX - 9, NY - 9))
        if all(np.hypot(*(point - other)) >= apart for other in points):
            points.append(point)
    return np.array(points)


@pytest.mark.parametrize("way", ["peaks", "components"])
def test_positions_are_found_to_a_twentieth_of_a_pixel(way) -> None:
    points = scatter(20, 14.0)
    found = find_positions(stack(draw_dots(points)), pixel_size=PIXEL, way=way)
    assert len(found) == len(points)
    # Weighed by the mask or by the probability itself, they are off by up to 0.15 px.
    assert nearest(found, points).max() < 0.05
    assert (found.kind == 1).all() and found.score.min() > 0.9


def test_x_is_the_column_and_y_the_row() -> None:
    probabilities = np.zeros((2, 40, 60), np.float32)
    probabilities[1, 10, 50] = 1.0
    found = find_positions(probabilities, pixel_size=PIXEL)
    assert found.x.tolist() == [50.0] and found.y.tolist() == [10.0]
    assert found.area.tolist() == [1.0] and found.score.tolist() == [1.0]


def test_the_centre_of_mass_weighs_with_what_is_above_the_threshold() -> None:
    probabilities = np.zeros((2, 20, 20), np.float32)
    probabilities[1, 5, 7:9] = 0.6, 0.9
    for way in ("peaks", "components"):
        found = find_positions(probabilities, pixel_size=PIXEL, way=way)
        assert found.x == pytest.approx([(0.1 * 7 + 0.4 * 8) / 0.5], abs=0.005)
        assert found.y.tolist() == [5.0]
        assert found.score == pytest.approx([0.9])


def test_touching_things_are_told_apart_by_peaks_and_are_one_component() -> None:
    points = np.array([[60.3, 40.2], [69.8, 42.6]])  # 9.8 px = 1.96 A apart, one area above 0.1
    maps = stack(draw_dots(points, sigma=3.0))
    arguments = {"pixel_size": PIXEL, "threshold": 0.1}
    assert len(find_positions(maps, way="components", **arguments)) == 1
    found = find_positions(maps, way="peaks", **arguments)
    assert len(found) == 2
    assert nearest(found, points).max() < 0.3


def test_within_the_radius_there_is_one() -> None:
    probabilities = np.zeros((2, 60, 60), np.float32)
    probabilities[1, 29:32, 20:23] = 0.9
    probabilities[1, 30, 26] = 0.8  # a speck 5 px beside it
    assert len(find_positions(probabilities, pixel_size=PIXEL, radius=6 * PIXEL)) == 1
    two = find_positions(probabilities, pixel_size=PIXEL, radius=3 * PIXEL)
    assert np.sort(two.x).round().tolist() == [21, 26]


def test_saturated_plateaus_give_one_position_each() -> None:
    """Trained networks say 1.0 all over a dot: there is no single highest pixel."""
    y, x = np.mgrid[:NY, :NX]
    points = np.array([[30.0, 30.0], [60.5, 44.5], [100.25, 60.75]])
    disks = [np.hypot(x - px, y - py) <= 5 for px, py in points]
    found = find_positions(stack(np.any(disks, axis=0).astype(float)), pixel_size=PIXEL)
    assert len(found) == 3
    assert nearest(found, points).max() < 0.25
    assert np.sort(found.area).tolist() == sorted(float(disk.sum()) for disk in disks)


def test_noise_within_a_thing_makes_no_second_one() -> None:
    """Its pixels are 0.6 to 1 at random: single ones stand out everywhere in it."""
    y, x = np.mgrid[:40, :40]
    disk = np.hypot(x - 20.3, y - 19.6) <= 4.5
    for index in range(20):
        random = Streams(4)("noise", index)
        values = np.where(disk, random.uniform(0.6, 1.0, disk.shape), 0.1)
        found = find_positions(stack(values), radius=5.0 * PIXEL, pixel_size=PIXEL)
        assert len(found) == 1
        # The mean of 64 places spread by 2.3 px, weighed by 0.1 to 0.5, is off by 0.1 px.
        assert np.hypot(found.x - 20.3, found.y - 19.6)[0] < 0.4


def test_whatever_a_map_shows_none_of_a_class_is_within_the_radius_of_another() -> None:
    from scipy.ndimage import gaussian_filter
    from scipy.spatial.distance import pdist

    for index, radius in itertools.product(range(6), (4.0, 7.0)):
        noise = gaussian_filter(Streams(6)("field", index).normal(size=(NY, NX)), 1.5)
        values = 1 / (1 + np.exp(-8 * noise))
        found = find_positions(stack(values), pixel_size=PIXEL, radius=radius * PIXEL)
        assert len(found) > 20
        assert pdist(np.stack([found.x, found.y], axis=1)).min() > radius


def test_classes_are_told_apart_and_share_no_site() -> None:
    one, other = scatter(6, 25.0)[:3], scatter(6, 25.0)[3:]
    first, second = draw_dots(one), draw_dots(other)
    # A site of both: the second class is surer.
    doubtful = draw_dots(other[:1] + 1.0) * 0.7
    found = find_positions(stack(np.maximum(first, doubtful), second), pixel_size=PIXEL)
    assert np.bincount(found.kind).tolist() == [0, 3, 3]
    for kind, points in ((1, one), (2, other)):
        assert nearest(found.take(found.kind == kind), points).max() < 0.2


def test_neighbouring_sites_of_two_classes_both_stay() -> None:
    """Mo and S2 columns of MoS2 are 1.82 A apart, less than the radius of one class."""
    metal, sulphur = np.array([[50.0, 40.0]]), np.array([[50.0 + 1.82 / PIXEL, 40.0]])
    found = find_positions(stack(draw_dots(metal), draw_dots(sulphur)), pixel_size=PIXEL)
    assert 1.82 < RADIUS and sorted(found.kind.tolist()) == [1, 2]


def test_nothing_is_found_below_the_threshold() -> None:
    points = scatter(5, 14.0)
    maps = stack(0.6 * draw_dots(points))
    assert len(find_positions(maps, pixel_size=PIXEL, threshold=0.61)) == 0
    assert len(find_positions(maps, pixel_size=PIXEL, threshold=0.5)) == 5
    assert len(find_positions(np.zeros((1, 8, 8), np.float32))) == 0


@pytest.mark.parametrize("border", [0.0, 5.0, 7.25])
def test_the_border_is_left_out_on_all_four_sides(border) -> None:
    xs, ys = (0, 4, 5, 7, 8), (0, 4, 5, 7, 8)
    for x, y in itertools.product(xs, ys):
        for px, py in ((x, y), (NX - 1 - x, NY - 1 - y), (x, NY - 1 - y), (NX - 1 - x, y)):
            probabilities = np.zeros((2, NY, NX), np.float32)
            probabilities[1, py, px] = 1
            found = find_positions(probabilities, pixel_size=PIXEL, border=border)
            assert len(found) == (min(x, y) >= border - 0.5)
    assert is_inside(np.array([-0.5, -0.51]), np.zeros(2), (NY, NX)).tolist() == [True, False]


def test_small_specks_are_left_out_when_asked() -> None:
    probabilities = np.zeros((2, 60, 60), np.float32)
    probabilities[1, 10, 10:12] = 1
    probabilities[1, 40:43, 40:43] = 1
    for way in ("peaks", "components"):
        assert len(find_positions(probabilities, pixel_size=PIXEL, way=way)) == 2
        left = find_positions(probabilities, pixel_size=PIXEL, way=way, least_area=3)
        assert (left.x.tolist(), left.y.tolist(), left.area.tolist()) == ([41.0], [41.0], [9.0])


def test_the_surest_come_first_and_the_order_is_fixed() -> None:
    points = scatter(8, 14.0)
    heights = np.linspace(0.6, 1.0, 8)
    maps = np.max([h * draw_dots(p[None]) for h, p in zip(heights, points, strict=True)], axis=0)
    found = find_positions(stack(maps), pixel_size=PIXEL)
    assert (np.diff(found.score) <= 0).all()
    again = find_positions(stack(maps), pixel_size=PIXEL)
    assert all(
        np.array_equal(getattr(found, n), getattr(again, n)) for n in ("x", "y", "kind", "score")
    )


def test_an_image_turned_gives_positions_turned() -> None:
    maps = stack(draw_dots(scatter(12, 12.0)))
    found = find_positions(maps, pixel_size=PIXEL)
    turned = find_positions(np.rot90(maps, axes=(1, 2)).copy(), pixel_size=PIXEL)
    # rot90: what was in the last column comes into the first row.
    back = np.stack([NX - 1 - turned.y, turned.x], axis=1)
    assert len(found) == len(turned) == 12
    assert nearest(found, back).max() < 1e-3


def test_without_a_pixel_size_the_radius_is_that_of_the_paper() -> None:
    assert radius_in_pixels(RADIUS, None) == pytest.approx(9.0)
    assert radius_in_pixels(RADIUS, 21 / 1024 * 10) == pytest.approx(9.0, rel=0.01)
    assert radius_in_pixels(1.0, 0.25) == 4.0


def test_shifted_positions_are_those_of_a_larger_image() -> None:
    probabilities = np.zeros((2, 20, 20), np.float32)
    probabilities[1, 3, 7] = 1
    found = find_positions(probabilities).shift(0, 528)
    assert (found.x.tolist(), found.y.tolist()) == ([7.0], [531.0])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"radius": 0.0}, "radius 0.0 A"),
        ({"threshold": 0.0}, "threshold 0.0"),
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"border": -1.0}, "border -1.0"),
        ({"pixel_size": 0.0}, "pixel size 0.0"),
        ({"least_area": 0}, "least area 0"),
        ({"way": "blobs"}, "'blobs'"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(arguments, named) -> None:
    with pytest.raises(ConfigError, match=named):
        find_positions(np.zeros((2, 9, 9), np.float32), **arguments)
