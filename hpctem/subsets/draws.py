"""Random draws of rows: by chance numbers that belong to a row, not to the order of drawing.

Every row of a campaign has a random 64-bit number in every stream, and a draw takes the rows with
the lowest ones. What is drawn in one stratum thus depends on nothing in another, the volumes of a
campaign draw as the whole file does, and only the bits of Philox are relied on, which NumPy keeps
the same on every machine and in every version.

Drawn are *units*: single rows, or all rows that share a value (a structure, a focus). A unit stands
where its first row stands, and has that row's chance number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from hpctem.errors import ConfigError
from hpctem.subsets.strata import Strata


def random_bits(stream: str, rows: np.ndarray) -> np.ndarray:
    """The random numbers of rows in a stream: uint64, a pure function of (stream, row).

    rows      int64 row numbers >= 0 in the campaign, in any order
    returns   uint64 of the same shape
    """
    if not len(rows):
        return np.zeros(0, np.uint64)
    key = np.frombuffer(hashlib.blake2b(stream.encode(), digest_size=16).digest(), "<u8")
    generator = np.random.Philox(counter=0, key=key)
    # A step of the counter gives four numbers, so that the range begins at a multiple of four.
    first, last = int(rows.min()) // 4, int(rows.max())
    generator.advance(first)
    return generator.random_raw(last + 1 - 4 * first)[rows - 4 * first]


@dataclass(frozen=True)
class Chance:
    """The chance numbers of rows in one draw; another step of it has others.

    stream      name of the draw
    rows        (n,) int64 row numbers in their campaigns
    sources     (n,) number of the campaign of each row
    campaigns   what identifies the campaigns
    """

    stream: str
    rows: np.ndarray
    sources: np.ndarray
    campaigns: tuple[str, ...]

    def __getitem__(self, positions: np.ndarray) -> Chance:
        """The chance of some of the rows, the same as before."""
        return Chance(self.stream, self.rows[positions], self.sources[positions], self.campaigns)

    def of_rows(self, step: str) -> np.ndarray:
        """(n,) uint64 chance numbers of the rows."""
        found = np.empty(len(self.rows), np.uint64)
        for number, campaign in enumerate(self.campaigns):
            own = self.sources == number
            found[own] = random_bits(f"{self.stream}/{step}/{campaign}", self.rows[own])
        return found

    def of_numbers(self, step: str, count: int) -> np.ndarray:
        """(count,) uint64 chance numbers of 0 ... count - 1, the same for all rows."""
        return random_bits(f"{self.stream}/{step}", np.arange(count))


@dataclass(frozen=True)
class Units:
    """What is drawn: for each row the number of its unit, and what units are called.

    codes    (n,) int64 in 0 ... count - 1
    values   (count,) what the rows of each unit share, all units counted that there ever were
    name     of the column that holds these values
    noun     what several units are called
    """

    codes: np.ndarray
    values: np.ndarray
    name: str = "row"
    noun: str = "images"

    @property
    def count(self) -> int:
        """Number of units, those without rows included."""
        return len(self.values)

    def __getitem__(self, positions: np.ndarray) -> Units:
        """The units of some of the rows, numbered as before."""
        return Units(self.codes[positions], self.values, self.name, self.noun)

    def first(self) -> np.ndarray:
        """(count,) int64 position of each unit's first row, -1 for one without rows."""
        found = np.full(self.count, -1, np.int64)
        # Of several values assigned to one place the last one stays.
        found[self.codes[::-1]] = np.arange(len(self.codes) - 1, -1, -1)
        return found

    def are_cut_by(self, codes: np.ndarray) -> bool:
        """Whether rows of one unit differ in another code."""
        return bool((codes[self.first()[self.codes]] != codes).any())


def single_rows(count: int) -> Units:
    """Units of one row each."""
    return Units(np.arange(count), np.arange(count))


def number_units(values: np.ndarray, name: str) -> Units:
    """One unit for each distinct value."""
    found, codes = np.unique(values, return_inverse=True)
    return Units(codes.reshape(-1).astype(np.int64), found, name, f"values of {name}")


def pair_units(groups: Units, units: Units) -> Units:
    """One unit for each pair of a group and a unit within it."""
    return number_units(groups.codes * units.count + units.codes, units.name)


