"""The long form of all fault tests: prints the table of docs/reliability.md.

    jobs/faults [--kills 500] [--states 1000] [kills power disk journals stop rivals]

All of them take about an hour on two cores. Ends with an error at the first promise that is not
kept.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kill_many
from damaged_journals import damage_everywhere
from small_job import run_job, sha256
from test_failing_disk import fail_calls
from test_jobs_at_odds import hold_still, run_two_jobs
from test_power_loss import lose, trace_job


def kill(kills: int) -> str:
    """SIGKILL at random moments, of whom and when as tests/mpi/kill_many.py says."""
    runs = [(3, "auto"), (2, "pwrite"), (2, "auto"), (4, "auto")]
    tally: dict[str, int] = {}
    for number, (ranks, writer) in enumerate(runs):
        with scratch() as folder:
            found = kill_many.kill_many(folder, kills // len(runs), ranks, 100 + number, writer)
        tally = {name: tally.get(name, 0) + found.get(name, 0) for name in {*tally, *found}}
    kinds = ", ".join(f"{name} {tally[name]}" for name in (*kill_many.VICTIMS, *kill_many.PHASES))
    told = f"{tally['kills']} kills of jobs of 2 to 4 ranks ({kinds}): nothing lost, same bytes"
    if hung := tally["launcher hung"]:
        told += f". Open MPI's launcher itself hung {hung} times after its ranks had died"
    return told


def cut_power(states: int) -> str:
    """Power losses, rebuilt from a trace; and the control without fdatasync."""
    counts = []
    for ranks in (0, 2, 3):
        with scratch() as folder, memory() as fast:
            events = trace_job(folder, ranks)
            problems = lose(events, fast, expected_in(fast), states // 3 + 1, False)
            require([p for p in problems if p])
            counts.append(len(problems))
    with scratch() as folder, memory() as fast:
        events = trace_job(folder, 0, nosync=1)
        found = [p for p in lose(events, fast, expected_in(fast), states, True) if p]
    if not found:
        raise SystemExit("the control without fdatasync was not found out")
    return (
        f"{sum(counts)} states of the disk, of jobs of 1, 2 and 3 ranks: nothing acknowledged is "
        f"lost, same bytes. Control without fdatasync: {len(found)} of {states} states found wrong"
    )


def fail_disk() -> str:
    """Every write and sync fails; the disk is full at ten levels."""
    with memory() as fast:
        found = fail_calls(fast, every=1, levels=10)
    require(found["problems"])
    return (
        f"{found['failures']} failures (EIO and ENOSPC at each of {found['calls']} writes and "
        "syncs, ten levels of a full disk): all told, same bytes after a rerun"
    )


def damage_journals() -> str:
    """Each byte of the journals and every eighth of the marker, each in four ways."""
    counts = []
    for finished in (False, True):
        with memory() as fast:
            tried, problems = damage_everywhere(fast, finished, 1, expected_in(fast))
            require(problems)
            counts.append(tried)
    return f"{sum(counts)} damages: same bytes after a rerun, or a refusal that names the file"


def stop_a_rank() -> str:
    """One rank of two stops for a minute."""
    with memory() as fast:
        hold_still(fast / "gold.hdf5", expected_in(fast), 60.0)
    return "60 s: the job goes on and ends in the same bytes; a second job is refused meanwhile"


def fight() -> str:
    """Two jobs at once."""
    cases = list(itertools.product(("kept", "none", "lies"), (0, 2), range(10)))
    for locks, ranks, _ in cases:
        with memory() as fast:
            run_two_jobs(fast, expected_in(fast), locks, ranks)
    return (
        f"{len(cases)} pairs, with locks, without and with locks that are granted to everybody: "
        "one is refused or both take turns; never wrong bytes called done"
    )


def require(problems: list[str]) -> None:
    """End where there is a problem."""
    if problems:
        raise SystemExit("\n".join(problems[:20]))


def expected_in(folder: Path) -> str:
    """Digest of the database that nobody disturbed."""
    path = folder / "expected.hdf5"
    run_job(path)
    return sha256(path)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def memory() -> Iterator[Path]:
    """A folder in memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--states", type=int, default=1000)
    faults: dict[str, tuple[str, Callable[[], str]]] = {
        "kills": ("a kill", lambda: kill(arguments.kills)),
        "power": ("a power loss", lambda: cut_power(arguments.states)),
        "disk": ("a failing or full disk", fail_disk),
        "journals": ("damaged journals", damage_journals),
        "stop": ("a rank that holds still", stop_a_rank),
        "rivals": ("two jobs at once", fight),
    }
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(faults)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - set(faults):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    random.seed(0)
    logging.disable(logging.WARNING)  # thousands of warnings of what is damaged on purpose
    print(f"Python {platform.python_version()}, Linux {platform.release()}\n")
    print("| fault | tried, and what came of it | time |\n|---|---|---|", flush=True)
    for chosen in arguments.faults or faults:
        name, disturb = faults[chosen]
        started = time.monotonic()
        result = disturb()
        print(f"| {name} | {result} | {time.monotonic() - started:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
