"""Every call that changes or syncs files or names fails once, and the disk is full at any level.

    LD_PRELOAD=... INTERPOSE_FOLDER=FOLDER python failing_disk.py FOLDER [every] [levels]

Runs below the library of interpose.c. For each error and each call of the job, a child runs the
job with that call failing; the job must say so, keep what it had committed, and go on to the same
bytes once the disk is well. The same with a job that takes up what an earlier one has left. Prints
JSON: how many calls of each name failed, and what was found wrong.
"""

from __future__ import annotations

import collections
import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from damaged_journals import half_a_job
from small_job import (
    DRAFT,
    Commits,
    commits_of,
    find_fault,
    fresh_folders,
    run_job,
    sha256,
)

from hpctem.database.journal import Journal
from hpctem.errors import HpctemError

LIBRARY = ctypes.CDLL(None)
LIBRARY.interpose_struck.restype = ctypes.c_char_p


@dataclass
class Ending:
    """How a job ended in a child.

    told          its error, '' where it ended well
    wrong         what ended it that is no error for its user
    struck        "rename /folder/file": the call that failed
    acknowledged  segment, digest in hexadecimal, quarantined: the commits that it was told of
    """

    told: str = ""
    wrong: str = ""
    struck: str = ""
    acknowledged: list[tuple[int, str, int]] = field(default_factory=list)

    @property
    def commits(self) -> Commits:
        """What was acknowledged, as `find_fault` takes it."""
        return {number: (bytes.fromhex(digest), bad) for number, digest, bad in self.acknowledged}


def fail_call(number: int, code: int) -> None:
    """Let that call (from 1; 0 for none) fail with that errno."""
    LIBRARY.interpose_fail(ctypes.c_long(number), code)


def fill_disk(level: int) -> None:
    """Let writes fail once so many bytes are written; -1 for a disk without end."""
    LIBRARY.interpose_full(ctypes.c_long(level))


def count_job(path: Path) -> tuple[int, int]:
    """Calls and bytes of the undisturbed job."""
    fail_call(0, 0)
    fill_disk(-1)
    run_job(path)
    return int(LIBRARY.interpose_calls()), int(LIBRARY.interpose_bytes())


def note_commits(ending: Ending) -> None:
    """Let every commit that a job is told of be noted."""
    commit = Journal.commit

    def noted(journal: Journal, segment: int, digest: bytes, quarantined: int) -> None:
        commit(journal, segment, digest, quarantined)
        ending.acknowledged.append((segment, digest.hex(), quarantined))

    Journal.commit = noted  # type: ignore[method-assign]


def run_in_child(path: Path, number: int, code: int, level: int) -> Ending:
    """Run the job with that failure in a child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ending = Ending()
        try:
            note_commits(ending)
            fail_call(number, code)
            fill_disk(level)
            run_job(path)
        except HpctemError as error:
            ending.told = str(error)
        except BaseException as error:
            ending.wrong = repr(error)
        ending.struck = LIBRARY.interpose_struck().decode()
        with os.fdopen(writing, "w") as stream:
            json.dump(asdict(ending), stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    status = os.waitpid(child, 0)[1]
    if status:
        return Ending(wrong=f"the job died (status {status})")
    return Ending(**json.loads(said))


def find_disturbance(path: Path, ending: Ending, code: int, known: Commits, expected: str) -> str:
    """What is wrong after a job with a failure that began with `known` commits, '' for nothing."""
    call, _, victim = ending.struck.partition(" ")
    if ending.wrong or not victim:
        return ending.wrong or "no call failed"
    there_already = call == "mkdir" and known
    if not ending.told and not there_already:
        return "went unnoticed"
    if ending.told and os.strerror(code) not in ending.told:
        return f"does not name the reason: {ending.told}"
    if ending.told and DRAFT.sub("", victim) not in ending.told:
        return f"does not name the file: {ending.told}"
    return find_fault(path, known | ending.commits, expected)


def list_cases(calls: int, size: int, every: int, levels: int) -> Iterator[tuple[int, int, int]]:
    """The failures to try: number of the call, its errno, bytes after which the disk is full.

    Where not every call fails, other ones fail with ENOSPC than with EIO.
    """
    for place, code in enumerate((errno.EIO, errno.ENOSPC)):
        first = 1 + place % every
        yield from ((number, code, -1) for number in range(first, calls + 1, every))
    yield from ((0, errno.ENOSPC, size * (2 * k + 1) // (2 * levels)) for k in range(levels))


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1])
    every, levels = (int(word) for word in sys.argv[2:4])
    problems: list[str] = []
    failed: collections.Counter[str] = collections.Counter()
    expected = ""
    for begun in (False, True):
        start = folder / ("begun" if begun else "new")
        start.mkdir()
        whole = folder / f"whole-{begun}" / "gold.hdf5"
        if begun:
            half_a_job(start / "gold.hdf5")
        shutil.copytree(start, whole.parent)
        calls, size = count_job(whole)
        expected = expected or sha256(whole)
        known = commits_of(start / "gold.hdf5")
        with fresh_folders(folder) as make:
            for number, code, level in list_cases(calls, size, every, levels):
                path = make() / "gold.hdf5"
                shutil.copytree(start, path.parent, dirs_exist_ok=True)
                ending = run_in_child(path, number, code, level)
                fail_call(0, 0)
                fill_disk(-1)
                failed[ending.struck.partition(" ")[0]] += 1
                if problem := find_disturbance(path, ending, code, known, expected):
                    case = f"{errno.errorcode[code]} at call {number}, level {level}"
                    problems.append(f"{case}, begun {begun}, {ending.struck}: {problem}")
    print(json.dumps({"failed": failed, "problems": problems}))


if __name__ == "__main__":
    main()
