"""The rows of a database of materials, whatever it is written in.

Four forms are known by their content, not by their name: ASE's SQLite and JSON databases, a JSON
list of entries with 'atoms' (JARVIS: lattice_mat, coords, elements, cartesian), and the extraction
that a campaign keeps. Every one gives the same rows, rounded alike.
"""

from __future__ import annotations

import contextlib
import json
import operator
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.errors import ConfigError
from hpctem.sections.common import nearest
from hpctem.structures.lattices import complete_cell
from hpctem.structures.unit_cells import write_formula

HEADER = "hpctem_materials"  # the key by which an extraction is known
SQLITE = b"SQLite format 3\0"
DIGITS = 6  # of an angstrom that are kept
IDENTIFIERS = ("jid", "uid", "material_id", "id")  # of an entry, the first that it has
COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
    "!=": operator.ne,
}
# What ASE's selections know beside the keys of the rows.
ALWAYS_KNOWN = (
    *("id", "unique_id", "natoms", "formula", "pbc", "user", "calculator", "age", "ctime", "mtime"),
    *("energy", "forces", "stress", "strain", "magmom", "magmoms", "charge", "charges", "dipole"),
    *("fmax", "smax", "volume", "mass", "constraints", "free_energy"),
)


@dataclass(frozen=True)
class Row:
    """A row as read, and what is wrong with it is not yet known.

    cell: (3, 3) float64 A, with vacuum along the one direction in which a layer does not repeat, or
    zero vectors where more than one is. numbers: (k,) int64, 0 for an unknown element. positions:
    (k, 3) float64 A, or none where they cannot be read.
    """

    identifier: str
    formula: str
    cell: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray


def read_rows(path: Path, filter: str) -> list[Row]:
    """The rows of a database that a filter selects, in its order, at least one.

    Raises ConfigError when the file is missing or no database, the filter cannot be understood, or
    nothing is selected.
    """
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise ConfigError(f"database {path} cannot be read: {error.strerror}") from None
    if head.startswith(SQLITE):
        return _select_with_ase(path, "db", filter)
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if HEADER.encode() in head:
        return _read_extraction(path)
    if first == b"[":
        return _select_entries(path, filter)
    if first == b"{":
        return _select_with_ase(path, "json", filter)
    raise ConfigError(f"{path} is no database of materials: it holds neither ASE's SQLite nor JSON")


def _make_row(
    identifier: str, cell: Any, numbers: Any, positions: Any, periodic: Any, formula: str = ""
) -> Row:
    """A row of what was read; what is no array of numbers becomes empty."""
    kinds = np.asarray(numbers, dtype=np.int64).reshape(-1)
    atoms, vectors = _as_vectors(positions), _as_vectors(cell)
    if len(vectors) != 3:
        vectors = np.zeros((3, 3))
    vectors = complete_cell(vectors, atoms, periodic)
    if not formula and len(kinds) and kinds.min() > 0 and kinds.max() < 119:
        formula = write_formula(kinds)
    return Row(
        identifier, formula, np.round(vectors, DIGITS) + 0.0, kinds, np.round(atoms, DIGITS) + 0.0
    )


def _as_vectors(values: Any) -> np.ndarray:
    """(n, 3) finite float64; (0, 3) of anything else."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.zeros((0, 3))
    usable = array.ndim == 2 and array.shape[1] == 3 and bool(np.all(np.isfinite(array)))
    return array if usable else np.zeros((0, 3))


def _read_extraction(path: Path) -> list[Row]:
    content = _load_json(path)
    try:
        return [
            Row(
                str(row["id"]),
                str(row["formula"]),
                np.array(row["cell"], dtype=np.float64).reshape(3, 3),
                np.array(row["numbers"], dtype=np.int64),
                np.array(row["positions"], dtype=np.float64).reshape(-1, 3),
            )
            for row in content["rows"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the materials kept in {path} are damaged: {error!r}") from None


def _select_with_ase(path: Path, kind: str, filter: str) -> list[Row]:
    """Rows of an ASE database, by identifier; ASE itself applies the filter."""
    keys, comparisons = parse_filter(filter)
    if kind == "db":
        _require_systems(path)
    try:
        from ase.db import connect

        # Each process reads for itself, and nothing is written beside the file.
        database: Any = connect(str(path), type=kind, use_lock_file=False, serial=True)
        rows = [
            _make_row(
                str(found.get("uid", found.id)),
                found.cell,
                found.numbers,
                found.positions,
                found.pbc,
            )
            for found in sorted(
                database.select(filter or None, include_data=False), key=lambda one: one.id
            )
        ]
        if not rows:
            known = {key for one in database.select(include_data=False) for key in one}
            raise ConfigError(_describe_empty(path, filter, keys, comparisons, known))
    except ConfigError:
        raise
    except Exception as error:  # ASE raises whatever the file provokes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"database {path} cannot be read by ASE: {reason}") from error
    return rows


def _require_systems(path: Path) -> None:
    """Refuse a SQLite file that is not ASE's, in which ASE would create its tables."""
    try:
        address = f"{path.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as tables:
            found = tables.execute("SELECT COUNT(*) FROM sqlite_master WHERE name='systems'")
            is_there = bool(found.fetchone()[0])
    except sqlite3.Error as error:
        raise ConfigError(f"database {path} cannot be read: {error}") from None
    if not is_there:
        raise ConfigError(f"{path} is no ASE database: it has no table 'systems'")


