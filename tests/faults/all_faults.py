"""The long form of all fault tests: prints the table of docs/reliability.md.

    jobs/faults [--kills 500] [--states 1000] [kills power disk ranks journals stop rivals]

All of them take about an hour on two cores. Ends with an error at the first promise that is not
kept.
"""

from __future__ import annotations

import argparse
import collections
import errno
import itertools
import logging
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kill_many
from damaged_journals import damage_everywhere
from failing_rank import Outcome, fail_rank, fill_rank
from small_job import run_job, sha256
from test_failing_disk import fail_calls
from test_jobs_at_odds import hold_still, run_two_jobs
from test_power_loss import FOUND_OUT, count_losses, lose, refuse_lock, trace_job

from hpctem.database import lock as lock_module

LEVELS = 10


def kill(kills: int) -> str:
    """SIGKILL at random moments, of whom and when as tests/mpi/kill_many.py says."""
    runs = [(3, "auto"), (2, "pwrite"), (2, "auto"), (4, "auto")]
    tally: collections.Counter[str] = collections.Counter()
    for number, (ranks, writer) in enumerate(runs):
        share = kills // len(runs) + (number < kills % len(runs))
        if share:
            with scratch() as folder:
                tally.update(kill_many.kill_many(folder, share, ranks, 100 + number, writer))
    require([] if tally["kills"] == kills else [f"{tally['kills']} kills instead of {kills}"])
    kinds = ", ".join(f"{name} {tally[name]}" for name in (*kill_many.VICTIMS, *kill_many.PHASES))
    told = f"{tally['kills']} kills of jobs of 2 to 4 ranks ({kinds}): nothing lost, same bytes"
    if hung := tally["launcher hung"]:
        told += f". Open MPI's launcher itself hung {hung} times after its ranks had died"
    return told


def cut_power(states: int) -> str:
    """Power losses, rebuilt from a trace; and the control without fdatasync."""
    counts = {"kept": 0, "none": 0}
    for locks, ranks in itertools.product(counts, (0, 2, 3)):
        with scratch() as folder, memory() as fast, filesystem(locks):
            events = trace_job(folder, ranks, locks=locks)
            problems = lose(events, fast, expected_in(fast), states // 3 + 1)
            require([p for p in problems if p])
            counts[locks] += len(problems)
    with scratch() as folder, memory() as fast:
        events = trace_job(folder, 0, nosync=1)
        found = count_losses(lose(events, fast, expected_in(fast), states))
    require([] if found > FOUND_OUT * states else ["the control without fdatasync passes"])
    return (
        f"{counts['kept']} states of the disk and {counts['none']} of one without file locks, of "
        "jobs of 1, 2 and 3 ranks: nothing acknowledged is lost, same bytes. Control without "
        f"`fdatasync`: {found} of {states} states found wrong"
    )


@contextmanager
def filesystem(locks: str) -> Iterator[None]:
    """This process finds no file locks either, where the traced job has none."""
    kept = lock_module.fcntl.lockf
    if locks == "none":
        lock_module.fcntl.lockf = refuse_lock
    try:
        yield
    finally:
        lock_module.fcntl.lockf = kept


def fail_disk() -> str:
    """Every call that changes or syncs files or names fails; the disk is full at ten levels."""
    with memory() as fast:
        found = fail_calls(fast, every=1, levels=LEVELS)
    require(found["problems"])
    kinds = ", ".join(f"{call} {count}" for call, count in sorted(found["failed"].items()))
    return (
        f"{sum(found['failed'].values())} failures of a job that begins and of one that goes on "
        f"(EIO and ENOSPC at each call, {LEVELS} levels of a full disk; {kinds}): all told with "
        "file and reason, nothing committed lost, same bytes after a rerun"
    )


def fail_ranks() -> str:
    """The same for one of two ranks: each call, EIO and ENOSPC by turns, and ten levels."""
    failed: list[Outcome] = []
    with memory() as fast:
        expected = expected_in(fast)
        for rank in (0, 1):
            for number in itertools.count(1):
                code = errno.EIO if number % 2 else errno.ENOSPC
                outcome = fail_rank(fast / f"{rank}-{number}", rank, number, code, expected)
                require([outcome.problem] if outcome.problem else [])
                if not outcome.struck:
                    break
                failed.append(outcome)
        calls = len(failed)
        for writer, level in itertools.product(("mpio", "pwrite"), range(LEVELS)):
            full = fast / f"{writer}-{level}"
            outcome = fill_rank(full, 1, 70_000 * level // LEVELS, expected, writer)
            require([outcome.problem] if outcome.problem else [])
            failed.append(outcome)
    return (
        f"{calls} failures (each call of each of two ranks over MPI-IO) and {LEVELS} levels of a "
        "disk that is full for one, with either writer: both ranks end with one message, same "
        "bytes after a rerun"
    )


def damage_journals() -> str:
    """Each byte of the journals and every eighth of the marker, each in four ways."""
    survived = refused = 0
    for finished in (False, True):
        with memory() as fast:
            found = damage_everywhere(fast, finished, 1, expected_in(fast))
            require(found.problems)
            survived += found.survived
            refused += found.refused
    return (
        f"{survived} damages of journals: what lies before the damage is kept, same bytes after a "
        f"rerun. {refused} of the marker: each refused with its name, same bytes once it is deleted"
    )


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
    """A folder in memory where there is one, else on the disk."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as name:
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
        "ranks": ("a disk that fails for one rank of two", fail_ranks),
        "journals": ("damaged journals", damage_journals),
        "stop": ("a rank that holds still", stop_a_rank),
        "rivals": ("two jobs at once", fight),
    }
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(faults)}")
    arguments = parser.parse_args()
    if arguments.kills < 1 or arguments.states < 1:
        parser.error("--kills and --states are 1 or more")
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
