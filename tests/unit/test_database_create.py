"""The empty database: fixed bytes, fixed places, reserved space, refused before any work."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from synthetic import lay_out

from hpctem.database import create as create_module
from hpctem.database.create import create
from hpctem.database.plan import compare_plans, write_plan
from hpctem.database.reader import open_file, read_layout
from hpctem.database.schema import (
    Axis,
    Field,
    Layout,
    Stack,
    choose_structures_per_segment,
    find_field,
    fit_text,
    volume_path,
    volume_range,
)
from hpctem.errors import ConfigError, DatabaseError, MachineError

IDENTITY = {"code_version": "1.0"}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_same_layout_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        create(tmp_path / name, lay_out(), IDENTITY)
        os.utime(tmp_path / name, (0, 0))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    create(tmp_path / "c", lay_out(first=1), IDENTITY)
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_superblock_is_version_0(tmp_path):
    """Superblock 3 (libver 'latest') has a flag that makes a killed writer's file unreadable."""
    create(tmp_path / "db", lay_out(), IDENTITY)
    assert (tmp_path / "db").read_bytes()[8] == 0


def test_every_dataset_is_contiguous_allocated_and_zero(tmp_path):
    layout = lay_out()
    create(tmp_path / "db", layout, IDENTITY)
    with h5py.File(tmp_path / "db") as file:
        for item in layout.datasets:
            dataset = file[item.path]
            properties = dataset.id.get_create_plist()
            assert properties.get_layout() == h5py.h5d.CONTIGUOUS
            assert properties.get_fill_time() == h5py.h5d.FILL_TIME_NEVER
            assert properties.get_nfilters() == 0
            assert dataset.id.get_offset() is not None
            assert dataset.shape == (layout.rows(item.table), *item.shape)
            assert dataset.id.get_storage_size() == layout.rows(item.table) * item.row_bytes
            assert not np.any(dataset[()].view(np.uint8) if dataset.dtype.kind != "S" else 0)
            assert dataset.attrs.get("units", "") == item.units
    blocks = os.stat(tmp_path / "db").st_blocks * 512
    assert blocks >= layout.data_bytes, "the space is not reserved"


def test_types_are_fixed(tmp_path):
    create(tmp_path / "db", lay_out(), IDENTITY)
    with h5py.File(tmp_path / "db") as file:
        lattice = file["/entry/structures/lattice"].dtype
        assert h5py.check_enum_dtype(lattice) == {"fcc": 0, "bcc": 1, "hcp": 2}
        status = h5py.check_enum_dtype(file["/entry/structures/status"].dtype)
        assert status == {"pending": 0, "good": 1, "quarantined": 2}
        text = h5py.check_string_dtype(file["/entry/structures/formula"].dtype)
        assert (text.encoding, text.length) == ("utf-8", 7)
        assert file["/entry/waves/exit_wave"].dtype == np.complex64
        assert file["/entry/campaign/config"][()].decode() == "seed: 7\n"


def test_everything_but_the_rows_is_described_as_well(tmp_path):
    layout = lay_out()
    create(tmp_path / "db", layout, IDENTITY)
    silent = []

    def look(name, item):
        if isinstance(item, h5py.Dataset) and not item.attrs.get("description"):
            silent.append(f"/{name}")

    with h5py.File(tmp_path / "db") as file:
        file.visititems(look)
        assert file["/entry/images/y"].attrs["description"] == "y of the pixels of an image"
    assert set(silent) == {item.path for item in layout.fields if not item.description}


def test_layout_is_read_back_from_the_file(tmp_path):
    layout = lay_out()
    create(tmp_path / "db", layout, IDENTITY)
    with open_file(tmp_path / "db") as file:
        found = read_layout(file)
    assert found == layout
    assert write_plan(found, IDENTITY) == write_plan(layout, IDENTITY)


def test_space_that_does_not_suffice_is_refused_with_the_estimate(tmp_path):
    layout = lay_out(structures=10**10)
    size = f"{layout.data_bytes / 2**30:.2f}"
    with pytest.raises(MachineError, match=r"needs \d+\.\d\d GiB but .* has only") as caught:
        create(tmp_path / "db", layout, IDENTITY)
    assert size.split(".")[0] in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_filesystem_without_fallocate(tmp_path, monkeypatch, code):
    create(tmp_path / "a", lay_out(), IDENTITY)
    calls = refuse_fallocate(monkeypatch, code)
    create(tmp_path / "b", lay_out(), IDENTITY)
    assert calls and digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_quota_is_met_before_any_work(tmp_path, monkeypatch, code):
    refuse_fallocate(monkeypatch, code)
    with pytest.raises(MachineError, match=f"cannot reserve .*{os.strerror(code)}"):
        create(tmp_path / "db", lay_out(), IDENTITY)
    assert not list(tmp_path.iterdir())


