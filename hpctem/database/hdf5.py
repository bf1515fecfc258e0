"""The HDF5 file of a database: opened, its plan and layout read, damage told as what it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from hpctem.database.plan import FORMAT, digest_text, rebuild
from hpctem.database.schema import PLAN_PATH, Layout
from hpctem.errors import DatabaseError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What h5py, json and the rebuilding of a layout raise over bytes that were changed.
DAMAGE = (
    *(OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError),
    *(ArithmeticError, MemoryError),
)
# Types of the values in a plan; what is not named here, the layout checks itself.
TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("path", "table", "dtype", "units", "description", "title"), str),
    **dict.fromkeys(("signal", "row", "name"), str),
    **dict.fromkeys(("structures", "first_structure", "structures_per_segment", "size"), int),
    **dict.fromkeys(("step", "offset"), (int, float)),
    **dict.fromkeys(("attributes", "groups", "rows_per_structure", "counts"), dict),
    **dict.fromkeys(("fields", "stacks", "axes", "shape", "categories"), list),
}


@contextmanager
def open_file(path: str | Path) -> Iterator[h5py.File]:
    """The HDF5 file, opened for reading.

    Raises DatabaseError when it is missing, no HDF5, truncated, or was not written by hpctem.
    """
    path = Path(path)
    require_hdf5(path)
    try:
        # No sieve buffer: it would keep bytes that a job is about to change.
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_sieve_buf_size(0)
        access.set_file_locking(False, True)
        identifier = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, fapl=access)
    except DAMAGE as error:
        cut = "truncated" in str(error)
        state = "is truncated: copy it again" if cut else "is damaged and cannot be opened"
        raise DatabaseError(f"{path} {state} (HDF5: {error})") from error
    with h5py.File(identifier) as file:
        with name_damage(path):
            found = PLAN_PATH in file
        if not found:
            raise DatabaseError(
                f"{path} is an HDF5 file, but hpctem did not write it: no {PLAN_PATH}"
            )
        yield file


def require_hdf5(path: Path) -> None:
    """Raise DatabaseError unless the file exists and begins as HDF5 does."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise DatabaseError(f"cannot open the database {path}: {error.strerror}") from error
    if head != SIGNATURE:
        what = "is empty" if not head else "is no HDF5 file"
        hint = ""
        if head.startswith(b"{"):
            hint = (
                "; if it is a subset file, name the databases that it was drawn from here; 'hpctem "
                "export' and hpctem.open(subset=...) take the subset itself"
            )
        raise DatabaseError(f"{path} {what}, so it is no hpctem database{hint}")


@contextmanager
def name_damage(path: str | Path) -> Iterator[None]:
    """Whatever reading the file's own structures raises becomes a DatabaseError."""
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise DatabaseError(
            f"{path} is damaged outside its rows ({type(error).__name__}: {reason:.200}); "
            "copy it again, or simulate it again under another name"
        ) from error


def read_plan(file: h5py.File) -> str:
    """The plan stored in an open database.

    Raises DatabaseError when it cannot be read or belongs to another format.
    """
    with name_damage(file.filename):
        plan = _text(file[PLAN_PATH])
        described = json.loads(plan)
        found = described["format"]
    if found != FORMAT:
        raise DatabaseError(f"{file.filename} has format {found!r}; this hpctem reads {FORMAT!r}")
    with name_damage(file.filename):
        _check_types(described)
    return plan


def read_layout(file: h5py.File) -> Layout:
    """The layout and the campaign texts stored in an open database.

    Raises DatabaseError when they cannot be read or do not fit together.
    """
    described = json.loads(read_plan(file))
    with name_damage(file.filename):
        texts = {name: _text(file[f"/entry/campaign/{name}"]) for name in described["texts"]}
        for name, text in texts.items():
            if digest_text(text) != described["texts"][name]:
                raise ValueError(f"the text {name!r} of the campaign was changed")
        try:
            return rebuild(described["layout"], texts)
        except DatabaseError as error:
            raise ValueError(str(error)) from error


def _text(dataset: h5py.Dataset) -> str:
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != () or dataset.dtype.kind != "S":
        raise ValueError(f"{dataset.name} is no text")
    return bytes(dataset[()]).rstrip(b"\0").decode("utf-8")


def _check_types(described: Any) -> None:
    """Raise TypeError where a plan holds a value of another type than `write_plan` gives it."""
    layout = described["layout"]
    parts = [layout, *layout["fields"], *layout["stacks"]]
    for part in [*parts, *(axis for stack in layout["stacks"] for axis in stack["axes"])]:
        for name, value in part.items():
            if name in TYPES and (not isinstance(value, TYPES[name]) or isinstance(value, bool)):
                raise TypeError(f"{name} of the plan is {value!r}")
    numbers = [n for item in layout["fields"] for n in item["shape"]]
    texts = [text for item in layout["fields"] for text in item["categories"]]
    texts += [*layout["counts"].values()]
    for pairs in (described["identity"], described["texts"]):
        texts += [*pairs.values()]
    for value, kind in [
        *((n, int) for n in [*numbers, *layout["rows_per_structure"].values()]),
        *((text, str) for text in texts),
    ]:
        if type(value) is not kind:
            raise TypeError(f"{value!r} in the plan is no {kind.__name__}")
