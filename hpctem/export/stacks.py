"""Images, labels, detectors as stacks in one HDF5 file: all ranks compress, the first writes.

A chunk is one image. Each rank turns its images into finished chunks with HDF5's own filters, in a
file that exists in memory only; rank 0 puts them into the file in the order of the rows. So the
bytes do not depend on the number of ranks, and no parallel HDF5 is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from hpctem.database.schema import fit_text
from hpctem.export.maps import Map
from hpctem.export.plan import LEVEL, Form, Shard, common_steps
from hpctem.export.records import read_image, read_maps
from hpctem.parallel import Communicator

T = TypeVar("T")
# What a rank compresses at once and sends to the first.
BLOCK_BYTES = 16 * 2**20
Chunks = list[tuple[int, bytes]]


def write_stack(
    path: Path,
    shard: Shard,
    form: Form,
    compress: str,
    datasets: Sequence[str],
    describe: Callable[[h5py.File], None],
    communicator: Communicator,
) -> None:
    """Write one file; all ranks call it.

    datasets   path of the images and of all maps of the form
    describe   adds everything else to the file, once its datasets are there
    """
    assert form.shape is not None
    dtypes = (form.dtype, *(each.dtype for each in form.maps))
    shapes = (form.shape, *((*each.segments, *form.shape) for each in form.maps))
    filters = choose_filters(compress)
    size = max(1, BLOCK_BYTES // (int(np.prod(form.shape)) * form.pixel_bytes))
    blocks = [range(i, min(i + size, shard.stop)) for i in range(shard.start, shard.stop, size)]

    def fill(block: range) -> list[Chunks]:
        images = [read_image(shard.part, index, form) for index in block]
        maps = [read_maps(shard.part, index, form).values() for index in block]
        return [make_chunks(np.stack(s), filters) for s in (images, *zip(*maps, strict=True))]

    computed = compute_in_order(blocks, fill, communicator)
    if communicator.rank != 0:
        for _ in computed:
            pass
        return
    with create_file(path) as (file, disk):
        made = [
            file.create_dataset(
                name,
                (len(shard), *shape),
                dtype,
                chunks=(1, *shape),
                fillvalue=None,
                track_times=False,
                **filters,
            )
            for name, dtype, shape in zip(datasets, dtypes, shapes, strict=True)
        ]
        describe(file)
        for block, stacks in zip(blocks, computed, strict=True):
            for dataset, chunks in zip(made, stacks, strict=True):
                for row, (mask, data) in zip(block, chunks, strict=True):
                    place = (row - shard.start, *[0] * (dataset.ndim - 1))
                    dataset.id.write_direct_chunk(place, data, mask)
            if disk.failure is not None:
                return


def choose_filters(compress: str) -> dict[str, Any]:
    """Arguments of h5py's create_dataset; the bytes of a pixel are told apart before."""
    if compress == "none":
        return {}
    options = {"compression_opts": LEVEL} if compress == "gzip" else {}
    return {"compression": compress, "shuffle": True, **options}


