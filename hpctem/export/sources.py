"""What is exported: databases, or a part of a subset that was drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctem.collection.collection import Collection, open_collection
from hpctem.errors import ConfigError
from hpctem.export.plan import Part


def open_parts(
    sources: Sequence[str | Path], where: str | None, part: str | None, draw: int | None
) -> tuple[list[Part], dict[str, Any]]:
    """The parts to export, and how they were chosen (kept in export.json).

    sources   databases, or one subset file (.json)
    where     SQL condition that the images fulfil
    part      of the subset; all its parts without it
    draw      of the subset; the first without it

    Raises ConfigError when databases and subset are mixed or a part of databases is asked for, and
    DatabaseError as opening and querying do.
    """
    subsets = [Path(source) for source in sources if Path(source).suffix == ".json"]
    if not subsets:
        if part is not None or draw is not None:
            raise ConfigError(
                "--part and --draw choose from a subset file; these are databases: make a subset "
                "with 'hpctem subset' first"
            )
        found = {"": open_collection(sources)}
        origin: dict[str, Any] = {}
    elif len(sources) > 1:
        raise ConfigError(
            f"export one subset file alone, not {subsets[0]} beside other sources: it names its "
            "databases itself"
        )
    else:
        found, origin = _open_subset(subsets[0], part, draw or 0)
    if where is not None:
        origin["where"] = where
        found = {name: collection.where(where) for name, collection in found.items()}
    return [Part(name, collection) for name, collection in found.items()], origin


def _open_subset(
    path: Path, part: str | None, draw: int
) -> tuple[dict[str, Collection], dict[str, Any]]:
    from hpctem.subsets.file import read_subset

    subset = read_subset(path)
    names = subset.parts if part is None else (part,)
    alone = len(subset.parts) == 1
    found = {"" if alone else name: subset.select(name, draw) for name in names}
    return found, {"subset": path.name, "draw": draw}
