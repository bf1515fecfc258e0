"""Published sets become databases that networks learn from and are judged on.

The files are small ones of the layouts that `published_sets` describes, read by the import files of
configs/ as they stand.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from published_sets import draw_discs, write_groschner, write_khan, write_sytwu

import hpctem
from hpctem.cli import commands
from hpctem.database.finish import read_marker
from hpctem.database.journal import journal_folder
from hpctem.detection.filters import MEDIAN_VIEW
from hpctem.errors import ConfigError, DatabaseError
from hpctem.importing.import_file import read_import_file
from hpctem.importing.job import plan_import
from hpctem.learning.data.preparation import asks_for_median, is_median
from hpctem.learning.data.samples import open_sources
from hpctem.learning.training_file import read_training
from hpctem.sections.importing import ImportConfig
from hpctem.simulate import rebuild_structure

CONFIGS = Path(__file__).parents[2] / "configs"
DOCS = Path(__file__).parents[2] / "docs"
PUBLIC = sorted(path.name for path in CONFIGS.glob("public_*.yaml"))
STEPS = re.compile(r"^#   hpctem (.+)$", re.MULTILINE)


def run(*words: Any) -> Any:
    """A command in this process; its exit code and what it said."""
    return CliRunner().invoke(commands, [str(word) for word in words])


def import_set(config: Path | str, folder: Path, output: Path) -> hpctem.Collection:
    done = run("import", CONFIGS / config, folder, "-o", output)
    assert done.exit_code == 0, done.output + str(done.exception)
    return hpctem.open(output)


def refuse(config: Path, folder: Path, words: str) -> None:
    """The import file is refused, in words that fit a pattern, before anything is written."""
    with pytest.raises(ConfigError, match=words):
        plan_import(read_import_file(config), folder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(name, set__tile=64)`: an import file of configs/, keys replaced or dropped (None)."""

    def make(name: str, **changes: Any) -> Path:
        content = yaml.safe_load((CONFIGS / name).read_text())
        for key, value in changes.items():
            *parents, last = key.split("__")
            section = content
            for parent in parents:
                section = section[parent]
            if value is None:
                section.pop(last, None)
            else:
                section[last] = value
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return make


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """The files of Zenodo 3755011's gold in small, its images and its masks."""
    folder = tmp_path_factory.mktemp("gold")
    return folder, *write_groschner(folder)


def test_squares_in_the_order_of_keras(gold: tuple, tmp_path: Path) -> None:
    folder, images, masks = gold
    found = import_set("public_au_5nm.yaml", folder, tmp_path / "au.hdf5")
    assert found.images[:].dtype == np.float32
    assert np.array_equal(found.images[:], images.astype(np.float32))
    assert np.array_equal(found.label("particles")[:], masks)
    assert np.allclose(found.column("particles_fraction"), masks.mean(axis=(1, 2)))
    assert found.column("pixel_size").tolist() == [0.2152] * 4
    assert found.column("source_file")[3] == "Au_Bal_MedFilt_cutimages_20190726.h5[3]"
    database = found.databases[0]
    assert is_median(database) and asks_for_median(database)
    told = json.loads(database.campaign["import"])
    assert told["source"].endswith("zenodo.3755011") and len(told["files"]) == 2
    assert read_marker(journal_folder(database.path)) is not None


def test_the_order_of_pytorch_gives_the_same(gold: tuple, write: Callable, tmp_path: Path) -> None:
    _, images, masks = gold
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["group/images"] = images[:, np.newaxis]
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file["labels"] = np.stack([1 - masks, masks], axis=1)
    config = write(
        "public_au_5nm.yaml",
        stack__images={"file": "images.h5", "dataset": "group/images"},
        stack__labels={"file": "labels.h5", "dataset": "labels", "maps": {"particles": 1}},
    )
    found = import_set(config, tmp_path, tmp_path / "au.hdf5")
    assert np.array_equal(found.images[:], images.astype(np.float32))
    assert np.array_equal(found.label("particles")[:], masks)


