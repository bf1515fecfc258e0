"""Simulate labelled databases of high-resolution TEM images, in parallel and reproducibly."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpctem.collection.collection import Collection, Paths

__version__ = "0.1.0"

# Numba keeps what it compiled beside the source or in the user's cache, and refuses to start where
# neither can be written (containers, read-only installations).
_PLACES = (Path(__file__).parent, Path(os.environ.get("XDG_CACHE_HOME") or Path.home()))
if not any(os.access(place, os.W_OK) for place in _PLACES):
    _FOLDER = Path(tempfile.gettempdir(), f"hpctem-numba-{os.getuid()}")
    os.environ.setdefault("NUMBA_CACHE_DIR", str(_FOLDER))


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
