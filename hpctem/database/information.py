"""What a database holds, in numbers: for `hpctem info` and the summary after a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.database.reader import Database, open_database
from hpctem.database.schema import Field

MOST_DISTINCT = 12


@dataclass(frozen=True)
class Column:
    """One column of a database over its good rows.

    smallest, largest   of a numeric column, None where there is no value
    values              value -> number of rows, where there are at most 12 distinct ones
    distinct            number of distinct values
    """

    name: str
    path: str
    table: str
    units: str
    description: str
    shape: tuple[int, ...]
    dtype: str
    smallest: float | None
    largest: float | None
    distinct: int
    values: Mapping[Any, int]


@dataclass(frozen=True)
class Information:
    """Counts, columns, bad structures, size and campaign texts of a database.

    complete      every structure is committed
    marked        the end was verified and marked in the folder beside the file
    counts        'structures', 'pending', 'good', 'quarantined', and good rows of every table
    first         campaign index of the first structure (volumes)
    images        shape and dtype of one image, e.g. ((512, 512), 'uint16'); None without images
    quarantined   (campaign index, reason)
    size          bytes of the file
    """

    path: Path
    complete: bool
    marked: bool
    counts: Mapping[str, int]
    first: int
    images: tuple[tuple[int, ...], str] | None
    columns: tuple[Column, ...]
    quarantined: tuple[tuple[int, str], ...]
    size: int
    campaign: Mapping[str, str]
    identity: Mapping[str, str]


def inform(path: str | Path) -> Information:
    """Everything `hpctem info` shows of a database, finished or not.

    Raises DatabaseError as `open_database` does.
    """
    with open_database(path) as database:
        layout = database.layout
        images = None
        if layout.stacks:
            signal = database.field(layout.stacks[0].signal)
            images = (signal.shape, signal.dtype.name)
        return Information(
            path=Path(path),
            complete=database.complete,
            marked=database.marked,
            counts=database.counts,
            first=layout.first_structure,
            images=images,
            columns=tuple(
                _describe_column(database, item) for item in layout.fields if len(item.shape) < 2
            ),
            quarantined=tuple(database.quarantined),
            size=Path(path).stat().st_size,
            campaign=database.campaign,
            identity=database.identity,
        )


def _describe_column(database: Database, item: Field) -> Column:
    values = database.column(item.path)
    smallest = largest = None
    if values.dtype.kind in "iuf" and values.size:
        known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if known.size:
            smallest, largest = known.min().item(), known.max().item()
    names, numbers = np.unique(values, return_counts=True)
    few = len(names) <= MOST_DISTINCT and not item.shape
    return Column(
        name=item.name,
        path=item.path,
        table=item.table,
        units=item.units,
        description=item.description,
        shape=item.shape,
        dtype=item.dtype.name,
        smallest=smallest,
        largest=largest,
        distinct=len(names),
        values=dict(zip(names.tolist(), numbers.tolist(), strict=True)) if few else {},
    )
