"""Subsets: rows drawn from databases for training, reproducibly, and split without leaks.

`draw_subset` follows one order: the condition; strata, and rows outside of them left out; random
values with all their rows; some of each value; balance; random rows; parts. All of it is done anew,
with other random numbers, for each draw and for each combination of strata.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.errors import ConfigError
from hpctem.subsets import draws
from hpctem.subsets.pool import Pool, make_pool
from hpctem.subsets.request import Request, ask, per_steps, sample_steps
from hpctem.subsets.splits import check_apart, parse_fractions, split_groups
from hpctem.subsets.strata import Strata, combine

ALL, TRAIN, VALIDATION = "all", "train", "validation"
# Rows in each stratum are told where the strata are not more than that.
MOST_COUNTED = 64

# File rows for each database, ascending.
Rows = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Piece:
    """Rows that stay together: a part of a split, a fold, or all of a draw.

    rows         file rows for each database, ascending
    structures   number of different structures
    strata       name -> number of rows; empty without strata, or where they are too many to list
    """

    rows: Rows
    structures: int
    strata: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows)


@dataclass(frozen=True)
class Drawn:
    """One drawing: its number, the strata it combines if it does, and its pieces by name."""

    repeat: int
    combination: tuple[str, ...]
    pieces: Mapping[str, Piece]


@dataclass(frozen=True)
class Subset:
    """Draws of rows from databases, each in parts.

    collection   the open databases
    drawn        for each combination all independent drawings
    spread       step -> columns over whose strata it was spread
    outside      rows that fulfilled the condition but were in no stratum
    lacking      strata that had too few rows, where fewer are allowed

    With folds every drawing gives as many draws as folds: the k-th has fold k for validation and
    the others for training.
    """

    request: Request
    collection: Collection
    drawn: tuple[Drawn, ...]
    spread: Mapping[str, tuple[str, ...]]
    outside: int = 0
    lacking: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.drawn) * (self.request.folds or 1)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that each draw has."""
        return (TRAIN, VALIDATION) if self.request.folds else tuple(self.drawn[0].pieces)

    def rows(self, part: str | None = None, draw: int = 0) -> Rows:
        """File rows, for each database, of a part of a draw, or of all its parts.

        Raises ConfigError when there is no such draw or part.
        """
        if not (isinstance(draw, int | np.integer) and 0 <= draw < len(self)):
            raise ConfigError(f"there is no draw {draw}: the subset has draws 0 to {len(self) - 1}")
        if part is not None and part not in self.parts:
            near = difflib.get_close_matches(str(part), self.parts, n=1)
            hint = f", perhaps {near[0]!r} is meant" if near else ""
            raise ConfigError(f"there is no part {part!r}{hint}; parts: {', '.join(self.parts)}")
        number, fold = divmod(int(draw), self.request.folds or 1)
        pieces = self.drawn[number].pieces
        if part is None:
            chosen = list(pieces.values())
        elif self.request.folds is None:
            chosen = [pieces[part]]
        else:
            validates = part == VALIDATION
            chosen = [p for k, p in enumerate(pieces.values()) if (k == fold) == validates]
        each = zip(*(piece.rows for piece in chosen), strict=True)
        return tuple(np.sort(np.concatenate(rows)) for rows in each)

    def select(self, part: str | None = None, draw: int = 0) -> Collection:
        """The images of a part of a draw, or of all its parts, by database and row.

        Raises ConfigError when there is no such draw or part.
        """
        rows = self.rows(part, draw)
        sources = np.repeat(np.arange(len(rows), dtype=np.uint16), [len(r) for r in rows])
        return Collection(self.collection.databases, sources, np.concatenate(rows))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the subset file; see `file.write_subset`."""
        from hpctem.subsets.file import write_subset

        write_subset(self, path)


def draw_subset(collection: Collection, **options: Any) -> Subset:
    """Draw from a collection; the options are those of `request.ask` and of `hpctem subset`.

    Raises ConfigError for options that cannot be meant, a condition or column that is not
    understood, a stratum with too few rows, and a split that the groups do not allow.
    """
    request = ask(**options)
    selection = collection if request.where is None else collection.where(request.where)
    if not len(selection):
        raise ConfigError("there is nothing to draw from: no image fulfils the condition")
    steps = (*sample_steps(request), *per_steps(request))
    everything = make_pool(selection, request, steps)
    pool = everything.inside()
    if not len(pool):
        raise ConfigError("there is nothing to draw from: no image is inside the edges")
    spread: dict[str, tuple[str, ...]] = {}
    drawn, lacking = [], []
    for numbers, names, mine in pool.combinations(request.combinations):
        chosen = "+".join(map(str, numbers))
        for repeat in range(request.draws):
            stream = f"hpctem/subset/{request.seed}/{repeat}/{chosen}"
            ready = replace(mine, chance=replace(mine.chance, stream=stream))
            few: list[str] = []
            try:
                pools = divide(draw_rows(ready, request, spread, few), request)
            except ConfigError as error:
                if not names:
                    raise
                raise ConfigError(f"of {' + '.join(names)}: {error}") from error
            pieces = {name: _tell_piece(part, selection) for name, part in pools.items()}
            drawn.append(Drawn(repeat, names, pieces))
            of = f" of {' + '.join(names)}" if names else ""
            lacking += [f"repeat {repeat}{of}: {text}" for text in few]
    _require_use(everything, request, spread)
    outside = len(everything) - len(pool)
    return Subset(request, collection, tuple(drawn), spread, outside, tuple(lacking))


def draw_rows(
    pool: Pool, request: Request, spread: dict[str, tuple[str, ...]], lacking: list[str]
) -> Pool:
    """What is left of a pool after sampling and balancing.

    `spread` is told over which columns each step was spread, `lacking` which strata had too few
    units where the request allows it.

    Raises ConfigError for a stratum with too few units where it does not.
    """
    told = lacking if request.allow_fewer else None
    samples = sample_steps(request)
    steps = [step for step in samples if step.unit] + list(per_steps(request))
    for number, step in enumerate(steps):
        name = f"{number}/{step.unit}"
        if not step.group:
            units = pool.units[step.unit]
            strata = _join(pool, pool.spread_over(units), step.text, spread)
            pool = pool[draws.draw_units(units, strata, step.count, pool.chance, name, told)]
            continue
        groups = pool.units[step.group]
        units = pool.units[step.unit]
        units = units if not step.unit else draws.pair_units(groups, units)
        strata = _join(pool, pool.spread_over(units, groups), step.text, spread)
        pool = pool[
            draws.draw_units_per_group(groups, units, strata, step.count, pool.chance, name, told)
        ]
    if request.balance:
        mixed = [item for item in pool.strata if item.column in pool.balance]
        strata = _join(pool, mixed, "balance", spread)
        pool = pool[draws.balance_rows(strata, pool.chance, "balance")]
    for step in samples:
        if not step.unit:
            strata = _join(pool, list(pool.strata), step.text, spread)
            units = draws.single_rows(len(pool))
            pool = pool[draws.draw_units(units, strata, step.count, pool.chance, "rows", told)]
    return pool


def name_pieces(request: Request) -> dict[str, Fraction]:
    """Name and fraction of every piece of a draw: the parts of a split, the folds, or all."""
    if request.folds is not None:
        return {f"fold {k}": Fraction(1, request.folds) for k in range(request.folds)}
    return {ALL: Fraction(1)} if request.split is None else parse_fractions(request.split)


def divide(pool: Pool, request: Request) -> dict[str, Pool]:
    """The parts of a split, the folds, or all: name -> rows.

    Raises ConfigError when structures would be on both sides, or a part would have none.
    """
    if request.split is None and request.folds is None:
        return {ALL: pool}
    fractions = name_pieces(request)
    groups = pool.units[request.group]
    if pool.structures.are_cut_by(groups.codes):
        raise ConfigError(
            f"groups of {request.group} would put one structure on both sides: its images differ "
            "in that column; group by structure_id, elements or another column of the structures"
        )
    first = groups.first()
    there = np.flatnonzero(first >= 0)
    if len(there) < len(fractions):
        raise ConfigError(
            f"{len(there)} {groups.noun} cannot be divided into {len(fractions)} "
            f"parts ({', '.join(fractions)}): each needs one; draw more, or ask for fewer parts"
        )
    strata = combine(pool.spread_over(groups), len(pool))
    parts = np.full(groups.count, -1, np.int64)
    parts[there] = split_groups(
        np.bincount(groups.codes)[there],
        strata.codes[first[there]],
        pool.chance[first[there]].of_rows("split"),
        list(fractions.values()),
    )
    of_rows = parts[groups.codes]
    check_apart(of_rows, groups.codes, request.group)
    check_apart(of_rows, pool.structures.codes, "structures")
    return {name: pool[np.flatnonzero(of_rows == k)] for k, name in enumerate(fractions)}


def _join(
    pool: Pool, strata: Sequence[Strata], text: str, spread: dict[str, tuple[str, ...]]
) -> Strata:
    spread[text] = tuple(item.column for item in strata)
    return combine(strata, len(pool))


def _require_use(pool: Pool, request: Request, spread: Mapping[str, tuple[str, ...]]) -> None:
    """Raise ConfigError for strata over which nothing could be spread."""
    used = {column for columns in spread.values() for column in columns}
    drawing = [step for step in spread if step != "balance"]
    for item in pool.strata:
        if drawing and item.column not in used | {request.combinations}:
            raise ConfigError(
                f"nothing can be spread over the strata of {item.column}: what is drawn by "
                f"{', '.join(drawing)} has rows in several of them; draw something that is in one "
                "stratum, as with --per structure_id:3:focus_index or --sample N rows"
            )


def _tell_piece(pool: Pool, selection: Collection) -> Piece:
    sources, rows = selection.sources[pool.places], selection.rows[pool.places]
    strata = combine(pool.strata, len(pool))
    counts = np.bincount(strata.codes, minlength=strata.count).tolist()
    named = bool(pool.strata) and strata.count <= MOST_COUNTED
    return Piece(
        tuple(np.sort(rows[sources == n]) for n in range(len(selection.databases))),
        len(np.unique(pool.structures.codes)),
        dict(zip(strata.names, counts, strict=True)) if named else {},
    )
