"""What a network is to say of each pixel: label maps of databases as numbered classes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.collection.stacks import LABELS, list_stacks, tell_classes, tell_scale
from hpctem.database.reader import Database
from hpctem.database.schema import Field
from hpctem.errors import ConfigError
from hpctem.learning.data.preparation import remember
from hpctem.learning.data.windows import Window, read_window
from hpctem.pictures.marking import HALF
from hpctem.sections.training import Target


@dataclass(frozen=True)
class Classes:
    """The classes of pixels and the label maps that make them.

    names   of the classes 1, 2, ...; 0 is background, all that belongs to none
    maps    for each class the label maps that it is made of: 'NAME', every pixel that the map
            marks (of particles all; of a scaled map half of its full value and more), or
            'NAME.CLASS', one class of a map of several
    """

    names: tuple[str, ...]
    maps: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        """Number of classes without background."""
        return len(self.names)

    def read(
        self,
        collection: Collection,
        places: Sequence[int] | np.ndarray,
        window: Window | None = None,
    ) -> np.ndarray:
        """The classes of some images, read from their label maps.

        places    numbers of images in the collection; all of one shape
        window    the part of each that is wanted, the whole without
        returns   uint8 (n, ny, nx): 0 background, k class k (names[k - 1]); a pixel of two
                  classes is of the later one

        Raises ConfigError where a database has no map of a class, DatabaseError and MachineError
        as reading does.
        """
        found = [self._read_one(collection, int(place), window) for place in places]
        return np.stack(found) if found else np.zeros((0, 0, 0), np.uint8)

    @cached_property
    def _sources(self) -> Callable[[Database], list[tuple[int, Field, int | None]]]:
        """For a database (class, its map there, which value of it or None for all marked), ..."""

        def find(database: Database) -> list[tuple[int, Field, int | None]]:
            pairs = enumerate(zip(self.names, self.maps, strict=True), 1)
            return [
                (number, *found)
                for number, (name, maps) in pairs
                for found in _find_maps(database, name, maps)
            ]

        return remember(find)

    def _read_one(self, collection: Collection, place: int, window: Window | None) -> np.ndarray:
        database = collection.databases[collection.sources[place]]
        row = int(collection.rows[place])
        stored: dict[str, np.ndarray] = {}
        classes: np.ndarray | None = None
        for number, item, value in self._sources(database):
            if item.path not in stored:
                part = window or (slice(0, item.shape[0]), slice(0, item.shape[1]))
                stored[item.path] = read_window(database, item, row, part)
            marked = _mark(stored[item.path], item, value)
            if classes is None:
                classes = marked.view(np.uint8) * np.uint8(number)
            else:
                np.copyto(classes, number, where=marked)
        assert classes is not None  # a target has at least one class, a class at least one map
        return classes


def find_classes(target: Target, collection: Collection) -> Classes:
    """The classes of a target, checked against the label maps that the images have.

    Of a class of several maps every database needs one; so databases of different materials can
    share a class.

    Raises ConfigError, with what there is, for a map or class of a map that no database has, a
    class that some database has no map for, a map that marks no pixels but measures something.
    """
    names = tuple(target.classes)
    given = target.classes.values()
    classes = Classes(names, tuple((m,) if isinstance(m, str) else tuple(m) for m in given))
    used = [collection.databases[source] for source in np.unique(collection.sources)]
    for name, maps in zip(names, classes.maps, strict=True):
        if not maps:
            raise ConfigError(f"target.classes.{name}: names no label map")
        held = [_find_maps(database, name, maps) for database in used]
        for text in maps:
            if all(_find_map(database, text) is None for database in used):
                raise ConfigError(f"target.classes.{name}: {_explain(used, text)}")
        for found in held:
            for item, _ in found:
                if item.dtype.kind not in "iu":
                    raise ConfigError(
                        f"target.classes.{name}: the label {item.name!r} holds real numbers "
                        f"({item.description}); a class needs a map that marks pixels"
                    )
    return classes


def _find_maps(
    database: Database, name: str, maps: Sequence[str]
) -> list[tuple[Field, int | None]]:
    """The maps of a class that a database has, and which of their values, None for all marked."""
    found = [pair for text in maps if (pair := _find_map(database, text)) is not None]
    if not found:
        raise ConfigError(f"target.classes.{name}: {_explain([database], *maps)}")
    return found


def _find_map(database: Database, text: str) -> tuple[Field, int | None] | None:
    stacks = list_stacks(database)
    if text in stacks:
        return stacks[text], None
    # What viewers and pictures call the map of particles.
    for stack in database.layout.stacks:
        if stack.signal.startswith(LABELS) and stack.title == text:
            return stacks[stack.signal.removeprefix(LABELS)], None
    name, _, chosen = text.partition(".")
    known = tell_classes(stacks[name]) if name in stacks else ()
    return (stacks[name], known.index(chosen) + 1) if chosen in known else None


def _mark(values: np.ndarray, item: Field, value: int | None) -> np.ndarray:
    """Pixels that a map marks: bool of its shape."""
    if value is not None:
        return values == value
    scale = tell_scale(item)
    return values > 0 if scale == 1.0 else values * scale >= HALF


def _explain(databases: Sequence[Database], *maps: str) -> str:
    """Why none of these maps is there, and what is."""
    known: list[str] = []
    for database in databases:
        for name, item in list_stacks(database).items():
            if item.dtype.kind in "iu":
                known += [name, *(f"{name}.{kind}" for kind in tell_classes(item))]
    files = ", ".join(str(database.path) for database in databases)
    wanted = " or ".join(map(repr, maps))
    if not known:
        return f"{files} holds no labels that mark pixels, so no {wanted}"
    near = difflib.get_close_matches(maps[0], known, n=1)
    hint = f" (nearest: {near[0]})" if near else ""
    return f"{files} holds no label {wanted}{hint}; there is {', '.join(dict.fromkeys(known))}"
