"""`hpctem predict` with a residual U-Net whose weights are set by hand: what it finds is known."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hpctem
from hpctem.errors import ConfigError
from hpctem.learning.data.preparation import Prepare
from hpctem.learning.networks.build import build_network
from hpctem.learning.prediction.files import make_mask, parse_written
from hpctem.learning.prediction.inference import Tiling
from hpctem.learning.prediction.predict import (
    Finding,
    Request,
    border_in_pixels,
    format_predicted,
    predict,
)
from hpctem.learning.prediction.sources import Choice, list_sources
from hpctem.learning.training.lesson import Kept
from hpctem.learning.training.model_folder import open_model, save_model
from hpctem.learning.training_file import read_training
from hpctem.parallel import Communicator

PIXEL = 0.2  # A
CONFIG = """
training: {name: spots, kind: KIND, licence: CC0-1.0}
data: {databases: [none.hdf5]}
target: {classes: {bright: [Se_vacancy], dark: [metal_vacancy]}}
network: {name: residual_unet, width: 2, dropout: 0.0}
schedule: {epochs: 1, batch: 1}
"""
SLOPE, BRIGHT, DARK = 30.0, 0.6, 0.1
# What four normalisations with a variance of 1 leave of a value.
LEFT = (1 + 1e-3) ** -2


def make_model(
    folder: Path,
    kind: str = "defects",
    pixel: float = PIXEL,
    prepare: Prepare | None = None,
) -> Path:
    """A model folder. Its network passes each pixel v of 0...1 on to the logits of 'bright',
    30 (v - 0.6), and 'dark', 30 (0.1 - v), beside 0 for the background."""
    folder.parent.mkdir(exist_ok=True, parents=True)
    config = folder.parent / f"{folder.name}.yaml"
    config.write_text(CONFIG.replace("KIND", kind))
    file = read_training(config, kind)
    network = build_network(file.config.network, 2)
    for layer in network.layers:
        if "conv" in type(layer).__name__.lower():
            layer.set_weights([np.zeros_like(weights) for weights in layer.get_weights()])
    for name, channel in (
        ("down0_first", 0),
        ("down0_second", 0),
        ("up0_join_first", 2),  # behind the two that come from below
        ("up0_join_second", 0),
    ):
        layer = network.get_layer(name)
        (kernel,) = layer.get_weights()
        kernel[1, 1, channel, 0] = 1.0
        layer.set_weights([kernel])
    kernel, bias = network.get_layer("logits").get_weights()
    kernel[0, 0, 0] = 0.0, SLOPE / LEFT, -SLOPE / LEFT
    bias[:] = 0.0, -SLOPE * BRIGHT, SLOPE * DARK
    network.get_layer("logits").set_weights([kernel, bias])
    how = prepare or Prepare(False, "image")
    kept = Kept(
        {"network": network}, {"image": how}, ("bright", "dark"),
        (pixel, pixel), (32, 32),
    )  # fmt: skip
    return save_model(folder, file, kept, {"train": "00"}, {})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "spots")


LIGHT = np.array([[30.25, 20.5], [90.75, 25.25], [55.5, 60.0]])
SHADOW = np.array([[20.5, 60.25], [100.25, 65.5]])
SHAPE = (84, 121)


def draw_scene(scale: float = 1.0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """0.35 with Gaussians up to 1 and down to 0, times 5000 and 300 more: (ny, nx) float32.

    scale: pixels for each of 0.2 A
    """
    ny, nx = (round(n * scale) for n in shape)
    y, x = ((np.arange(n) + 0.5) / scale - 0.5 for n in (ny, nx))

    def spots(points: np.ndarray) -> np.ndarray:
        away = [(x - px) ** 2 + (y[:, None] - py) ** 2 for px, py in points]
        return np.max([np.exp(-d / (2 * 3.0**2)) for d in away], axis=0)

    image = 0.35 + 0.65 * spots(LIGHT) - 0.35 * spots(SHADOW)
    return (300 + 5000 * image).astype(np.float32)


def expect_maps(image: np.ndarray) -> np.ndarray:
    """Probabilities in closed form: (3, ny, nx)."""
    v = (image.astype(np.float64) - image.min()) / (image.max() - image.min())
    logits = np.stack([0 * v, SLOPE * (v - BRIGHT), SLOPE * (DARK - v)])
    return np.exp(logits) / np.exp(logits).sum(axis=0)


def run(model: Path, output: Path, *sources: Path | str, **options) -> list:
    request = Request(model, tuple(map(str, sources)), output, **options)
    found = predict(request, Communicator())
    assert found is not None
    return found


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "positions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_points(rows: list[dict[str, str]], kind: str, points: np.ndarray, within: float) -> None:
    """Every point is found once, nothing else."""
    of = np.array([[float(r["pixel_x"]), float(r["pixel_y"])] for r in rows if r["class"] == kind])
    assert len(of) == len(points)
    for point in points:
        assert np.hypot(*(of - point).T).min() < within


def test_all_that_is_written_of_an_image_file_says_what_is_there(model, tmp_path) -> None:
    image = draw_scene()
    np.save(tmp_path / "scene.npy", image)
    choice = Choice(pixel_size=PIXEL)
    found = run(model, tmp_path / "out", tmp_path / "scene.npy", choice=choice)
    folder, rows = tmp_path / "out", read_table(tmp_path / "out")
    check_points(rows, "bright", LIGHT, 0.1)
    check_points(rows, "dark", SHADOW, 0.1)
    for row in rows:
        assert float(row["x"]) == pytest.approx(PIXEL * float(row["pixel_x"]), abs=1e-4)
        assert float(row["y"]) == pytest.approx(PIXEL * float(row["pixel_y"]), abs=1e-4)
        assert 0.5 <= float(row["score"]) <= 1 and row["row"] == ""
        assert row["image"] == str(tmp_path / "scene.npy")

    said = json.loads((folder / "positions.json").read_text())
    assert (said["type"], said["unit"]) == ("FeatureCollection", "angstrom")
    assert said["classes"] == ["bright", "dark"]
    for feature, row in zip(said["features"], rows, strict=True):
        assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Point"
        assert feature["geometry"]["coordinates"] == [float(row["x"]), float(row["y"])]
        properties = feature["properties"]
        assert properties["pixel"] == [float(row["pixel_x"]), float(row["pixel_y"])]
        assert (properties["class"], properties["score"]) == (row["class"], float(row["score"]))

    with np.load(folder / "scene.maps.npz") as maps:
        assert maps["classes"].tolist() == ["background", "bright", "dark"]
        assert maps["probabilities"].dtype == np.float32
        assert np.abs(maps["probabilities"] - expect_maps(image)).max() < 1e-4
        assert maps["pixel_size"].tolist() == [PIXEL, PIXEL] and int(maps["row"]) == -1
    mask = np.asarray(Image.open(folder / "scene.mask.png"))
    assert np.array_equal(mask, expect_maps(image).argmax(axis=0))
    assert sorted(np.unique(mask)) == [0, 1, 2]
    with Image.open(folder / "scene.overlay.png") as picture:
        assert picture.width >= 1000

    summary = json.loads((folder / "prediction.json").read_text())
    assert summary["complete"] is True and summary["model"]["digest"] == open_model(model).digest
    (about,) = summary["images"]
    assert about["found"] == {"bright": 3, "dark": 2} and about["shape"] == list(SHAPE)
    assert about["shares"]["bright"] == pytest.approx((mask == 1).mean())
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["prediction.json", "positions.csv", "positions.json", *about["files"]]
    )
    assert "bright 3" in format_predicted(found, folder)


def test_the_picture_shows_rings_where_things_are(model, tmp_path) -> None:
    """Coloured pixels lie a radius away from what was found, and nowhere else in the image."""
    from matplotlib.colors import to_rgb

    from hpctem.report import OUTLINES

    np.save(tmp_path / "scene.npy", draw_scene())
    choice = Choice(pixel_size=PIXEL)
    run(model, tmp_path / "out", tmp_path / "scene.npy", choice=choice)
    picture = np.asarray(Image.open(tmp_path / "out/scene.overlay.png").convert("RGB")) / 255.0
    # 16 dots a pixel; the image stands in the middle, a margin above the lower edge.
    dots, margin = 2048 // SHAPE[1], round(0.12 * 200)
    top = picture.shape[0] - margin - dots * SHAPE[0]
    left = (picture.shape[1] - dots * SHAPE[1]) // 2
    for colour, points in zip(OUTLINES[:2], (LIGHT, SHADOW), strict=True):
        near = np.abs(picture - np.array(to_rgb(colour))).max(axis=2) < 0.03
        near[:top] = False  # the legend
        rows, columns = np.nonzero(near)
        x, y = (columns + 0.5 - left) / dots - 0.5, (rows + 0.5 - top) / dots - 0.5
        away = np.hypot(x[:, None] - points[:, 0], y[:, None] - points[:, 1])
        assert np.abs(away.min(axis=1) - 1.85 / PIXEL).max() < 0.5
        assert set(away.argmin(axis=1)) == set(range(len(points)))


def test_rows_are_those_of_the_whole_image(model, tmp_path) -> None:
    np.save(tmp_path / "scene.npy", draw_scene())
    choice = Choice(pixel_size=PIXEL, rows=(42, None))
    (one,) = run(model, tmp_path / "out", tmp_path / "scene.npy", choice=choice)
    rows = read_table(tmp_path / "out")
    check_points(rows, "bright", LIGHT[2:], 0.1)
    check_points(rows, "dark", SHADOW, 0.1)
    assert one.shape == (42, SHAPE[1]) and one.first_row == 42
    assert Image.open(tmp_path / "out/scene.mask.png").size == (SHAPE[1], 42)


def test_other_pixels_are_resampled_with_a_note_and_mapped_back(model, tmp_path, capsys) -> None:
    for scale in (0.6, 1.7):
        out, file = tmp_path / f"out{scale}", tmp_path / f"scene{scale}.npy"
        np.save(file, draw_scene(scale))
        run(model, out, file, choice=Choice(pixel_size=PIXEL / scale))
        told = capsys.readouterr().err
        assert f"pixels of {100 * PIXEL / scale:.4g} pm are resampled to 20 pm" in told
        own = [(points + 0.5) * scale - 0.5 for points in (LIGHT, SHADOW)]
        check_points(read_table(out), "bright", own[0], 0.2)
        check_points(read_table(out), "dark", own[1], 0.2)
        assert Image.open(out / f"scene{scale}.mask.png").size == draw_scene(scale).shape[::-1]


def test_images_of_other_units_are_told_and_can_be_scaled_by_themselves(tmp_path, capsys) -> None:
    """A model that scales by the limits of its training's images, as those of Khan et al. 2023."""
    scene = draw_scene()
    mean, deviation = float(scene.mean()), float(scene.std())
    how = Prepare(False, "group", mean - 3.5 * deviation, mean + 3.5 * deviation)
    own = make_model(tmp_path / "group", prepare=how)
    choice = Choice(pixel_size=PIXEL)
    np.save(tmp_path / "same.npy", scene)
    run(own, tmp_path / "same", tmp_path / "same.npy", choice=choice)
    # Their tops are cut off, which moves their centres a little.
    check_points(read_table(tmp_path / "same"), "bright", LIGHT, 0.2)
    assert "--own-scale" not in capsys.readouterr().err
    # As another detector would have recorded it.
    np.save(tmp_path / "other.npy", 40 * scene + 3e6)
    run(own, tmp_path / "lost", tmp_path / "other.npy", choice=choice)
    assert "100% of the pixels lie outside the range" in capsys.readouterr().err
    bright = [row for row in read_table(tmp_path / "lost") if row["class"] == "bright"]
    assert len(bright) < len(LIGHT)  # all pixels are as bright as can be
    run(own, tmp_path / "found", tmp_path / "other.npy", choice=choice, own_scale=True)
    assert "--own-scale" not in capsys.readouterr().err
    check_points(read_table(tmp_path / "found"), "bright", LIGHT, 0.2)
    said = json.loads((tmp_path / "found/prediction.json").read_text())
    assert said["preparation"] == {"own_scale": True}


