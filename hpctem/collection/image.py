"""One image of a collection: what is known of it, read when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hpctem.collection.stacks import DETECTORS, Maps
from hpctem.database.reader import Database

if TYPE_CHECKING:
    import pyarrow

    from hpctem.collection.collection import Collection


@dataclass(frozen=True, eq=False)
class Image:
    """One image of a collection: pixels, labels, columns and objects, read when asked for.

    image["dose"] is the value of a column, image.labels["atoms"] a label map by its name.
    """

    collection: Collection
    place: int

    @property
    def database(self) -> Database:
        """The database that holds it."""
        return self.collection.databases[self.collection.sources[self.place]]

    @property
    def row(self) -> int:
        """Its row in the file."""
        return int(self.collection.rows[self.place])

    @cached_property
    def image(self) -> np.ndarray:
        """(ny, nx) as stored."""
        return self.database.stored(self.database.image_path, np.array([self.row]))[0]

    @cached_property
    def label(self) -> np.ndarray:
        """(ny, nx), the first label: 0 background, k particle k or class k of atom columns."""
        return self.database.stored(self.database.label_path, np.array([self.row]))[0]

    @property
    def labels(self) -> Maps:
        """Its label maps by name, each read when it is asked for."""
        return Maps(self.database, self.row)

    @property
    def detectors(self) -> Maps:
        """Its images by further detectors, by name, each read when it is asked for."""
        return Maps(self.database, self.row, DETECTORS)

    @property
    def defects(self) -> pyarrow.Table:
        """Its defects, a row for each; errors as `objects`."""
        return self.objects("defects")

    def objects(self, table: str) -> pyarrow.Table:
        """What it shows several of, as `Collection.objects` gives it."""
        return self.collection.take([self.place]).objects(table)

    @cached_property
    def values(self) -> dict[str, Any]:
        """All columns by name."""
        return {name: self[name] for name in self.collection.columns}

    def __getitem__(self, name: str) -> Any:
        value = self.collection.take([self.place]).column(name)[0]
        return value.item() if np.ndim(value) == 0 else value

    def __repr__(self) -> str:
        return f"<image {self.row} of {self.database.path}>"
