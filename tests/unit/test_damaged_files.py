"""Whatever happened to a file, opening it, info and reading end in an answer or one clear sentence.

HDF5 can take all memory, or die, over structures that were changed. Therefore the damaged files are
read by a child process whose memory is limited; what it prints is compared here.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "mpi"))

from synthetic import Compute, lay_out

from hpctem.database.fill import fill
from hpctem.database.information import inform
from hpctem.database.journal import journal_folder
from hpctem.database.reader import open_database
from hpctem.database.schema import PLAN_PATH
from hpctem.errors import DatabaseError
from hpctem.summaries import describe, format_information

MEMORY = 3 * 2**30
WRONG = (None, "x", "", -1, 0, 10**12, 2.5, True, [], {}, [None], {"x": 1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished database, one structure quarantined."""
    path = tmp_path_factory.mktemp("whole") / "gold.hdf5"
    assert fill(path, lay_out(6, 2), {"seed": "7"}, Compute(bad=(3,))).complete
    return path


@pytest.fixture
def alone(whole: Path, tmp_path: Path) -> Path:
    """The same file without its folder: HDF5 itself has to make sense of it."""
    return Path(shutil.copy(whole, tmp_path / "alone.hdf5"))


def read_everything(path: Path) -> str:
    """'' when all could be read, else the message; anything but a DatabaseError goes through."""
    try:
        with open_database(path) as database:
            assert database.images[:].ndim == 3 and database.labels[:].ndim == 3
            for item in database.layout.fields:
                database.column(item.path)
            for row in database.rows("images")[:1]:
                database.row("images", int(row))
            assert repr(database) and database.name and database.identity is not None
        found = inform(path)
        assert format_information(found, True) and json.dumps(describe(found))
    except DatabaseError as error:
        return str(error)
    return ""


def outside_rows(path: Path) -> np.ndarray:
    """Places of all bytes that belong to no row."""
    with open_database(path) as database:
        free = np.ones(path.stat().st_size, bool)
        for item in database.layout.datasets:
            start = database.offsets[item.path]
            free[start : start + database.layout.rows(item.table) * item.row_bytes] = False
    return np.flatnonzero(free)


def flip(path: Path, seed: int, count: int, places: np.ndarray) -> Iterator[str]:
    """What reading says with one to twenty bytes changed, `count` times."""
    raw, chance = path.read_bytes(), random.Random(seed)
    with open(path, "r+b", buffering=0) as stream:
        for _ in range(count):
            changed = [
                int(places[chance.randrange(len(places))])
                for _ in range(chance.choice([1, 1, 3, 20]))
            ]
            for place in changed:
                values = (raw[place] ^ 1 << chance.randrange(8), chance.randrange(256), 0, 255)
                os.pwrite(stream.fileno(), bytes([chance.choice(values)]), place)
            yield read_everything(path)
            for place in changed:
                os.pwrite(stream.fileno(), raw[place : place + 1], place)


def cut(path: Path, seed: int, count: int) -> Iterator[str]:
    """What reading says of the file cut at any byte."""
    raw, chance = path.read_bytes(), random.Random(seed)
    for length in [*range(0, 600, 7), *(chance.randrange(len(raw)) for _ in range(count))]:
        path.write_bytes(raw[:length])
        yield read_everything(path)
    path.write_bytes(raw)


def replace_plan(path: Path, plan: str | bytes) -> None:
    raw = plan if isinstance(plan, bytes) else plan.encode()
    with h5py.File(path, "r+") as file:
        del file[PLAN_PATH]
        file[PLAN_PATH] = np.array(raw, dtype=h5py.string_dtype("utf-8", max(1, len(raw))))


