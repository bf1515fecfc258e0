"""What a training has been: a row for every epoch, a line for every step, as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from hpctem.database.journal import write_durably

HISTORY = "history.csv"
STEPS = "steps.csv"
# Columns that tell of the machine and not of the network: two equal trainings differ in them.
OF_THE_MACHINE = ("seconds", "images_per_second", "waiting")

Row = Mapping[str, float]


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Write history.csv of a model folder whole: after any death it is the old or the new one."""
    write_durably(folder / HISTORY, _tabulate(rows).encode())


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of history.csv, one for each epoch; none where there is no such file.

    Counts are int, all else float; a metric that an epoch does not have is left out of its row.
    """
    return list(_read(folder / HISTORY))


class StepLog:
    """steps.csv: epoch (from 1), step (from 1) and the metrics of every step.

    Opened at a place in the training, it forgets what an earlier job did beyond that.
    """

    def __init__(self, folder: Path, epoch: int, step: int) -> None:
        """`epoch` whole epochs and `step` steps of the next one have been done.

        Raises MachineError, the file as it was, when it cannot be written.
        """
        path = folder / STEPS
        kept = [row for row in _read(path) if (row["epoch"], row["step"]) <= (epoch + 1, step)]
        self._names = list(kept[0]) if kept else []
        # Never without what has been: it is written aside and renamed, then added to.
        write_durably(path, _tabulate(kept).encode())
        # By lines, so that a training that runs, or has died, can be followed to its last step.
        self._stream: TextIO = open(path, "a", 1, encoding="utf-8", newline="")

    def add(self, row: Row) -> None:
        """Append a step."""
        writer = csv.DictWriter(self._stream, self._names or list(row), lineterminator="\n")
        if not self._names:
            self._names = list(row)
            writer.writeheader()
        writer.writerow({name: _tell(value) for name, value in row.items()})

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _tabulate(rows: Sequence[Row]) -> str:
    """Rows as the text of a CSV file with all their columns; none of no rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    if names:
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _tell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _tell(value: float) -> str:
    """Shortest text that reads back as the same number."""
    return repr(int(value)) if isinstance(value, int) else repr(float(value))


def _read(path: Path) -> Iterator[dict[str, float]]:
    """The complete rows of a CSV file of numbers; one that a death has torn ends them."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", newline="") as stream:
        lines = [line for line in stream if line.endswith("\n")]
    reader = csv.reader(lines)
    names = next(reader, [])
    for cells in reader:
        if len(cells) != len(names):
            return
        yield {name: _number(cell) for name, cell in zip(names, cells, strict=True) if cell}


def _number(cell: str) -> float:
    return int(cell) if cell.lstrip("-").isdigit() else float(cell)
