"""Squares of experimental images, cut at random: what a network learns from beside simulations."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hpctem.errors import ConfigError
from hpctem.learning.data.preparation import Prepare, measure_preparation, prepare
from hpctem.learning.data.samples import Taken
from hpctem.learning.data.targets import Classes
from hpctem.learning.data.windows import find_window
from hpctem.micrographs.read import read_micrograph
from hpctem.sampling import Streams
from hpctem.sections.training import Experiment


@dataclass(frozen=True, eq=False)
class Patches:
    """Prepared experimental images and the squares that are cut from them.

    images       float32 (ny, nx) each, prepared, all of their allowed rows
    names        of their files
    prepare      how they were prepared; of a group with its measured limits
    patch        side of the squares in pixels
    pixel_sizes  smallest and largest side of a pixel in angstrom, None where no file says it
    seed         of the order, the squares and the variations: apart from that of the simulations
    """

    images: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    prepare: Prepare
    patch: int
    pixel_sizes: tuple[float, float] | None
    seed: int
    classes: Classes | None = None

    @cached_property
    def shares(self) -> np.ndarray:
        """(images,) int64: for how many squares each image has room side by side."""
        return np.array([(ny // self.patch) * (nx // self.patch) for ny, nx in self.shapes])

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of the images."""
        return [(image.shape[0], image.shape[1]) for image in self.images]

    def __len__(self) -> int:
        # As often as squares lie side by side; where each is cut is drawn anew every time, so that
        # an epoch of the simulations may take more.
        return int(self.shares.sum())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of what a network sees."""
        return self.patch, self.patch

    @property
    def room(self) -> tuple[int, int]:
        """Rows and columns that every image has."""
        return min(ny for ny, _ in self.shapes), min(nx for _, nx in self.shapes)

    @cached_property
    def digest(self) -> str:
        """What is learnt from, as hex: the pixels of the images, prepared."""
        state = hashlib.blake2b(digest_size=16)
        for image in self.images:
            state.update(np.array(image.shape, "<i8").tobytes() + image.tobytes())
        return state.hexdigest()

    def cut(self, numbers: np.ndarray, bits: np.ndarray, shape: tuple[int, int]) -> Taken:
        """Cut squares; see `samples.Feedable.cut`. There are no classes."""
        owners = np.searchsorted(np.cumsum(self.shares), numbers, side="right")
        found = np.empty((len(numbers), *shape), np.float32)
        for k, owner in enumerate(owners.tolist()):
            image = self.images[owner]
            found[k] = image[find_window(image.shape, shape, bits[k])]
        return found, None


def read_experiment(
    section: Experiment, locate: Callable[[str], Path], patch: int, seed: int = 0
) -> Patches:
    """Read the experimental images of a training file and prepare them.

    locate   where a file lies that the training file names
    patch    side of the squares in pixels
    seed     of the training; the squares draw from streams of their own

    Raises ConfigError for a file that cannot be read, rows that it does not have, an image in
    which no square fits, and as `preparation.measure_preparation` does.
    """
    images, sizes = [], []
    names = [file for name in section.images for file in _find_files(name, locate)]
    for name in names:
        path, separator, signal = name.partition("::")
        found = read_micrograph(f"{locate(path)}{separator}{signal}", section.frame)
        image = _take_rows(found.image, section.rows, name)
        if min(image.shape) < patch:
            ny, nx = image.shape
            rows = "" if section.rows is None else f", rows {section.rows[0]} to {section.rows[1]}"
            raise ConfigError(
                f"experiment.images: {name}{rows}: {ny} x {nx} px, in which no square of "
                f"{patch} px fits"
            )
        images.append(image)
        if section.pixel_size is not None:
            sizes.append(section.pixel_size)
        elif found.pixel_size is not None:
            sizes += found.pixel_size
    how = measure_preparation(images, section.preparation)
    return Patches(
        tuple(prepare(image, how) for image in images),
        tuple(names),
        how,
        patch,
        (min(sizes), max(sizes)) if sizes else None,
        separate_seed(seed),
    )


def _find_files(name: str, locate: Callable[[str], Path]) -> list[str]:
    """The files that a name means: itself, or of a pattern such as day_a/*.tif all that fit."""
    if not glob.has_magic(name) or locate(name).exists():
        return [name]
    found = sorted(glob.glob(str(locate(name)), recursive=True))
    if not found:
        raise ConfigError(f"experiment.images: no file is called {locate(name)}")
    return [os.path.relpath(path, locate(".")) for path in found]


def separate_seed(seed: int) -> int:
    """The seed of experimental squares in a training of that seed: other draws than elsewhere."""
    return int(Streams(seed)("learning/experiment", 0).integers(2**63))


def _take_rows(image: np.ndarray, rows: tuple[int, int] | None, name: str) -> np.ndarray:
    if rows is None:
        return image
    first, last = rows
    if not 0 <= first < last <= len(image):
        raise ConfigError(
            f"experiment.rows: [{first}, {last}] of {name}, which has rows 0 to {len(image) - 1}: "
            f"give the first and one more than the last, at most [0, {len(image)}]"
        )
    return np.ascontiguousarray(image[first:last])
