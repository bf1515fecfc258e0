"""`hpctem export`: what it writes is read back equal by programs that know nothing of hpctem."""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import json
import re
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpctem.collection.collection import Collection, open_collection
from hpctem.detection.filters import filter_median

SMALL = Path(__file__).parents[1] / "small.yaml"
FORMATS = ("hdf5", "tfrecord", "webdataset", "tiff", "png", "emd")
OPTIONS = {
    "hdf5": ("--compress", "gzip"),
    "emd": ("--compress", "lzf"),
    "tfrecord": ("--shard", "10"),
    "webdataset": ("--shard", "9"),
}


@pytest.fixture(scope="session")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small campaign with a detector that integrates and a median to look through."""
    folder = tmp_path_factory.mktemp("camera")
    text = SMALL.read_text().replace("name: small", "name: camera")
    text = text.replace("structures: 6", "structures: 2").replace(
        "  crop: 96\n", "  crop: 96\n  median: view\n  detector: {readout_noise: 2}\n"
    )
    (folder / "camera.yaml").write_text(text)
    command = [sys.executable, "-m", "hpctem", "simulate", "camera.yaml"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=240)
    return folder / "camera.hdf5"


@pytest.fixture
def images(small: Path) -> Collection:
    return open_collection([small])


@pytest.fixture(scope="module")
def exported(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder in which x is the export of the small database in a format; made once."""

    @functools.cache
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        options = ("--creator", "A. Author", *OPTIONS.get(kind, ()))
        command = [sys.executable, "-m", "hpctem", "export", small, "-o", "x", "--format", kind]
        done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert f"x: 24 images as {kind}" in done.stdout
        return folder

    return make


def test_hdf5_opens_with_h5py_alone(exported, images) -> None:
    folder = exported("hdf5")
    script = """
import h5py
with h5py.File("x/images.hdf5") as file:
    stack = file["entry/images/intensity"]
    print(stack.shape, stack.dtype, stack.chunks, stack.compression, stack.shuffle)
    file.visititems(lambda name, item: item[()] if isinstance(item, h5py.Dataset) else None)
"""
    plain = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert plain.stdout == "(24, 96, 96) uint16 (1, 96, 96) gzip True\n", plain.stderr
    with h5py.File(folder / "x/images.hdf5") as file:
        assert np.array_equal(file["entry/images/intensity"], images.images[:])
        assert np.array_equal(file["entry/labels/instances"], images.labels[:])
        for name, column in images.columns.items():
            group = "structures" if column.table == "structures" else "metadata"
            stored = file[f"entry/{group}/{column.name}"]
            names = h5py.check_enum_dtype(stored.dtype)
            found = stored.asstr()[()] if stored.dtype.kind == "S" else stored[()]
            if names:
                found = np.array(sorted(names, key=names.get))[found]
            assert found.tolist() == images.column(name).tolist(), name
            assert stored.attrs.get("units", "") == column.units
        config = file["entry/campaign/small"].asstr()[()]
    assert config == SMALL.read_text()


def test_hdf5_opens_in_hyperspy_as_a_database_does(exported, images) -> None:
    reader = pytest.importorskip("rsciio.nexus")
    path = str(exported("hdf5") / "x/images.hdf5")
    intensity, labels = sorted(
        reader.file_reader(path, nxdata_only=True),
        key=lambda signal: signal["data"].dtype.itemsize,
        reverse=True,
    )
    assert np.array_equal(intensity["data"], images.images[:])
    assert np.array_equal(labels["data"], images.labels[:])
    assert [axis["name"] for axis in intensity["axes"]] == ["image", "y", "x"]
    assert [axis["scale"] for axis in intensity["axes"]] == [1, 0.25, 0.25]
    assert intensity["axes"][2]["units"] == "angstrom"


