"""The file formats by themselves: checksums, frames, messages, tags, chunks."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctem.collection.stacks import LABELS
from hpctem.errors import ConfigError
from hpctem.export.crc32c import crc32c, mask_crc
from hpctem.export.maps import Map
from hpctem.export.plan import FORMATS, Choice
from hpctem.export.rasters import write_png, write_tiff
from hpctem.export.records import Record, scale_to_16_bits
from hpctem.export.stacks import choose_filters, compute_in_order, make_chunks
from hpctem.export.tfrecord import encode_example, list_features, write_frame
from hpctem.export.webdataset import encode_columns, write_webdataset
from hpctem.parallel import Communicator

RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
LABEL = RNG.integers(0, 3, (5, 7)).astype(np.uint8)
ONE = Map(LABELS, "instances", True, LABEL.dtype)


@pytest.mark.parametrize(
    "data, expected",
    [  # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc_is_castagnolis(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@given(st.binary(max_size=70))
def test_crc_in_steps_of_eight_bytes_is_the_crc_bit_by_bit(data: bytes) -> None:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF


def test_a_frame_is_length_checksum_data_checksum() -> None:
    stream = io.BytesIO()
    write_frame(stream, b"abc")
    raw = stream.getvalue()
    assert raw[:8] == struct.pack("<Q", 3) and raw[12:15] == b"abc" and len(raw) == 19
    for data, stored in ((raw[:8], raw[8:12]), (b"abc", raw[15:])):
        crc = crc32c(data)
        rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
        assert struct.unpack("<I", stored)[0] == (rotated + 0xA282EAD8) % 2**32 == mask_crc(crc)


def test_a_message_holds_each_kind_of_feature() -> None:
    """Bytes by hand: field 1 of Example, Features; a map entry of key and Feature."""
    assert encode_example({"a": 300}) == bytes.fromhex("0a0d 0a0b 0a0161 1206 1a04 0a02 ac02"), (
        encode_example({"a": 300}).hex(" ")
    )
    assert encode_example({"a": 1.5}).endswith(b"\x12\x06\x0a\x04" + struct.pack("<f", 1.5))
    assert encode_example({"a": "Å"}).endswith(b"\x0a\x04\x0a\x02" + "Å".encode())
    assert encode_example({"a": -1}).endswith(b"\xff" * 9 + b"\x01")


def test_features_are_pixels_numbers_and_what_is_known() -> None:
    record = Record("k_1", IMAGE, {ONE: LABEL}, (1, 1), {"dose": 400.0, "n": 3, "gone": None})
    features = list_features(record)
    assert "gone" not in features and features["n"] == 3
    assert features["image/shape"] == [5, 7] and features["image/dtype"] == "uint16"
    assert np.array_equal(np.frombuffer(features["image"], "u2").reshape(5, 7), IMAGE)
    assert "label" not in list_features(Record("k", IMAGE, {}, (1, 1), {}))


def test_a_tar_holds_the_files_of_an_image_side_by_side_and_no_times() -> None:
    stream = io.BytesIO()
    columns = {"dose": float("nan"), "text": "Å", "row": 3, "digest": [1, 2]}
    write_webdataset(stream, [Record("k_1", IMAGE, {ONE: LABEL}, (1, 1), columns)])
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        members = archive.getmembers()
        assert [m.name for m in members] == ["k_1.image.npy", "k_1.label.npy", "k_1.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}
        found = json.load(archive.extractfile("k_1.json"))
    assert found == {"dose": None, "text": "Å", "row": 3, "digest": [1, 2]}
    assert encode_columns({"b": 1, "a": 2}) == b'{"a": 2, "b": 1}'


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("image", [IMAGE, LABEL], ids=["uint16", "uint8"])
def test_a_tiff_is_read_by_others_with_its_pixel_size(
    image: np.ndarray, packed: bool, tmp_path: Path
) -> None:
    tifffile = pytest.importorskip("tifffile")
    reader = pytest.importorskip("rsciio.tiff")
    from PIL import Image

    path = tmp_path / "x.tif"
    with open(path, "wb") as stream:
        write_tiff(stream, image, (0.3, 0.125), {"key": "k", "Ort": "Köln"}, packed)
    assert np.array_equal(tifffile.imread(path), image)
    with Image.open(path) as opened:
        assert np.array_equal(np.array(opened), image)
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej and file.imagej_metadata["unit"] == "nm"
        across, down = (file.pages[0].tags[f"{n}Resolution"].value for n in "XY")
        assert across[0] / across[1] == 80 and down[0] / down[1] == pytest.approx(100 / 3)
        width, height = (file.pages[0].tags[number].value for number in (65009, 65010))
        assert (width, height) == pytest.approx((0.0125, 0.03))
    (signal,) = reader.file_reader(str(path))
    assert np.array_equal(signal["data"], image)
    assert [axis["units"] for axis in signal["axes"]] == ["nm", "nm"]
    assert [axis["scale"] for axis in signal["axes"]] == pytest.approx([0.03, 0.0125])


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("kind", ["uint16", "float32", "uint8"])
def test_segments_are_the_pages_of_a_tiff(kind: str, packed: bool, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    reader = pytest.importorskip("rsciio.tiff")
    from PIL import Image

    stack = (np.arange(3 * 5 * 7) ** 2 % 251).reshape(3, 5, 7).astype(kind)
    path = tmp_path / "x.tif"
    with open(path, "wb") as stream:
        write_tiff(stream, stack, (0.3, 0.125), {"key": "k"}, packed)
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej and file.imagej_metadata["slices"] == 3 == len(file.pages)
        assert np.array_equal(file.asarray(), stack)
    with Image.open(path) as opened:
        assert opened.n_frames == 3
        for number in range(3):
            opened.seek(number)
            assert np.array_equal(np.array(opened), stack[number])
    (signal,) = reader.file_reader(str(path))
    assert np.array_equal(signal["data"], stack)
    assert [axis["scale"] for axis in signal["axes"][1:]] == pytest.approx([0.03, 0.0125])


@pytest.mark.parametrize("image", [IMAGE, LABEL], ids=["uint16", "uint8"])
def test_a_png_is_read_by_others(image: np.ndarray) -> None:
    from PIL import Image

    stream = io.BytesIO()
    write_png(stream, image, {"pixel_size": "0.2 angstrom"})
    with Image.open(stream) as opened:
        assert np.array_equal(np.array(opened), image) and opened.text == {
            "pixel_size": "0.2 angstrom"
        }


@pytest.mark.parametrize("compress", ["none", "gzip", "lzf"])
def test_chunks_made_in_memory_are_those_of_hdf5(compress: str, tmp_path: Path) -> None:
    stack = RNG.poisson(40, (3, 64, 32)).astype(np.uint16)
    filters = choose_filters(compress)
    chunks = make_chunks(stack, filters)
    with h5py.File(tmp_path / "direct.h5", "w") as file:
        options = {"chunks": (1, 64, 32), **filters}
        dataset = file.create_dataset("x", (3, 64, 32), "u2", **options)
        for row, (mask, data) in enumerate(chunks):
            dataset.id.write_direct_chunk((row, 0, 0), data, mask)
        assert np.array_equal(dataset[()], stack)
        usual = file.create_dataset("y", data=stack, **options)
        assert [usual.id.read_direct_chunk((row, 0, 0)) for row in range(3)] == chunks
    if compress != "none":
        assert sum(len(data) for _, data in chunks) < 0.8 * stack.nbytes


FULL = """
import resource, sys
import numpy as np
from hpctem.export.stacks import create_file
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
try:
    with create_file("x.h5") as (file, disk):
        dataset = file.create_dataset("x", (40, 256), "f8", chunks=(1, 256))
        file["text"] = np.arange(100)
        for row in range(40):
            dataset.id.write_direct_chunk((row, 0), bytes(2048))
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize("size", [0, 1000, 3000, 40_000, 80_000])
def test_a_full_disk_is_one_error_when_the_file_is_closed(size: int, tmp_path: Path) -> None:
    """HDF5 itself could not close the file and would end the process with its own errors."""
    command = [sys.executable, "-c", FULL, str(size)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stdout, done.stderr) == (0, "27\n", "")


