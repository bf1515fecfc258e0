"""Images of further detectors in every format, against what the database holds."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

from defects_scanned import PARTS, make_scans

from hpctem.collection.collection import Collection, open_collection
from hpctem.errors import ConfigError
from hpctem.export import stacks
from hpctem.export.job import export, format_summary
from hpctem.export.plan import Choice, Part, plan_form
from hpctem.export.records import read_records
from hpctem.export.tfrecord import list_features

BOTH = ("bf", "maadf")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    path = make_scans(tmp_path_factory.mktemp("detectors") / "wse2.hdf5", 4, bad=(2,))
    with open_collection([path]) as opened:
        yield opened.where("row > 0")


def write(images: Collection, folder: Path, kind: str, **options: object) -> Path:
    export([Part("", images)], folder / kind, Choice(kind, **{"detectors": BOTH} | options))
    return folder / kind


def test_without_the_option_they_are_left_out_and_the_summary_says_so(
    images: Collection, tmp_path: Path
) -> None:
    done = export([Part("", images)], tmp_path / "x", Choice("tiff"))
    assert done.detectors == () and done.left_detectors == BOTH and not done.left_out
    told = "left out: the further detectors bf, maadf"
    assert format_summary(tmp_path, "tiff", done).splitlines()[-1] == told
    assert not (tmp_path / "x/detectors").exists()
    done = export([Part("", images)], tmp_path / "y", Choice("hdf5", detectors=("all",)))
    assert done.detectors == BOTH and done.left_detectors == ()
    assert format_summary(tmp_path, "hdf5", done).endswith("further detectors: bf, maadf")


@pytest.mark.parametrize("compress", ["none", "gzip", "lzf"])
def test_stacks_hold_them_with_their_segments(
    compress: str, images: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "BLOCK_BYTES", 60_000)  # a few images
    folder = write(images, tmp_path, "hdf5", compress=compress, shard=5)
    for number, chosen in enumerate((images[:5], images[5:])):
        with h5py.File(folder / f"images-0000{number}-of-00002.hdf5") as file:
            for name in BOTH:
                found, expected = file[f"entry/detectors/{name}"], chosen.detector(name)[:]
                assert np.array_equal(found, expected) and found.dtype == expected.dtype
                assert found.chunks == (1, *expected.shape[1:])
            assert file["entry/detectors"].attrs["NX_class"] == "NXcollection"
            assert file["entry/detectors/maadf"].attrs["units"] == "electrons"
            assert set(PARTS) <= set(file["entry/labels"])
    folder = write(images, tmp_path, "emd", compress=compress)
    with h5py.File(folder / "images.emd") as file:
        for name in BOTH:
            group = file[f"data/detectors_{name}"]
            assert np.array_equal(group["data"], images.detector(name)[:])
            dims = [group[f"dim{k + 1}"] for k in range(group["data"].ndim)]
            assert [len(dim) for dim in dims] == list(group["data"].shape)
            inner = ["segment"] if name == "bf" else []
            assert [dim.attrs["name"] for dim in dims] == ["image", *inner, "y", "x"]


def test_an_emd_is_read_by_others(images: Collection, tmp_path: Path) -> None:
    reader = pytest.importorskip("rsciio.emd")
    found = reader.file_reader(str(write(images, tmp_path, "emd") / "images.emd"))
    # The reader turns the order of the axes round, with their names.
    signals = {item["metadata"]["General"]["title"]: item for item in found}
    for name, axes in zip(BOTH, (["x", "y", "segment", "image"], ["x", "y", "image"]), strict=True):
        signal = signals[f"detectors_{name}"]
        assert np.array_equal(signal["data"].T, images.detector(name)[:])
        assert [axis["name"] for axis in signal["axes"]] == axes


def test_records_hold_them_by_their_names(images: Collection, tmp_path: Path) -> None:
    part = Part("", images)
    form = plan_form([part], Choice("tfrecord", labels=("atoms",), detectors=BOTH))
    features = [list_features(r) for r in read_records(part, 0, len(images), form)]
    folder = write(images, tmp_path, "webdataset", labels=("none",))
    with tarfile.open(folder / "images-00000.tar") as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    assert len(files) == len(images) * 4
    for place, row in enumerate(images.rows):
        assert {"label", "image"} <= set(features[place])
        for name in BOTH:
            expected, known = images.detector(name)[place], features[place]
            raw = np.frombuffer(known[f"detector/{name}"], known[f"detector/{name}/dtype"])
            assert np.array_equal(raw.reshape(known[f"detector/{name}/shape"]), expected)
            found = np.load(io.BytesIO(files[f"wse2_{row:08d}.detector_{name}.npy"]))
            assert np.array_equal(found, expected) and found.dtype == expected.dtype


def test_files_of_each_detector_are_as_stored_in_a_folder_of_their_own(
    images: Collection, tmp_path: Path
) -> None:
    tifffile = pytest.importorskip("tifffile")
    folder = write(images, tmp_path, "tiff", scale=(0, 100))
    for name in BOTH:
        for place, row in enumerate(images.rows):
            found = tifffile.imread(folder / f"detectors/{name}/wse2_{row:08d}.tif")
            expected = images.detector(name)[place]
            assert found.dtype == expected.dtype and np.array_equal(found, expected)
    with tifffile.TiffFile(folder / "detectors/maadf/wse2_00000001.tif") as file:
        assert "stored_range" not in file.pages[0].description
    with tifffile.TiffFile(folder / "images/wse2_00000001.tif") as file:
        assert "stored_range=0 100" in file.pages[0].description
    told = json.loads((folder / "croissant.json").read_text())
    sets = {item["@id"]: item for item in told["distribution"] if item["@type"] == "cr:FileSet"}
    assert sets["detectors-bf-files"]["includes"] == ["detectors/bf/*.tif"]
    assert "detectors (bf, maadf) and metadata" in told["description"]
    assert "detectors-maadf" in {item["@id"] for item in told["recordSet"]}
    told = json.loads((folder / "export.json").read_text())["pixels"]["detectors"]
    assert told[0] == {"name": "bf", "dtype": "float32", "segments": 2}


def test_what_a_format_cannot_hold_is_refused_by_name_and_left_out_of_all(
    images: Collection, tmp_path: Path
) -> None:
    done = export([Part("", images)], tmp_path / "x", Choice("png", detectors=("all",)))
    assert done.detectors == ("maadf",) and done.left_detectors == ("bf",)
    with pytest.raises(ConfigError, match="detector 'bf' holds images of several segments, which"):
        write(images, tmp_path, "png")
    with pytest.raises(ConfigError, match=r"no detector 'maad' \(nearest: maadf\)"):
        write(images, tmp_path, "hdf5", detectors=("maad",))
    assert not (tmp_path / "png").exists() and not (tmp_path / "hdf5").exists()
    with pytest.raises(ConfigError, match="cannot become a folder"):
        export([Part("detectors", images)], tmp_path / "y", Choice("png"))