def refuse_fallocate(monkeypatch, code: int) -> list[int]:
    """Let the system call fail as it does on that kind of filesystem."""
    calls = []

    class Library:
        @staticmethod
        def fallocate(descriptor, mode, offset, size):
            calls.append(size)
            ctypes.set_errno(code)
            return -1

    monkeypatch.setattr(create_module.ctypes, "CDLL", lambda *_, **__: Library)
    return calls


def test_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "db").write_text("mine")
    with pytest.raises(DatabaseError, match="exists already"):
        create(tmp_path / "db", lay_out(), IDENTITY)
    assert (tmp_path / "db").read_text() == "mine"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"structures": 0}, "at least one structure"),
        ({"counts": {"particles": "/entry/metadata/dose"}}, "no column of structures"),
        ({"rows_per_structure": {"images": 4}}, "which has no rows"),
        ({"campaign": {"plan": "x"}}, "two datasets are called /entry/campaign/plan"),
        ({"stacks": (Stack("/entry/images/intensity", (Axis("y", 3, 1.0),)),)}, "do not fit"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(change, message):
    layout = lay_out()
    kept = {name: getattr(layout, name) for name in Layout.__dataclass_fields__}
    with pytest.raises(DatabaseError, match=message):
        Layout(**kept | change)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("/images/x", "images", "f4"), "does not begin with '/entry/'"),
        (("/entry/images/x", "images", "O"), "no fixed-size number"),
        (("/entry/images/x", "images", "bool"), "use uint8 with two categories"),
        (("/entry/images/x", "images", "f4", (), "", "", ("a",)), "need an unsigned integer"),
    ],
)
def test_fields_that_cannot_be_stored_are_refused(arguments, message):
    with pytest.raises(DatabaseError, match=message):
        Field(*arguments)


def test_differences_of_plans_are_named():
    old = write_plan(lay_out(), {"code_version": "1.0", "device": "cpu"})
    assert compare_plans(old, old) == []
    assert compare_plans(old, write_plan(lay_out(), {"code_version": "1.1", "device": "cpu"})) == [
        "code_version: 1.0 then, 1.1 now"
    ]
    lines = compare_plans(old, write_plan(lay_out(size=32), {"device": "cpu"}))
    assert lines[0] == "code_version: 1.0 then, absent now"
    assert "/entry/images/intensity.shape: [24, 24] then, [32, 32] now" in lines
    texts = Layout(
        **{**vars(lay_out()), "campaign": {"config": "seed: 8\n", "code_version": "1.0"}}
    )
    assert (
        compare_plans(old, write_plan(texts, {"code_version": "1.0", "device": "cpu"}))[0][:13]
        == "texts.config:"
    )


@pytest.mark.parametrize("structures", [1, 7, 512, 4096, 5000, 10**6])
@pytest.mark.parametrize("size", [1, 10**6, 2**28, 2**31])
def test_segments_hold_whole_structures_within_limits(structures, size):
    each = choose_structures_per_segment(size, structures)
    assert each == 1 or each * size <= 256 * 2**20
    assert each == 1 or structures / each <= 4096 or (each + 1) * size > 256 * 2**20
    if structures <= 4096:
        assert each == 1, "few structures are committed one by one, so that many ranks share them"


def test_volumes_cover_the_campaign_once():
    for structures, volumes in ((10, 1), (10, 3), (513, 7), (5, 5)):
        ranges = [volume_range(structures, k + 1, volumes) for k in range(volumes)]
        assert [i for part in ranges for i in part] == list(range(structures))
        assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
    for number, volumes in ((0, 3), (4, 3), (1, 11)):
        with pytest.raises(ConfigError, match="does not exist"):
            volume_range(10, number, volumes)
    assert volume_path("data/gold.hdf5", 3, 120) == Path("data/gold.v003of120.hdf5")


def test_text_is_cut_at_a_character():
    assert fit_text("Ångström", 7) == "Ångstr".encode()
    assert fit_text("Å", 1) == b""
    assert fit_text("abc", 3) == b"abc"


def test_unknown_column_names_the_nearest():
    fields = lay_out().fields
    assert find_field(fields, "dose").path == "/entry/metadata/dose"
    with pytest.raises(DatabaseError, match=r"no column 'radus'.*nearest: radius"):
        find_field(fields, "radus")