def test_results_come_in_order_from_one_rank() -> None:
    assert list(compute_in_order([3, 1, 2], lambda n: n * 10, Communicator())) == [30, 10, 20]


def test_16_bits_hold_the_range_and_cut_the_rest() -> None:
    scaled = scale_to_16_bits(np.array([[-1.0, 0, 0.5, 1, 2]], np.float32), 0, 1)
    assert scaled.dtype == np.uint16 and scaled.tolist() == [[0, 0, 32768, 65535, 65535]]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("tif",), "no format 'tif' (nearest: tiff); choose one of hdf5, tfrecord"),
        (("xyzzy",), "no format 'xyzzy'; choose"),
        (("tiff", "median"), "no view 'median'; choose one of stored, campaign"),
        (("tiff", "stored", "lzf"), "tiff has no compression 'lzf'; choose one of none, gzip"),
        (("hdf5", "stored", "", 0), "at least 1 image, not 0"),
        (("hdf5", "stored", "", None, (0, 1)), "a scale is for tiff and png"),
        (("png", "stored", "", None, (2, 1)), "has to be LOW:HIGH"),
        (("png", "stored", "", None, (0, float("nan"))), "has to be LOW:HIGH"),
    ],
)
def test_wrong_choices_are_named(arguments: tuple, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Choice(*arguments)
    assert words in str(raised.value)


def test_png_is_always_compressed_and_others_only_when_asked() -> None:
    found = {name: Choice(name).compress for name in FORMATS}
    assert found.pop("png") == "gzip" and set(found.values()) == {"none"}
