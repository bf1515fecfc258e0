"""Lay out the whole database before any work: afterwards bytes are filled in, nothing else changes.

A file whose datasets all exist at their final size survives a SIGKILL at any moment; files that
grow while they are written do not. Two files of one layout are the same, byte for byte.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.database.plan import write_plan
from hpctem.database.schema import PLAN_PATH, Axis, Field, Layout
from hpctem.errors import DatabaseError, MachineError

# Datasets above the threshold begin at a page, which page caches and direct input/output like.
ALIGNMENT_THRESHOLD, ALIGNMENT = 65536, 4096
HEADER_BYTES = 2**20
# Of a file in memory.
PAGE = 2**16
TEXTS = {
    "config": "the campaign file as it was given",
    "config_hash": "BLAKE2b-128 of the resolved config, in hexadecimal",
    "resolved_config": "JSON: every key of the campaign with its value",
    "inputs": "JSON: name, BLAKE2b-128 and text of each file that the campaign names",
    "hpctem_version": "version of hpctem that laid out the file",
    "parent": "JSON: the database that this one was made of, its plan and the rows' digest",
    "translation": "JSON: the model that made the images, and how theirs were prepared",
}
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def create(path: str | Path, layout: Layout, identity: Mapping[str, str]) -> None:
    """Write the empty database: every dataset at its final place, its space reserved, zeros inside.

    The file appears under its name only when it is complete and on disk. One process calls this.

    Raises MachineError when the disk or quota does not suffice (with the estimate), DatabaseError
    when the file exists.
    """
    path = Path(path)
    if path.exists():
        raise DatabaseError(f"{path} exists already")
    check_space(path.parent, layout.data_bytes + HEADER_BYTES)
    temporary = path.with_name(path.name + ".creating")
    temporary.unlink(missing_ok=True)
    try:
        write_empty(temporary, layout, write_plan(layout, identity))
        reserve_file(temporary, temporary.stat().st_size)
        os.rename(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise MachineError(
            f"cannot reserve the {gib(layout.data_bytes)} of {path}: {reason}; "
            "free space, raise the quota or limit, or choose another folder"
        ) from error


def reserve_file(path: Path, size: int) -> None:
    """Give a file that size, its blocks reserved and on disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.ftruncate(descriptor, size)
        reserve_space(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(folder: Path, needed: int) -> None:
    """Raise MachineError when the filesystem of `folder` has fewer than `needed` bytes free."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise MachineError(f"cannot write into {folder}: {error.strerror}") from error
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise MachineError(
            f"the database needs {gib(needed)} but {folder.absolute()} has only {gib(free)} free; "
            "free space, choose another folder or cut the campaign into volumes"
        )


def reserve_space(descriptor: int, size: int) -> bool:
    """Reserve the blocks of a file with fallocate(2); False where the filesystem cannot.

    Python's os.posix_fallocate would silently write zeros over the whole file there.

    Raises OSError when the space does not suffice.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "fallocate"):
        return False
    call = libc.fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(descriptor, 0, 0, size) != 0:
        code = ctypes.get_errno()
        if code in UNSUPPORTED:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def sync_folder(folder: Path) -> None:
    """Make renames and new files of a folder durable; raises MachineError when it cannot be."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MachineError(f"cannot sync the folder {folder}: {error.strerror}") from error


def gib(size: int) -> str:
    """Bytes as text for messages: '1.50 GiB', '12.0 MiB'."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def write_empty(path: Path, layout: Layout, plan: str) -> None:
    """Write the file of a layout with nothing in its rows; it takes no more space than its headers.

    The bytes outside the rows depend on layout, plan and HDF5 alone.

    Raises OSError when the file cannot be written.
    """
    laid_out = MemoryFile()
    _lay_out(laid_out, layout, plan)
    with open(path, "wb", buffering=0) as stream:
        laid_out.write_to(stream)


