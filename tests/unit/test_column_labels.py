"""Columns, their maps and tables agree with direct sums at the scan's own positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from hpctem.column_labels.columns import (
    COLUMN_COLUMNS,
    Columns,
    count_shown,
    find_columns,
    place_defects,
    tabulate_columns,
)
from hpctem.column_labels.maps import (
    map_columns,
    map_defect_disks,
    map_defect_gaussians,
    map_defect_images,
    map_distances,
    prepare_table,
)
from hpctem.detection.scan import ScanPath, ScanSettings, draw_path, scan_positions
from hpctem.errors import ConfigError, SampleError

WSE2 = 3.28  # A
SETTINGS = {
    "perfect": ScanSettings(),
    "distorted": ScanSettings(
        frames=4,
        dwell_time=2.0,
        jitter=0.5,
        flagging=0.6,
        flagging_lines=8.0,
        frame_shift=0.3,
        shear=0.1,
        contraction=-0.15,
        rotation=2.3,
        drift_x=30.0,
        drift_y=-60.0,
        flyback_amplitude=3.0,
        flyback_time=30.0,
    ),
    # The beam passes the first places of each line twice.
    "flyback": ScanSettings(dwell_time=1.0, rotation=-0.4, flyback_amplitude=6.0, flyback_time=8.0),
    "flyback_behind": ScanSettings(dwell_time=1.0, flyback_amplitude=-6.0, flyback_time=8.0),
}


def lead_scan(name: str, shape: tuple[int, int] = (72, 60), pixel: float = 0.25) -> ScanPath:
    generators = (np.random.default_rng(seed) for seed in (1, 2, 3))
    return draw_path(shape, pixel, (20.0, 20.0), SETTINGS[name], *generators)


def mean_positions(path: ScanPath) -> np.ndarray:
    return np.mean([scan_positions(path, frame) for frame in range(path.frames)], axis=0)


def make_columns(points: np.ndarray, classes: np.ndarray) -> Columns:
    """Columns of one atom each."""
    x, y = np.ascontiguousarray(points.T)
    ones = np.ones(len(x), np.int32)
    carbon = 6 * ones.astype(np.uint8)
    return Columns(x, y, ones, 6 * ones, classes.astype(np.uint8), np.arange(len(x)), carbon)


def scatter(count: int, seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).uniform(5, 35, (count, 2))


def make_layer(side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sheet of 1H WSe2: positions, numbers, tags (1 metal, 2 chalcogen)."""
    n = np.arange(-int(2 * side / WSE2), int(2 * side / WSE2))
    i, j = (a.ravel() for a in np.meshgrid(n, n))
    nodes = np.stack([WSE2 * (i + j / 2), WSE2 * math.sqrt(3) / 2 * j], axis=1)
    positions, numbers, tags = [], [], []
    basis = ((0, 0, 74, 1), (1, -1.68, 34, 2), (1, 1.68, 34, 2))
    for third, z, number, tag in basis:
        points = nodes + third * np.array([WSE2 / 2, WSE2 / math.sqrt(12)])
        points = points[((points >= 0) & (points < side)).all(axis=1)]
        positions.append(np.column_stack([points, np.full(len(points), z)]))
        numbers.append(np.full(len(points), number))
        tags.append(np.full(len(points), tag))
    return (
        np.concatenate(positions),
        np.concatenate(numbers).astype(np.uint8),
        np.concatenate(tags).astype(np.uint8),
    )


def test_columns_of_a_layer_are_its_sites() -> None:
    positions, numbers, tags = make_layer(40.0)
    generator = np.random.default_rng(5)
    moved = positions + generator.normal(0, 0.02, positions.shape)
    order = generator.permutation(len(moved))
    columns = find_columns(moved[order], numbers[order], tags[order])
    metal = columns.site_class == 1
    assert metal.sum() == (numbers == 74).sum()
    assert (~metal).sum() == (numbers == 34).sum() / 2
    assert set(columns.elements[metal]) == {b"W"} and set(columns.elements[~metal]) == {b"Se Se"}
    assert (columns.z_sum == np.where(metal, 74, 68)).all()
    assert (columns.count == np.where(metal, 1, 2)).all()
    chosen = numbers == 34
    pairs = cKDTree(positions[chosen, :2]).query(
        np.stack([columns.x, columns.y], axis=1)[~metal], k=2
    )[1]
    means = moved[chosen][pairs].mean(axis=1)[:, :2]
    np.testing.assert_allclose(columns.x[~metal], means[:, 0], atol=1e-12)
    np.testing.assert_allclose(columns.y[~metal], means[:, 1], atol=1e-12)


