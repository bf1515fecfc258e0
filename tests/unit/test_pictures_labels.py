"""Contact sheets and strips of crystals: outlines and rings by kind, legends, captions."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

sys.path.append(str(Path(__file__).parent))

from defects_scanned import KINDS, SITES, lay_out, make_scans

from hpctem.database.reader import Database, open_database
from hpctem.pictures.marking import choose_marking, list_kinds, mark_classes
from hpctem.pictures.portraits import draw_portraits, read_portrait, save_figure
from hpctem.pictures.sheets import choose_images, draw_database
from hpctem.report import OUTLINES, contact_sheet, outline_style


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scans(tmp_path_factory.mktemp("pictures") / "wse2.hdf5", bad=(3,))


@pytest.fixture
def database(path: Path):
    with open_database(path) as opened:
        yield opened


def share_of(picture: np.ndarray, colour: str, tolerance: float = 0.12) -> float:
    return float((np.abs(picture - to_rgb(colour)).max(axis=-1) < tolerance).mean())


def test_masks_of_all_kinds_become_one(database: Database) -> None:
    fields = database.layout.fields
    assert list_kinds(fields) == KINDS
    marking = choose_marking(fields)
    assert marking.names == KINDS and marking.defects
    assert mark_classes(fields).names == SITES and not mark_classes(fields).defects
    first, second = np.zeros((2, 4, 4), np.uint8)
    first[1:3, 1:3] = 1
    second[2:, 2:] = 1
    mask = marking.merge(dict(zip((f.path for f in marking.fields), (first, second), strict=True)))
    assert mask.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 2, 2], [0, 0, 2, 2]]


def test_a_gaussian_is_outlined_at_its_half() -> None:
    layout = lay_out(2)
    fields = [
        replace(item, attributes={"scale": 1 / 255}) if item.name in KINDS else item
        for item in layout.fields
    ]
    marking = choose_marking(fields)
    values = np.arange(256, dtype=np.uint8)[None]
    maps = {item.path: values if k == 1 else 0 * values for k, item in enumerate(marking.fields)}
    assert np.flatnonzero(marking.merge(maps)[0] == 2).tolist() == list(range(128, 256))


def test_without_maps_of_defects_the_classes_are_outlined_and_without_any_nothing(
    tmp_path: Path,
) -> None:
    assert choose_marking(lay_out(2, ("distance", "atoms")).fields).names == SITES
    assert choose_marking(lay_out(2, ("distance",)).fields) is None
    bare = make_scans(tmp_path / "bare.hdf5", 2, labels=())
    with open_database(bare) as database:
        shown = choose_images(database, 4)
        assert [one.mask for one in shown.images] == [None] * 4 and shown.names == ()
        portrait = read_portrait(database, 0)
        assert portrait.mask is None and portrait.kinds == KINDS
        save_figure(draw_portraits([portrait]), tmp_path / "bare.png")
    assert draw_database(bare, tmp_path / "sheet.png").is_file()


def test_a_sheet_shows_the_kind_and_pixel_size_of_each_image(database: Database) -> None:
    shown = choose_images(database, 15)
    assert shown.names == KINDS and len(shown.images) == 15
    for one, row in zip(shown.images, shown.rows, strict=True):
        values = database.row("images", row)
        assert one.pixel_size == values["pixel_size"]
        assert one.caption["defects"] == sum(values[f"n_{kind}"] for kind in KINDS)
        assert one.caption["material"] == values["material"]
        assert one.caption["electrons"] == "43700 per pixel"
        assert one.caption["pixel"] == f"{100 * values['pixel_size']:.3g} pm"
        for k, kind in enumerate(KINDS, 1):
            stored = database.stored(f"/entry/labels/{kind}", np.array([row]))[0]
            assert ((one.mask == k) <= (stored > 0)).all()


def test_a_sheet_has_the_colours_of_its_kinds_and_the_same_bytes_again(tmp_path: Path) -> None:
    path = make_scans(tmp_path / "few.hdf5", 2, seed=2)  # defects of both kinds
    picture = imread(draw_database(path, tmp_path / "a.png"))[..., :3]
    for colour in OUTLINES[:2]:
        assert share_of(picture, colour) > 3e-4
    assert share_of(picture, OUTLINES[2]) == 0
    assert (tmp_path / "a.png").read_bytes() == draw_database(path, tmp_path / "b.png").read_bytes()


def test_a_legend_of_many_kinds_takes_lines_and_dashes(tmp_path: Path) -> None:
    names = [f"a_long_name_of_kind_{k}" for k in range(9)]
    mask = np.arange(10, dtype=np.uint8).repeat(10)[None].repeat(40, axis=0)
    image = np.random.default_rng(0).random(mask.shape)
    heights = []
    for shown in ((), names[:2], names):
        file = contact_sheet([image], [mask], [{"a": 1}], tmp_path / "x.png", names=shown)
        heights.append(imread(file).shape[0])
    assert heights[0] < heights[1] < heights[2]
    assert outline_style(1)["linestyle"] == "solid" != outline_style(8)["linestyle"]
    assert outline_style(1)["color"] == outline_style(8)["color"]


def test_a_strip_shows_rings_where_the_defects_lie(database: Database, tmp_path: Path) -> None:
    row = int(database.rows("images")[9])
    portrait = read_portrait(database, row)
    each = database.layout.rows_per_structure["defects"]
    structure = row // 3
    rows = np.arange(structure * each, (structure + 1) * each)
    rows = rows[database.used("defects")[rows]]
    images = database.column("/entry/defects/image", rows=rows)
    rows = rows[images == row % 3]
    x = database.column("/entry/defects/pixel_x", rows=rows)
    y = database.column("/entry/defects/pixel_y", rows=rows)
    kinds = database.column("/entry/defects/kind", rows=rows)
    assert portrait.defects == tuple(zip(x, y, kinds.tolist(), strict=True)) and len(x) > 1
    assert portrait.names == SITES and portrait.kinds == KINDS
    assert portrait.lines["material"] == "WSe2" and portrait.lines["convergence"] == "25.0 mrad"
    assert portrait.lines["current"] == "35.0 pA" and portrait.lines["dwell time"] == "20.0 µs"
    figure = draw_portraits([portrait])
    from matplotlib.patches import Circle

    rings = [p for p in figure.axes[0].patches if isinstance(p, Circle) and p.get_zorder() == 4]
    assert len(rings) == len(x)
    panel, left, top = 3.1 / 32, 0.2 + 3.24, 0.5 + 0.1
    for ring, px, py, kind in zip(rings, x, y, kinds, strict=True):
        cx, cy = ring.center
        assert (cx - left) / panel - 0.5 == pytest.approx(px, abs=1e-6)
        assert (cy - top) / panel - 0.5 == pytest.approx(py, abs=1e-6)
        assert to_rgb(ring.get_edgecolor()) == to_rgb(OUTLINES[2 + KINDS.index(kind)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    counts = [f"{kind}: {(kinds == kind).sum()}" for kind in KINDS]
    assert {*SITES, *counts, f"label: atom columns, {len(x)} defects"} <= set(texts)
    save_figure(figure, tmp_path / "strip.png")


def test_images_by_further_detectors_have_panels_of_their_own(
    database: Database, tmp_path: Path
) -> None:
    row = int(database.rows("images")[4])
    portrait = read_portrait(database, row)
    names = ("detector bf, segment 1 of 2", "detector bf, segment 2 of 2", "detector maadf")
    assert tuple(name for name, _ in portrait.others) == names
    stored = database.stored("/entry/detectors/bf", np.array([row]))[0]
    assert np.array_equal(portrait.others[1][1], stored[1])
    figure = draw_portraits([portrait, replace(portrait, others=())])
    assert set(names) <= {text.get_text() for text in figure.axes[0].texts}
    drawn = [item for item in figure.axes[0].images if len(item.get_array()) == len(stored[0])]
    # The first row: image, label and three detectors; the second: image and label.
    assert len(drawn) == 7
    alone = draw_portraits([replace(portrait, others=())])
    assert figure.get_figwidth() - alone.get_figwidth() == pytest.approx(3 * 3.24)
    save_figure(figure, tmp_path / "strips.png")
