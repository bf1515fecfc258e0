"""Rows of several files as one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.database.rows import StoredRows
from hpctem.errors import DatabaseError


@dataclass(frozen=True, eq=False)
class JoinedRows(Sequence[np.ndarray]):
    """Rows of several files as one lazy sequence of arrays; row i is row places[i] of all parts."""

    parts: tuple[StoredRows, ...]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows stacked.

        Raises DatabaseError when the files' rows have different shapes.
        """
        shapes = {part.shape[1:] for part in self.parts if len(part)}
        if len(shapes) > 1:
            raise DatabaseError(
                f"arrays of shapes {' and '.join(map(str, sorted(shapes)))} cannot be stacked: "
                "take them one by one"
            )
        return (len(self), *(shapes.pop() if shapes else self.parts[0].shape[1:]))

    @property
    def dtype(self) -> np.dtype:
        """The smallest dtype that holds the values of all files."""
        return np.result_type(*(part.dtype for part in self.parts))

    def __getitem__(self, index: Any) -> Any:
        part, place = self._locate(self.places[index])
        if isinstance(index, int | np.integer):
            return self.parts[int(part)][int(place)]
        values = np.empty((len(place), *self.shape[1:]), self.dtype)
        for number in np.unique(part):
            mine = part == number
            values[mine] = self.parts[number][place[mine]]
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def _locate(self, places: Any) -> tuple[Any, Any]:
        ends = np.cumsum([len(part) for part in self.parts])
        part = np.searchsorted(ends, places, side="right")
        return part, places - np.concatenate([[0], ends])[part]