def test_an_unknown_pixel_size_is_told_and_leaves_angstrom_empty(model, tmp_path, capsys) -> None:
    np.save(tmp_path / "scene.npy", draw_scene())
    run(model, tmp_path / "out", tmp_path / "scene.npy")
    assert "the pixel size of the image is not known" in capsys.readouterr().err
    rows = read_table(tmp_path / "out")
    check_points(rows, "bright", LIGHT, 0.1)
    assert {(row["x"], row["y"], row["area"]) for row in rows} == {("", "", "")}
    said = json.loads((tmp_path / "out/positions.json").read_text())
    assert said["unit"] == "pixel"
    for feature, row in zip(said["features"], rows, strict=True):
        at = [float(row["pixel_x"]), float(row["pixel_y"])]
        assert feature["geometry"]["coordinates"] == at


def test_areas_are_weighed_for_other_kinds_of_models(tmp_path) -> None:
    """Of a segmentation the whole connected area is one thing, however large."""
    model = make_model(tmp_path / "areas", "segmentation")
    image = np.full((64, 96), 100.0, np.float32)
    image[10:30, 20:70] = 300.0  # 50 x 20 px, far wider than the radius of a defect
    image[60, 90] = 0.0
    np.save(tmp_path / "block.npy", image)
    choice = Choice(pixel_size=PIXEL)
    run(model, tmp_path / "out", tmp_path / "block.npy", choice=choice)
    bright, dark = sorted(read_table(tmp_path / "out"), key=lambda row: row["class"])
    assert (float(bright["pixel_x"]), float(bright["pixel_y"])) == (44.5, 19.5)
    assert float(bright["area"]) == pytest.approx(1000 * PIXEL**2)
    assert (float(dark["pixel_x"]), float(dark["pixel_y"])) == (90, 60)


