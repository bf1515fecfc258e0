"""How fast a job went: a sidecar in the folder beside the database, for people and for reports.

The database itself holds no times, so that two runs give the same bytes. `pace.jsonl` has a line of
JSON for each look at the ranks' progress; it is written as well as can be, and nothing depends on
it: a job whose sidecar cannot be written goes on without it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctem.parallel import Progress

PACE = "pace.jsonl"
# Lines come at least this far apart, in seconds and as a share of the time since the job began:
# a day's job of a thousand ranks leaves a few megabytes.
LEAST_SECONDS, LEAST_SHARE = 1.0, 0.01
MOST_BYTES = 256 * 2**20
log = logging.getLogger("hpctem")


@dataclass(frozen=True)
class Look:
    """How far the ranks of a run were at one time.

    run        number of the job's run; a resumed job has several
    time       seconds since 1970 (UTC)
    seconds    since the run began to compute
    computed   structures that each rank had computed in this run
    """

    run: int
    time: float
    seconds: float
    computed: tuple[int, ...]


def record_pace(
    folder: Path, run: int, progress: Callable[[Progress], None] | None
) -> Callable[[Progress], None] | None:
    """`progress` that also notes what it is told in the sidecar of a database's folder.

    run 1 begins the sidecar anew, later runs add to it. Without `progress` nothing is noted.
    """
    if progress is None:
        return None
    path = folder / PACE
    noted = -math.inf
    failed = False

    def record(state: Progress) -> None:
        nonlocal noted, failed
        due = noted + max(LEAST_SECONDS, LEAST_SHARE * state.seconds)
        if not failed and (state.last or state.seconds >= due):
            try:
                mode = "w" if run == 1 and noted < 0 else "a"
                with open(path, mode, encoding="utf-8") as stream:
                    stream.write(_write_look(run, state))
                noted = state.seconds
            except OSError as error:
                failed = True
                log.warning("%s cannot be written: %s", path, error.strerror)
        progress(state)

    return record


def read_pace(folder: Path) -> list[Look]:
    """What the sidecar of a database's folder says, oldest first; nothing where there is none.

    Lines that are torn or make no sense are left out.
    """
    try:
        with open(folder / PACE, encoding="utf-8", errors="replace") as stream:
            text = stream.read(MOST_BYTES)
    except OSError:
        return []
    looks = (_read_look(line) for line in text.splitlines())
    return sorted(filter(None, looks), key=lambda look: (look.run, look.seconds))


def _write_look(run: int, state: Progress) -> str:
    values = {
        "run": run,
        "time": round(time.time(), 3),
        "seconds": round(state.seconds, 3),
        "computed": state.computed,
    }
    return json.dumps(values) + "\n"


def _read_look(line: str) -> Look | None:
    try:
        values: dict[str, Any] = json.loads(line)
        computed = tuple(int(count) for count in values["computed"])
        look = Look(int(values["run"]), float(values["time"]), float(values["seconds"]), computed)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    sensible = (
        math.isfinite(look.time) and 0 <= look.seconds < 1e9 and min(computed, default=0) >= 0
    )
    return look if sensible and computed else None