def test_a_vacancy_leaves_one_atom_and_a_double_one_no_column() -> None:
    positions, numbers, tags = make_layer(30.0)
    pair = np.flatnonzero(np.hypot(*(positions - [15, 15, 0])[:, :2].T) < 4.0)
    pair = pair[numbers[pair] == 34][[0, -1]]
    below = np.flatnonzero((numbers == 34) & (positions[:, 2] < 0))[7]
    above = np.flatnonzero((positions == positions[below] * [1, 1, -1]).all(axis=1))[0]
    other = np.flatnonzero((numbers == 34) & (positions[:, 2] > 0))[20]
    kept = np.setdiff1d(np.arange(len(positions)), [below, above, other])
    columns = find_columns(positions[kept], numbers[kept], tags[kept])
    whole = find_columns(positions, numbers, tags)
    assert len(columns.x) == len(whole.x) - 1
    single = columns.elements == b"Se"
    assert single.sum() == 1 and columns.z_sum[single] == 34
    assert math.hypot(columns.x[single][0] - positions[other, 0], 0) < 1e-12


def test_columns_are_the_connected_groups_of_overlapping_atoms() -> None:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    generator = np.random.default_rng(6)
    # Pairs and triples at random distances about the tolerance, on both sides of zero.
    seeds = np.stack(np.meshgrid(np.arange(-40, 40, 4.0), np.arange(-40, 40, 4.0)), -1)
    points = (seeds.reshape(-1, 1, 2) + generator.uniform(-0.3, 0.3, (400, 3, 2))).reshape(-1, 2)
    generator.shuffle(points)
    pairs = cKDTree(points).query_pairs(0.4, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(points),) * 2)
    groups, group = connected_components(graph, directed=False)
    positions = np.column_stack([points, np.zeros(len(points))])
    numbers = np.full(len(points), 6, np.uint8)
    columns = find_columns(positions, numbers, np.ones(len(points), np.uint8))
    assert len(columns.x) == groups
    size = np.bincount(group)
    expected = np.stack([np.bincount(group, values) / size for values in points.T], axis=1)
    distance, match = cKDTree(expected).query(np.stack([columns.x, columns.y], axis=1))
    assert distance.max() < 1e-9 and len(np.unique(match)) == groups
    assert (columns.count == size[match]).all()


def test_a_thick_column_of_displaced_atoms_is_one() -> None:
    generator = np.random.default_rng(7)
    sites = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2) * 2.8
    positions = np.concatenate(
        [np.column_stack([sites, np.full(len(sites), 1.95 * k)]) for k in range(100)]
    )
    positions[:, :2] += generator.normal(0, 0.1, (len(positions), 2))
    numbers = np.tile(np.repeat([22, 8], len(sites)), 50).astype(np.uint8)
    tags = np.where(numbers == 22, 1, 2).astype(np.uint8)
    columns = find_columns(positions, numbers, tags)
    assert len(columns.x) == len(sites)
    assert set(columns.elements) == {b"O50 Ti50"}
    assert (columns.count == 100).all() and (columns.z_sum == 1500).all()
    # as many atoms of each: the heavier ones name it
    assert (columns.site_class == 1).all()


def test_a_tilted_column_is_cut_along_its_streak() -> None:
    z = np.arange(0, 60, 2.0)
    positions = np.column_stack([10 + 0.1 * z, np.full(30, 5.0), z])
    generator = np.random.default_rng(8)
    columns = find_columns(
        positions[generator.permutation(30)], np.full(30, 79, np.uint8), np.ones(30, np.uint8)
    )
    assert columns.count.sum() == 30
    assert 5 <= len(columns.x) <= 8  # 5.8 A in pieces of about 1.2 A
    distance = np.abs(positions[:, 0] - columns.x[:, None]).min(axis=0)
    assert distance.max() <= 0.75
    np.testing.assert_allclose(columns.x @ columns.count / 30, positions[:, 0].mean())


