"""Put the rows of a segment into the file, at any rank, beside any other rank.

Two writers give the same bytes: parallel HDF5 (independent writes through MPI-IO), and plain pwrite
at the offset of each dataset, for an h5py without MPI. Never HDF5's serial caches: of rows written
through them none survived a kill.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from hpctem.database.rows import locate
from hpctem.database.schema import Layout
from hpctem.errors import ConfigError, MachineError
from hpctem.parallel import Communicator

SLAB_BYTES = 2**30 - 2**20
WRITERS = ("auto", "mpio", "pwrite")
# What h5py raises where the system refuses a call of HDF5.
HDF5_ERRORS = (OSError, RuntimeError)


class Writer(Protocol):
    """Writes blocks of rows and makes them durable."""

    def write(self, path: str, first_row: int, values: np.ndarray) -> None:
        """Write rows first_row ... of the dataset; the dtype is the dataset's own."""

    def sync(self) -> None:
        """Wait until everything written is on disk."""

    def close(self) -> None:
        """Close the file."""


def open_writer(path: Path, layout: Layout, communicator: Communicator, kind: str) -> Writer:
    """The writer of that kind; 'auto' takes MPI-IO where h5py and MPI offer it.

    Raises ConfigError for an unknown kind, MachineError when 'mpio' is asked for and not possible.
    """
    if kind not in WRITERS:
        raise ConfigError(f"writer {kind!r} does not exist; choose one of {', '.join(WRITERS)}")
    obstacle = _obstacle_to_mpio(communicator)
    if kind == "mpio" and obstacle:
        raise MachineError(f"the writer 'mpio' cannot be used: {obstacle}; use 'pwrite' or 'auto'")
    if kind == "mpio" or (kind == "auto" and not obstacle):
        return MpioWriter(path, layout)
    return PwriteWriter(path, layout)


def _obstacle_to_mpio(communicator: Communicator) -> str:
    if not h5py.get_config().mpi:
        return "this h5py is built without MPI"
    if communicator.mpi is None:
        return "the program does not run under MPI"
    if not communicator.threads:
        return "this MPI does not allow calls from several threads"
    return ""


class MpioWriter:
    """Independent writes of exact-dtype, contiguous slabs below 1 GiB through parallel HDF5.

    Each rank opens the file for itself. Opened together it is also closed together: HDF5 then has
    the first rank write its head once more, and where that write fails all ranks wait for ever.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        from mpi4py import MPI

        self._path = path
        self._file = h5py.File(path, "r+", driver="mpio", comm=MPI.COMM_SELF)
        self._datasets = {item.path: self._file[item.path].id for item in layout.datasets}
        self._descriptor = os.open(path, os.O_RDWR)

    def write(self, path: str, first_row: int, values: np.ndarray) -> None:
        dataset = self._datasets[path]
        kind = dataset.get_type()
        for origin, slab in cut_slabs(values, (first_row, *(0 for _ in values.shape[1:]))):
            target = dataset.get_space()
            target.select_hyperslab(origin, slab.shape)
            try:
                dataset.write(h5py.h5s.create_simple(slab.shape), target, slab, kind)
            except HDF5_ERRORS as error:
                raise _machine_error(error, self._path) from error

    def sync(self) -> None:
        _sync(self._descriptor, self._path)

    def close(self) -> None:
        os.close(self._descriptor)
        try:
            self._file.close()
        except HDF5_ERRORS as error:
            raise _machine_error(error, self._path) from error


class PwriteWriter:
    """The same bytes by pwrite(2) at the offsets that HDF5 gave the contiguous datasets."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._offsets = read_offsets(path, layout)
        self._descriptor = os.open(path, os.O_RDWR)

    def write(self, path: str, first_row: int, values: np.ndarray) -> None:
        if not len(values):
            return
        place = self._offsets[path] + first_row * values[:1].nbytes
        view = np.ascontiguousarray(values).view(np.uint8).reshape(-1).data
        while len(view):
            try:
                written = os.pwrite(self._descriptor, view[:SLAB_BYTES], place)
            except OSError as error:
                raise _machine_error(error, self._path) from error
            place += written
            view = view[written:]

    def sync(self) -> None:
        _sync(self._descriptor, self._path)

    def close(self) -> None:
        os.close(self._descriptor)


def cut_slabs(
    values: np.ndarray, origin: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Contiguous parts of below 1 GiB and where each begins; one MPI call moves at most 2 GiB."""
    if values.nbytes <= SLAB_BYTES or values.size <= 1:
        yield origin, np.ascontiguousarray(values)
        return
    axis = next(axis for axis, length in enumerate(values.shape) if length > 1)
    for part in np.array_split(values, 2, axis):
        yield from cut_slabs(part, origin)
        origin = (*origin[:axis], origin[axis] + part.shape[axis], *origin[axis + 1 :])


def read_offsets(path: Path, layout: Layout) -> dict[str, int]:
    """Byte offset of every dataset of the layout in the file at `path`; errors as `locate`."""
    with h5py.File(path, "r", locking=False) as file:
        return locate(file, layout)


def _sync(descriptor: int, path: object) -> None:
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        raise _machine_error(error, path) from error


def _machine_error(error: OSError | RuntimeError, path: object) -> MachineError:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free space and run the same command again" if full else "check the filesystem"
    reason = getattr(error, "strerror", None) or str(error)
    return MachineError(f"writing {path} failed: {reason}; everything committed is kept, {advice}")
