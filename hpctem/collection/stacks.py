"""What a database holds of each image beside the image: label maps, images of further detectors."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.database.reader import Database
from hpctem.database.schema import Field
from hpctem.errors import ConfigError

LABELS, DETECTORS = "/entry/labels/", "/entry/detectors/"
GROUPS = {LABELS: "label", DETECTORS: "detector"}


def list_stacks(database: Database, group: str = LABELS) -> dict[str, Field]:
    """Name -> field of the arrays of a group, one for each image, in the order of the file."""
    return {
        item.name: item
        for item in database.layout.fields
        if item.table == "images" and item.path == group + item.name and len(item.shape) >= 2
    }


def join_names(databases: Sequence[Database], group: str = LABELS) -> tuple[str, ...]:
    """Names of all arrays of a group that any of the databases has, each once."""
    return tuple(dict.fromkeys(name for d in databases for name in list_stacks(d, group)))


def find_stack(database: Database, name: str, group: str = LABELS) -> Field:
    """The field of that name. Raises ConfigError that says what there is when it is none of it."""
    found = list_stacks(database, group)
    if name in found:
        return found[name]
    kind = GROUPS[group]
    if not found:
        raise ConfigError(f"{database.path} holds no {kind}s, so no {kind} {name!r}")
    near = difflib.get_close_matches(name, found, n=1)
    hint = f" (nearest: {near[0]})" if near else ""
    raise ConfigError(f"{database.path} holds no {kind} {name!r}{hint}; it has {', '.join(found)}")


def tell_classes(item: Field) -> tuple[str, ...]:
    """Names of the values 1, 2, ... of a map of several classes; () where there is one class."""
    return tuple(map(str, item.attributes.get("classes", ())))


def tell_scale(item: Field) -> float:
    """What a stored 1 of a map means."""
    return float(item.attributes.get("scale", 1.0))


@dataclass(frozen=True, eq=False, repr=False)
class Maps(Mapping[str, np.ndarray]):
    """The arrays of one image by name, each read when it is asked for."""

    database: Database
    row: int
    group: str = LABELS

    def __getitem__(self, name: str) -> np.ndarray:
        path = find_stack(self.database, name, self.group).path
        return self.database.stored(path, np.array([self.row]))[0]

    def __contains__(self, name: object) -> bool:
        return name in list_stacks(self.database, self.group)

    def __iter__(self) -> Iterator[str]:
        return iter(list_stacks(self.database, self.group))

    def __len__(self) -> int:
        return len(list_stacks(self.database, self.group))

    def __repr__(self) -> str:
        return f"<{GROUPS[self.group]}s of image {self.row}: {', '.join(self)}>"