def test_threshold_and_border_are_heeded(model, tmp_path) -> None:
    np.save(tmp_path / "scene.npy", draw_scene())
    choice = Choice(pixel_size=PIXEL)
    finding = Finding(threshold=0.9, border=(4.5, "A"))  # 22.5 px
    run(model, tmp_path / "out", tmp_path / "scene.npy", choice=choice, finding=finding)
    rows = read_table(tmp_path / "out")
    inside = (LIGHT[:, 1] >= 22) & (LIGHT[:, 1] < 61) & (LIGHT[:, 0] >= 22) & (LIGHT[:, 0] < 98)
    check_points(rows, "bright", LIGHT[inside], 0.1)
    assert not any(row["class"] == "dark" for row in rows)
    mask = np.asarray(Image.open(tmp_path / "out/scene.mask.png"))
    assert np.array_equal(mask == 1, expect_maps(draw_scene())[1] >= 0.9)
    with pytest.raises(ConfigError, match=r"border of 4\.5 A needs"):
        border_in_pixels((4.5, "A"), None)


def test_masks_are_argmax_or_threshold() -> None:
    maps = np.array([[0.4, 0.2, 0.1], [0.35, 0.3, 0.9], [0.25, 0.5, 0.0]])[:, None]
    assert make_mask(maps).tolist() == [[0, 2, 1]]
    assert make_mask(maps, 0.3).tolist() == [[1, 2, 1]]
    assert make_mask(maps, 0.5).tolist() == [[0, 2, 1]]  # reached, not passed
    assert make_mask(maps, 0.6).tolist() == [[0, 0, 1]]


