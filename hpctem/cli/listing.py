"""Tables of images for people and programs: aligned text, JSON, CSV, histograms of a column."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from hpctem.aligned import align_columns
from hpctem.collection.collection import Collection
from hpctem.collection.columns import Column
from hpctem.errors import ConfigError

# What is shown of an image when nobody says what: where it stands and what it shows.
USUAL = (
    *("structure_id", "material", "dose", "defocus", "substrate_thickness"),
    *("particles_placed", "mean_radius", "planar_defects_placed", "pixel_size", "n_defects"),
)
# Rows written at once, so that a million of them need little memory.
PART = 10_000
MOST_BINS, MOST_VALUES, BAR = 16, 24, 40
# Numbers nearer to each other than this part of them differ by rounding only: one bin.
SAME = 1e-9


def usual_columns(collection: Collection, named: Sequence[str] = ()) -> list[str]:
    """The columns shown when nobody says which: place, those `named`, and the usual ones."""
    several = ["database"] if len(collection.databases) > 1 else []
    known = [name for name in USUAL if name in collection.columns]
    return list(dict.fromkeys([*several, "row", *named, *known]))


def write_table(collection: Collection, names: Sequence[str], stream: TextIO) -> None:
    """Aligned columns with their units in the head."""
    columns = [collection.find(name) for name in names]
    heads = [
        [name, f"[{c.units}]" if c.units else ""] for name, c in zip(names, columns, strict=True)
    ]
    lines = [[_show(value) for value in row] for part in _parts(collection, names) for row in part]
    head, units = zip(*heads, strict=True)
    left = [place for place, column in enumerate(columns) if not column.numeric]
    for line in align_columns([head, *([units] if any(units) else []), *lines], left):
        stream.write(f"{line}\n")


def write_csv(collection: Collection, names: Sequence[str], stream: TextIO) -> None:
    """RFC 4180: a head, lines that end with CRLF, NaN and what is missing empty."""
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(names)
    for part in _parts(collection, names):
        writer.writerows(["" if value is None else value for value in row] for row in part)


def write_json(collection: Collection, names: Sequence[str], stream: TextIO) -> None:
    """One array with an object for each image, a line each; NaN and what is missing null."""
    separator = "["
    for part in _parts(collection, names):
        for row in part:
            record = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
            stream.write(f"{separator}\n{record}")
            separator = ","
    stream.write("[]\n" if separator == "[" else "\n]\n")


def _parts(collection: Collection, names: Sequence[str]) -> Iterator[list[list[Any]]]:
    """Rows of plain values, some thousand at once."""
    for start in range(0, len(collection), PART):
        table = collection.take(slice(start, start + PART)).table(columns=names)
        values = [[_plain(value) for value in column.to_pylist()] for column in table.itercolumns()]
        yield [list(row) for row in zip(*values, strict=True)]


def _plain(value: Any) -> Any:
    """A number, text, list or None; 16 bytes, which are a digest, as hexadecimal text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        if len(value) == 16 and all(isinstance(part, int) for part in value):
            return bytes(value).hex()
        return [_plain(part) for part in value]
    return value


def _show(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def write_histogram(collection: Collection, name: str, stream: TextIO) -> None:
    """How often which values come: bins of numbers with their unit, counts of anything else.

    Raises ConfigError for a column of which a value is several numbers.
    """
    column = collection.find(name)
    if column.shape:
        raise ConfigError(f"{name} has {column.shape[0]} numbers for each image: no histogram")
    values = collection.column(name)
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    bins = find_bins(column, known)
    most = max((count for _, count in bins), default=0)
    width = max((len(label) for label, _ in bins), default=0)
    unit = f" [{column.units}]" if column.units else ""
    stream.write(f"{name}{unit} of {len(values)} images\n")
    bar = "█" if (stream.encoding or "").lower().startswith("utf") else "#"
    digits = len(str(most))
    for label, count in bins:
        length = max(1, round(BAR * count / most)) if count else 0
        stream.write(f"  {label:>{width}}  {count:>{digits}}  {bar * length}".rstrip() + "\n")
    if len(known) < len(values):
        stream.write(f"  without a value: {len(values) - len(known)}\n")


def find_bins(column: Column, values: np.ndarray) -> list[tuple[str, int]]:
    """What a histogram shows: a value or a range, and how many of the values are that."""
    distinct, counts = np.unique(values, return_counts=True)
    if not column.numeric:
        order = np.argsort(-counts, kind="stable")
        bins = [(str(distinct[place]) or "''", int(counts[place])) for place in order]
        others = sum(count for _, count in bins[MOST_VALUES:])
        return bins[:MOST_VALUES] + ([("others", others)] if others else [])
    # Numbers that come again and again are shown one by one, a continuum in bins.
    if len(distinct) <= MOST_VALUES and (
        column.dtype.kind != "f" or 3 * len(distinct) <= len(values)
    ):
        return [(f"{v:.6g}", int(count)) for v, count in zip(distinct, counts, strict=True)]
    low, high = float(distinct[0]), float(distinct[-1])
    if high - low <= SAME * max(abs(low), abs(high)):
        return [(f"{low:.6g}", len(values))]
    edges = round_edges(low, high)
    # Rounded edges may miss the smallest or the largest value by its last bit.
    found = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return [
        (f"{low:.12g} to {high:.12g}", int(count))
        for low, high, count in zip(edges[:-1], edges[1:], found, strict=True)
    ]


def round_edges(low: float, high: float) -> np.ndarray:
    """At most 16 bins with round edges (1, 2 or 5 times a power of ten) around low ... high."""
    rough = (high - low) / MOST_BINS or abs(low) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.floor(low / step), math.ceil(high / step)
        if last - first <= MOST_BINS and first * step <= low and high <= last * step:
            break
    return np.round(np.arange(first, last + 1) * step, 12 - math.floor(math.log10(step)))