def places_of(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Path of every value inside a plan."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in items:
        yield from places_of(part, (*path, key))


def change_plans(path: Path, seed: int, count: int) -> Iterator[str]:
    """What reading says with one value of the plan replaced by one of another type or size."""
    with open_database(path) as database:
        text = database.plan
    places, chance = list(places_of(json.loads(text))), random.Random(seed)
    for _ in range(count):
        plan, place, wrong = json.loads(text), chance.choice(places), chance.choice(WRONG)
        if place:
            part = plan
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = wrong
        else:
            plan = wrong
        replace_plan(path, json.dumps(plan))
        yield read_everything(path)
    replace_plan(path, text)


def answers(work: str, path: Path) -> list[str]:
    """What a child process says whose memory is limited."""
    done = subprocess.run(
        [sys.executable, __file__, work, path], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


WORKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "flip outside": lambda path: flip(path, 1, 400, outside_rows(path)),
    "flip anywhere": lambda path: flip(path, 2, 150, np.arange(path.stat().st_size)),
    "cut": lambda path: cut(path, 3, 100),
    "change plans": lambda path: change_plans(path, 4, 400),
}


@pytest.mark.parametrize("work", WORKS)
def test_a_damaged_file_gives_an_answer_or_a_sentence(work: str, alone: Path) -> None:
    said = answers(work, alone)
    strange = [m for m in said if m and ("\n" in m or "alone.hdf5" not in m)]
    assert not strange, strange[0]
    refused = sum(map(bool, said))
    assert refused > 0.1 * len(said)
    if work == "cut":
        assert refused == len(said)


def test_a_marked_file_with_damage_outside_its_rows_never_reads_wrong(
    whole: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(whole, tmp_path / "gold.hdf5"))
    shutil.copytree(journal_folder(whole), journal_folder(path))
    said = answers("flip outside", path)
    assert all("\n" not in message for message in said) and any(said)


def test_a_marked_file_is_opened_without_hdf5(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("HDF5 was asked")

    monkeypatch.setattr(h5py.h5f, "open", refuse)
    monkeypatch.setattr(h5py, "File", refuse)
    with open_database(whole) as database:
        assert database.marked and len(database.images[:]) == 20
        assert database.column("formula")[0] == "Ångstr"


def test_damage_outside_the_rows_of_a_marked_file_is_logged(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copy(whole, tmp_path / "gold.hdf5"))
    shutil.copytree(journal_folder(whole), journal_folder(path))
    with h5py.File(path, "r+") as file:
        file["/entry/metadata/dose"].attrs.modify("units", "1/nanometre2")
    with open_database(path) as database:
        assert database.marked and len(database.images) == 20
    assert "gold.hdf5 is damaged outside its rows" in caplog.text


def test_a_text_of_the_campaign_that_was_changed_is_found(alone: Path) -> None:
    with h5py.File(alone, "r+") as file:
        file["/entry/campaign/config"][()] = b"seed: 8\n"
    with pytest.raises(DatabaseError, match="the text 'config' of the campaign was changed"):
        open_database(alone)


def test_every_missing_or_strange_dataset_is_named(alone: Path) -> None:
    with open_database(alone) as database:
        paths = [item.path for item in database.layout.datasets]
    for path in paths:
        with h5py.File(alone, "r+") as file:
            file.move(path, "/elsewhere")
        with pytest.raises(DatabaseError, match=f"{path} is not as its plan says"):
            open_database(alone)
        with h5py.File(alone, "r+") as file:
            rows = file["/elsewhere"].shape
            file.create_dataset(path, rows, chunks=rows, compression="gzip", dtype="f8")
        with pytest.raises(DatabaseError, match=f"{path} is not as its plan says"):
            open_database(alone)
        with h5py.File(alone, "r+") as file:
            del file[path]
            file.move("/elsewhere", path)
    assert read_everything(alone) == ""


@pytest.mark.parametrize(
    "plan", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"format": "hpctem-1"}', b"{}" * 10**6]
)
def test_a_plan_that_is_none_is_told(plan: bytes, alone: Path) -> None:
    replace_plan(alone, plan)
    assert "is damaged outside its rows" in read_everything(alone)


def test_another_format_is_told(alone: Path) -> None:
    replace_plan(alone, '{"format": "hpctem-9"}')
    assert "has format 'hpctem-9'; this hpctem reads 'hpctem-1'" in read_everything(alone)


def test_foreign_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "foreign.hdf5"
    assert "cannot open the database" in read_everything(path)
    path.write_bytes(b"")
    assert "is empty" in read_everything(path)
    path.write_bytes(b"\x89PNG" * 100)
    assert "is no HDF5 file" in read_everything(path)
    path.write_text('{\n "databases": []}')
    assert "if it is a subset file, name the databases" in read_everything(path)
    with h5py.File(path, "w") as file:
        file["data"] = np.arange(5)
    assert f"hpctem did not write it: no {PLAN_PATH}" in read_everything(path)
    for value in (np.arange(5), 3.0, "not JSON", np.bytes_(b"[]")):
        with h5py.File(path, "w") as file:
            file[PLAN_PATH] = value
        assert "is damaged outside its rows" in read_everything(path)
    with h5py.File(path, "w") as file:
        file.create_group(PLAN_PATH)
    assert "is damaged outside its rows" in read_everything(path)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["data"] = np.arange(5)
    assert "is no HDF5 file" in read_everything(path)
    (tmp_path / "folder.hdf5").mkdir()
    assert "Is a directory" in read_everything(tmp_path / "folder.hdf5")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps(list(WORKS[sys.argv[1]](Path(sys.argv[2])))))
