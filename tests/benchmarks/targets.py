"""What the benchmarks are to reach, and whether they do: one table, one file, one exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpctem.planning.show import format_table

AT_LEAST, AT_MOST = ">=", "<="

Targets = dict[str, tuple[str, float]]
# What is asked of each figure. Of steps and of the whole job it is abTEM's time over ours.
HRTEM: Targets = {
    "exit wave, infinite projection": (AT_LEAST, 2.2),
    "exit wave, finite projection": (AT_LEAST, 5.0),
    "image, default planes, of 11 foci": (AT_LEAST, 18.0),
    "image, 25 planes, of 11 foci": (AT_LEAST, 6.5),
    "image, default planes, of 4 foci": (AT_LEAST, 18.0),
    "image, 25 planes, of 4 foci": (AT_LEAST, 6.5),
    "whole job, 11 foci, 25 planes, an image": (AT_LEAST, 7.0),
    "error, exit wave, infinite projection": (AT_MOST, 1e-3),
    "error, exit wave, finite projection": (AT_MOST, 1e-3),
    "error, image, default planes": (AT_MOST, 1e-3),
    "error, image, 25 planes": (AT_MOST, 1e-3),
    "share of sampling structures": (AT_MOST, 0.05),
    "peak memory of one rank, MiB": (AT_MOST, 1024.0),
    "peak memory of each of two ranks, MiB": (AT_MOST, 1024.0),
    "two ranks over one, by the clock": (AT_LEAST, 1.85),
    "time with fsync over without": (AT_MOST, 1.15),
}
SCALE: Targets = {
    "scan of the journals, CPU s": (AT_MOST, 10.0),
    "layout, s": (AT_MOST, 60.0),
}
GPU: Targets = {
    "exit waves over their transforms": (AT_MOST, 1.6),
    "images over their transforms": (AT_MOST, 2.0),
}
ASKED = HRTEM | SCALE | GPU


@dataclass(frozen=True)
class Figure:
    """A line of the table.

    what    a name, of `ASKED` where something is asked
    where   of which case: '640 px'
    value   what is judged
    ours    hpctem's seconds or error of which it is made, `theirs` what stands beside; or None
    note    how sure it is
    """

    what: str
    where: str
    value: float
    ours: float | None = None
    theirs: float | None = None
    note: str = ""

    @property
    def asked(self) -> str:
        """'>= 2.2', or nothing."""
        return "{} {:g}".format(*ASKED[self.what]) if self.what in ASKED else ""

    @property
    def verdict(self) -> str:
        """'met' or 'missed', or nothing; what is no number misses."""
        if self.what not in ASKED:
            return ""
        sense, bound = ASKED[self.what]
        met = self.value >= bound if sense == AT_LEAST else self.value <= bound
        return "met" if met else "missed"


def tabulate(figures: Sequence[Figure], beside: str) -> str:
    """All figures as one table; `beside`: whose seconds stand beside ours."""

    def show(number: float | None) -> str:
        return "" if number is None else f"{number:.3g}"

    head = ("", "case", "hpctem", beside, "figure", "asked", "", "")
    rows = [
        (f.what, f.where, show(f.ours), show(f.theirs), show(f.value), f.asked, f.verdict, f.note)
        for f in figures
    ]
    return format_table(head, rows)


def conclude(
    figures: Sequence[Figure],
    asked: Targets,
    provenance: dict[str, Any],
    path: Path | None,
    beside: str = "",
    **more: Any,
) -> int:
    """Print the table, write the file, and return the exit code: 1 when something was missed.

    `asked`: the targets of this benchmark; what was not measured is told. `more` goes into
    the file as it is.
    """
    print(f"\n{tabulate(figures, beside)}")
    judged = [figure for figure in figures if figure.verdict]
    missed = [figure for figure in judged if figure.verdict == "missed"]
    for figure in missed:
        print(f"missed: {figure.what} ({figure.where}): {figure.value:.3g}, not {figure.asked}")
    told = {figure.what for figure in figures}
    for name in asked:
        if name not in told:
            print(f"not measured: {name}")
    print(f"{len(judged) - len(missed)} of {len(judged)} targets met", flush=True)
    if path is not None:
        lines = [asdict(f) | {"asked": f.asked, "verdict": f.verdict} for f in figures]
        path.write_text(json.dumps({**provenance, "figures": lines, **more}, indent=1))
    return 1 if missed else 0
