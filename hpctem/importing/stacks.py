"""Sets that are arrays in HDF5 files: images (n, y, x), and labels in the same order.

Keras keeps a last axis for channels, (n, y, x, channels), PyTorch a second one, (n, channels, y,
x): both are read. Labels have a value for each pixel, or a channel for each class.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.errors import ConfigError
from hpctem.importing.import_file import find_file
from hpctem.importing.pictures import Picture
from hpctem.sections.importing import Dataset, Stack

HALF = 0.5  # of a channel of class probabilities: from here on a pixel is of the class


@dataclass(frozen=True)
class Array:
    """A dataset as images see it.

    shape     (n, ny, nx)
    channels  of each pixel
    axis      of the channels in the dataset: 3, 1, or None where it has no such axis
    """

    file: Path
    dataset: str
    shape: tuple[int, int, int]
    channels: int
    axis: int | None
    dtype: np.dtype

    def read(self, index: int) -> np.ndarray:
        """Image `index`: (channels, ny, nx)."""
        with open_hdf5(self.file) as file:
            values = np.asarray(file[self.dataset][index])
        if self.axis is None:
            return values[np.newaxis]
        return values if self.axis == 1 else np.moveaxis(values, -1, 0)


@dataclass(frozen=True)
class StackPictures:
    """The images of arrays; see `pictures.Pictures`."""

    images: Array
    labels: Array | None
    marks: Mapping[str, int]

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the label maps."""
        return tuple(self.marks)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        arrays = [array.file for array in (self.images, self.labels) if array is not None]
        return tuple(dict.fromkeys(arrays))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the images."""
        return self.images.shape[1:]

    @property
    def counts(self) -> bool:
        """Whether all values are whole numbers that 16 bits hold."""
        return self.images.dtype.name in ("uint8", "uint16", "bool")

    def __len__(self) -> int:
        return self.images.shape[0]

    def name(self, index: int) -> str:
        """The file of the images and the place in it."""
        return f"{self.images.file.name}[{index}]"

    def find_size(self, index: int) -> None:
        """Arrays do not say how large pixels are."""

    def read(self, index: int) -> Picture:
        """Image `index` and its labels."""
        return Picture(self.images.read(index)[0], self.read_labels(index))

    def read_labels(self, index: int) -> np.ndarray:
        """uint8 (maps, ny, nx). Raises ConfigError for a value that the import file does not name.

        Of one class alone everything but 0 is marked.
        """
        if self.labels is None:
            return np.zeros((0, *self.shape), np.uint8)
        values = self.labels.read(index)
        if self.labels.channels > 1:
            marked = [values[channel] >= HALF for channel in self.marks.values()]
            return np.stack(marked).astype(np.uint8)
        if len(self.marks) == 1:
            return (values != 0).astype(np.uint8)
        unknown = np.setdiff1d(values, [0, *self.marks.values()])
        if unknown.size:
            known = ", ".join(f"{value} {name}" for name, value in self.marks.items())
            raise ConfigError(
                f"{self.labels.file}, {self.labels.dataset}: image {index} has the label "
                f"{unknown[0]:g}, and stack.labels.maps names 0 background, {known}"
            )
        marked = [values[0] == value for value in self.marks.values()]
        return np.stack(marked).astype(np.uint8)


def open_stack(folder: Path, section: Stack) -> StackPictures:
    """The images of the arrays that an import file names in a folder.

    Raises ConfigError for files and datasets that are missing or hold something else, and for
    labels that are not of the images' number, size and classes.
    """
    images = _find_array(folder, section.images, "stack.images")
    if section.labels is None:
        return StackPictures(images, None, {})
    labels = _find_array(folder, section.labels, "stack.labels", images.shape[1:])
    told = [f"{a.shape[0]} of {a.shape[1]} x {a.shape[2]} px" for a in (images, labels)]
    if images.shape != labels.shape:
        raise ConfigError(
            f"stack.labels: {labels.file} has labels for {told[1]}, and the images of "
            f"{images.file} are {told[0]}: the two must be of one set, in the same order"
        )
    marks = section.labels.maps
    beyond = [f"{name}: {channel}" for name, channel in marks.items() if channel >= labels.channels]
    if labels.channels > 1 and beyond:
        raise ConfigError(
            f"stack.labels.maps: {', '.join(beyond)}, but {labels.dataset} of {labels.file} has "
            f"the channels 0 to {labels.channels - 1}"
        )
    if labels.channels == 1 and len(marks) > 1 and 0 in marks.values():
        raise ConfigError("stack.labels.maps: 0 is the background, which needs no map")
    return StackPictures(images, labels, dict(marks))


def _find_array(
    folder: Path, section: Dataset, key: str, image: tuple[int, ...] | None = None
) -> Array:
    """A dataset of the folder's files; of labels, `image`: rows and columns of the images."""
    path = find_file(folder, section.file, f"{key}.file")
    with open_hdf5(path) as file:
        item = file.get(section.dataset)
        if not isinstance(item, h5py.Dataset):
            raise ConfigError(f"{key}.dataset: {_explain(file, path, section.dataset)}")
        shape, dtype = item.shape, item.dtype
    if dtype.kind not in "biuf":
        raise ConfigError(f"{key}: {section.dataset} of {path} holds {dtype}, no numbers")
    axis = _find_channels(shape, image)
    if len(shape) not in (3, 4) or (len(shape) == 4 and axis is None) or 0 in shape:
        raise ConfigError(
            f"{key}: {section.dataset} of {path} has the shape {shape}: needed are (images, rows, "
            "columns), with a last or a second axis for channels if any; images have one channel"
        )
    n, *rest = (size for place, size in enumerate(shape) if place != axis)
    channels = 1 if axis is None else shape[axis]
    return Array(path, section.dataset, (n, rest[0], rest[1]), channels, axis, dtype)


def _find_channels(shape: tuple[int, ...], image: tuple[int, ...] | None) -> int | None:
    """Which axis of four holds channels: that which leaves images of the size of the others."""
    if len(shape) != 4:
        return None
    if image is not None:
        return 3 if shape[1:3] == image else 1 if shape[2:4] == image else None
    return 3 if shape[3] == 1 else 1 if shape[1] == 1 else None


def _explain(file: h5py.File, path: Path, name: str) -> str:
    """Why a dataset is not there, and what is."""
    held: dict[str, Any] = {}
    file.visititems(
        lambda at, item: held.update({at: item.shape}) if isinstance(item, h5py.Dataset) else None
    )
    near = difflib.get_close_matches(name, held, n=1)
    hint = f" (nearest: {near[0]})" if near else ""
    there = ", ".join(f"{at} {shape}" for at, shape in held.items()) or "no dataset at all"
    return f"{path} has no dataset {name!r}{hint}; it has {there}"


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading. Raises ConfigError for one that is none, or is cut short."""
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{path} cannot be read as HDF5, it may not be downloaded completely: {reason}"
        ) from None
    with file:
        yield file
