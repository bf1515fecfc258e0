"""Of tests that run side by side those marked `alone` do not, and what all need is made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SUITE = """
import time
from pathlib import Path
import pytest

@pytest.fixture(scope="session")
def shared(make_once):
    def fill(folder):
        (folder / f"made-{time.time()}").touch()
        time.sleep(0.2)
    return make_once("shared", fill)

def take(name, seconds, folder):
    begin = time.time()
    time.sleep(seconds)
    (folder / f"{name} {begin} {time.time()}").touch()

@pytest.mark.parametrize("number", range(12))
def test_beside(number, shared):
    take("beside", 0.06, shared)

@pytest.mark.alone
@pytest.mark.parametrize("number", range(6))
def test_alone(number, shared):
    take("alone", 0.03, shared)
"""


def test_alone_is_alone_and_what_is_shared_is_made_once(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    suite = tmp_path / "suite"
    suite.mkdir()
    for name in ("conftest.py", "small_campaigns.py"):
        shutil.copy(TESTS / name, suite)
    for name in ("test_one.py", "test_two.py"):
        (suite / name).write_text(SUITE)
    (suite / "pytest.ini").write_text(
        "[pytest]\nmarkers = alone\naddopts = --import-mode=importlib"
    )
    arguments = ["-q", "-n", "2", "--dist", "load", "--basetemp", str(tmp_path / "base")]
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, cwd=suite, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    notes = [path.name for path in (tmp_path / "base/shared").iterdir()]
    assert sum(name.startswith("made") for name in notes) == 1 and len(notes) == 1 + 2 * 18
    turns = [name.split() for name in notes if " " in name]
    together = [
        {one[0], other[0]}
        for one, other in combinations(turns, 2)
        if float(one[1]) < float(other[2]) and float(other[1]) < float(one[2])
    ]
    assert {"beside"} in together, "nothing ran side by side"
    assert not any("alone" in kinds for kinds in together)
