"""Simulate labelled databases of high-resolution TEM images, in parallel and reproducibly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpctem.collection.collection import Collection, Paths

__version__ = "0.1.0"


def open(
    databases: Paths | None = None, subset: Any = None, part: str | None = None, draw: int = 0
) -> Collection:
    """The images of one or several databases, for notebooks and training.

    databases   a path or several: volumes of a campaign, or several campaigns
    subset      path of a subset file: its images only; `databases` can then be left out, or say
                where those that it names are
    part, draw  of the subset: 'train' or 'validation', if it is split, and the number of the draw

    Raises DatabaseError for what is no database, or not those of the subset; ConfigError for what
    is no subset, and for a part or draw that it does not have.
    """
    from hpctem.collection.collection import list_paths, open_collection
    from hpctem.errors import ConfigError

    if subset is None:
        if part is not None or draw:
            raise ConfigError("a part or a draw belongs to a subset: name its file as well")
        return open_collection([] if databases is None else databases)
    from hpctem.subsets.file import read_subset

    return read_subset(subset, None if databases is None else list_paths(databases)).select(
        part, draw
    )
