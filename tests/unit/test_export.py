"""What goes where: names, parts, shards, kinds of pixels, targets that are there, interruptions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from synthetic import IMAGES, Compute, lay_out

from hpctem.collection.collection import Collection, open_collection
from hpctem.database.fill import fill
from hpctem.database.journal import journal_folder
from hpctem.database.schema import Layout
from hpctem.errors import ConfigError, DatabaseError, MachineError
from hpctem.export import description, job, stacks
from hpctem.export.croissant import About
from hpctem.export.job import export, format_summary
from hpctem.export.plan import FORMATS, Choice, Part, make_keys, name_databases, plan_form
from hpctem.export.sources import open_parts

PIXELS, LABELS = "/entry/images/intensity", "/entry/labels/particle"


@dataclasses.dataclass(frozen=True)
class Changed:
    """Rows of the synthetic structures as another layout wants them."""

    layout: Layout
    inner: Compute

    def __call__(self, index: int):
        result = self.inner(index)
        known = {item.path: item for item in self.layout.fields}
        rows = {
            path: np.asarray(values, known[path].dtype) / 8 - 3 if self.is_float(path) else values
            for path, values in result.rows.items()
            if path in known
        }
        return dataclasses.replace(result, rows=rows)

    def is_float(self, path: str) -> bool:
        return path == PIXELS and self.layout.fields[0].dtype.kind == "f"


def make(path: Path, size: int = 24, pixels: str = "u2", labels: bool = True, seed: str = "7"):
    """A database of 12 synthetic structures with 4 images each, two structures quarantined."""
    layout = lay_out(12, 2, size=size)
    fields = tuple(
        dataclasses.replace(item, dtype=np.dtype(pixels)) if item.path == PIXELS else item
        for item in layout.fields
        if labels or item.path != LABELS
    )
    layout = dataclasses.replace(
        layout, fields=fields, stacks=layout.stacks if labels else layout.stacks[:1]
    )
    fill(path, layout, {"seed": seed}, Changed(layout, Compute(size, bad=(3,), nan=(7,))))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("whole") / "gold.hdf5")


@pytest.fixture
def collection(whole: Path) -> Collection:
    return open_collection([whole])


def copy(path: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(journal_folder(path), journal_folder(target))
    return Path(shutil.copy(path, target))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_export_has_the_same_bytes_and_is_left_when_it_is_there(
    kind: str, collection: Collection, tmp_path: Path
) -> None:
    parts = [Part("", collection)]
    first = export(parts, tmp_path / "one", Choice(kind))
    export(parts, tmp_path / "two", Choice(kind))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert not first.present and first.images == {"": 40}
    before = (tmp_path / "one").stat().st_mtime_ns
    again = export(parts, tmp_path / "one", Choice(kind))
    assert again.present and (tmp_path / "one").stat().st_mtime_ns == before
    assert "there already" in format_summary(tmp_path / "one", kind, again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_only_good_rows_are_exported_and_named_by_their_file_row(
    collection: Collection, tmp_path: Path
) -> None:
    export([Part("", collection)], tmp_path / "x", Choice("hdf5"))
    with h5py.File(tmp_path / "x/images.hdf5") as file:
        rows = file["entry/metadata/row"][()]
        keys = file["entry/metadata/key"][()].astype(str)
    good = [s for s in range(12) if s not in (3, 7)]
    assert rows.tolist() == [s * IMAGES + i for s in good for i in range(IMAGES)]
    assert keys.tolist() == [f"hpctem_campaign_{row:08d}" for row in rows]


def test_files_named_alike_have_keys_of_their_own(whole: Path, tmp_path: Path) -> None:
    paths = [whole, copy(whole, tmp_path / "a.v1of2.hdf5"), copy(whole, tmp_path / "b/gold.hdf5")]
    collection = open_collection(paths)
    names = name_databases(list(collection.databases))
    assert list(names.values()) == ["gold", "a_v1of2", "gold-2"]
    part = Part("", collection)
    form = plan_form([part], Choice("tiff"))
    keys = make_keys(part, form, 0, len(collection))
    assert len(set(keys)) == 120 and keys[0] == "gold_00000000" and keys[-1] == "gold-2_00000047"


def test_shards_are_cut_by_count_and_the_tables_say_where_each_image_is(
    collection: Collection, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    parts = [Part("train", collection[:25]), Part("validation", collection[25:])]
    export(parts, tmp_path / "x", Choice("tfrecord", shard=10))
    names = sorted(str(p.relative_to(tmp_path / "x")) for p in tmp_path.rglob("*.tfrecord"))
    assert names == [
        *(f"train/images-0000{k}-of-00003.tfrecord" for k in range(3)),
        *(f"validation/images-0000{k}-of-00002.tfrecord" for k in range(2)),
    ]
    table = pq.read_table(tmp_path / "x/metadata.parquet").to_pydict()
    assert table["part"] == ["train"] * 25 + ["validation"] * 15
    assert table["file"][:25] == [names[k // 10] for k in range(25)]
    assert table["index"] == [k % 10 for k in range(25)] + [k % 10 for k in range(15)]
    assert table["row"] == collection.rows.tolist()


def test_folders_of_single_files_can_be_cut_too(collection: Collection, tmp_path: Path) -> None:
    export([Part("train", collection[:5])], tmp_path / "x", Choice("png", shard=3))
    found = sorted(str(p.relative_to(tmp_path / "x")) for p in tmp_path.rglob("*.png"))
    assert found == [
        f"train/{folder}/{number:05d}/hpctem_campaign_{row:08d}.png"
        for folder in ("images", "labels")
        for number, rows in enumerate([(0, 1, 2), (3, 4)])
        for row in rows
    ]


@pytest.mark.parametrize("kind", ["tiff", "png"])
def test_without_a_scale_or_statistics_float_images_are_refused(kind: str, tmp_path: Path) -> None:
    """Each image by its own range would hide what differs between them."""
    from PIL import Image

    collection = open_collection([make(tmp_path / "float.hdf5", pixels="f4")])
    with pytest.raises(ConfigError, match="give it, as in --scale"):
        export([Part("", collection)], tmp_path / "x", Choice(kind))
    done = export([Part("", collection)], tmp_path / "x", Choice(kind, scale=(-3, 13)))
    assert "-3 became 0 and 13 became 65535" in format_summary(tmp_path / "x", kind, done)
    assert "were cut" not in format_summary(tmp_path / "x", kind, done)  # no statistics to tell
    for index, key in ((0, "00000000"), (39, "00000047")):
        path = tmp_path / f"x/images/hpctem_campaign_{key}{FORMATS[kind].suffix}"
        stored = (collection.images[index].astype(float) + 3) / 16 * 65535
        assert np.array_equal(np.array(Image.open(path)), np.rint(np.clip(stored, 0, 65535)))
    said = json.loads((tmp_path / "x/export.json").read_text())["pixels"]["scale"]
    assert (said["low"], said["high"]) == (-3, 13)
    stored = collection.images[39]
    with Image.open(path) as opened:
        back = np.array(opened) / 65535 * (said["high"] - said["low"]) + said["low"]
    assert np.abs(back - stored).max() <= 0.5001 * 16 / 65535


def test_databases_without_labels_give_images_alone(whole: Path, tmp_path: Path) -> None:
    bare = make(tmp_path / "bare.hdf5", labels=False)
    both = open_collection([whole, bare])
    for kind in FORMATS:
        done = export([Part("", both)], tmp_path / kind, Choice(kind))
        assert not done.labels and "without labels" in format_summary(tmp_path, kind, done)
    with h5py.File(tmp_path / "hdf5/images.hdf5") as file:
        assert "labels" not in file["entry"] and file[PIXELS].shape == (80, 24, 24)
    assert not (tmp_path / "tiff/labels").exists()
    assert json.loads((tmp_path / "png/croissant.json").read_text())["recordSet"][-1]["name"] == (
        "images"
    )


def test_databases_that_give_no_image_change_nothing(whole: Path, tmp_path: Path) -> None:
    """Neither whether there are labels, nor what the images are called."""
    volume = copy(whole, tmp_path / "gold-2.hdf5")
    bare = make(tmp_path / "bare.hdf5", labels=False, seed="8")
    images = open_collection([whole, volume, bare])
    labelled = images[:40]
    done = export([Part("", labelled)], tmp_path / "x", Choice("png"))
    assert done.labels and (tmp_path / "x/labels/gold_00000000.png").is_file()
    assert [p.name for p in (tmp_path / "x/campaigns").iterdir()] == ["gold.yaml"]
    said = json.loads((tmp_path / "x/export.json").read_text())
    assert [database["name"] for database in said["databases"]] == ["gold"]


def test_images_of_different_size_and_kind(whole: Path, tmp_path: Path) -> None:
    """One stack cannot hold two sizes; of whole numbers and floats the floats hold both."""
    import tarfile

    other = make(tmp_path / "other.hdf5", size=16)
    floats = make(tmp_path / "floats.hdf5", pixels="f4")
    mixed = open_collection([whole, other])
    for kind in ("hdf5", "emd"):
        with pytest.raises(ConfigError, match=r"one size, not of 16 x 16 and 24 x 24 pixels"):
            export([Part("", mixed)], tmp_path / "x", Choice(kind))
    export([Part("", mixed)], tmp_path / "tar", Choice("webdataset"))
    with tarfile.open(tmp_path / "tar/images-00000.tar") as archive:
        assert len(archive.getnames()) == 240
    both = open_collection([whole, floats])
    export([Part("", both)], tmp_path / "f", Choice("hdf5"))
    with h5py.File(tmp_path / "f/images.hdf5") as file:
        assert file[PIXELS].dtype == np.float32
        assert np.array_equal(file[PIXELS][:40], both.images[:40])
        assert np.array_equal(file[PIXELS][40:], floats_of(floats))


def floats_of(path: Path) -> np.ndarray:
    return open_collection([path]).images[:]


def test_many_blocks_give_the_same_images(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "BLOCK_BYTES", 6000)  # three images
    export([Part("", collection)], tmp_path / "x", Choice("hdf5", compress="gzip", shard=26))
    for number, start, stop in ((0, 0, 26), (1, 26, 40)):
        with h5py.File(tmp_path / f"x/images-0000{number}-of-00002.hdf5") as file:
            assert np.array_equal(file[PIXELS], collection.images[start:stop])
            assert np.array_equal(file[LABELS], collection.labels[start:stop])
            assert file["entry/metadata/row"][()].tolist() == collection.rows[start:stop].tolist()
            assert file["entry/images/image"][()].tolist() == list(range(start, stop))


def test_text_categories_and_vectors_keep_their_kind(
    collection: Collection, tmp_path: Path
) -> None:
    export([Part("", collection)], tmp_path / "x", Choice("hdf5"))
    with h5py.File(tmp_path / "x/images.hdf5") as file:
        lattice = file["entry/structures/lattice"]
        names = {k: v for v, k in h5py.check_enum_dtype(lattice.dtype).items()}
        assert [names[v] for v in lattice[()]] == collection.column("lattice").tolist()
        formula = file["entry/structures/formula"]
        assert formula.asstr()[0] == collection.column("formula")[0] != ""
        assert file["entry/structures/radius"].attrs["units"] == "angstrom"


def refused(
    collection: Collection, target: Path, words: str, kind: type[Exception] = ConfigError
) -> None:
    with pytest.raises(kind) as raised:
        export([Part("", collection)], target, Choice("png"))
    assert words in str(raised.value)


def test_what_is_there_already_is_never_touched(collection: Collection, tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    file.write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    export([Part("", collection)], tmp_path / "other", Choice("tiff"))
    before = digests(tmp_path)
    refused(collection, folder, "exists and is no export of hpctem")
    refused(collection, file, "exists and is no export of hpctem")
    refused(collection, tmp_path / "link", "exists and is no export of hpctem")
    refused(collection, tmp_path / "other", "holds another export")
    refused(collection[:3], tmp_path / "other", "holds another export")
    assert digests(tmp_path) == before


def test_an_empty_folder_is_taken(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    export([Part("", collection)], tmp_path / "x", Choice("png"))
    assert (tmp_path / "x/export.json").exists()


def test_what_an_interrupted_export_left_is_removed(collection: Collection, tmp_path: Path) -> None:
    export([Part("", collection)], tmp_path / "whole", Choice("png"))
    left = tmp_path / "x.exporting"
    (left / "old/images").mkdir(parents=True)
    (left / "old/images/half.png").write_bytes(b"half")
    (left / "lock").write_text("")
    export([Part("", collection)], tmp_path / "x", Choice("png"))
    assert digests(tmp_path / "x") == digests(tmp_path / "whole") and not left.exists()


KILLED = """
import os, signal, sys
from hpctem.collection.collection import open_collection
from hpctem.export import job
from hpctem.export.plan import Choice, Part