TENSORFLOW = """
import glob, hashlib, json, sys
import tensorflow as tf
wanted = {
    "key": tf.io.FixedLenFeature([], tf.string),
    "image": tf.io.FixedLenFeature([], tf.string),
    "image/shape": tf.io.FixedLenFeature([2], tf.int64),
    "label": tf.io.FixedLenFeature([], tf.string),
    "dose": tf.io.FixedLenFeature([], tf.float32),
    "row": tf.io.FixedLenFeature([], tf.int64),
    "campaign": tf.io.FixedLenFeature([], tf.string),
    "atoms_digest": tf.io.FixedLenFeature([16], tf.int64),
}
for folder, kind in zip(sys.argv[2:], ("", "GZIP")):
    files = sorted(glob.glob(folder + "/*.tfrecord*"))
    found = []
    for raw in tf.data.TFRecordDataset(files, compression_type=kind):
        example = tf.io.parse_single_example(raw, wanted)
        image = tf.reshape(tf.io.decode_raw(example["image"], tf.uint16), example["image/shape"])
        label = tf.reshape(tf.io.decode_raw(example["label"], tf.uint8), example["image/shape"])
        found.append({
            "image": hashlib.sha256(image.numpy().tobytes()).hexdigest(),
            "label": hashlib.sha256(label.numpy().tobytes()).hexdigest(),
            "dose": float(example["dose"]),
            "row": int(example["row"]),
            "campaign": example["campaign"].numpy().decode(),
            "digest": example["atoms_digest"].numpy().tolist(),
            "names": sorted(tf.train.Example.FromString(raw.numpy()).features.feature),
        })
    print(json.dumps({"files": len(files), "found": found}))
shown = {}
exec(sys.argv[1], shown)
print(json.dumps([[list(part.shape) for part in batch] for batch in shown["batches"]]))
"""


def read_shown(package: str, folder: Path, kind: str) -> str:
    """What docs/export.md shows for a package, with the folder in place of that of its example."""
    page = (SMALL.parents[1] / "docs/export.md").read_text()
    (block,) = (b for b in re.findall(r"^```py\n(.*?)^```$", page, re.M | re.S) if package in b)
    assert f"gold-{kind}/train/" in block
    return block.replace(f"gold-{kind}/train/", f"{folder}/")


