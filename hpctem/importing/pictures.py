"""One image of a downloaded set with its label maps, however the set is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Picture:
    """An image of a set.

    image       (ny, nx), values of the file
    labels      uint8 (maps, ny, nx), 1 where a map marks a pixel, else 0
    pixel_size  A, where the file says it: the side of a square of the same area
    """

    image: np.ndarray
    labels: np.ndarray
    pixel_size: float | None = None


class Pictures(Protocol):
    """The images of a set, in their order; picklable, opens files when asked for an image."""

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the label maps."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the images."""

    @property
    def counts(self) -> bool:
        """Whether all values are whole numbers that 16 bits hold."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where image `index` stands: its file, of an array with its place there."""

    def find_size(self, index: int) -> float | None:
        """The side in A of a pixel of image `index`, where its file says it."""

    def read(self, index: int) -> Picture:
        """Image `index` and its labels."""

    def read_labels(self, index: int) -> np.ndarray:
        """The labels of image `index` alone, as `Picture` has them."""
