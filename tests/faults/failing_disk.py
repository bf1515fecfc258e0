"""Every call that writes or syncs fails once, and the disk is full at any level.

    LD_PRELOAD=... INTERPOSE_FOLDER=FOLDER python failing_disk.py FOLDER [every] [levels]

Runs below the library of interpose.c. For each error and each call of the job, a child runs the
job with that call failing; the job must say so, keep what it had committed, and go on to the same
bytes once the disk is well. Prints JSON: how many calls failed, and what was found wrong.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from pathlib import Path

from small_job import find_fault, fresh_folders, run_job, sha256

from hpctem.errors import HpctemError

LIBRARY = ctypes.CDLL(None)
TOLD, WELL, WRONG = range(3)


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


def run_in_child(path: Path, number: int, code: int, level: int) -> tuple[int, str]:
    """Run the job with that failure in a child: how it ended, and its error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        result, message = WRONG, ""
        try:
            fail_call(number, code)
            fill_disk(level)
            run_job(path)
            result = WELL
        except HpctemError as error:
            result, message = TOLD, str(error)
        except BaseException as error:
            message = repr(error)
        os.write(writing, message.encode()[:4096])
        os._exit(result)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        message = stream.read().decode()
    status = os.waitpid(child, 0)[1]
    if not os.WIFEXITED(status):
        return WRONG, f"the job died of signal {os.WTERMSIG(status)}"
    return os.WEXITSTATUS(status), message


def disturb(path: Path, number: int, code: int, level: int, expected: str) -> str:
    """What is wrong after the job ran with a failure, '' for nothing."""
    ended, message = run_in_child(path, number, code, level)
    if ended == WRONG:
        return message
    if ended == TOLD and os.strerror(code) not in message:
        return f"does not name the reason: {message}"
    if ended == WELL and sha256(path) != expected:
        return "a failing call went unnoticed"
    return find_fault(path, {}, expected)


def main() -> None:
    """Command line."""
    folder = Path(sys.argv[1])
    every, levels = (int(word) for word in sys.argv[2:4])
    problems, done = [], 0
    whole = folder / "whole.hdf5"
    calls, size = count_job(whole)
    expected = sha256(whole)
    cases = [
        (n, code, -1) for code in (errno.EIO, errno.ENOSPC) for n in range(1, calls + 1, every)
    ]
    cases += [(0, errno.ENOSPC, size * (2 * k + 1) // (2 * levels)) for k in range(levels)]
    with fresh_folders(folder) as make:
        for number, code, level in cases:
            problem = disturb(make() / "gold.hdf5", number, code, level, expected)
            done += 1
            if problem:
                name = errno.errorcode[code]
                problems.append(f"{name} at call {number}, level {level}: {problem}")
    print(json.dumps({"calls": calls, "failures": done, "problems": problems}))


if __name__ == "__main__":
    main()
