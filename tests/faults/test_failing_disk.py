"""Calls of the system fail, the disk is full: the job says so, loses nothing and goes on later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import launching
from interpose import preload

SCRIPT = Path(__file__).with_name("failing_disk.py")
CALLS = {"open", "write", "ftruncate", "fallocate", "fsync", "fdatasync", "rename", "unlink"}


def fail_calls(folder: Path, every: int, levels: int) -> dict:
    """Let every so manieth call fail, and the disk be full at so many levels."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(every), str(levels)],
        env=launching.environment() | preload(folder),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_failing_calls_are_told_and_survived(memory):
    found = fail_calls(memory, every=3, levels=10)
    assert found["problems"] == []
    assert set(found["failed"]) >= CALLS
    assert sum(found["failed"].values()) > 130, "the job makes fewer calls than it has steps"