def test_tensorflow_reads_the_records(exported, call, small, tmp_path, images) -> None:
    """Plain and compressed, in a process of its own; it checks both checksums of every record."""
    call("export", small, "-o", "packed", "--format", "tfrecord", "--compress", "gzip")
    plain = exported("tfrecord") / "x"
    shown = read_shown("import tensorflow", plain, "tf")
    command = [sys.executable, "-c", TENSORFLOW, shown, plain, tmp_path / "packed"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if "No module named 'tensorflow'" in answer.stderr:
        pytest.skip("TensorFlow is not installed")
    assert answer.returncode == 0, answer.stderr
    plain, packed, batches = map(json.loads, answer.stdout.splitlines())
    assert batches == [[[8, 96, 96], [8, 96, 96], [8]]] * 3
    assert (plain["files"], packed["files"], len(plain["found"])) == (3, 1, 24)
    assert plain["found"] == packed["found"]
    for index, row in enumerate(plain["found"]):
        assert row["image"] == hashlib.sha256(images.images[index].tobytes()).hexdigest()
        assert row["label"] == hashlib.sha256(images.labels[index].tobytes()).hexdigest()
        assert row["dose"] == np.float32(images.column("dose")[index])
        assert row["row"] == images.rows[index] and row["campaign"] == "small"
        assert row["digest"] == images.column("atoms_digest")[index].tolist()
        assert set(images.columns) <= set(row["names"])


def test_webdataset_is_read_by_tarfile_and_by_its_package(exported, images) -> None:
    paths = sorted((exported("webdataset") / "x").glob("*.tar"))
    assert [path.name for path in paths] == [f"images-0000{k}.tar" for k in range(3)]
    names = []
    for path in paths:
        with tarfile.open(path) as archive:
            names += archive.getnames()
            for member in archive.getmembers()[:3]:
                raw = archive.extractfile(member).read()
                row = int(member.name.split(".")[0].rsplit("_")[-1])
                if member.name.endswith("image.npy"):
                    assert np.array_equal(np.load(io.BytesIO(raw)), images.images[row])
                elif member.name.endswith("label.npy"):
                    assert np.array_equal(np.load(io.BytesIO(raw)), images.labels[row])
                else:
                    assert json.loads(raw)["defocus"] == images.column("defocus")[row]
    assert len(set(names)) == 72 and names[0] == "small_00000000.image.npy"
    webdataset = pytest.importorskip("webdataset", reason="read by tarfile; no webdataset here")
    samples = webdataset.WebDataset([str(p) for p in paths], shardshuffle=False).decode()
    for index, (image, label) in enumerate(samples.to_tuple("image.npy", "label.npy")):
        assert np.array_equal(image, images.images[index])
        assert np.array_equal(label, images.labels[index])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(read_shown("import webdataset", paths[0].parent, "wds"), {})
    assert len(said.getvalue().splitlines()) == 24 and said.getvalue().startswith("(96, 96) ")


@pytest.mark.parametrize("kind, suffix", [("tiff", "tif"), ("png", "png")])
def test_counts_are_the_pixels_of_single_files(kind, suffix, exported, images) -> None:
    from PIL import Image

    export = exported(kind) / "x"
    for folder, stack in (("images", images.images), ("labels", images.labels)):
        paths = sorted((export / folder).iterdir())
        assert [path.name for path in paths] == [f"small_{k:08d}.{suffix}" for k in range(24)]
        for index, path in enumerate(paths):
            with Image.open(path) as opened:
                found = np.array(opened)
            assert found.dtype == stack[index].dtype and np.array_equal(found, stack[index])
    if kind == "tiff":
        reader = pytest.importorskip("rsciio.tiff")
        (signal,) = reader.file_reader(str(export / "images/small_00000003.tif"))
        assert [axis["scale"] for axis in signal["axes"]] == [0.025, 0.025]
        assert [axis["units"] for axis in signal["axes"]] == ["nm", "nm"]
        assert np.array_equal(signal["data"], images.images[3])


def test_emd_is_read_with_its_axes(exported, images) -> None:
    """RosettaSciIO reverses the axes of this layout: x, y, image."""
    reader = pytest.importorskip("rsciio.emd")
    path = exported("emd") / "x/images.emd"
    stacks = {"images": images.images[:], "labels": images.labels[:]}
    for signal in reader.file_reader(str(path)):
        stack = stacks.pop(signal["metadata"]["General"]["title"])
        assert np.array_equal(signal["data"].T, stack)
        axes = {axis["name"]: axis for axis in signal["axes"]}
        assert list(axes) == ["x", "y", "image"]
        assert axes["x"]["units"] == axes["y"]["units"] == "nm"
        assert axes["x"]["scale"] == axes["y"]["scale"] == pytest.approx(0.025)
        assert signal["original_metadata"]["comments"]["small"] == SMALL.read_text()
    assert stacks == {}
    with h5py.File(path) as file:
        assert np.array_equal(file["metadata/dose"], images.column("dose"))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_export_has_its_tables_digests_and_description(kind, exported, images) -> None:
    pandas = pytest.importorskip("pandas")
    import pyarrow.parquet

    folder = exported(kind) / "x"
    table = pyarrow.parquet.read_table(folder / "metadata.parquet")
    text = pandas.read_csv(folder / "metadata.csv", keep_default_na=False)
    assert table.column_names == list(text.columns) and len(text) == 24
    for name, column in images.columns.items():
        expected = images.column(name)
        assert np.array_equal(np.stack(table[name].to_numpy()), expected), name
        if column.shape:
            assert bytes.fromhex(text[name][5]) == expected[5].tobytes()
        else:
            assert text[name].tolist() == expected.tolist(), name
        assert table.schema.field(name).metadata[b"units"].decode() == column.units
    assert all((folder / name).is_file() for name in text["file"])
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as stream:
        assert {len(row) for row in csv.reader(stream)} == {len(text.columns)}

    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert set(sums) == files - {"SHA256SUMS", "croissant.json"}
    for name, expected in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    check_croissant(folder, table.column_names)


def test_particles_and_defects_of_the_images_are_tables(call, small, camera, tmp_path) -> None:
    """Against what h5py finds for each structure; of all formats alike."""
    pandas = pytest.importorskip("pandas")

    where = ("--where", "row >= 4 AND dose < 1000")
    done = call("export", camera, small, "-o", "x", "--format", "png", *where)
    assert done.returncode == 0, done.stderr
    images = pandas.read_parquet(tmp_path / "x/metadata.parquet")
    for table, counter in (
        ("particles", "particles_placed"),
        ("planar_defects", "planar_defects_placed"),
    ):
        found = pandas.read_parquet(tmp_path / f"x/{table}.parquet")
        keys = ["database", "campaign", "structure_id"]
        assert list(found.columns[:3]) == keys
        expected = []
        for path, count in ((camera, 2), (small, 6)):
            with h5py.File(path) as file:
                group = {k: v[()] for k, v in file[f"entry/{table}"].items()}
                placed = file[f"entry/structures/{counter}"][()]
                kinds = h5py.check_enum_dtype(file["entry/planar_defects/kind"].dtype)
            names = {number: name for name, number in kinds.items()}
            each = len(group["particle"]) // count
            for structure in range(1, count):
                for row in range(structure * each, structure * each + placed[structure]):
                    values = [group[name][row] for name in found.columns[3:] if name != "kind"]
                    kind = [names[group["kind"][row]]] if "kind" in group else []
                    expected.append([path.name, path.stem, structure, *values, *kind])
        rows = found[[*(n for n in found.columns if n != "kind"), *({"kind"} & set(found))]]
        assert rows.to_numpy().tolist() == [list(row) for row in expected]
        assert len(found.merge(images[keys].drop_duplicates(), on=keys)) == len(found) > 0
        text = pandas.read_csv(tmp_path / f"x/{table}.csv")
        assert text.to_numpy().tolist() == found.to_numpy().tolist()
    import pyarrow.parquet

    field = pyarrow.parquet.read_schema(tmp_path / "x/particles.parquet").field("radius")
    assert field.metadata == {b"units": b"angstrom", b"description": b"radius"}


def check_croissant(folder: Path, columns: list[str]) -> None:
    """What version 1.0 requires, and that every reference leads somewhere."""
    found = json.loads((folder / "croissant.json").read_text())
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert found["@type"] == "sc:Dataset" and found["@context"]["cr"].endswith("/croissant/")
    for name in ("name", "description", "license", "url", "datePublished"):
        assert isinstance(found[name], str) and found[name], name
    assert found["creator"]["name"] == "A. Author"
    distribution = {item["@id"]: item for item in found["distribution"]}
    assert len(distribution) == len(found["distribution"])
    for item in found["distribution"]:
        assert item["name"] and item["encodingFormat"]
        if item["@type"] == "cr:FileObject":
            raw = (folder / item["contentUrl"]).read_bytes()
            assert item["sha256"] == hashlib.sha256(raw).hexdigest()
            assert item["contentSize"] == f"{len(raw)} B"
        else:
            assert item["@type"] == "cr:FileSet"
            paths = [path for pattern in item["includes"] for path in folder.glob(pattern)]
            assert len(paths) == 24
    fields = {}
    for records in found["recordSet"]:
        assert records["@type"] == "cr:RecordSet"
        for field in records["field"]:
            assert field["@type"] == "cr:Field" and field["@id"] not in fields
            assert field["dataType"] in ("sc:Text", "sc:Float", "sc:Integer", "sc:ImageObject")
            source = field["source"]
            assert source.get("fileObject", source.get("fileSet"))["@id"] in distribution
            fields[field["@id"]] = field
        if records["name"] in ("metadata", "images", "labels"):
            assert records["key"]["@id"] in fields
    for field in fields.values():
        assert "references" not in field or field["references"]["field"]["@id"] in fields
    used = [f.split("/")[1] for f in fields if f.startswith("metadata/")]
    assert used == columns
    for field in fields.values():
        if "fileObject" in field["source"]:
            assert field["source"]["extract"] == {"column": field["name"]}
            assert field["source"]["fileObject"]["@id"] == f"{field['@id'].split('/')[0]}.parquet"
    assert fields["particles/radius"]["description"] == "radius, in angstrom"
    dose = fields["metadata/dose"]
    assert dose["dataType"] == "sc:Float" and "electron/angstrom^2" in dose["description"]


def test_mlcroissant_loads_the_description(exported) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(str(exported("png") / "x/croissant.json"))
    assert len(list(dataset.records("metadata"))) == len(list(dataset.records("images"))) == 24


def test_parts_of_a_subset_become_folders(call, small, tmp_path) -> None:
    split = ("--split", "train=2/3,validation=1/3", "--seed", "3")
    assert call("subset", small, "-o", "s.json", *split).returncode == 0
    done = call("export", "s.json", "-o", "both", "--format", "tiff")
    assert done.returncode == 0 and "16 train, 8 validation as tiff" in done.stdout
    keys = {
        part: {path.stem for path in (tmp_path / "both" / part / "images").iterdir()}
        for part in ("train", "validation")
    }
    assert not keys["train"] & keys["validation"]
    call("export", "s.json", "-o", "one", "--format", "tiff", "--part", "validation")
    assert {path.stem for path in (tmp_path / "one").rglob("*.tif")} == keys["validation"]
    narrow = ("--part", "train", "--where", "dose > 1000")
    done = call("export", "s.json", "-o", "narrow", "--format", "png", *narrow)
    assert "8 train as png" in done.stdout, done.stderr
    said = json.loads((tmp_path / "narrow/export.json").read_text())["origin"]
    assert said == {"subset": "s.json", "draw": 0, "where": "dose > 1000"}
    for arguments, words in (
        (["--part", "trian"], "there is no part 'trian'"),
        (["--draw", "4"], "there is no draw 4"),
    ):
        done = call("export", "s.json", "-o", "no", "--format", "png", *arguments)
        assert done.returncode == 2 and words in done.stderr and not (tmp_path / "no").exists()


def test_all_images_of_an_export_share_one_scale(call, camera, tmp_path) -> None:
    from PIL import Image

    images = open_collection([camera])
    stack = images.images[:]
    assert stack.dtype == np.float32
    lowest, highest = float(stack.min()), float(stack.max())
    dark, bright = np.floor(lowest) + 2, np.floor(highest) - 2  # cut some, at one end
    for name, options, low, high in (
        ("found", [], lowest, highest),
        ("low", [f"--scale={dark}:9000"], dark, 9000.0),
        ("high", [f"--scale=-900:{bright}"], -900.0, bright),
    ):
        done = call("export", camera, "-o", name, "--format", "png", *options)
        assert f"{low:.10g} became 0 and {high:.10g} became 65535" in done.stdout
        cut = sum(image.min() < low or image.max() > high for image in stack)
        assert bool(cut) == bool(options)
        assert (f"{cut} images have pixels outside" in done.stdout) == bool(cut)
        for index, path in enumerate(sorted((tmp_path / name / "images").iterdir())):
            wanted = (stack[index].astype(float) - low) * 65535 / (high - low)
            found = np.array(Image.open(path)).astype(float)
            assert np.abs(found - np.clip(wanted, 0, 65535)).max() <= 0.5001
            assert Image.open(path).text["stored_range"] == f"{low:.10g} {high:.10g}"
    assert (
        len({int(np.array(Image.open(p)).max()) for p in (tmp_path / "found/images").iterdir()}) > 1
    )


def test_the_view_of_a_campaign_is_applied_when_asked_for(call, camera, tmp_path) -> None:
    stack = open_collection([camera]).images[:]
    for view, expected, left in (
        ("stored", stack, "median 3x3"),
        ("campaign", filter_median(stack), "raw"),
    ):
        done = call("export", camera, "-o", view, "--format", "hdf5", "--view", view)
        assert done.returncode == 0, done.stderr
        with h5py.File(tmp_path / view / "images.hdf5") as file:
            found = file["entry/images/intensity"]
            assert np.array_equal(found, expected) and found.attrs["view"] == left


def test_campaigns_are_exported_together(call, small, camera, tmp_path) -> None:
    done = call("export", small, camera, "-o", "x", "--format", "hdf5", "--where", "dose < 1000")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "x/images.hdf5") as file:
        keys = file["entry/metadata/key"].asstr()[()]
        assert [key.rpartition("_")[0] for key in keys] == ["small"] * 12 + ["camera"] * 4
        assert set(file["entry/campaign"]) == {"hpctem_version", "small", "camera"}
        assert file["entry/images/intensity"].attrs["view"].startswith("different")
    assert {p.name for p in (tmp_path / "x/campaigns").iterdir()} == {"small.yaml", "camera.yaml"}