def make_chunks(stack: np.ndarray, filters: Mapping[str, Any]) -> Chunks:
    """Each image of a stack as HDF5 stores it: (mask of filters left out, bytes)."""
    if not filters:
        return [(0, image.tobytes()) for image in stack]
    with h5py.File("chunks", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("x", data=stack, chunks=(1, *stack.shape[1:]), **filters)
        inner = [0] * (stack.ndim - 1)
        return [dataset.id.read_direct_chunk((row, *inner)) for row in range(len(stack))]


def compute_in_order(
    items: Sequence[Any], compute: Callable[[Any], T], communicator: Communicator
) -> Iterator[T]:
    """On rank 0 the results for all items in their order; every rank computes its share of them.

    All ranks have to run through it. A rank is at most one result ahead of what rank 0 has taken.
    """
    for number, item in enumerate(items):
        owner = number % communicator.size
        if owner == communicator.rank:
            result = compute(item)
            if owner == 0:
                yield result
            else:
                communicator.mpi.ssend(result, 0, tag=1)
        elif communicator.rank == 0:
            yield communicator.mpi.recv(source=owner, tag=1)


@contextmanager
def create_file(path: Path) -> Iterator[tuple[h5py.File, Disk]]:
    """An empty file in HDF5's earliest format, which holds no times: the same bytes every time.

    Whoever writes much looks now and then whether the disk tells of a failure, and returns.

    Raises the OSError of the first write that failed, such as that of a full disk.
    """
    with Disk(path, "w+") as disk:
        try:
            with h5py.File(disk, "w", libver=("earliest", "v108")) as file:
                yield file, disk
        except (OSError, RuntimeError):
            if disk.failure is None:
                raise
        if disk.failure is not None:
            raise disk.failure


class Disk(io.FileIO):
    """A file for HDF5, which cannot close one on a full disk: failures are kept, not told to it."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it, or remember why not."""
        view = memoryview(data).cast("B")
        try:
            while len(view) and self.failure is None:
                view = view[super().write(view) :]
        except OSError as error:
            self.failure = error
        self.seek(len(view), io.SEEK_CUR)
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file, or remember why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


def write_values(
    file: h5py.File, path: str, values: np.ndarray, attributes: Mapping[str, Any]
) -> None:
    """A dataset; texts as UTF-8 of fixed length, attributes where they are not empty."""
    if values.dtype.kind in "UO":
        raw = [fit_text(str(text), 2**16) for text in values.reshape(-1)]
        kind = h5py.string_dtype("utf-8", max(1, max(map(len, raw), default=1)))
        data = np.array(raw, kind).reshape(values.shape)
        dataset = file.create_dataset(path, data=data, dtype=kind, track_times=False)
    else:
        dataset = file.create_dataset(path, data=values, track_times=False)
    for name, value in attributes.items():
        if not (isinstance(value, str) and not value):
            dataset.attrs[name] = value


def write_categories(
    file: h5py.File,
    path: str,
    values: np.ndarray,
    names: Sequence[str],
    attributes: Mapping[str, Any],
) -> None:
    """Names as an HDF5 enum; 'absent' where an image's campaign has no such column."""
    values = np.where(values == "", "absent", values)
    known = np.array([*names, *(["absent"] if "absent" in values else [])])
    order = np.argsort(known)
    numbers = order[np.searchsorted(known[order], values)].astype(np.uint16)
    kind = h5py.enum_dtype({str(name): k for k, name in enumerate(known)}, np.uint16)
    dataset = file.create_dataset(path, data=numbers, dtype=kind, track_times=False)
    for name, value in attributes.items():
        if value:
            dataset.attrs[name] = value


def write_columns(file: h5py.File, shard: Shard, groups: Mapping[str, str]) -> None:
    """All columns of the images of a shard, one value for each image.

    groups   table of a column -> group of the file
    """
    collection = shard.part.collection[shard.start : shard.stop]
    for name, column in collection.columns.items():
        path = f"{groups[column.table]}/{column.name}"
        attributes = {"units": column.units, "description": column.description}
        values = collection.column(name)
        if column.categories:
            write_categories(file, path, values, column.categories, attributes)
        else:
            write_values(file, path, values, attributes)


def describe_map(each: Map) -> dict[str, Any]:
    """What the values of a map mean, as attributes; those that say nothing are left out."""
    found: dict[str, Any] = {"description": each.description, "units": each.units}
    found |= {"classes": list(each.classes)} if each.classes else {}
    found |= {"scale": each.scale} if each.scale != 1 else {}
    return {name: value for name, value in found.items() if value != ""}


def list_axes(shard: Shard, form: Form, shape: Sequence[int]) -> list[tuple[str, np.ndarray, bool]]:
    """(name, coordinates, whether in angstrom) of the axes image, [segment,] y, x of a stack.

    Where the databases' pixels differ, y and x count pixels.
    """
    steps = common_steps(shard.part, form)
    axes: list[tuple[str, np.ndarray, bool]]
    axes = [("image", shard.start + np.arange(shape[0]), False)]
    axes += [("segment", np.arange(length), False) for length in shape[1:-2]]
    for name, length, step in zip("yx", shape[-2:], steps or (1, 1), strict=True):
        axes.append((name, step * np.arange(length), steps is not None))
    return axes