def test_what_is_written_can_be_chosen(model, tmp_path) -> None:
    np.save(tmp_path / "scene.npy", draw_scene())
    finding = Finding(least_area=30)
    written = parse_written("maps,masks")
    run(model, tmp_path / "some", tmp_path / "scene.npy", finding=finding, written=written)
    names = {path.name for path in (tmp_path / "some").iterdir()}
    assert {"scene.maps.npz", "scene.mask.png"} < names and len(names) == 5
    # Bright areas above one half have a radius of 3.5 px, dark ones of 2.5.
    assert {row["class"] for row in read_table(tmp_path / "some")} == {"bright"}
    assert parse_written("none") == () and parse_written(None) is None
    with pytest.raises(ConfigError, match="perhaps masks is meant"):
        parse_written("mask")


def test_rows_of_a_database_are_predicted_with_their_own_pixel_size(
    small_database, tmp_path, capsys
) -> None:
    with hpctem.open(small_database) as collection:
        model = make_model(tmp_path / "model", pixel=float(collection.column("pixel_size")[0]))
    choice = Choice(where="structure_id < 2")
    tiling = Tiling(symmetries=False)
    found = run(model, tmp_path / "out", small_database, choice=choice, tiling=tiling)
    with hpctem.open(small_database).where("structure_id < 2") as collection:
        assert [one.row for one in found] == collection.rows.tolist() and len(found) == 8
        size = collection.column("pixel_size")[0]
        assert {one.pixel_size for one in found} == {(size, size)}
        masks = sorted((tmp_path / "out").glob("*.mask.png"))
        assert [path.name for path in masks] == [f"particles-{k}.mask.png" for k in range(8)]
        for path, image in zip(masks, collection.images[:], strict=True):
            expected = expect_maps(image.astype(np.float32))
            sure = np.abs(np.sort(expected, axis=0)[-1] - np.sort(expected, axis=0)[-2]) > 1e-3
            assert np.array_equal(np.asarray(Image.open(path))[sure], expected.argmax(axis=0)[sure])
    assert len({row["row"] for row in read_table(tmp_path / "out")}) > 1
    assert not list((tmp_path / "out").glob("*.npz"))
    assert capsys.readouterr().err.count("note:") == 0


