"""Rows of a dataset, read when they are asked for: images, labels, exit waves, columns.

The datasets of a database are contiguous, so a row is a run of bytes at a known place. It is read
by preadv(2) into the array that is returned: no HDF5 call, no lock, no shared position in the file.
That is why any number of threads and forked processes can read the same rows at the same time.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.database.schema import Layout
from hpctem.errors import DatabaseError, MachineError

CALL_BYTES = 2**30


class OpenFile:
    """A file open for reading as long as something refers to it; also in forked processes.

    path      as it was given
    location  the same from the root, wherever the process goes

    Raises DatabaseError when it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.location = self.path.absolute()
        try:
            self.descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DatabaseError(f"cannot open {path}: {error.strerror}") from error

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "descriptor"):
            close(self.descriptor)

    def read(self, values: np.ndarray, place: int) -> None:
        """Fill a C-contiguous array with the bytes from `place` on.

        Raises DatabaseError where the file ends before, MachineError when reading fails.
        """
        wanted = values.nbytes
        if wanted <= CALL_BYTES and self._read(values, place) == wanted:
            return
        left = values.reshape(-1).view(np.uint8)
        while len(left):
            count = self._read(left[:CALL_BYTES], place)
            if not count:
                raise DatabaseError(f"{self.path} ends before byte {place + len(left)}: truncated")
            left, place = left[count:], place + count

    def map(self, dtype: np.dtype, shape: tuple[int, ...], place: int) -> np.ndarray:
        """The bytes from `place` on as an array that is read, page by page, when it is used.

        It stays that of this file, also when another one takes its name. Raises DatabaseError where
        the file ends before, MachineError where nothing can be mapped.
        """
        size = dtype.itemsize * math.prod(shape)
        begin = place - place % mmap.ALLOCATIONGRANULARITY
        if not size:
            return np.empty(shape, dtype)
        try:
            pages = mmap.mmap(
                self.descriptor, place - begin + size, access=mmap.ACCESS_READ, offset=begin
            )
        except ValueError as error:
            raise DatabaseError(
                f"{self.path} ends before byte {place + size}: truncated"
            ) from error
        except OSError as error:
            raise MachineError(f"mapping {self.path} failed: {error.strerror}") from error
        return np.ndarray(shape, dtype, pages, place - begin)

    def _read(self, values: np.ndarray, place: int) -> int:
        try:
            return os.preadv(self.descriptor, [values], place)  # type: ignore[list-item]
        except OSError as error:
            raise MachineError(f"reading {self.path} failed: {error.strerror}") from error


class StoredRows(Sequence[np.ndarray]):
    """Chosen rows of one dataset: a sequence of arrays that are read when asked for.

    `rows[3]` is one array of the row's shape, `rows[10:20]`, `rows[[5, 3]]` and `rows[mask]` are
    stacked arrays, `rows.select(...)` is another sequence that has read nothing yet.

    file     the file or its path
    offset   byte at which the dataset begins
    dtype    of the dataset
    shape    shape of one row
    rows     int64 numbers, in the dataset, of the rows of this sequence

    Reads are independent of each other and of every HDF5 handle, so threads and forked processes
    share it; pickled, it opens the file again.
    """

    def __init__(
        self,
        file: str | Path | OpenFile,
        offset: int,
        dtype: np.dtype,
        shape: tuple[int, ...],
        rows: np.ndarray,
    ) -> None:
        self._file = file if isinstance(file, OpenFile) else OpenFile(file)
        self._offset, self._row_shape = offset, tuple(shape)
        self.dtype = np.dtype(dtype)
        self.rows = np.asarray(rows, np.int64)
        self._row_bytes = self.dtype.itemsize * math.prod(self._row_shape)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows stacked."""
        return (len(self.rows), *self._row_shape)

    def __getitem__(self, index: Any) -> Any:
        rows = self.rows[_as_index(index)]
        if rows.ndim == 0:
            values = np.empty(self._row_shape, self.dtype)
            self._file.read(values, self._offset + int(rows) * self._row_bytes)
            return values[()] if not self._row_shape else values
        values = np.empty((len(rows), *self._row_shape), self.dtype)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for start, stop in zip(starts, np.append(starts[1:], len(rows)), strict=False):
            place = self._offset + int(rows[start]) * self._row_bytes
            self._file.read(values[start:stop], place)
        return values

    def select(self, index: Any) -> StoredRows:
        """Some of the rows, not read yet: by slice, numbers or a mask."""
        rows = np.atleast_1d(self.rows[_as_index(index)])
        return StoredRows(self._file, self._offset, self.dtype, self._row_shape, rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        shape = self._row_shape
        path = self._file.location
        return StoredRows, (path, self._offset, self.dtype, shape, self.rows)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self._row_shape)) or "scalar"
        return f"<{len(self)} rows of {shape} {self.dtype} in {self._file.path}>"


def _as_index(index: Any) -> Any:
    if isinstance(index, slice | int | np.integer) and not isinstance(index, bool):
        return index
    wanted = np.asarray(index)
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iub"):
        raise IndexError(f"rows are chosen by number, slice, numbers or a mask, not by {index!r}")
    return wanted if wanted.size else wanted.astype(np.int64)


def locate(file: h5py.File, layout: Layout) -> dict[str, int]:
    """Byte offset of every dataset of the layout in an open file.

    Raises DatabaseError when a dataset is missing, has not the type, shape and size that the
    layout gives it, or reaches beyond the end of the file.
    """
    end = os.stat(file.filename).st_size
    offsets = {}
    for item in layout.datasets:
        rows = layout.rows(item.table)
        dataset = file.get(item.path)
        if (
            not isinstance(dataset, h5py.Dataset)
            or dataset.shape != (rows, *item.shape)
            or dataset.dtype != item.dtype
            or dataset.id.get_storage_size() != rows * item.row_bytes
            or (offset := dataset.id.get_offset()) is None
            or offset + rows * item.row_bytes > end
        ):
            raise DatabaseError(
                f"{file.filename}: dataset {item.path} is not as its plan says: damaged"
            )
        offsets[item.path] = offset
    return offsets
