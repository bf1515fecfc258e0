"""The subset file: JSON that names rows, how they were drawn, and what they must still be."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hpctem
from hpctem.collection.collection import Collection, open_collection
from hpctem.database.reader import Database
from hpctem.errors import ConfigError, DatabaseError, MachineError
from hpctem.subsets.pool import encode_column, identify_structures
from hpctem.subsets.request import STRUCTURE, Request, ask
from hpctem.subsets.splits import check_apart
from hpctem.subsets.subset import Drawn, Piece, Subset, name_pieces

FORMAT = "hpctem-subset-1"
ROW_DIGESTS = "/entry/digests/images"
# Row digests are read by blocks of so many rows, 4 MiB.
BLOCK = 2**18
# What a text that is no longer what was written can lead to.
WRONG = (LookupError, TypeError, ValueError, AttributeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Source:
    """A database as a subset names it.

    path       as written: relative to the folder of the subset file
    campaign   name of the campaign
    plan       key of the plan, hex
    digest     BLAKE2b-128 over the digests of all rows that the subset names, ascending, hex
    rows       number of these rows
    """

    path: str
    campaign: str
    plan: str
    digest: str
    rows: int


def write_subset(subset: Subset, path: str | os.PathLike[str]) -> None:
    """Write a subset file; the same draws from the same databases give the same bytes.

    An older subset file of that name is replaced at once, never half written.

    Raises ConfigError when the name belongs to a file that is no subset, MachineError when it
    cannot be written.
    """
    path = Path(path)
    check_place(path)
    content = {
        "format": FORMAT,
        "hpctem": hpctem.__version__,
        "databases": [
            asdict(describe_source(database, rows, path.parent))
            for database, rows in zip(subset.collection.databases, name_rows(subset), strict=True)
        ],
        "request": asdict(subset.request),
        "spread": {step: list(columns) for step, columns in subset.spread.items()},
        "outside": subset.outside,
        "lacking": list(subset.lacking),
        "draws": [
            {
                "repeat": drawn.repeat,
                "combination": list(drawn.combination),
                "pieces": [
                    {
                        "name": name,
                        "count": len(piece),
                        "structures": piece.structures,
                        "strata": dict(piece.strata),
                        "rows": [write_runs(rows) for rows in piece.rows],
                    }
                    for name, piece in drawn.pieces.items()
                ],
            }
            for drawn in subset.drawn
        ],
    }
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            # A temporary file is for its owner alone; this one is for whom the umask allows.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"cannot write the subset {path}: {error.strerror}") from error


def check_place(path: Path) -> None:
    """Raise ConfigError where a subset would replace something that is none."""
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for the subset {path.name}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the subset a file name, as subset.json")
    if path.exists():
        try:
            _load(path)
        except ConfigError as error:
            raise ConfigError(
                f"{path} exists and is no subset file; it is not replaced: choose another name"
            ) from error


def describe_source(database: Database, rows: np.ndarray, folder: Path) -> Source:
    """What a subset file in a folder says of a database and the rows it names, ascending."""
    return Source(
        Path(os.path.relpath(database.location.resolve(), folder.resolve())).as_posix(),
        database.name,
        database.key.hex(),
        digest_named(database, rows),
        len(rows),
    )


def digest_named(database: Database, rows: np.ndarray) -> str:
    """BLAKE2b-128 over the stored digests of image rows, in the order given, as hex."""
    state = hashlib.blake2b(digest_size=16)
    if len(rows):
        stored = database.mapped(ROW_DIGESTS)
        for start in range(0, len(rows), BLOCK):
            state.update(np.ascontiguousarray(stored[rows[start : start + BLOCK]]).data)
    return state.hexdigest()


def name_rows(subset: Subset) -> list[np.ndarray]:
    """For each database all file rows that any draw names, ascending.

    Raises DatabaseError for rows that the database does not have.
    """
    found = []
    for number, database in enumerate(subset.collection.databases):
        pieces = [p.rows[number] for drawn in subset.drawn for p in drawn.pieces.values()]
        last = max((int(rows[-1]) for rows in pieces if len(rows)), default=0)
        database.require("images", np.array([last] if any(map(len, pieces)) else [], np.int64))
        named = np.zeros(last + 1, bool)
        for rows in pieces:
            named[rows] = True
        found.append(np.flatnonzero(named))
    return found


def write_runs(rows: np.ndarray) -> str:
    """Ascending rows as text: '0-3,7,9-12'."""
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    first, last = rows[starts], rows[np.append(starts[1:], len(rows)) - 1] if len(rows) else rows
    return ",".join(
        str(a) if a == b else f"{a}-{b}" for a, b in zip(first.tolist(), last.tolist(), strict=True)
    )


def read_runs(text: str, most: int = 2**62) -> np.ndarray:
    """The rows of '0-3,7,9-12', int64.

    Raises ValueError for another text, for rows that do not ascend, and for more than `most`.
    """
    if not text:
        return np.zeros(0, np.int64)
    runs = [run.partition("-") for run in text.split(",")]
    first = np.array([int(a) for a, _, _ in runs], np.int64)
    last = np.array([int(b or a) for a, _, b in runs], np.int64)
    if first[0] < 0 or (last < first).any() or (first[1:] <= last[:-1]).any():
        raise ValueError("rows do not ascend")
    lengths = last - first + 1
    if lengths.sum() > most:
        raise ValueError(f"more than {most} rows")
    rows = np.arange(lengths.sum())
    return rows + np.repeat(first - np.cumsum(lengths) + lengths, lengths)


def read_subset(
    path: str | os.PathLike[str],
    databases: Collection | str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
) -> Subset:
    """Open a subset file and its databases, and check that they are those it was drawn from.

    databases   where they are, in any order; without it where the file says, or else beside the
                file under their names

    Raises ConfigError when the file is none or is damaged; DatabaseError when a database is not
    there, is another, or has not the rows that were named, and when parts share a structure or a
    group.
    """
    path = Path(path)
    content = _load(path)
    try:
        sources = [_read_source(source) for source in content["databases"]]
        request = ask(**content["request"])
        spread = {step: tuple(map(str, columns)) for step, columns in content["spread"].items()}
        drawn = tuple(_read_drawn(entry, len(sources), request) for entry in content["draws"])
        outside, lacking = int(content["outside"]), tuple(map(str, content["lacking"]))
        if not sources or not drawn:
            raise ValueError("it names nothing")
    except (*WRONG, ConfigError) as error:
        raise ConfigError(f"the subset {path} is damaged ({error}); draw it again") from error
    if databases is None:
        databases = [find_database(path, source) for source in sources]
    given = databases if isinstance(databases, Collection) else open_collection(databases)
    collection = _match(path, sources, given)
    subset = Subset(request, collection, drawn, spread, outside, lacking)
    rows = name_rows(subset)
    for source, database, named in zip(sources, collection.databases, rows, strict=True):
        database.require("images", named)
        if len(named) != source.rows or digest_named(database, named) != source.digest:
            raise DatabaseError(
                f"the rows of {database.path} that the subset {path} names are not what they were "
                f"when it was drawn; 'hpctem verify {database.path}' tells if they are damaged"
            )
    try:
        _check_parts(subset)
    except DatabaseError as error:
        raise DatabaseError(f"the subset {path} leaks: {error}; draw it again") from error
    return subset


def _match(path: Path, sources: Sequence[Source], given: Collection) -> Collection:
    """The collection of the databases that a subset names, in its order.

    Raises DatabaseError when one is not among those given.
    """
    known = {database.key.hex(): database for database in given.databases}
    for source in sources:
        if source.plan not in known:
            files = ", ".join(str(database.path) for database in given.databases)
            raise DatabaseError(
                f"the subset {path} was drawn from another database than {files}: campaign "
                f"{source.campaign!r} in {source.path}, with another plan (campaign, code or "
                "device); draw it again, or name the database that it was drawn from"
            )
    databases = tuple(known[source.plan] for source in sources)
    rows = [database.rows("images") for database in databases]
    numbers = np.repeat(np.arange(len(rows), dtype=np.uint16), [len(r) for r in rows])
    return Collection(databases, numbers, np.concatenate(rows))


def find_database(path: Path, source: Source) -> Path:
    """Where a database is that a subset file names: at its path, or beside the subset file.

    Raises DatabaseError that tells where it was looked for.
    """
    places = [path.parent / source.path, path.parent / Path(source.path).name]
    for place in places:
        if place.exists():
            return place
    looked = " nor ".join(dict.fromkeys(map(str, places)))
    raise DatabaseError(
        f"the subset {path} is of the database {Path(source.path).name} (campaign "
        f"{source.campaign}), which is not at {looked}; put it there, or in Python name it: "
        "hpctem.open(DATABASE, subset=...)"
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            # A database is not read to its end to find that it is no JSON.
            begins = stream.read(1)
            content = json.loads(begins + stream.read() if begins == b"{" else b"")
    except OSError as error:
        raise ConfigError(f"cannot open the subset {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no subset file: it is no JSON text") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        known = isinstance(found, str) and found.startswith(FORMAT.rpartition("-")[0])
        what = f"has the format {found!r}, not {FORMAT!r}" if known else "is no subset file"
        raise ConfigError(f"{path} {what}; 'hpctem subset' writes one")
    return content


def _read_source(entry: Mapping[str, Any]) -> Source:
    source = Source(**entry)
    if not all(isinstance(value, str | int) for value in entry.values()):
        raise ValueError(f"the database {source.path} is not described by texts")
    return source


def _read_drawn(entry: Mapping[str, Any], databases: int, request: Request) -> Drawn:
    pieces = {}
    for item in entry["pieces"]:
        rows = tuple(read_runs(text, item["count"]) for text in item["rows"])
        if len(rows) != databases or sum(map(len, rows)) != item["count"]:
            raise ValueError(f"the rows of {item['name']!r} are not {item['count']}")
        pieces[item["name"]] = Piece(rows, int(item["structures"]), dict(item["strata"]))
    wanted = list(name_pieces(request))
    if [item["name"] for item in entry["pieces"]] != wanted:
        raise ValueError(f"a draw has not the pieces {', '.join(wanted)}")
    return Drawn(int(entry["repeat"]), tuple(map(str, entry["combination"])), pieces)


def _check_parts(subset: Subset) -> None:
    """Raise DatabaseError when two parts of a draw share a structure or a group."""
    if subset.request.split is None and subset.request.folds is None:
        return
    for drawn in subset.drawn:
        pieces = list(drawn.pieces.values())
        rows = [np.concatenate(found) for found in zip(*(p.rows for p in pieces), strict=True)]
        sources = np.repeat(np.arange(len(rows), dtype=np.uint16), [len(r) for r in rows])
        each = zip(
            *([np.full(len(r), k) for r in p.rows] for k, p in enumerate(pieces)), strict=True
        )
        parts = np.concatenate([part for of_database in each for part in of_database])
        merged = Collection(subset.collection.databases, sources, np.concatenate(rows))
        check_apart(parts, identify_structures(merged).codes, "structures")
        if subset.request.group != STRUCTURE:
            group = subset.request.group
            check_apart(parts, encode_column(merged, group).codes, f"values of {group}")