def test_columns_of_a_moire_never_spread() -> None:
    a = 2.46
    n = np.arange(-30, 30)
    i, j = (v.ravel() for v in np.meshgrid(n, n))
    nodes = np.stack([a * (i + j / 2), a * math.sqrt(3) / 2 * j], axis=1)
    layer = np.concatenate([nodes, nodes + np.array([a / 2, a / math.sqrt(12)])])
    layers = []
    for k in range(5):
        cos, sin = math.cos(0.04 * k), math.sin(0.04 * k)
        turned = layer @ np.array([[cos, sin], [-sin, cos]])
        layers.append(np.column_stack([turned, np.full(len(turned), 3.35 * k)]))
    positions = np.concatenate(layers)
    positions = positions[np.abs(positions[:, :2]).max(axis=1) < 25]
    numbers = np.full(len(positions), 6, np.uint8)
    columns = find_columns(positions, numbers, np.ones(len(positions), np.uint8))
    assert columns.count.sum() == len(positions)
    # Chains alone would join up to all five layers over neighbouring sites, 1.42 A away.
    assert columns.count.max() <= 5
    near = cKDTree(np.stack([columns.x, columns.y], axis=1)).query(positions[:, :2])[0]
    assert near.max() <= 0.7
    # Chains are cut from the lowest layer up, however the atoms are numbered.
    order = np.random.default_rng(10).permutation(len(positions))
    shuffled = find_columns(positions[order], numbers, np.ones(len(positions), np.uint8))
    assert len(shuffled.x) == len(columns.x)
    for one, other in ((columns.x, shuffled.x), (columns.y, shuffled.y)):
        np.testing.assert_allclose(np.sort(one), np.sort(other), atol=1e-9)


def test_foreign_atoms_name_a_column_only_where_they_are_alone() -> None:
    positions = np.array([[5.0, 5, 0], [5.1, 5, 2], [9, 9, 0], [9, 9, 1], [9, 9, 2], [13, 13, 0]])
    numbers = np.array([6, 74, 34, 34, 79, 79], np.uint8)
    columns = find_columns(positions, numbers, np.array([1, 0, 2, 2, 0, 0], np.uint8))
    assert columns.site_class.tolist() == [1, 2, 0]
    assert columns.elements.tolist() == [b"C W", b"Au Se Se", b"Au"]
    assert columns.z_sum.tolist() == [80, 147, 79]


def test_no_atoms_make_no_columns() -> None:
    none = find_columns(np.empty((0, 3)), np.empty(0, np.uint8), np.empty(0, np.uint8))
    assert len(none.x) == len(none.elements) == 0
    assert not map_columns(none, lead_scan("distorted")).any()
    assert {len(values) for values in tabulate_columns(none, lead_scan("perfect")).values()} == {0}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pixel_shows_the_class_of_the_nearest_column(name: str) -> None:
    path, points = lead_scan(name), scatter(600)
    classes = np.random.default_rng(9).integers(0, 4, len(points))
    labels = map_columns(make_columns(points, classes), path, radius=0.9)
    known = classes > 0
    places = mean_positions(path).reshape(-1, 2)
    distance, nearest = cKDTree(points[known]).query(places, k=2)
    expected = np.where(distance[:, 0] <= 0.9, classes[known][nearest[:, 0]], 0)
    clear = (np.abs(distance[:, 0] - 0.9) > 1e-6) & (np.diff(distance)[:, 0] > 1e-5)
    assert clear.mean() > 0.999
    assert 0.2 < (expected == 0).mean() < 0.8
    assert (labels.reshape(-1)[clear] == expected[clear]).all()
    assert labels.shape == path.shape and labels.dtype == np.uint8


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("points", [scatter(2000), scatter(1), scatter(40) * [0.3, 1] - [30, 0]])
def test_distances_are_exact_also_far_from_all_atoms(name: str, points: np.ndarray) -> None:
    path = lead_scan(name)
    distance = map_distances(make_columns(points, np.ones(len(points))), path)
    expected = cKDTree(points).query(mean_positions(path).reshape(-1, 2))[0]
    np.testing.assert_allclose(distance.reshape(-1), expected, rtol=2e-7, atol=1e-6)
    assert distance.dtype == np.float32


def test_distances_of_regular_and_coinciding_columns_are_exact() -> None:
    path = lead_scan("perfect", (80, 80))
    grid = np.stack(np.meshgrid(np.arange(10, 30, 2.5), np.arange(10, 30, 2.5)), -1).reshape(-1, 2)
    points = np.concatenate([grid, grid])
    distance = map_distances(make_columns(points, np.ones(len(points))), path)
    expected = cKDTree(grid).query(mean_positions(path).reshape(-1, 2))[0]
    np.testing.assert_allclose(distance.reshape(-1), expected, rtol=2e-7, atol=1e-6)


