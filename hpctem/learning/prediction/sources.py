"""The images that a network is used on: files of microscopes, rows of databases and subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hpctem
from hpctem.collection.collection import Collection
from hpctem.errors import ConfigError
from hpctem.learning.data.accepted import take_accepted
from hpctem.learning.data.preparation import is_median
from hpctem.learning.prediction.resampling import PixelSize
from hpctem.micrographs.measure import cut_rows
from hpctem.micrographs.read import read_micrograph

DATABASES, SUBSETS = (".hdf5",), (".json",)


@dataclass(frozen=True)
class Choice:
    """Which parts of the sources are meant; None: all, or what the files say.

    where             SQL condition on rows of databases
    part, draw        of a subset
    rows              of image files, first to before the last, None for their end
    frame             of stacks, or 'mean'
    pixel_size        A, instead of the files'
    """

    where: str | None = None
    part: str | None = None
    draw: int | None = None
    rows: tuple[int, int | None] | None = None
    frame: int | str | None = None
    pixel_size: float | None = None


@dataclass(frozen=True)
class Shot:
    """An image, read.

    image       (ny, nx) as recorded
    pixel_size  A, of both directions or along (y, x); None where it is unknown
    first_row   of the file's image that is the first of this one
    filtered    the image is a 3 x 3 median already
    """

    image: np.ndarray
    pixel_size: PixelSize | None
    first_row: int = 0
    filtered: bool = False


@dataclass(frozen=True)
class ImageFile:
    """An image file, as 'file' or 'file::title', and how its files are called."""

    path: str
    name: str
    choice: Choice

    @property
    def row(self) -> None:
        """It is no row of a database."""

    def read(self) -> Shot:
        """Read it; raises ConfigError as `read_micrograph` and `cut_rows` do."""
        micrograph = read_micrograph(self.path, self.choice.frame)
        first, last = self.choice.rows or (0, None)
        rows = first, len(micrograph.image) if last is None else last
        image = cut_rows(micrograph.image, rows if self.choice.rows else None)
        return Shot(image, self.choice.pixel_size or micrograph.pixel_size, first)


@dataclass(frozen=True)
class ImageRow:
    """An image of a collection by its place, and how its files are called."""

    collection: Collection
    place: int
    name: str

    @property
    def path(self) -> str:
        """The database that holds it."""
        return self.collection.files[self.collection.sources[self.place]]

    @property
    def row(self) -> int:
        """Its row there."""
        return int(self.collection.rows[self.place])

    def read(self) -> Shot:
        """Read it and its pixel size."""
        image = self.collection[self.place]
        size = float(image["pixel_size"]) if "pixel_size" in self.collection.columns else np.nan
        known = size if np.isfinite(size) else None
        return Shot(image.image, known, filtered=is_median(image.database))


Source = ImageFile | ImageRow


def list_sources(paths: Sequence[str], choice: Choice, accepted: bool = False) -> list[Source]:
    """The images of files, databases (.hdf5) and subset files (.json), in their order.

    accepted   leave out translated images that failed their check

    Raises ConfigError for options that belong to the other kind, a missing file and no images;
    DatabaseError as opening databases does.
    """
    databases = [path for path in paths if Path(path).suffix.lower() in DATABASES]
    subsets = [path for path in paths if Path(path).suffix.lower() in SUBSETS]
    files = [path for path in paths if path not in databases and path not in subsets]
    _check(choice, bool(files), bool(databases), bool(subsets))
    sources: list[Source] = []
    names: set[str] = set()
    for path in files:
        if not Path(path.partition("::")[0]).is_file():
            raise ConfigError(f"{path.partition('::')[0]} does not exist, or is no file")
        sources.append(ImageFile(path, _name(path, names), choice))
    collections = [hpctem.open(databases)] if databases else []
    collections += [
        hpctem.open(subset=path, part=choice.part, draw=choice.draw or 0) for path in subsets
    ]
    for collection in collections:
        found = collection if choice.where is None else collection.where(choice.where)
        if accepted:
            found = take_accepted(found)
        stems = [_name(file, names) for file in found.files]
        digits = len(str(max(found.rows, default=0)))
        for place, (of, row) in enumerate(zip(found.sources, found.rows, strict=True)):
            sources.append(ImageRow(found, place, f"{stems[of]}-{row:0{digits}d}"))
    if not sources:
        raise ConfigError("there is no image to predict: none fulfils the condition")
    return sources


def _check(choice: Choice, files: bool, databases: bool, subsets: bool) -> None:
    """Refuse options that would have no effect."""
    given = {
        "--rows, --frame and --pixel-size choose from image files": (
            not files,
            (choice.rows, choice.frame, choice.pixel_size),
        ),
        "--where chooses from databases and subset files": (
            not (databases or subsets),
            (choice.where,),
        ),
        "--part and --draw choose from subset files": (not subsets, (choice.part, choice.draw)),
    }
    for what, (absent, values) in given.items():
        if absent and any(value is not None for value in values):
            raise ConfigError(f"{what}; none was named")


def _name(path: str, taken: set[str]) -> str:
    """What files made from a source are called: its name without ending, numbered if taken."""
    file, _, title = path.partition("::")
    stem = f"{Path(file).stem}-{title}" if title else Path(file).stem
    stem = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in stem)
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return name
