"""What is true of an image: of databases their labels and tables, of files what a person wrote."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.collection.stacks import list_stacks, tell_classes
from hpctem.errors import ConfigError
from hpctem.learning.data.targets import Classes
from hpctem.pictures.marking import list_kinds
from hpctem.sections.common import nearest

UNSURE = "ambiguous"
MASKS, TABLES = (".png", ".npy"), (".csv",)
WORDS = "class", "pixel_x", "pixel_y"


@dataclass(frozen=True)
class Truth:
    """What is true of one image.

    mask      (ny, nx) uint8, 0 background, k class k; None where nobody knows
    points    (n, 2) float64, (x, y) in pixels, also beyond the image; None where nobody knows
    kinds     (n,) int64, their classes, from 1
    counted   (n,) bool; those of which nobody is sure do not count
    """

    mask: np.ndarray | None
    points: np.ndarray | None = None
    kinds: np.ndarray | None = None
    counted: np.ndarray | None = None


@dataclass(frozen=True)
class Located:
    """Where the table of a database has the positions of a class: a kind of defects, or a class of
    atom columns by its number."""

    table: str
    value: str | int


def find_located(classes: Classes, collection: Collection) -> dict[int, tuple[Located, ...]]:
    """The classes, from 1, whose positions tables of the databases hold, and where.

    A class counts when all of its label maps that are there are kinds of defects, or classes of
    atom columns in databases that list these.
    """
    found: dict[int, tuple[Located, ...]] = {}
    for number, maps in enumerate(classes.maps, 1):
        places: list[Located | None] = []
        for database in collection.databases:
            kinds = list_kinds(database.layout.fields)
            stacks = list_stacks(database)
            for name in maps:
                label, _, chosen = name.partition(".")
                if name in kinds:
                    places.append(Located("defects", name))
                elif label in stacks and chosen in tell_classes(stacks[label]):
                    listed = "columns" in database.layout.tables
                    value = tell_classes(stacks[label]).index(chosen) + 1
                    places.append(Located("columns", value) if listed else None)
                elif name in stacks:
                    places.append(None)
        if places and None not in places:
            found[number] = tuple(dict.fromkeys(place for place in places if place is not None))
    return found


@dataclass(frozen=True)
class Labels:
    """What databases say of their images.

    located   of `find_located`, for the classes whose positions are wanted
    """

    classes: Classes
    located: dict[int, tuple[Located, ...]]

    def read(self, collection: Collection, place: int) -> Truth:
        """The truth of an image of a collection; errors as reading databases has them."""
        mask = self.classes.read(collection, [place])[0]
        if not self.located:
            return Truth(mask)
        points, kinds = [np.zeros((0, 2))], [np.zeros(0, np.int64)]
        one = collection.take([place])
        tables = {where.table for places in self.located.values() for where in places}
        for table in sorted(tables & set(one.object_names)):
            rows = one.objects(table)
            names = rows.column("kind" if table == "defects" else "site_class").to_pylist()
            x, y = (rows.column(name).to_numpy() for name in ("pixel_x", "pixel_y"))
            for number, places in self.located.items():
                wanted = {where.value for where in places if where.table == table}
                chosen = np.array([name in wanted for name in names], bool)
                points.append(np.stack([x[chosen], y[chosen]], axis=1))
                kinds.append(np.full(int(chosen.sum()), number))
        joined = np.concatenate(points)
        return Truth(mask, joined, np.concatenate(kinds), np.ones(len(joined), bool))


def read_truth(
    path: str | Path, classes: Sequence[str], shape: tuple[int, ...], first_row: int = 0
) -> Truth:
    """What a file says of an image: positions in a table (.csv), or a mask (.png, .npy).

    classes    names of the classes 1, 2, ...
    shape      (ny, nx) of what is looked at; first_row: where that begins in the file's image

    A table has the columns pixel_x, pixel_y (0 is the centre of the whole image's first pixel) and,
    of several classes, class; 'ambiguous' there, or anything but 0 in a column of that name, marks
    what shall not count. A mask is of the whole image, or of the part that is looked at; its values
    are numbers of classes, or of one class anything but 0.

    Raises ConfigError for a file that is missing, of another kind, damaged or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"the labels {path} do not exist, or are no file")
    kind = path.suffix.lower()
    if kind in TABLES:
        return _read_table(path, classes, first_row)
    if kind in MASKS:
        return Truth(_read_mask(path, classes, shape, first_row))
    raise ConfigError(
        f"the labels {path} are neither a table (.csv with {', '.join(WORDS)}) nor a mask (.png, "
        ".npy)"
    )


def _read_table(path: Path, classes: Sequence[str], first_row: int) -> Truth:
    points, kinds, counted = [], [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.DictReader(line for line in stream if not line.startswith("#"))
            header = lines.fieldnames or ()
            for name in WORDS[1:]:
                if name not in header:
                    raise ConfigError(
                        f"{path} has no column {name!r}: a table of positions has "
                        f"{', '.join(WORDS)}; it has {', '.join(header) or 'nothing'}"
                    )
            for number, line in enumerate(lines, 2):
                where = f"{path}, line {number}"
                points.append(_read_point(line, where, first_row))
                name = (line.get("class") or "").strip()
                unsure = (line.get(UNSURE) or "0").strip() not in ("", "0", "no", "false")
                kinds.append(1 if name == UNSURE else _read_class(name, classes, where))
                counted.append(not unsure and name != UNSURE)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a table in UTF-8: {error}") from None
    return Truth(
        None,
        np.array(points, np.float64).reshape(-1, 2),
        np.array(kinds, np.int64),
        np.array(counted, bool),
    )


def _read_point(line: dict[str, str], where: str, first_row: int) -> tuple[float, float]:
    try:
        x, y = (float(line[name]) for name in WORDS[1:])
    except (TypeError, ValueError):
        x = y = np.nan
    if not np.isfinite([x, y]).all():
        told = ", ".join(f"{line[name]!r}" for name in WORDS[1:])
        raise ConfigError(f"{where}: pixel_x and pixel_y are {told}, no two numbers")
    return x, y - first_row


def _read_class(name: str, classes: Sequence[str], where: str) -> int:
    if name in classes:
        return list(classes).index(name) + 1
    if not name and len(classes) == 1:
        return 1
    raise ConfigError(
        f"{where}: the model has no class {name!r}{nearest(name, classes)}; "
        f"classes: {', '.join(classes)}, or {UNSURE} for what shall not count"
    )


def _read_mask(
    path: Path, classes: Sequence[str], shape: tuple[int, ...], first_row: int
) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        if path.suffix.lower() == ".npy":
            mask = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as opened:
                mask = np.asarray(opened)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as a mask: {error}") from None
    if mask.ndim != 2 or mask.dtype.kind not in "biu":
        raise ConfigError(
            f"{path} is no mask: one whole number for each pixel is needed, not {mask.dtype} of "
            f"{mask.shape}"
        )
    whole = first_row + shape[0] <= len(mask) and mask.shape[1] == shape[1]
    if mask.shape != shape and whole:
        mask = mask[first_row : first_row + shape[0]]
    if mask.shape != shape:
        raise ConfigError(f"{path} is {mask.shape} pixels, the image {shape}: they must be alike")
    if len(classes) == 1:
        return (mask != 0).astype(np.uint8)
    if int(mask.max()) > len(classes):
        raise ConfigError(
            f"{path} holds the value {int(mask.max())}; classes are 1 to {len(classes)}: "
            f"{', '.join(classes)}"
        )
    return mask.astype(np.uint8)