@pytest.mark.parametrize(
    "arguments, words, code",
    [
        (["--format", "tif"], "no format 'tif' (nearest: tiff)", 2),
        (["--format", "tiff", "--compress", "zip"], "tiff has no compression 'zip'", 2),
        (["--format", "tiff", "--view", "raw"], "no view 'raw'; choose one of stored, camp", 2),
        (["--format", "tiff", "--scale", "1"], "is no range: write LOW:HIGH", 2),
        (["--format", "tiff", "--shard", "0"], "--shard", 2),
        (["--format", "tiff", "--published", "soon"], "--published", 2),
        (["--format", "emd", "--part", "train"], "choose from a subset file", 2),
        (["--format", "emd", "--where", "dose > 1e9"], "holds no images", 2),
        (["--format", "emd", "--where", "doze > 1"], "nearest: dose", None),
        ([], "--format", 2),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, code, call, small, tmp_path) -> None:
    done = call("export", small, "-o", "x", *arguments)
    assert words in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == code or (code is None and done.returncode in (1, 2))
    assert list(tmp_path.iterdir()) == []


def test_targets_that_are_something_else_are_refused(call, small, tmp_path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/thesis.txt").write_text("mine")
    done = call("export", small, "-o", "x", "--format", "png")
    assert done.returncode == 2 and "exists and is no export of hpctem" in done.stderr
    done = call("export", "nix.hdf5", "-o", "y", "--format", "png")
    assert done.returncode == 1 and "cannot open" in done.stderr
    done = call("export", small, "-o", small / "y", "--format", "png")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["x", "thesis.txt"]


@pytest.mark.parametrize(
    "kind, limit",
    [
        ("hdf5", 5_000),
        ("hdf5", 60_000),
        ("tfrecord", 60_000),
        ("webdataset", 60_000),
        ("tiff", 5_000),
    ],
)
def test_a_full_disk_is_one_error_and_nothing_is_left(
    kind: str, limit: int, small: Path, tmp_path: Path
) -> None:
    """A limit on the size of a file stands for the disk."""
    command = [sys.executable, "-m", "hpctem", "export", small, "-o", "x", "--format", kind]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1, done.stdout
    assert "no space is left; nothing of it was kept" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