def choose_lowest(strata: np.ndarray, chance: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The `wanted[s]` entries of each stratum s that have the lowest chance numbers.

    strata    (n,) int64 codes of strata
    chance    (n,) uint64
    wanted    (strata,) int64; of a stratum that has fewer entries all are taken
    returns   int64 positions, ascending
    """
    there = np.bincount(strata, minlength=len(wanted))
    wanted = np.minimum(wanted, there)
    # Sort no more than is needed: few numbers above the expected threshold can be among the lowest.
    share = (wanted + 6.0 * np.sqrt(wanted) + 16.0) / np.maximum(there, 1)
    limit = np.minimum(share * 2.0**64, 2.0**64 - 2048.0).astype(np.uint64)
    near = np.flatnonzero(chance <= limit[strata])
    if (np.bincount(strata[near], minlength=len(wanted)) < wanted).any():
        near = np.arange(len(strata))
    order = near[np.lexsort((chance[near], strata[near]))]
    counts = np.bincount(strata[order], minlength=len(wanted))
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[strata[order]]
    return np.sort(order[rank < wanted[strata[order]]])


def spread(total: int, chance: np.ndarray) -> np.ndarray:
    """Share a number evenly among strata: those with the lowest chance get one more.

    chance    (..., strata) uint64; strata are along the last axis
    returns   int64 of the same shape, the sum along the last axis is `total`
    """
    each, rest = divmod(total, chance.shape[-1])
    rank = np.argsort(np.argsort(chance, axis=-1, kind="stable"), axis=-1, kind="stable")
    return each + (rank < rest)


def draw_units(
    units: Units,
    strata: Strata,
    count: int,
    chance: Chance,
    step: str,
    lacking: list[str] | None = None,
) -> np.ndarray:
    """Draw a number of units, spread evenly over the strata; returns the positions of their rows.

    The strata must not cut through units.

    lacking   where it is told which stratum has too few units, which then gives all it has

    Raises ConfigError that tells so, without such a list.
    """
    first = units.first()
    there = np.flatnonzero(first >= 0)
    cells = strata.codes[first[there]]
    wanted = spread(count, chance.of_numbers(f"{step}/strata", strata.count))
    found = np.bincount(cells, minlength=strata.count)
    if (found < wanted).any():
        _tell_shortage(_show_shortage(strata, found, wanted, units.noun), lacking)
    taken = choose_lowest(cells, chance[first[there]].of_rows(step), wanted)
    return _find_rows(units, there[taken])


def draw_units_per_group(
    groups: Units,
    units: Units,
    strata: Strata,
    count: int,
    chance: Chance,
    step: str,
    lacking: list[str] | None = None,
) -> np.ndarray:
    """Draw a number of units of every group, spread evenly over the strata within each group.

    groups    in which of the groups a row is; every unit lies in one group
    lacking   where it is told that groups have too few units, which then give all they have
    returns   positions of the rows of the drawn units

    Raises ConfigError that tells so, without such a list.
    """
    first = units.first()
    there = np.flatnonzero(first >= 0)
    group, cells = groups.codes[first[there]], strata.codes[first[there]]
    beginnings = groups.first()
    present = np.flatnonzero(beginnings >= 0)
    wanted = np.zeros((groups.count, strata.count), np.int64)
    wanted[present] = count // strata.count
    if count % strata.count:
        # A number for each pair of group and stratum, from a stream for each stratum.
        own = chance[beginnings[present]]
        streams = [own.of_rows(f"{step}/strata/{number}") for number in range(strata.count)]
        wanted[present] = spread(count, np.stack(streams, axis=-1))
    cell = group * strata.count + cells
    found = np.bincount(cell, minlength=wanted.size).reshape(wanted.shape)
    short = np.flatnonzero((found < wanted).any(axis=1))
    if len(short):
        worst = int(short[np.argmin(beginnings[short])])
        shown = _show_shortage(strata, found[worst], wanted[worst], units.noun)
        whose = f"{groups.name} {groups.values[worst]} (one of {len(short)} such)"
        _tell_shortage(f"{whose}: {shown}", lacking)
    taken = choose_lowest(cell, chance[first[there]].of_rows(step), wanted.reshape(-1))
    return _find_rows(units, there[taken])


def _find_rows(units: Units, numbers: np.ndarray) -> np.ndarray:
    """Positions of the rows of these units, ascending."""
    chosen = np.zeros(units.count, bool)
    chosen[numbers] = True
    return np.flatnonzero(chosen[units.codes])


def balance_rows(strata: Strata, chance: Chance, step: str) -> np.ndarray:
    """Rows such that every stratum has as many as the smallest one: their positions.

    Raises ConfigError when a stratum has no row.
    """
    found = np.bincount(strata.codes, minlength=strata.count)
    if not found.all():
        empty = strata.names[int(np.flatnonzero(found == 0)[0])]
        raise ConfigError(f"nothing can be balanced: no row is in {empty}; change the edges")
    return choose_lowest(
        strata.codes, chance.of_rows(step), np.full(strata.count, found.min(), np.int64)
    )


def _show_shortage(strata: Strata, found: np.ndarray, wanted: np.ndarray, name: str) -> str:
    short = np.flatnonzero(found < wanted)
    parts = [
        f"{strata.names[i] or 'the selection'} has {found[i]} {name}, {wanted[i]} are wanted"
        for i in short[:4].tolist()
    ]
    more = [f"and {len(short) - 4} more strata have too few"] if len(short) > 4 else []
    return "; ".join(parts + more)


def _tell_shortage(shown: str, lacking: list[str] | None) -> None:
    if lacking is None:
        raise ConfigError(
            f"{shown}; ask for fewer, widen the condition or the edges, or take what there is with "
            "--allow-fewer"
        )
    lacking.append(shown)
