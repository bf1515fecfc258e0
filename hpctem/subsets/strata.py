"""Strata: the parts of a selection over which draws are spread, by the values of columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.collection.vocabulary import DIMENSIONS
from hpctem.errors import ConfigError
from hpctem.units import internal_unit, parse_quantity

INFINITE = ("-inf", "inf")
NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*)")
# A column of real numbers with more values than that is continuous: it needs edges.
MOST_VALUES = 64


@dataclass(frozen=True)
class Strata:
    """In which stratum each row is.

    codes    (n,) int64: 0 ... count - 1, -1 where a row is in none
    names    of the strata; '' for the only stratum of all rows
    edges    whether the strata were asked for by edges, so that one may have no row
    """

    codes: np.ndarray
    names: tuple[str, ...]
    column: str = ""
    edges: bool = False

    @property
    def count(self) -> int:
        """Number of strata."""
        return len(self.names)

    def __getitem__(self, positions: np.ndarray) -> Strata:
        """The strata of some of the rows."""
        return Strata(self.codes[positions], self.names, self.column, self.edges)

    def keep(self, numbers: Sequence[int]) -> Strata:
        """Only these strata, numbered from 0; rows of the others are in none."""
        renumbered = np.full(self.count + 1, -1, np.int64)
        renumbered[list(numbers)] = np.arange(len(numbers))
        names = tuple(self.names[number] for number in numbers)
        return Strata(renumbered[self.codes], names, self.column, self.edges)


def one_stratum(count: int) -> Strata:
    """All rows in one stratum."""
    return Strata(np.zeros(count, np.int64), ("",))


@dataclass(frozen=True)
class Edges:
    """Edges of bins in the internal unit, and as they were written."""

    values: tuple[float, ...]
    texts: tuple[str, ...]


def parse_edges(text: str, units: str, column: str) -> Edges:
    """Edges written as '2, 3.5, 5 nm': ascending, at least two, -inf and inf allowed.

    units     of the column as stored; an edge without a unit has that of the next edge with one,
              and the column's own where none follows

    Raises ConfigError for edges that are no numbers, have a wrong unit or do not ascend.
    """
    dimension = DIMENSIONS.get(units)
    unit = internal_unit(dimension) if dimension else ""
    values: list[float] = []
    texts: list[str] = []
    for part in reversed([part.strip() for part in text.split(",")]):
        if part in INFINITE:
            values.append(float(part))
            texts.append(part)
            continue
        written = NUMBER.fullmatch(part)
        unit = (written and written[2]) or unit
        quantity = f"{written[1]} {unit}".strip() if written else part
        try:
            values.append(parse_quantity(quantity, dimension))
        except ValueError as error:
            raise ConfigError(f"edges of {column}: {error}") from error
        texts.append(quantity)
    values.reverse()
    texts.reverse()
    if len(values) < 2:
        raise ConfigError(f"edges of {column}: {text!r} is one edge; two make a stratum, as '0,10'")
    for low, high, name in zip(values, values[1:], texts[1:], strict=False):
        if not low < high:
            raise ConfigError(f"edges of {column}: {name} does not exceed the edge before it")
    return Edges(tuple(values), tuple(texts))


def cut(values: np.ndarray, edges: Edges, column: str) -> Strata:
    """Strata low <= value < high between edges; the last one includes its upper edge.

    A value beyond the edges, or NaN, is in no stratum.
    """
    bounds = np.array(edges.values)
    codes = np.searchsorted(bounds, values, side="right") - 1
    codes[values == bounds[-1]] = len(bounds) - 2
    codes[(codes >= len(bounds) - 1) | np.isnan(values)] = -1
    names = tuple(
        f"{column} {low} to {high}" for low, high in zip(edges.texts, edges.texts[1:], strict=False)
    )
    return Strata(codes.astype(np.int64), names, column, edges=True)


def number_values(codes: np.ndarray, values: np.ndarray, column: str) -> Strata:
    """One stratum for each value that occurs; row i has values[codes[i]], and values ascend.

    Raises ConfigError for real numbers that are more than a few distinct ones.
    """
    if values.dtype.kind == "f" and (len(values) > MOST_VALUES or np.isnan(values).any()):
        low, high = np.nanmin(values), np.nanmax(values)
        raise ConfigError(
            f"{column} has {len(values)} different values, {low:g} to {high:g}: too many for a "
            f"stratum each; give edges, as {column}:{low:g},{(low + high) / 2:g},{high:g}"
        )
    names = tuple(f"{column} {value}" for value in values.tolist())
    return Strata(codes, names, column)


def combine(strata: Sequence[Strata], count: int) -> Strata:
    """Strata of all combinations: of those of values the ones that occur, with every bin.

    Rows that are in none of one are in none of the combinations.
    """
    combined = one_stratum(count)
    for item in sorted(strata, key=lambda item: item.edges):
        outside = (combined.codes < 0) | (item.codes < 0)
        codes = np.where(outside, -1, combined.codes * item.count + item.codes)
        pairs = np.arange(combined.count * item.count)
        if not item.edges:
            pairs = np.unique(codes[~outside])
            codes = np.where(outside, -1, np.searchsorted(pairs, codes))
        names = tuple(
            ", ".join(
                filter(None, (combined.names[pair // item.count], item.names[pair % item.count]))
            )
            for pair in pairs.tolist()
        )
        combined = Strata(codes, names)
    return combined