def _select_entries(path: Path, filter: str) -> list[Row]:
    """Entries of a JSON list, in its order."""
    from ase.data import atomic_numbers

    keys, comparisons = parse_filter(filter)
    entries = [entry if isinstance(entry, dict) else {} for entry in _load_json(path)]
    rows = []
    for position, entry in enumerate(entries, start=1):
        found = entry.get("atoms")
        atoms = found if isinstance(found, dict) else {}
        symbols = atoms.get("elements")
        numbers = [
            atomic_numbers.get(str(symbol).strip(), 0)
            for symbol in (symbols if isinstance(symbols, list) else [])
        ]
        if not _selects(keys, comparisons, entry, numbers):
            continue
        identifier = next((str(entry[k]) for k in IDENTIFIERS if k in entry), str(position))
        cell, positions = _as_vectors(atoms.get("lattice_mat")), _as_vectors(atoms.get("coords"))
        if not atoms.get("cartesian", False):
            positions = positions @ cell if len(cell) == 3 else positions[:0]
        rows.append(_make_row(identifier, cell, numbers, positions, (True, True, True)))
    if not rows:
        known = {key for entry in entries for key in entry}
        raise ConfigError(_describe_empty(path, filter, keys, comparisons, known))
    return rows


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"database {path} cannot be read as JSON: {error}") from None


Comparison = tuple[str | int, str, Any]


def parse_filter(filter: str) -> tuple[list[str], list[Comparison]]:
    """What an ASE selection asks for: keys that rows must have, and comparisons (key, operator,
    value), where a whole number as key stands for the count of that element; raises ConfigError.
    """
    from ase.db.core import parse_selection

    try:
        keys, comparisons = parse_selection(filter)
    except Exception as error:  # ASE asserts and indexes its way through
        reason = f" ({error})" if str(error) else ""
        raise ConfigError(_describe_bad(filter) + reason) from None
    for name in (*keys, *(key for key, _, _ in comparisons if isinstance(key, str))):
        if not re.fullmatch("-?[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(_describe_bad(filter) + f" ({name!r} is no key)")
    for key, sign, _ in comparisons:
        if key == "pbc" and sign not in ("=", "!="):
            raise ConfigError(_describe_bad(filter) + " (pbc takes = and != only)")
    return keys, comparisons


def _describe_bad(filter: str) -> str:
    return (
        f"structure.material.filter: {filter!r} is no ASE selection; write comparisons and "
        "elements with commas between them, as 'natoms<=12,Mo,gap>0.5'"
    )


def _selects(
    keys: Sequence[str], comparisons: Sequence[Comparison], entry: Mapping, numbers: list[int]
) -> bool:
    """Whether an entry of a list has the keys and meets the comparisons."""
    for word in keys:
        if (word.removeprefix("-") in entry) == word.startswith("-"):
            return False
    for key, sign, wanted in comparisons:
        if isinstance(key, int):
            value: Any = numbers.count(key)
        else:
            value = len(numbers) if key == "natoms" else entry.get(key)
        comparable = isinstance(value, str) == isinstance(wanted, str)
        if not isinstance(value, str | int | float) or not comparable:
            return False
        if not COMPARE[sign](value, wanted):
            return False
    return True


def _describe_empty(
    path: Path,
    filter: str,
    keys: Sequence[str],
    comparisons: Sequence[Comparison],
    known: set[str],
) -> str:
    """Why nothing was selected: an empty database, a key that no row has, or values."""
    if not filter:
        return f"database {path} holds no materials"
    asked = [key.removeprefix("-") for key in keys]
    asked += [key for key, _, _ in comparisons if isinstance(key, str)]
    unknown = next((key for key in asked if key not in known and key not in ALWAYS_KNOWN), None)
    if unknown is not None:
        own = sorted(known - set(ALWAYS_KNOWN) - {"key_value_pairs", "data", "atoms"})
        listed = f" (they have {', '.join(own[:20])})" if own else ""
        hint = nearest(unknown, (*own, *ALWAYS_KNOWN))
        return (
            f"structure.material.filter: {filter!r} asks for {unknown!r}, which no row of {path} "
            f"has{hint}{listed}"
        )
    return f"structure.material.filter: {filter!r} selects none of the materials of {path}"