def test_two_ranks_write_the_bytes_that_one_writes(
    model, small_database, tmp_path, run_mpi
) -> None:
    np.save(tmp_path / "scene.npy", draw_scene())
    sources = (tmp_path / "scene.npy", small_database)  # the second rank begins with its first row
    choice = Choice(where="structure_id < 1", pixel_size=PIXEL)
    written = ("masks", "maps", "overlays")
    plain = {"tiling": Tiling(symmetries=False), "written": written}
    alone = run(model, tmp_path / "one", *sources, choice=choice, **plain)
    assert len(alone) == 5
    command = ["-m", "hpctem", "predict", model, *sources, "-o", tmp_path / "two"]
    options = ["--where", "structure_id < 1", "--pixel-size", "0.2A"]
    options += ["--no-symmetries", "--write", "masks,maps,overlays"]
    done = run_mpi(2, sys.executable, *command, *options, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "bright 3" in done.stdout
    assert done.stderr.count("note:") == done.stderr.count("25 pm are resampled to 20 pm") == 1
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir()) and len(names) == 18
    for name in names:
        if name.endswith(".npz"):
            one, two = (np.load(tmp_path / side / name) for side in ("one", "two"))
            assert all(
                np.array_equal(one[key], two[key], equal_nan=key == "pixel_size") for key in one
            )
        else:
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_bad_input_is_named_before_any_work(model, tmp_path, small_database) -> None:
    np.save(tmp_path / "scene.npy", draw_scene())
    np.save(tmp_path / "flat.npy", np.ones((64, 64)))
    np.save(tmp_path / "small.npy", draw_scene()[:33, :33])
    scene, small = tmp_path / "scene.npy", tmp_path / "small.npy"
    incomplete = tmp_path / "incomplete"
    shutil.copytree(model, incomplete)
    (incomplete / "weights.npz").unlink()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.pdf").write_text("")
    for told, arguments in (
        ("there is no model folder", (tmp_path / "nothing", tmp_path / "o", scene)),
        ("weights.npz is missing", (incomplete, tmp_path / "o", scene)),
        ("already holds files", (model, full, scene)),
        ("is a file; name a new folder", (model, scene, scene)),
        ("absent.dm3 does not exist", (model, tmp_path / "o", tmp_path / "absent.dm3")),
    ):
        with pytest.raises(ConfigError, match=told):
            run(*arguments)
    assert not (tmp_path / "o").exists()
    for told, source, choice in (
        ("--where chooses from databases", scene, Choice(where="dose > 1")),
        ("--part and --draw choose from subset", small_database, Choice(part="train")),
        ("--rows, --frame and --pixel-size choose", small_database, Choice(rows=(0, 9))),
        ("none fulfils the condition", small_database, Choice(where="dose < 0")),
    ):
        with pytest.raises(ConfigError, match=told):
            list_sources([str(source)], choice)
    for told, source, choice in (
        ("flat", tmp_path / "flat.npy", Choice()),
        ("rows 80:999 are not within", scene, Choice(rows=(80, 999))),
    ):
        with pytest.raises(ConfigError, match=told):
            list_sources([str(source)], choice)[0].read()
    for told, source, size in (
        ("at most 4 is resampled", scene, 0.81),
        (r"33 x 33 pixels \(resampled to 10 x 10\) is too small for tiles of 32", small, 0.06),
    ):
        with pytest.raises(ConfigError, match=told):
            run(model, tmp_path / "begun", source, choice=Choice(pixel_size=size))
    # What came to no end may be begun anew; what is complete is left.
    run(model, tmp_path / "begun", scene)
    with pytest.raises(ConfigError, match="already holds files"):
        run(model, tmp_path / "begun", scene)


def test_the_command_ends_with_2_and_one_line(tmp_path) -> None:
    command = [sys.executable, "-m", "hpctem", "predict", tmp_path / "gone", tmp_path / "a.npy"]
    done = subprocess.run([*command, "-o", tmp_path / "o"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"hpctem: error: there is no model folder {tmp_path / 'gone'}\n"
    for width in ("wide", "-3px"):
        done = subprocess.run(
            [*command, "-o", tmp_path / "o", "--border", width], capture_output=True, text=True
        )
        assert done.returncode == 2 and "'--border'" in done.stderr


def test_sources_of_one_name_get_names_of_their_own(tmp_path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "scan 1.npy", draw_scene())
    paths = [str(tmp_path / folder / "scan 1.npy") for folder in ("a", "b")]
    assert [one.name for one in list_sources(paths, Choice())] == ["scan_1", "scan_1-2"]