def rows_of(points: np.ndarray, kinds: list[str]) -> list[dict]:
    return [
        {"defect": k + 1, "kind": kinds[k % len(kinds)], "x": x, "y": y}
        for k, (x, y) in enumerate(points.tolist())
    ]


def points_of(rows: list[dict], kind: str) -> np.ndarray:
    return np.array([(row["x"], row["y"]) for row in rows if row["kind"] == kind])


@pytest.mark.parametrize("name", SETTINGS)
def test_disks_and_gaussians_of_defects(name: str) -> None:
    path, rows = lead_scan(name), rows_of(scatter(60), ["a", "b"])
    places = mean_positions(path).reshape(-1, 2)
    disks = map_defect_disks(rows, ("a", "b", "c"), path, radius=1.2)
    gaussians = map_defect_gaussians(rows, ("a", "b", "c"), path, width=1.1)
    assert list(disks) == list(gaussians) == ["a", "b", "c"]
    assert not disks["c"].any() and not gaussians["c"].any()
    for kind in "ab":
        distance = cKDTree(points_of(rows, kind)).query(places)[0].reshape(path.shape)
        clear = np.abs(distance - 1.2) > 1e-6
        assert (disks[kind] == (distance <= 1.2))[clear].all() and disks[kind].any()
        expected = 255 * np.exp(-(distance**2) / 2 / 1.1**2)
        assert np.abs(gaussians[kind] - expected).max() <= 0.5 + 1e-6


