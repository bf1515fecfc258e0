"""Several labels and the defects of images in every format, against what the database holds."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from defects_scanned import KINDS, PARTS, SITES, make_scans

from hpctem.collection.collection import Collection, open_collection
from hpctem.errors import ConfigError
from hpctem.export.job import export, format_summary
from hpctem.export.plan import Choice, Part, plan_form
from hpctem.export.records import read_records
from hpctem.export.tfrecord import list_features


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("labels")
    return [
        make_scans(folder / "one.hdf5", bad=(3,)),
        make_scans(folder / "two.hdf5", seed=2, name="other"),
    ]


@pytest.fixture
def images(paths: list[Path]) -> Collection:
    return open_collection(paths).where("row < 8")


def written(images: Collection, folder: Path, kind: str, **options: object) -> Path:
    export([Part("", images)], folder / kind, Choice(kind, **options))
    return folder / kind


def keys_of(images: Collection) -> list[str]:
    names = np.array([database.name for database in images.databases])[images.sources]
    return [f"{name}_{row:08d}" for name, row in zip(names, images.rows, strict=True)]


def test_hdf5_and_emd_hold_each_label_by_its_name(images: Collection, tmp_path: Path) -> None:
    with h5py.File(written(images, tmp_path, "hdf5", compress="gzip") / "images.hdf5") as file:
        assert set(PARTS) <= set(file["entry/labels"])
        for name in PARTS:
            found = file[f"entry/labels/{name}"]
            assert np.array_equal(found, images.label(name)[:]) and found.dtype == PARTS[name]
            assert found.attrs["description"] == f"map of {name}"
        assert file["entry/labels/atoms"].attrs["classes"].tolist() == list(SITES)
        assert file["entry/labels/distance"].attrs["units"] == "angstrom"
        assert file["entry/labels"].attrs["signal"] == "atoms"
        # Pixels differ from image to image: the axes count them, the column has their size.
        assert file["entry/images/x"][:3].tolist() == [0, 1, 2]
        assert "units" not in file["entry/images/x"].attrs
        sizes = file["entry/metadata/pixel_size"][:]
        assert np.array_equal(sizes, images.column("pixel_size")) and len(set(sizes)) == 6
    with h5py.File(written(images, tmp_path, "emd") / "images.emd") as file:
        for name in PARTS:
            found = file[f"data/labels_{name}/data"]
            assert np.array_equal(found, images.label(name)[:])
            assert found.parent.attrs["emd_group_type"] == 1 and len(found.parent["dim2"]) == 32
        assert "units" not in file["data/images/dim3"].attrs


def test_pixels_of_one_size_have_calibrated_axes(images: Collection, tmp_path: Path) -> None:
    chosen = images.where("pixel_size < 0.105")
    assert len(chosen) > 2
    with h5py.File(written(chosen, tmp_path, "hdf5") / "images.hdf5") as file:
        assert file["entry/images/x"][:3].tolist() == [0, 0.1, 0.2]
        assert file["entry/images/x"].attrs["units"] == "angstrom"


def test_records_hold_each_label_by_its_name(images: Collection, tmp_path: Path) -> None:
    part = Part("", images)
    records = list(read_records(part, 0, len(images), plan_form([part], Choice("tfrecord"))))
    features = [list_features(record) for record in records]
    folder = written(images, tmp_path, "webdataset")
    with tarfile.open(folder / "images-00000.tar") as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    assert len(files) == len(images) * (2 + len(PARTS))
    for place, key in enumerate(keys_of(images)):
        assert features[place]["key"] == key and "label" not in features[place]
        assert records[place].steps == (images.column("pixel_size")[place],) * 2
        for name, kind in PARTS.items():
            expected = images.label(name)[place]
            raw = features[place][f"label/{name}"]
            assert features[place][f"label/{name}/dtype"] == np.dtype(kind).name
            assert np.array_equal(np.frombuffer(raw, kind).reshape(expected.shape), expected)
            found = np.load(io.BytesIO(files[f"{key}.label_{name}.npy"]))
            assert np.array_equal(found, expected) and found.dtype == expected.dtype


def test_files_of_each_label_are_in_a_folder_of_their_own(
    images: Collection, tmp_path: Path
) -> None:
    from PIL import Image

    for kind, suffix, names in (("tiff", "tif", list(PARTS)), ("png", "png", list(PARTS)[:3])):
        folder = written(images, tmp_path, kind)
        assert {path.name for path in (folder / "labels").iterdir()} == set(names)
        for name in names:
            for place, key in enumerate(keys_of(images)):
                with Image.open(folder / "labels" / name / f"{key}.{suffix}") as opened:
                    found = np.array(opened)
                expected = images.label(name)[place]
                assert found.dtype == expected.dtype and np.array_equal(found, expected)
    reader = pytest.importorskip("rsciio.tiff")
    size = images.column("pixel_size")[4] / 10
    path = tmp_path / f"tiff/labels/distance/{keys_of(images)[4]}.tif"
    (signal,) = reader.file_reader(str(path))
    assert [axis["scale"] for axis in signal["axes"]] == pytest.approx([size, size])
    assert np.array_equal(signal["data"], images.label("distance")[4])


def test_labels_are_chosen_by_name_and_one_alone_is_the_label(
    images: Collection, tmp_path: Path
) -> None:
    folder = written(images, tmp_path, "png", labels=("Mo_on_W",))
    assert len(list((folder / "labels").glob("*.png"))) == len(images)
    told = json.loads((folder / "export.json").read_text())["pixels"]["labels"]
    assert [label["name"] for label in told] == ["Mo_on_W"]
    done = export([Part("", images)], tmp_path / "none", Choice("hdf5", labels=("none",)))
    assert done.labels == () and set(done.left_out) == set(PARTS)
    assert "without labels; left out: atoms, Se_vacancy" in format_summary(folder, "hdf5", done)
    with h5py.File(tmp_path / "none/images.hdf5") as file:
        assert "labels" not in file["entry"]
    done = export([Part("", images)], tmp_path / "two", Choice("png", labels=("atoms", *KINDS)))
    assert done.labels == ("atoms", *KINDS) and done.left_out == ("distance",)
    assert "labels: atoms, Se_vacancy, Mo_on_W" in format_summary(folder, "png", done)
    for labels, words in (
        (("atom",), r"no label 'atom' \(nearest: atoms\)"),
        (("distance",), "'distance' holds real numbers, which png cannot hold: choose tiff"),
    ):
        with pytest.raises(ConfigError, match=words):
            export([Part("", images)], tmp_path / "bad", Choice("png", labels=labels))
    assert not (tmp_path / "bad").exists()


def test_labels_that_only_some_databases_hold_are_left_out_or_refused(
    paths: list[Path], tmp_path: Path
) -> None:
    fewer = make_scans(tmp_path / "fewer.hdf5", seed=5, name="fewer", labels=("atoms",))
    part = Part("", open_collection([paths[0], fewer]))
    done = export([part], tmp_path / "x", Choice("png"))
    assert done.labels == ("atoms",) and done.left_out == ("Se_vacancy", "Mo_on_W", "distance")
    with pytest.raises(ConfigError, match=r"fewer.hdf5 holds no label 'Mo_on_W'; it has atoms"):
        export([part], tmp_path / "y", Choice("png", labels=("Mo_on_W",)))


def test_labels_of_other_classes_are_not_mixed(paths: list[Path], tmp_path: Path) -> None:
    sites = ("boron", "nitrogen")
    other = make_scans(tmp_path / "hbn.hdf5", 4, name="hbn", sites=sites)
    part = Part("", open_collection([paths[0], other]))
    done = export([part], tmp_path / "x", Choice("png"))
    assert done.labels == KINDS and done.left_out == ("atoms", "distance")
    with pytest.raises(ConfigError, match="'atoms' does not have the same classes in all") as told:
        export([part], tmp_path / "y", Choice("png", labels=("atoms",)))
    assert "(metal, chalcogen; boron, nitrogen)" in str(told.value)


def test_the_defects_of_the_exported_images_are_a_table(images: Collection, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = written(images, tmp_path, "png")
    found = pq.read_table(folder / "defects.parquet")
    assert found.column_names[:4] == ["database", "campaign", "row", "structure_id"]
    expected = images.objects("defects")
    for name in found.column_names:
        assert found[name].to_pylist() == expected[name].to_pylist(), name
    pairs = set(zip(found["database"].to_pylist(), found["row"].to_pylist(), strict=True))
    files = np.array(images.files)[images.sources]
    shown = set(zip(files.tolist(), images.rows.tolist(), strict=True))
    # Rows of structure 2 are 6 to 8, of which the last one was not exported.
    assert pairs == shown and ("one.hdf5", 8) not in pairs
    lines = (folder / "defects.csv").read_text().splitlines()
    assert len(lines) == len(found) + 1 and lines[0].startswith('"database","campaign","row"')
    told = json.loads((folder / "croissant.json").read_text())
    assert "scanning TEM images" in told["description"]
    sets = {item["@id"]: item for item in told["distribution"] if item["@type"] == "cr:FileSet"}
    assert sets["labels-atoms-files"]["includes"] == ["labels/atoms/*.png"]
    assert "1 metal, 2 chalcogen" in sets["labels-atoms-files"]["description"]
    records = {item["@id"]: item for item in told["recordSet"]}
    labels = {f"labels-{name}" for name in ("atoms", *KINDS)}
    assert {"images", "defects", "metadata", *labels} == set(records)
    fields = {item["name"] for item in records["defects"]["field"]}
    assert {"row", "kind", "pixel_x"} <= fields
