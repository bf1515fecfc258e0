"""Kill a job under mpirun hundreds of times, at random moments, and see that nothing is lost.

    python tests/mpi/kill_many.py --kills 300 --ranks 3

Each round starts a database and kills one rank, all ranks or the launcher: while the file is
created, while a later job takes it up, while segments are computed and committed, while the end is
verified.
After every kill, each row that was ever committed must still be committed and whole; the finished
file must be byte for byte that of a job that nobody killed.
"""

from __future__ import annotations

import argparse
import collections
import random
import tempfile
import time
from pathlib import Path

import launching
from synthetic import lay_out

from hpctem.database.finish import MARKER
from hpctem.database.journal import journal_folder, read_journals
from hpctem.database.plan import plan_key, write_plan
from hpctem.database.verify import verify

OPTIONS = {"structures": 20, "per_segment": 2, "slow": 0.06, "bad": "3,11"}
KEY = plan_key(write_plan(lay_out(20, 2), {"seed": "7"}))
SEGMENTS = OPTIONS["structures"] // OPTIONS["per_segment"]
PHASES = ("creation", "run", "resume", "commit", "completion", "any")
VICTIMS = ("one rank", "all ranks", "launcher", "everything")


def kill_many(
    folder: Path, kills: int, ranks: int, seed: int, writer: str = "auto"
) -> dict[str, int]:
    """Kill a job `kills` times, as often as needed on new databases; how often in each way."""
    chance = random.Random(seed)
    reference = folder / "reference.hdf5"
    code, _, messages = launching.run(reference, 0, **OPTIONS)
    assert code == 0, messages
    tally: collections.Counter[str] = collections.Counter()
    path, rounds = folder / "killed-0.hdf5", 0
    known: dict[int, tuple[bytes, int]] = {}
    while tally["kills"] < kills:
        phase, victim = PHASES[tally["kills"] % len(PHASES)], chance.choice(VICTIMS)
        if phase == "creation" and path.exists():
            finish(path, ranks, writer, reference)
            rounds += 1
            path, known = folder / f"killed-{rounds}.hdf5", {}
        if phase == "resume" and not known:
            known = leave_half_done(path, ranks, writer)
        job = launching.start(path, ranks, writer=writer, patience=30, **OPTIONS)
        wait_for_phase(path, job, phase, len(known), chance)
        if launching.ranks_of(job):
            survivors = strike(job, victim, chance)
            tally.update(["kills", victim, phase])
            launching.await_death(survivors)
        tally["launcher hung"] += not launching.await_end(job)
        if job.returncode not in (0, 4):
            known = check_nothing_lost(path, known)
            continue
        finish(path, ranks, writer, reference)
        rounds += 1
        path, known = folder / f"killed-{rounds}.hdf5", {}
    finish(path, ranks, writer, reference)
    return {**tally, "databases": rounds + 1}


def wait_for_phase(path: Path, job: object, phase: str, known: int, chance: random.Random) -> None:
    """Wait for the moment to kill; phases other than 'any' are awaited by what appears on disk."""
    limit = time.monotonic() + 20
    folder = journal_folder(path)
    holder = read_lock(folder)

    def reached() -> bool:
        if phase == "creation":
            return path.with_name(path.name + ".creating").exists() or path.exists()
        if phase == "resume":  # it has the lock, and has yet to merge the journals and begin
            return read_lock(folder) != holder
        commits = len(read_journals(folder, KEY).commits)
        if phase == "run":
            return commits > min(known + 1, SEGMENTS - 1)
        if phase == "commit":
            return commits > known or commits == SEGMENTS
        return commits == SEGMENTS

    if phase == "any":
        time.sleep(chance.uniform(0.1, 2.0))
        return
    while not reached() and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.001)
    time.sleep(chance.choice((0, 0, 0.002, 0.01, 0.05)))


def read_lock(folder: Path) -> bytes:
    """Who has the lock, or had it last."""
    lock = folder / "lock"
    return lock.read_bytes() if lock.exists() else b""


def leave_half_done(path: Path, ranks: int, writer: str) -> dict[int, tuple[bytes, int]]:
    """Have a job fail at its last structure, so that there is something to take up; its commits."""
    failing = {"failing": OPTIONS["structures"] - 1, "patience": 30}
    code, _, messages = launching.run(path, ranks, writer=writer, **failing, **OPTIONS)
    assert code == 1, messages
    return check_nothing_lost(path, {})


def strike(job: object, victim: str, chance: random.Random) -> list[int]:
    """Kill; the ranks that must then vanish by themselves."""
    ranks = launching.ranks_of(job)
    if victim == "one rank":
        launching.kill([chance.choice(ranks)])
    elif victim == "all ranks":
        launching.kill(ranks)
    elif victim == "launcher":
        launching.kill([job.pid])
    else:
        launching.kill([job.pid, *ranks])
    return ranks


def check_nothing_lost(
    path: Path, known: dict[int, tuple[bytes, int]]
) -> dict[int, tuple[bytes, int]]:
    """What is committed now; every commit known before is still there, and every row is whole."""
    commits = read_journals(journal_folder(path), KEY).commits
    lost = {segment for segment, record in known.items() if commits.get(segment) != record}
    assert not lost, f"committed segments {sorted(lost)} are lost"
    if path.exists():
        assert not verify(path).damaged
    else:
        assert not commits
    return commits


def finish(path: Path, ranks: int, writer: str, reference: Path) -> None:
    """Let the job end in peace: the same bytes as the job that nobody killed."""
    code, summary, messages = launching.run(path, ranks, writer=writer, patience=30, **OPTIONS)
    assert code == 0, messages
    assert summary["remaining"] == 0 and (journal_folder(path) / MARKER).exists()
    assert launching.sha256(path) == launching.sha256(reference)
    assert verify(path).intact


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--writer", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        tally = kill_many(
            Path(name), arguments.kills, arguments.ranks, arguments.seed, arguments.writer
        )
    print(f"{tally} in {time.monotonic() - start:.0f} s: nothing lost, same bytes")


if __name__ == "__main__":
    main()
