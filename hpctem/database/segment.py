"""The rows of one segment: assembled from what was computed for each of its structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.database.schema import (
    ERROR_BYTES,
    ERROR_PATH,
    GOOD,
    QUARANTINED,
    STATUS_PATH,
    Field,
    Layout,
    fit_text,
)
from hpctem.errors import DatabaseError


@dataclass(frozen=True)
class StructureRows:
    """What was computed for one structure.

    rows    path -> rows of that field (n, *shape), n up to the table's rows per structure; the rest
            and fields not given stay zero. A single row may come without its first axis; texts as
            str, categories by name or number. Numbers must fit the field's dtype.
    status  GOOD or QUARANTINED
    error   why it is quarantined
    """

    rows: Mapping[str, Any]
    status: int = GOOD
    error: str = ""


def quarantine(error: str, rows: Mapping[str, Any] | None = None) -> StructureRows:
    """A structure that failed by its own nature: why, and the columns that are known anyway."""
    return StructureRows(rows or {}, QUARANTINED, error)


def empty_block(layout: Layout, structures: range) -> dict[str, np.ndarray]:
    """Zeros for all rows of these structures: path -> array (rows, *shape)."""
    return {
        item.path: np.zeros(
            (len(layout.row_range(item.table, structures)), *item.shape), item.dtype
        )
        for item in layout.fields
    }


def place_rows(
    layout: Layout, block: Mapping[str, np.ndarray], position: int, result: StructureRows
) -> bool:
    """Put one structure's rows at its position in the segment; False if it is quarantined.

    A good structure is quarantined here, with zeros, when a value is not finite or when it has more
    rows than a table of variable length (one with a count column) holds for it.

    Raises DatabaseError for rows that no field of the layout can hold.
    """
    fields = {item.path: item for item in layout.fields}
    placed: dict[str, np.ndarray] = {}
    for path, values in result.rows.items():
        if path not in fields or path in (STATUS_PATH, ERROR_PATH):
            raise DatabaseError(f"rows were computed for {path}, which is no field of the layout")
        item = fields[path]
        rows = convert_rows(item, values)
        most = layout.rows_per_structure[item.table]
        reason = ""
        if len(rows) > most:
            reason = f"overflow of table {item.table!r}: {len(rows)} rows, capacity {most}"
            if item.table not in layout.counts:
                raise DatabaseError(f"{item.path} takes {most} rows a structure: {reason}")
        elif not item.nan and not _all_finite(rows) and result.status == GOOD:
            reason = f"value that is not finite in {item.path}"
        if reason:
            result = quarantine(result.error or reason)
            placed = {}
            break
        placed[path] = rows
    for path, rows in placed.items():
        start = position * layout.rows_per_structure[fields[path].table]
        block[path][start : start + len(rows)] = rows
    block[STATUS_PATH][position] = result.status
    block[ERROR_PATH][position] = fit_text(result.error, ERROR_BYTES)
    return result.status == GOOD


def convert_rows(item: Field, values: Any) -> np.ndarray:
    """The values as an array (n, *shape) of the field's dtype.

    Raises DatabaseError when shape, category or range do not fit.
    """
    if item.dtype.kind == "S":
        array = _encode_texts(item, np.asarray(values, dtype=object))
    elif item.categories:
        array = _number_categories(item, np.asarray(values))
    else:
        array = np.asarray(values)
    if array.shape == item.shape:
        array = array[np.newaxis]
    if array.ndim != len(item.shape) + 1 or array.shape[1:] != item.shape:
        raise DatabaseError(
            f"{item.path} takes rows of shape {item.shape}, not an array of shape {array.shape}"
        )
    if array.dtype == item.dtype:
        return array
    if item.dtype.kind in "iu" and array.dtype.kind in "iub" and array.size:
        limits = np.iinfo(item.dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise DatabaseError(
                f"{item.path} holds {limits.min} ... {limits.max}, "
                f"not {int(array.min())} ... {int(array.max())}"
            )
    elif array.size and not np.can_cast(array.dtype, item.dtype, "same_kind"):
        raise DatabaseError(f"{item.path} has dtype {item.dtype} and cannot hold {array.dtype}")
    return array.astype(item.dtype)


def _encode_texts(item: Field, values: np.ndarray) -> np.ndarray:
    texts = [fit_text(text, item.dtype.itemsize) for text in values.reshape(-1)]
    return np.array(texts, dtype=item.dtype).reshape(values.shape)


def _number_categories(item: Field, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "US":
        numbers = {name: number for number, name in enumerate(item.categories)}
        names = [v.decode() if isinstance(v, bytes) else str(v) for v in values.reshape(-1)]
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise DatabaseError(
                f"{item.path} has the categories {', '.join(item.categories)}, not {unknown[0]!r}"
            )
        values = np.array([numbers[name] for name in names], np.int64).reshape(values.shape)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < len(item.categories):
        raise DatabaseError(
            f"{item.path} has {len(item.categories)} categories, not {values.max()}"
        )
    return values


def _all_finite(rows: np.ndarray) -> bool:
    return rows.dtype.kind not in "fc" or bool(np.isfinite(rows).all())
