"""What commands print about a database, as text for people and as plain data for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpctem.database.create import gib
from hpctem.database.information import Column, Information
from hpctem.database.verify import Verification

MOST_LISTED = 20
UNMARKED = (
    "every structure is committed, but the marker COMPLETE is missing beside the file: the command "
    "that made it reads it back and marks it"
)


def describe(found: Information) -> dict[str, Any]:
    """All of it as plain data for JSON; numbers that are not finite become None."""
    return _plain(asdict(found))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_information(found: Information, columns: bool) -> str:
    """Counts, varied conditions and bad samples; with `columns` every column and its meaning."""
    counts = found.counts
    state = "complete" if found.complete else "unfinished"
    lines = [f"{found.path}: {state}{' and verified' * found.marked}, {gib(found.size)}"]
    if found.complete and not found.marked:
        lines.append(UNMARKED)
    if found.images is not None:
        (ny, nx), dtype = found.images
        lines.append(f"{counts['images']} images of {nx} x {ny} pixels, {dtype}")
    parts = [
        f"{counts[name]} {name}" for name in ("good", "quarantined", "pending") if counts[name]
    ]
    lines.append(f"{counts['structures']} structures: {', '.join(parts) or 'none'}")
    if found.first:
        lines.append(f"volume: begins with structure {found.first} of the campaign")
    lines.append(f"config hash {found.campaign['config_hash']}, code {found.identity['code']}")
    for table in dict.fromkeys(column.table for column in found.columns):
        shown = [c for c in found.columns if c.table == table and (columns or c.distinct > 1)]
        if shown:
            lines += ["", f"{table}: {'all columns' if columns else 'columns that vary'}"]
            lines += [_describe_column(column, columns) for column in shown]
    if found.quarantined:
        lines += ["", "quarantined:"]
        lines += [f"  structure {index}: {why}" for index, why in found.quarantined[:MOST_LISTED]]
        if len(found.quarantined) > MOST_LISTED:
            lines.append(f"  and {len(found.quarantined) - MOST_LISTED} more")
    return "\n".join(lines)


def _describe_column(column: Column, meaning: bool) -> str:
    if column.values and (column.smallest is None or column.distinct <= 6):
        content = ", ".join(
            f"{value:.6g} ({count})" if isinstance(value, float) else f"{value} ({count})"
            for value, count in column.values.items()
        )
    elif column.smallest is not None and not column.shape:
        content = f"{column.smallest:.6g} to {column.largest:.6g}"
    else:
        content = f"{column.distinct} distinct"
    unit = f" {column.units}" if column.units else ""
    text = f"  {column.name:28} {content}{unit}"
    return f"{text}\n  {'':28} {column.description}" if meaning and column.description else text


def format_verification(path: Path, found: Verification) -> str:
    """What was checked and which rows are bad."""
    lines = [f"{path}: {found.rows} rows checked, {len(found.bad)} bad"]
    lines += [f"  {table} row {row}" for table, row in found.bad[:MOST_LISTED]]
    if len(found.bad) > MOST_LISTED:
        lines.append(f"  and {len(found.bad) - MOST_LISTED} more")
    if found.outside is None:
        lines.append("bytes outside the rows: not checked, nothing tells what they were")
    else:
        lines.append(f"bytes outside the rows: {'intact' if found.outside else 'DAMAGED'}")
    if not found.rows:
        lines.append("nothing is committed, so nothing could be checked")
    elif not found.complete:
        lines.append("the database is unfinished: only what is committed was checked")
    elif not found.marked:
        lines.append(UNMARKED)
    return "\n".join(lines)