whole = getattr(job, sys.argv[3])

def kill(*arguments, **options):
    whole(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(job, sys.argv[3], kill)
job.export([Part("", open_collection([sys.argv[1]]))], "x", Choice(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "kind, moment",
    [
        ("png", "_make_folders"),
        ("png", "_write_files"),
        ("hdf5", "_write_images"),
        ("tfrecord", "read_back"),
        ("tiff", "write_descriptions"),
    ],
)
def test_a_killed_export_has_no_target_and_begins_anew(
    kind: str, moment: str, whole: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, whole, kind, moment]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=180)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.exporting"]
    parts = [Part("", open_collection([whole]))]
    for name in ("x", "whole"):
        assert not export(parts, tmp_path / name, Choice(kind)).present
    assert digests(tmp_path / "x") == digests(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole", "x"]


def test_a_folder_that_was_just_made_is_no_hindrance(
    collection: Collection, tmp_path: Path
) -> None:
    (tmp_path / "x.exporting").mkdir()
    export([Part("", collection)], tmp_path / "x", Choice("png"))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert not list(tmp_path.rglob("lock*"))


def test_the_place_is_found_however_it_is_written(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    refused(collection, Path("/"), "exists and is no export of hpctem")
    refused(collection, Path(), "is the folder you are in")
    export([Part("", collection[:2])], "y/../../x", Choice("png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "x"]


def test_a_folder_in_the_way_is_not_removed(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "x.exporting").mkdir()
    (tmp_path / "x.exporting/thesis.txt").write_text("mine")
    refused(collection, tmp_path / "x", "is in the way, and hpctem did not make it")
    assert (tmp_path / "x.exporting/thesis.txt").read_text() == "mine"


def test_a_second_export_to_the_same_place_is_refused(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpctem.database import lock

    working = tmp_path / "x.exporting"
    working.mkdir()
    monkeypatch.setattr(
        lock, "_lock_range", lambda *_: False
    )  # this process cannot lock itself out
    with lock.hold_lock(working):
        monkeypatch.setattr(job, "hold_lock", lambda folder: lock.hold_lock(folder, 0.1))
        refused(collection, tmp_path / "x", "another job works on", DatabaseError)
        assert (working / "lock").exists()


@pytest.mark.parametrize("broken", ["write_metadata", "describe_dataset"])
def test_a_failure_leaves_nothing(
    broken: str, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(description, broken, fail)
    refused(collection, tmp_path / "x", "no space is left; nothing of it was kept", MachineError)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_before(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpctem.export import files

    free = type("Status", (), {"f_bavail": 10, "f_frsize": 4096})
    monkeypatch.setattr(files.os, "statvfs", lambda _: free)
    with pytest.raises(MachineError, match="the export needs about"):
        export([Part("", collection)], tmp_path / "x", Choice("webdataset"))


@pytest.mark.parametrize(
    "make_parts, words",
    [
        (lambda c: [Part("", c[:0])], "holds no images"),
        (lambda c: [Part("train", c), Part("validation", c[:0])], "the part 'validation' holds no"),
        (lambda c: [Part("", c.take([1, 2, 1]))], "names an image twice"),
        (lambda c: [Part("../x", c)], "cannot become a folder"),
        (lambda c: [Part("a/b", c)], "cannot become a folder"),
        (lambda c: [Part("labels", c)], "cannot become a folder"),
    ],
)
def test_impossible_parts_are_refused(
    make_parts: Callable, words: str, collection: Collection, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        export(make_parts(collection), tmp_path / "x", Choice("png"))
    assert words in str(raised.value) and list(tmp_path.iterdir()) == []


def test_sources_are_databases_or_one_subset(whole: Path, tmp_path: Path) -> None:
    (part,), origin = open_parts([whole], "dose > 500", None, None)
    assert part.name == "" and origin == {"where": "dose > 500"}
    assert (part.collection.column("dose") > 500).all() and 0 < len(part.collection) < 40
    for sources, options, words in (
        ([whole], ("train", None), "--part and --draw choose from a subset file"),
        ([whole], (None, 0), "--part and --draw choose from a subset file"),
        ([whole, tmp_path / "s.json"], (None, None), "export one subset file alone"),
        ([tmp_path / "a.json", tmp_path / "s.json"], (None, None), "export one subset file alone"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_parts(sources, None, *options)


def test_what_was_done_is_written_down(collection: Collection, tmp_path: Path) -> None:
    about = About("CC-BY-4.0", "A. Author", "https://example.org/gold", "2026-01-02", "A. 2026")
    origin = {"where": "dose > 1"}
    export([Part("", collection)], tmp_path / "x", Choice("tiff"), about, origin)
    said = json.loads((tmp_path / "x/export.json").read_text())
    assert said["origin"] == origin and said["choice"]["format"] == "tiff"
    (database,) = said["databases"]
    assert database["plan"] == collection.databases[0].key.hex()
    assert (tmp_path / "x/campaigns/hpctem_campaign.yaml").read_text() == "seed: 7\n"
    found = json.loads((tmp_path / "x/croissant.json").read_text())
    assert (found["license"], found["datePublished"]) == ("CC-BY-4.0", "2026-01-02")
    assert found["creator"]["name"] == "A. Author" and found["url"] == "https://example.org/gold"
    assert found["citeAs"] == "A. 2026"
