"""What commands print about a database, as text for people and as plain data for programs."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpctem.database.create import gib
from hpctem.database.information import MOST_DISTINCT, Column, Information, Union
from hpctem.database.schema import Layout
from hpctem.database.verify import Verification
from hpctem.errors import HpctemError
from hpctem.marked_yaml import parse_yaml

MOST_LISTED = 20
MOST_SHOWN = 6
UNMARKED = (
    "every structure is committed, but the marker COMPLETE is missing beside the file: the command "
    "that made it reads it back and marks it"
)


def describe(found: Information | Union) -> dict[str, Any]:
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
    state = "complete" if found.complete else "unfinished"
    lines = [f"{found.path}: {state}{' and verified' * found.marked}, {gib(found.size)}"]
    if found.complete and not found.marked:
        lines.append(UNMARKED)
    if found.images is not None:
        shape, dtype = found.images
        size = " x ".join(map(str, reversed(shape)))
        lines.append(f"{found.counts['images']} images of {size} pixels, {dtype}")
    lines.append(_format_structures(found.counts))
    if found.first:
        lines.append(f"volume: begins with structure {found.first} of the campaign")
    lines += _format_arrays(found)
    lines += _format_origin(found)
    lines += _format_columns(found.columns, columns)
    if found.quarantined:
        lines += ["", "quarantined:"]
        lines += [f"  structure {index}: {why}" for index, why in found.quarantined[:MOST_LISTED]]
        if len(found.quarantined) > MOST_LISTED:
            lines.append(f"  and {len(found.quarantined) - MOST_LISTED} more")
    return "\n".join(lines)


def format_union(found: Union, columns: bool) -> str:
    """What several databases hold together, as `format_information` does of one."""
    state = "all complete" if found.complete else "not all complete"
    names = ", ".join(found.names)
    lines = [f"together: {state}, {gib(found.size)}", f"campaigns: {names}"]
    if "images" in found.counts:
        lines.append(f"{found.counts['images']} images")
    lines.append(_format_structures(found.counts))
    if found.distinct is not None and found.distinct < found.counts["good"]:
        lines.append(
            f"{found.distinct} of the good structures are different atoms: campaigns of one seed "
            "share structures"
        )
    if found.differing:
        lines.append(f"of different units or shapes, so not shown: {', '.join(found.differing)}")
    return "\n".join([*lines, *_format_columns(found.columns, columns)])


def _format_structures(counts: Mapping[str, int]) -> str:
    parts = [
        f"{counts[name]} {name}" for name in ("good", "quarantined", "pending") if counts[name]
    ]
    return f"{counts['structures']} structures: {', '.join(parts) or 'none'}"


def _format_arrays(found: Information) -> list[str]:
    """Label maps and other arrays by their groups, and tables with several rows a structure."""
    groups: dict[str, list[str]] = {}
    for item in found.arrays:
        group, name = item.path.removeprefix("/entry/").rsplit("/", 1)
        classes = f" ({', '.join(item.classes)})" if item.classes else ""
        groups.setdefault(group, []).append(f"{name}{classes}")
    lines = [f"{group}: {', '.join(names)}" for group, names in groups.items()]
    plain = ("structures", "images", "pending", "good", "quarantined")
    tables = [f"{count} {name}" for name, count in found.counts.items() if name not in plain]
    return [*lines, f"tables: {', '.join(tables)}"] if tables else lines


def _format_origin(found: Information) -> list[str]:
    """Campaign, parent, versions and device."""
    lines = [f"campaign {found.name}, config hash {found.campaign.get('config_hash', 'unknown')}"]
    if "import" in found.campaign:
        imported = json.loads(found.campaign["import"])
        lines.append(f"imported from {imported['source']}, licence: {imported['licence']}")
    try:
        parent = json.loads(found.campaign["parent"])
        translation = json.loads(found.campaign.get("translation", "{}"))
        made = "images of the exit waves in"
        if translation:
            made = f"made by {translation['command']} with the model {translation['name']} of"
        lines.append(f"{made} {parent['file']}, config hash {parent['config_hash']}")
    except (LookupError, ValueError, TypeError):
        pass
    identity = dict(found.identity)
    code, device = identity.pop("code", "unknown"), identity.pop("device", "")
    kind = identity.pop("backend", "")
    machine = " ".join(identity.pop(name, "") for name in ("machine", "numba_target")).strip()
    libraries = [
        f"{name} {value}" if name != "fft" else value
        for name, value in identity.items()
        if not name.startswith("config.") and not name.endswith(("_digest", "parent")) and value
    ]
    where = device or (f"CPU {machine}" if kind == "numpy" else machine)
    lines.append(f"computed by hpctem {code}{f' on {where}' if where else ''}")
    return [*lines, f"libraries: {', '.join(libraries)}"] if libraries else lines


def _format_columns(found: Iterable[Column], all_of_them: bool) -> list[str]:
    tables: dict[str, list[Column]] = {}
    for column in found:
        if all_of_them or column.varies:
            tables.setdefault(column.table, []).append(column)
    lines = []
    for table, shown in tables.items():
        lines += ["", f"{table}: {'all columns' if all_of_them else 'columns that vary'}"]
        lines += [_format_column(column, all_of_them) for column in shown]
    return lines


def _format_column(column: Column, meaning: bool) -> str:
    unit = f" {column.units}" if column.units else ""
    parts = []
    if not column.read:
        parts.append("too large to be read here; --columns does")
    elif column.values and (column.smallest is None or len(column.values) <= MOST_SHOWN):
        parts.append(
            ", ".join(f"{_number(value)} ({count})" for value, count in column.values.items())
        )
    elif column.smallest is not None:
        parts.append(f"{_number(column.smallest)} to {_number(column.largest)}")
    elif column.values is None and not column.shape:
        parts.append(f"more than {MOST_DISTINCT} different {column.dtype}s")
    content = f"{parts[0] if parts else 'no value'}{unit if column.read else ''}"
    if column.values and len(column.values) > MOST_SHOWN and column.smallest is not None:
        content += f", {len(column.values)} distinct"
    if column.shape:
        content += f", {' x '.join(map(str, column.shape))} values a row"
    if column.absent:
        content += f", {column.absent} without"
    if meaning:
        content += f"  [{column.dtype}]"
    text = f"  {column.name:28} {content}"
    return f"{text}\n  {'':28} {column.description}" if meaning and column.description else text


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def format_verification(path: Path, found: Verification) -> str:
    """What was checked, which rows are bad, and the command that has them computed again."""
    lines = [f"{path}: {found.rows} rows checked, {len(found.bad)} bad"]
    lines += [f"  {table} row {row}" for table, row in found.bad[:MOST_LISTED]]
    if len(found.bad) > MOST_LISTED:
        lines.append(f"  and {len(found.bad) - MOST_LISTED} more")
    if found.outside is None:
        lines.append("bytes outside the rows: not checked, nothing tells what they were")
    else:
        lines.append(f"bytes outside the rows: {'intact' if found.outside else 'DAMAGED'}")
    if found.damaged:
        command = name_repair(path, found.layout)
        lines.append(f"to put it right, with its own campaign file: {command}")
    elif not found.rows:
        lines.append("nothing is committed, so nothing could be checked")
    elif not found.complete:
        lines.append("the database is unfinished: only what is committed was checked")
    elif not found.marked:
        lines.append(UNMARKED)
    return "\n".join(lines)


def name_repair(path: Path, layout: Layout | None) -> str:
    """The command that repairs a database: that which made it, with --repair.

    `layout`: of the database with the campaign's texts, None where nothing tells of it.
    """
    texts = layout.campaign if layout is not None else {}
    parent, limit = _read_origin(texts)
    words = ["hpctem", "image", parent, "CONFIG"] if parent else ["hpctem", "simulate", "CONFIG"]
    if "import" in texts:
        words = ["hpctem", "import", "FILE", "FOLDER"]
    if "translation" in texts:
        words = ["hpctem", json.loads(texts["translation"])["command"], "MODEL", parent]
    options = []
    volume = re.fullmatch(r"(.+)\.v0*(\d+)of0*(\d+)", path.stem)
    if volume is not None:
        path = path.with_name(volume[1] + path.suffix)
        options = ["--volume", f"{volume[2]}/{volume[3]}"]
    if limit is not None:
        options += ["--limit", str(limit)]
    return " ".join([*words, "-o", shlex.quote(str(path)), *options, "--repair"])


def _read_origin(texts: Mapping[str, str]) -> tuple[str, int | None]:
    """File name of the parent whose waves were imaged, and the --limit under which it was made."""
    try:
        parent = shlex.quote(json.loads(texts["parent"])["file"]) if "parent" in texts else ""
        taken = json.loads(json.loads(texts["resolved_config"])["campaign.structures"])
        asked = parse_yaml(texts["config"]).data["campaign"]["structures"]
        return parent, taken if taken < asked else None
    except (LookupError, ValueError, TypeError, HpctemError):  # the texts themselves are damaged
        return "", None