class MemoryFile(io.RawIOBase):
    """A sparse file in memory: the pages that were written, by their numbers.

    HDF5 lays the database out here and not on a disk, since it cannot let go of a file whose writes
    fail: it would go on using it after its end, and h5py does not tell what failed at closing.
    """

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._size = self._place = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte."""
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        """The byte to be read or written next."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read from here; what was never written is zeros."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._place)]
        for piece, number, start in self._cut(view):
            page = self._pages.get(number)
            piece[:] = page[start : start + len(piece)] if page else bytes(len(piece))
        self._place += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        """Write from here."""
        view = memoryview(data).cast("B")
        for piece, number, start in self._cut(view):
            page = self._pages.setdefault(number, bytearray(PAGE))
            page[start : start + len(piece)] = piece
        self._place += len(view)
        self._size = max(self._size, self._place)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size; HDF5 cuts off nothing that it has written."""
        self._size = self._place if size is None else size
        return self._size

    def write_to(self, stream: io.FileIO) -> None:
        """Write a file with these bytes. Raises OSError."""
        stream.truncate(self._size)
        for number, page in sorted(self._pages.items()):
            left = memoryview(page)[: self._size - number * PAGE]
            place = number * PAGE
            while left:
                count = os.pwrite(stream.fileno(), left, place)
                left, place = left[count:], place + count

    def _cut(self, view: memoryview) -> Iterator[tuple[memoryview, int, int]]:
        """Pieces of what lies from here on: bytes, number of their page, place in it."""
        done = 0
        while done < len(view):
            number, start = divmod(self._place + done, PAGE)
            piece = view[done : done + PAGE - start]
            yield piece, number, start
            done += len(piece)


def _lay_out(stream: MemoryFile, layout: Layout, plan: str) -> None:
    # The earliest format gives superblock 0 and no times. With the latest (superblock 3) a killed
    # serial writer leaves a file that HDF5 refuses to open; HDF5 2 by itself takes superblock 2,
    # whose root group holds the time of its creation.
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_V18)
    access.set_alignment(ALIGNMENT_THRESHOLD, ALIGNMENT)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, stream)
    identifier = h5py.h5f.create(b"layout", h5py.h5f.ACC_TRUNC, fapl=access)
    with h5py.File(identifier) as file:
        for name, text in layout.campaign.items():
            described = TEXTS.get(name, name.replace("_", " "))
            _write_text(file, f"/entry/campaign/{name}", text, described)
        _write_text(file, PLAN_PATH, plan, "JSON: layout and identity, fixed for all runs")
        for item in layout.datasets:
            _create_dataset(file, item, layout.rows(item.table))
        _describe_groups(file, layout)


def _write_text(file: h5py.File, path: str, text: str, description: str) -> None:
    raw = text.encode()
    dtype = h5py.string_dtype("utf-8", max(1, len(raw)))
    data = np.array(raw, dtype=dtype)
    dataset = file.create_dataset(path, data=data, dtype=dtype, track_times=False)
    dataset.attrs["description"] = description


def _create_dataset(file: h5py.File, item: Field, rows: int) -> None:
    parent = file.require_group(item.path.rsplit("/", 1)[0])
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple((rows, *item.shape))
    kind = h5py.h5t.py_create(_stored_type(item), logical=True)
    dataset = h5py.Dataset(h5py.h5d.create(parent.id, item.name.encode(), kind, space, properties))
    for name, value in (("units", item.units), ("description", item.description)):
        if value:
            dataset.attrs[name] = value
    for name, value in item.attributes.items():
        dataset.attrs[name] = value


def _stored_type(item: Field) -> np.dtype:
    if item.dtype.kind == "S":
        return h5py.string_dtype("utf-8", item.dtype.itemsize)
    if item.categories:
        names = {name: number for number, name in enumerate(item.categories)}
        return h5py.enum_dtype(names, basetype=item.dtype)
    return item.dtype


def _describe_groups(file: h5py.File, layout: Layout) -> None:
    """NeXus: an NXentry of definition NXem, one NXdata for each stack, collections elsewhere."""
    attributes: dict[str, dict[str, Any]] = {"/": {"NX_class": "NXroot", "default": "entry"}}
    paths = sorted({item.path for item in layout.datasets} | {PLAN_PATH})
    for path in paths:
        parts = path.strip("/").split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            attributes.setdefault("/" + "/".join(parts[:depth]), {"NX_class": "NXcollection"})
    attributes["/entry"] = {"NX_class": "NXentry"}
    _write_text(file, "/entry/definition", "NXem", "NeXus application definition of the entry")
    _write_text(file, "/entry/title", layout.title, "title of the campaign")
    for number, stack in enumerate(layout.stacks):
        group, signal = stack.signal.rsplit("/", 1)
        if number == 0:
            attributes["/entry"]["default"] = group.removeprefix("/entry/")
        attributes[group] = {
            "NX_class": "NXdata",
            "signal": signal,
            "axes": [stack.row, *(axis.name for axis in stack.axes)],
            "interpretation": "image",
        }
        rows = next(f for f in layout.fields if f.path == stack.signal).table
        each, total = layout.rows_per_structure[rows], layout.rows(rows)
        count = Axis(stack.row, total, 1, "", layout.first_structure * each, "row of the campaign")
        for place, axis in enumerate((count, *stack.axes)):
            attributes[group][f"{axis.name}_indices"] = place
            _write_axis(file, group, axis)
        dataset = file[stack.signal]
        dataset.attrs["interpretation"] = "image"
        # Lazy readers (HyperSpy) take their chunks from here: the dataset itself is contiguous.
        dataset.attrs["chunks"] = np.array([1, *(axis.size for axis in stack.axes)])
        if stack.title:
            _write_text(file, f"{group}/title", stack.title, "title of the plot")
    for path, extra in layout.groups.items():
        attributes.setdefault(path, {"NX_class": "NXcollection"}).update(extra)
    for path in sorted(attributes):
        group_ = file.require_group(path)
        for name, value in attributes[path].items():
            group_.attrs[name] = value


def _write_axis(file: h5py.File, group: str, axis: Axis) -> None:
    whole = float(axis.step).is_integer() and float(axis.offset).is_integer() and not axis.units
    values = axis.offset + axis.step * np.arange(axis.size, dtype=np.float64)
    path = f"{group}/{axis.name}"
    data = values.astype(np.int64) if whole else values
    dataset = file.create_dataset(path, data=data, track_times=False)
    if axis.units:
        dataset.attrs["units"] = axis.units
    if axis.description:
        dataset.attrs["long_name"] = axis.description
    dataset.attrs["description"] = axis.description or f"{axis.name} of the pixels of an image"
