"""The pace of a job over time, from the looks that its sidecar keeps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.database.pace import Look

MOST_INTERVALS = 60
# Up to so many seconds times are in the first unit whose limit is not passed.
UNITS = ((300.0, 1.0, "s"), (4 * 3600.0, 60.0, "min"), (float("inf"), 3600.0, "h"))


@dataclass(frozen=True)
class Run:
    """One run of a job: when it began (UTC), its length in s, structures computed by each rank."""

    number: int
    began: str
    seconds: float
    computed: tuple[int, ...]


@dataclass(frozen=True)
class Timeline:
    """Rates over the time of computing, runs one after the other.

    unit     of the edges (n + 1,)
    rates    (ranks, n) structures per second
    begins   (time in `unit`, name) of each run
    """

    unit: str
    edges: np.ndarray
    rates: np.ndarray
    begins: tuple[tuple[float, str], ...]


def list_runs(looks: Sequence[Look]) -> list[Run]:
    """The runs in which something was computed, in their order."""
    runs = []
    for number in dict.fromkeys(look.run for look in looks):
        mine = [look for look in looks if look.run == number]
        last = mine[-1]
        if last.seconds > 0 and any(last.computed):
            began = time.gmtime(max(mine[0].time - mine[0].seconds, 0))
            text = time.strftime("%Y-%m-%d %H:%M UTC", began)
            runs.append(Run(number, text, last.seconds, last.computed))
    return runs


def draw_up(looks: Sequence[Look]) -> Timeline | None:
    """Rates of all ranks over time; None where nothing was computed.

    A structure counts evenly over the time since the rank's structure before, as far as looks tell.
    """
    runs = list_runs(looks)
    if not runs:
        return None
    starts = np.cumsum([0.0, *(run.seconds for run in runs)])
    edges = np.linspace(0, starts[-1], min(max(len(looks) // 2, 1), MOST_INTERVALS) + 1)
    done = np.zeros((max(len(run.computed) for run in runs), len(edges)))
    for start, run in zip(starts[:-1], runs, strict=True):
        mine = [look for look in looks if look.run == run.number]
        width = len(run.computed)
        counts = np.array([look.computed for look in mine if len(look.computed) == width])
        seconds = np.array([look.seconds for look in mine if len(look.computed) == width])
        for rank in range(width):
            known = np.concatenate([[0], counts[:, rank]])
            times = np.concatenate([[0.0], seconds])
            steps = np.flatnonzero(np.diff(known, prepend=-1) > 0)
            done[rank] += np.interp(edges - start, times[steps], known[steps].astype(float))
    factor, unit = next((f, name) for limit, f, name in UNITS if starts[-1] <= limit)
    begins = tuple(
        (start / factor, f"run {run.number}") for start, run in zip(starts[:-1], runs, strict=True)
    )
    rates = np.diff(done, axis=1) / np.diff(edges)
    return Timeline(unit, edges / factor, rates, begins if len(runs) > 1 else ())
