"""Parts of stored images and label maps, read without the lines that nobody looks at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from hpctem.database.reader import Database
from hpctem.database.schema import Field

Window = tuple[slice, slice]
"""Rows and columns of an image, both with begin and end."""


def find_window(whole: tuple[int, ...], shape: tuple[int, int], bits: np.ndarray) -> Window:
    """Where a window of a shape lies in an image, uniform over all places: two random numbers.

    bits   (2,) uint64, for rows and columns
    """
    ny, nx = (int(b) % (n - m + 1) for b, n, m in zip(bits, whole, shape, strict=True))
    return slice(ny, ny + shape[0]), slice(nx, nx + shape[1])


def surround(windows: Iterable[Window]) -> Window:
    """The smallest window that holds all of these."""
    rows, columns = zip(*windows, strict=True)
    return tuple(  # type: ignore[return-value]
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in (rows, columns)
    )


def extend(window: Window, margin: int, whole: tuple[int, ...]) -> Window:
    """A window with a margin of pixels on all sides, as far as the image reaches."""
    rows, columns = (
        slice(max(0, part.start - margin), min(length, part.stop + margin))
        for part, length in zip(window, whole, strict=True)
    )
    return rows, columns


def shift(window: Window, within: Window) -> Window:
    """The same window, counted from the first pixel of one that holds it."""
    rows, columns = (
        slice(part.start - outer.start, part.stop - outer.start)
        for part, outer in zip(window, within, strict=True)
    )
    return rows, columns


def read_window(database: Database, item: Field, row: int, window: Window) -> np.ndarray:
    """A window of a stored image or label map (ny, nx), as stored: its lines are read, no others.

    row   of the file. Raises DatabaseError and MachineError as reading does
    """
    ny, nx = item.shape
    rows, columns = window
    # All lines of all images lie one after the other: the rows of a table of lines.
    lines = database.piece(
        replace(item, shape=(nx,)), row * ny + rows.start, rows.stop - rows.start
    )
    return np.ascontiguousarray(lines[:, columns])