def lopsided(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A probe that no symmetry maps on itself, of width about 0.5 A, with a tail; its peak is 1."""
    centre = np.exp(-(x**2) / 2 / 0.5**2 - (y - 0.4 * x) ** 2 / 2 / 0.6**2)
    return centre + 0.15 * np.exp(-((x - 1.5) ** 2 + (y - 0.9) ** 2) / 2 / 0.7**2)


def tabulate_probe(sampling: float, pixels: int) -> np.ndarray:
    away = (np.arange(pixels) - pixels // 2) * sampling
    return lopsided(away[None, :], away[:, None]).astype(np.float32)


def sum_images(points: np.ndarray, path: ScanPath) -> np.ndarray:
    """Mean over the frames of the sum over the atoms, directly."""
    total = np.zeros(path.shape)
    for frame in range(path.frames):
        away = scan_positions(path, frame)[:, :, None, :] - points
        total += lopsided(away[..., 0], away[..., 1]).sum(axis=-1)
    return total / path.frames


PEAK = lopsided(*np.meshgrid(*2 * [np.linspace(-0.2, 0.2, 401)])).max()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("sampling", "pixels"), [(0.02, 513), (0.1, 128)])
def test_the_image_of_defects_is_cut_at_a_quarter_of_one_defects_peak(
    name: str, sampling: float, pixels: int
) -> None:
    path, rows = lead_scan(name), rows_of(scatter(70), ["a", "b"])
    maps = map_defect_images(
        rows, ("a", "b", "c"), path, tabulate_probe(sampling, pixels), sampling
    )
    assert not maps["c"].any()
    for kind in "ab":
        image = sum_images(points_of(rows, kind), path) / PEAK
        clear = np.abs(image - 0.25) > 1e-3
        assert clear.mean() > 0.98
        assert (maps[kind] == (image > 0.25))[clear].all()
        assert 0.05 < maps[kind].mean() < 0.6


def test_neighbouring_defects_add_up_and_a_crowd_does_not_raise_the_threshold() -> None:
    path = lead_scan("perfect")
    psf = tabulate_probe(0.05, 201)
    middle, beside = np.array([20.0, 20.0]), np.array([22.4, 20.0])
    alone = map_defect_images(rows_of(middle[None], ["a"]), ["a"], path, psf, 0.05)["a"]
    other = map_defect_images(rows_of(beside[None], ["a"]), ["a"], path, psf, 0.05)["a"]
    pair = np.stack([middle, beside])
    both = map_defect_images(rows_of(pair, ["a"]), ["a"], path, psf, 0.05)["a"]
    assert (both >= (alone | other)).all()
    assert both.sum() > alone.sum() + other.sum()
    far = np.stack([middle, *[middle - [6, 0]] * 5])
    crowd = map_defect_images(rows_of(far, ["a"]), ["a"], path, psf, 0.05)["a"]
    columns = slice(28, None)
    assert (crowd[:, columns] == alone[:, columns]).all() and alone[:, columns].any()


@pytest.mark.parametrize("depth", [0.04, 0.004, -0.02])
@pytest.mark.parametrize("count", [40, 150])
@pytest.mark.parametrize("threshold", [0.02, 0.25])
def test_faint_tails_count_where_they_decide(depth: float, count: int, threshold: float) -> None:
    """A core within 1 A and a wide tail, in which many defects raise or lower the background."""
    path, points = lead_scan("distorted"), scatter(count, seed=11)
    away = (np.arange(401) - 200) * 0.04
    square = away[:, None] ** 2 + away**2
    psf = np.exp(-square / 2 / 0.3**2) + depth * np.exp(-square / 2 / 2.0**2)
    image = np.zeros(path.shape)
    for frame in range(path.frames):
        r2 = (np.square(scan_positions(path, frame)[:, :, None, :] - points)).sum(axis=-1)
        image += (np.exp(-r2 / 2 / 0.3**2) + depth * np.exp(-r2 / 2 / 2.0**2)).sum(axis=-1)
    image /= path.frames * psf.max()
    labels = map_defect_images(rows_of(points, ["a"]), ["a"], path, psf, 0.04, threshold)["a"]
    # Each tail is left out where it is below 2e-4: all that is beyond, times the atoms per A^2.
    clear = np.abs(image - threshold) > 1e-3 + 2e-4 * 2 * np.pi * 2.0**2 * count / 30**2
    assert (labels == (image > threshold))[clear].all()
    assert clear.mean() > 0.85


def test_the_scale_of_the_probe_and_the_size_of_its_table_do_not_matter() -> None:
    path, rows = lead_scan("distorted"), rows_of(scatter(30), ["a"])
    one = map_defect_images(rows, ["a"], path, tabulate_probe(0.04, 256), 0.04)["a"]
    two = map_defect_images(rows, ["a"], path, 1e-5 * tabulate_probe(0.04, 411), 0.04)["a"]
    assert (one == two).all() and one.any()


def test_a_probe_wider_than_its_table_is_zero_beyond_it() -> None:
    psf = np.ones((41, 41), np.float32)
    table, sampling, reach = prepare_table(psf, 0.1)
    assert sampling == 0.1 and reach == pytest.approx(2 * math.sqrt(2) + 0.15)
    assert table[len(table) // 2, len(table) // 2] == 1 and table.sum() == 41**2
    rows = rows_of(np.array([[20.0, 20.0]]), ["a"])
    path = lead_scan("perfect")
    labels = map_defect_images(rows, ["a"], path, psf, 0.1)["a"]
    away = np.abs(mean_positions(path) - 20.0).max(axis=-1)
    assert (labels == (away < 2.07)).all()


def test_a_probe_of_few_pixels_stays_as_it_is() -> None:
    path = lead_scan("perfect")
    rows = rows_of(np.array([[20.0, 20.0]]), ["a"])
    psf = np.zeros((3, 3))
    psf[1, 1] = 2.0
    labels = map_defect_images(rows, ["a"], path, psf, 1.0)["a"]
    x, y = np.moveaxis(np.abs(mean_positions(path) - 20.0), -1, 0)
    image = np.clip(1 - x, 0, None) * np.clip(1 - y, 0, None)
    assert (labels == (image > 0.25))[np.abs(image - 0.25) > 1e-6].all() and labels.any()


def test_a_table_is_refined_until_lines_between_its_points_suffice() -> None:
    table, sampling, _ = prepare_table(tabulate_probe(0.12, 101), 0.12)
    assert 0.12 / sampling == pytest.approx(round(0.12 / sampling)) and sampling < 0.05
    n = len(table)
    away = (np.arange(n) - n // 2) * sampling
    between = away[:-1] + sampling / 2
    expected = lopsided(between[None, :], between[:, None]) / PEAK
    linear = (table[1:, 1:] + table[1:, :-1] + table[:-1, 1:] + table[:-1, :-1]) / 4
    assert np.abs(linear - expected).max() < 1e-3


def test_the_peak_of_an_atoms_image_may_lie_between_the_points_of_its_table() -> None:
    away = (np.arange(60) - 30) * 0.2
    psf = np.exp(-((away[None, :] - 0.1) ** 2 + (away[:, None] + 0.1) ** 2) / 2 / 0.5**2)
    assert psf.max() < 0.97
    table, sampling, _ = prepare_table(psf, 0.2)
    middle = len(table) // 2
    assert table.max() == 1
    assert table[middle, middle] == pytest.approx(math.exp(-0.02 / 2 / 0.5**2), abs=1e-3)
    beside = round(0.1 / sampling)
    assert table[middle - beside, middle + beside] == pytest.approx(1, abs=1e-3)


def test_places_in_an_image_and_what_lies_inside() -> None:
    path = lead_scan("perfect", (72, 60), 0.25)
    first = np.array(path.origin)
    pixels = np.array([[0, 0], [-0.5, 71.4], [-0.51, 3], [59.49, 71.49], [59.51, 3], [3, 71.51]])
    rows = place_defects(rows_of(first + 0.25 * pixels, ["a"]), path)
    assert [row["inside"] for row in rows] == [1, 1, 0, 1, 0, 0]
    places = np.array([(row["pixel_x"], row["pixel_y"]) for row in rows])
    np.testing.assert_allclose(places, pixels, atol=1e-9)
    assert [row["defect"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert place_defects([], path) == []


def test_the_table_lists_the_columns_that_the_image_shows() -> None:
    path = lead_scan("distorted")
    positions, numbers, tags = make_layer(40.0)
    columns = find_columns(positions, numbers, tags)
    table = tabulate_columns(columns, path)
    assert list(table) == [column.name for column in COLUMN_COLUMNS]
    assert all(table[column.name].dtype == column.dtype for column in COLUMN_COLUMNS)
    assert 0 < len(table["x"]) < len(columns.x)
    assert (table["pixel_x"] >= -0.5).all() and (table["pixel_x"] < 59.5).all()
    assert (table["pixel_y"] >= -0.5).all() and (table["pixel_y"] < 71.5).all()
    # Every listed column lies at its pixel, as far as neighbouring lines are apart.
    x, y = np.rint(table["pixel_x"]).astype(int), np.rint(table["pixel_y"]).astype(int)
    away = mean_positions(path)[y, x] - np.stack([table["x"], table["y"]], axis=1)
    assert np.median(np.hypot(*away.T)) < 0.25
    # The pixels of the atom map near a column's place bear its class.
    labels = map_columns(columns, path)
    assert (labels[y, x] == table["site_class"]).mean() > 0.9
    assert set(table["elements"]) == {b"W", b"Se Se"}
    assert count_shown(columns, path) == len(table["x"])


def test_what_is_wrong_is_said() -> None:
    path = lead_scan("perfect")
    psf = tabulate_probe(0.05, 101)
    columns = make_columns(scatter(3), np.ones(3))
    with pytest.raises(ConfigError, match="radius of the labels of atom columns is 0 A"):
        map_columns(columns, path, 0.0)
    with pytest.raises(ConfigError, match="radius of the labels of defects is -1 A"):
        map_defect_disks([], ["a"], path, -1.0)
    with pytest.raises(ConfigError, match="radius of the labels of defects is nan A"):
        map_defect_gaussians([], ["a"], path, math.nan)
    with pytest.raises(ConfigError, match="threshold is 1:"):
        map_defect_images([], ["a"], path, psf, 0.05, 1.0)
    with pytest.raises(ConfigError, match="pixel of the probe's image is 0 A"):
        map_defect_images([], ["a"], path, psf, 0.0)
    with pytest.raises(SampleError, match="has no peak"):
        map_defect_images([], ["a"], path, 0 * psf, 0.05)
    with pytest.raises(SampleError, match="holds NaN"):
        map_defect_images([], ["a"], path, np.full((8, 8), np.nan), 0.05)
    with pytest.raises(SampleError, match="no atoms"):
        map_distances(make_columns(np.empty((0, 2)), np.empty(0)), path)
    with pytest.raises(SampleError, match="NaN or infinite"):
        find_columns(np.full((1, 3), np.nan), np.array([6], np.uint8), np.array([1], np.uint8))
    with pytest.raises(ConfigError, match="tolerance of atom columns is 0 A"):
        find_columns(np.zeros((1, 3)), np.array([6], np.uint8), np.array([1], np.uint8), 0.0)