def test_micrographs_are_cut_into_squares_that_stay_together(tmp_path: Path) -> None:
    """1100 px hold two squares of 512 each way; 76 px right and below are left out."""
    images, masks = write_sytwu(tmp_path)
    found = import_set("public_au_20nm.yaml", tmp_path, tmp_path / "au.hdf5")
    assert found.images[:].dtype == np.uint16 and len(found) == 12
    for row, (ty, tx) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        window = slice(512 * ty, 512 * ty + 512), slice(512 * tx, 512 * tx + 512)
        assert np.array_equal(found.images[4 + row], images[1][window])
        assert np.array_equal(found.label("particles")[4 + row], masks[1][window])
        assert (found.column("tile_y")[4 + row], found.column("tile_x")[4 + row]) == (ty, tx)
    database = found.databases[0]
    assert database.field(database.image_path).attributes["view"] == MEDIAN_VIEW
    # A training keeps the squares of a micrograph on one side, and takes those with particles.
    text = (CONFIGS / "train_public_au_20nm.yaml").read_text()
    training = tmp_path / "training.yaml"
    training.write_text(text.replace("../au_20nm.hdf5", "au.hdf5").replace("0.25", "0.34"))
    parts = open_sources(read_training(training, "segmentation"))
    rows = [set((part.collection.rows // 4).tolist()) for part in parts if part is not None]
    assert len(rows) == 2 and not rows[0] & rows[1]
    wanted = np.array([m.sum() > 400 for m in found.label("particles")[:]])
    assert sum(len(part) for part in parts if part is not None) == np.count_nonzero(wanted)
    assert parts[0].prepare.median and parts[0].prepare.scale == "image"


def test_defects_are_listed_where_the_labels_show_them(tmp_path: Path) -> None:
    """Dots cut at half their height are found within 0.1 px; an empty label has none."""
    names = [f"deep/test/107_day/RR_{n}" for n in (1750, 1840, 1847)]
    truth = write_khan(tmp_path, names)
    found = import_set("public_wse2_day_a.yaml", tmp_path, tmp_path / "a.hdf5")
    assert found.column("n_se_vacancy").tolist() == [5, 0, 5]
    table = found.objects("defects").to_pydict()
    assert set(table["kind"]) == {"se_vacancy"}
    rows = np.array([found.column("source_file").tolist().index(f"{n}/input.tif") for n in names])
    for row, places in zip(rows, truth, strict=True):
        one = found.take([int(row)]).objects("defects")
        listed = np.stack([one.column(c).to_numpy() for c in ("pixel_x", "pixel_y")], axis=1)
        expected = np.array(places).reshape(-1, 2)
        order = np.lexsort(listed.T), np.lexsort(expected.T)
        assert np.abs(listed[order[0]] - expected[order[1]]).max(initial=0) < 0.1
        # Half of a Gaussian's height is reached within sigma sqrt(2 ln 2) of its middle.
        disc = draw_discs((96, 96), places, 2.5 * np.sqrt(2 * np.log(2)))
        assert np.array_equal(found.label("se_vacancy")[int(row)], disc)
    with pytest.raises(DatabaseError, match="was imported: no campaign tells"):
        rebuild_structure(found.databases[0], 0)


def test_kinds_of_defects_are_counted_tile_by_tile(write: Callable, tmp_path: Path) -> None:
    """Two maps in images that are cut into four: each defect in the tile that shows it."""
    names = ["107_day/RR_1", "107_day/RR_2", "107_day/RR_3"]
    truth = write_khan(tmp_path, names)
    others = [(54.3, 18.3), (6.3, 90.3), (78.3, 90.3)]
    for name in names:
        dots = draw_discs((96, 96), others, 3.0).astype(np.float32)
        Image.fromarray(dots).save(tmp_path / name / "label_2vacancy.tif")
    labels = {"se2_vacancy": "label_2vacancy.tif", "se_vacancy": "label_1vacancy.tif"}
    config = write("public_wse2_day_a.yaml", set__tile=48, folders__labels=labels)
    found = import_set(config, tmp_path, tmp_path / "a.hdf5")
    assert len(found) == 12
    tiles = np.stack([found.column("tile_x"), found.column("tile_y")], axis=1)
    for kind, places in (("se_vacancy", truth), ("se2_vacancy", [others] * 3)):
        for row in range(12):
            origin = 48 * tiles[row]
            expected = [np.subtract(p, origin) for p in places[row // 4]]
            expected = [p for p in expected if (p >= -0.5).all() and (p < 47.5).all()]
            table = found.take([row]).objects("defects").to_pydict()
            listed = [
                (x, y)
                for k, x, y in zip(table["kind"], table["pixel_x"], table["pixel_y"], strict=True)
                if k == kind
            ]
            assert found.column(f"n_{kind}")[row] == len(listed) == len(expected)
            near = [min(np.hypot(*(p - q)) for q in np.array(listed)) for p in expected]
            assert max(near, default=0.0) < 0.1


def test_changed_files_are_not_mixed_with_what_is_there(tmp_path: Path) -> None:
    write_groschner(tmp_path)
    import_set("public_au_5nm.yaml", tmp_path, tmp_path / "au.hdf5")
    with h5py.File(tmp_path / "Au_Bal_MedFilt_cutimages_20190726.h5", "a") as file:
        file["images"][0, 0, 0] = 0.123
    done = run("import", CONFIGS / "public_au_5nm.yaml", tmp_path, "-o", tmp_path / "au.hdf5")
    assert isinstance(done.exception, DatabaseError)
    assert "files.Au_Bal_MedFilt" in str(done.exception)


def test_an_image_without_numbers_is_quarantined_not_the_set(gold: tuple, tmp_path: Path) -> None:
    write_groschner(tmp_path)
    with h5py.File(tmp_path / "Au_Bal_MedFilt_cutimages_20190726.h5", "a") as file:
        file["images"][2, 5, 5] = np.nan
    done = run("import", CONFIGS / "public_au_5nm.yaml", tmp_path, "-o", tmp_path / "au.hdf5")
    assert done.exit_code == 3
    found = hpctem.open(tmp_path / "au.hdf5")
    assert found.rows.tolist() == [0, 1, 3]
    [(index, reason)] = found.databases[0].quarantined
    assert index == 2 and "NaN" in reason and "[2]" in reason


def test_what_is_planned_can_be_sent_to_another_process(gold: tuple) -> None:
    job = plan_import(read_import_file(CONFIGS / "public_au_5nm.yaml"), gold[0])
    sent = pickle.loads(pickle.dumps(job.compute))
    assert np.array_equal(
        sent(1).rows["/entry/images/intensity"], job.compute(1).rows["/entry/images/intensity"]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"stack__images__dataset": "image"},
            r"no dataset 'image' \(nearest: images\); it has images \(4, 64",
        ),
        ({"stack__images__file": "Au_MedFilt.h5"}, r"no file 'Au_MedFilt.h5'; it holds .*MedFilt"),
        ({"stack__images__file": "*.h5"}, r"means 2 files of .*: write the name of one"),
        ({"stack__images__file": "../a.h5"}, "leads out of the folder"),
        ({"stack__images__file": "**.h5"}, r"'\*\*.h5' is no pattern of file names"),
        ({"stack__labels__maps": {"particles": 2}}, r"particles: 2.*the channels 0 to 1"),
        ({"stack__labels__maps": {"a": 0, "b": 3}}, r"b: 3, but maps of .*channels 0 to 1"),
        ({"set__tile": 128}, "set.tile: 128 px do not fit in images of 64 x 64 px"),
        ({"set__pixel_size": None}, "set.pixel_size is needed"),
        ({"set__pixel_size": 21.52}, "21.52 has no unit: write it as '21.52 A'"),
        ({"set__pixle_size": "20 pm"}, "unknown key; did you mean 'pixel_size'"),
        ({"stack": None}, "either the section 'stack'"),
    ],
)
def test_mistakes_in_an_import_file_are_told(
    gold: tuple, write: Callable, changes: dict[str, Any], words: str
) -> None:
    refuse(write("public_au_5nm.yaml", **changes), gold[0], words)


def test_files_that_do_not_fit_are_told(gold: tuple, write: Callable, tmp_path: Path) -> None:
    _, images, masks = gold
    config = write(
        "public_au_5nm.yaml",
        stack__images={"file": "images.h5", "dataset": "images"},
        stack__labels={"file": "labels.h5", "dataset": "labels", "maps": {"particles": 1}},
    )

    def put(shown: np.ndarray, labels: np.ndarray) -> None:
        for name, values in (("images", shown), ("labels", labels)):
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                file[name] = values

    put(images, masks[:3])
    refuse(config, tmp_path, r"has labels for 3 of 64 x 64 px, and the images .* are 4 of 64 x 64")
    put(images, masks[:, :32])
    refuse(config, tmp_path, r"labels for 4 of 32 x 64 px")
    put(images[0], masks)
    refuse(config, tmp_path, r"has the shape \(64, 64\): needed are \(images, rows, columns\)")
    put(np.stack([images] * 3, axis=-1), masks)
    refuse(config, tmp_path, r"shape \(4, 64, 64, 3\).*images have one channel")
    put(images, masks * 0)
    refuse(config, tmp_path, r"labels of 'particles' mark no pixel in any of the 4 images")
    put(images, masks)
    two = {"file": "labels.h5", "dataset": "labels", "maps": {"small": 1, "large": 2}}
    other = write("public_au_5nm.yaml", stack__images__file="images.h5", stack__labels=two)
    put(images, masks * 3)
    refuse(other, tmp_path, r"image 0 has the label 3, .* names 0 background, 1 small, 2 large")
    (tmp_path / "images.h5").write_bytes(b"<html>")
    refuse(config, tmp_path, r"images.h5 cannot be read as HDF5, it may not be downloaded")
    refuse(config, tmp_path / "nowhere", "does not exist: name the folder")


def test_several_values_become_several_maps(gold: tuple, write: Callable, tmp_path: Path) -> None:
    _, images, masks = gold
    values = masks * np.array([1, 2, 1, 2], np.uint8)[:, None, None]
    for name, array in (("images", images), ("labels", values)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file[name] = array
    two = {"file": "labels.h5", "dataset": "labels", "maps": {"large": 2, "small": 1}}
    config = write("public_au_5nm.yaml", stack__images__file="images.h5", stack__labels=two)
    found = import_set(config, tmp_path, tmp_path / "au.hdf5")
    assert found.label_names == ("large", "small")
    assert np.array_equal(found.label("large")[:], values == 2)
    assert np.array_equal(found.label("small")[:], values == 1)


def test_image_files_that_do_not_fit_are_told(write: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_khan(folder, ["107_day/RR_1", "107_day/RR_2"])
    day = CONFIGS / "public_wse2_day_a.yaml"
    refuse(CONFIGS / "public_wse2_day_b.yaml", folder, r"no file '\*\*/211_day.*it holds .*107_day")
    both = write("public_wse2_day_a.yaml", folders__images="**/*.tif")
    refuse(both, folder, "which folders.labels means too: .*leaves the labels out")
    unknown = write("public_wse2_day_a.yaml", set__pixel_size=None)
    refuse(
        unknown, folder, r"input.tif does not say how large its pixels are: write set.pixel_size"
    )
    label = folder / "107_day/RR_2/label_1vacancy.tif"
    kept = label.read_bytes()
    Image.fromarray(np.ones((96, 90), np.float32)).save(label)
    refuse(day, folder, r"label_1vacancy.tif is 96 x 90 px, its image input.tif 96 x 96 px")
    label.unlink()
    refuse(day, folder, r"folders.labels.se_vacancy: .*RR_2 has no file 'label_1vacancy.tif\*'")
    label.write_bytes(kept)
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(
        folder / "107_day/RR_2/input.tif"
    )
    refuse(day, folder, r"RR_1/input.tif is 96 x 96 px, .*RR_2/input.tif 64 x 64: .* one size")


def test_other_files_and_commands_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="for this one there is 'hpctem simulate'"):
        read_import_file(CONFIGS / "quickstart.yaml")
    with pytest.raises(ConfigError, match="for this one there is 'hpctem train'"):
        read_import_file(CONFIGS / "train_public_au.yaml")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_import_file_tells_its_source_and_its_steps(name: str) -> None:
    """The commands in its head exist with these options, and name it and its database."""
    text = (CONFIGS / name).read_text()
    file = read_import_file(CONFIGS / name)
    assert re.search(r"zenodo\.(7696721|3755011|6419024)$", file.config.set.source)
    assert f"Zenodo {file.config.set.source.rsplit('.', 1)[1]}" in text.replace("\n# ", " ")
    steps = [line.split() for line in STEPS.findall(text)]
    assert steps[0][:2] == ["import", f"configs/{name}"] and len(steps) == 2
    for words in steps:
        words = [word.strip('"') for word in " ".join(words).replace('"', "").split()]
        command = commands.commands[words[0]]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known, words
    named = " ".join(steps[1])
    trained = re.search(r"configs/(train_\w+\.yaml)", named)
    place = f"{file.config.set.name}.hdf5"
    assert place in ((CONFIGS / trained[1]).read_text() if trained else named)


def test_the_page_names_every_key_of_an_import_file() -> None:
    page = (DOCS / "public-data.md").read_text()
    rows = re.findall(r"^\| (`(?:set|stack|folders)\..*?) \|", page, re.MULTILINE)
    told = {key for row in rows for key in re.findall(r"`([\w.]+)`", row)}
    keys = {
        f"{section}.{key}"
        for section, model in (("set", "set"), ("stack", "stack"), ("folders", "folders"))
        for key in _keys(ImportConfig.model_fields[model].annotation)
    }
    assert told == keys


def _keys(annotation: Any) -> list[str]:
    members = [annotation, *getattr(annotation, "__args__", ())]
    model = next(m for m in members if hasattr(m, "model_fields"))
    found = []
    for key, field in model.model_fields.items():
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        below = next((m for m in inner if hasattr(m, "model_fields")), None)
        found += [f"{key}.{k}" for k in below.model_fields] if below else [key]
    return found
