"""Work in a forked process that kills itself before one of its system calls."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

CALLS = (
    "open",
    "write",
    "pwrite",
    "ftruncate",
    "rename",
    "replace",
    "link",
    "unlink",
    "fsync",
    "fdatasync",
    "mkdir",
)


def run_and_die(work: Callable[[], object], at: int) -> bool:
    """Work in a forked process that kills itself before its call number `at`; True if it died."""
    child = os.fork()
    if child == 0:
        try:
            made = 0

            def dying(call):
                def counted(*arguments, **options):
                    nonlocal made
                    made += 1
                    if made == at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*arguments, **options)

                return counted

            for name in CALLS:
                setattr(os, name, dying(getattr(os, name)))
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)
