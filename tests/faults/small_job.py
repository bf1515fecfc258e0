"""The small job that the fault tests disturb, and what must hold after any disturbance."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from synthetic import Compute, lay_out

from hpctem.database.fill import fill
from hpctem.database.finish import MARKER
from hpctem.database.journal import journal_folder, read_journals
from hpctem.database.plan import plan_key, write_plan
from hpctem.database.verify import verify
from hpctem.errors import HpctemError

# The same job as `synthetic.py PATH **OPTIONS` makes in a process of its own.
OPTIONS = {"structures": 10, "per_segment": 2, "bad": "3"}
LAYOUT, IDENTITY, COMPUTE = lay_out(10, 2), {"seed": "7"}, Compute(bad=(3,))
KEY = plan_key(write_plan(LAYOUT, IDENTITY))
Commits = dict[int, tuple[bytes, int]]
# What the name of a file ends in until it is whole; messages name the file that it was to be.
DRAFT = re.compile(r"\.(creating|tmp|[0-9a-f]{16})$")


def sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def commits_of(path: Path) -> Commits:
    """What the journals beside a database say is committed."""
    return read_journals(journal_folder(path), KEY).commits


def run_job(path: Path) -> None:
    """The job in this process, to its end."""
    assert fill(path, LAYOUT, IDENTITY, COMPUTE, patience=1).complete


def find_fault(path: Path, acknowledged: Commits, expected: str) -> str:
    """What is wrong with a database after a fault, '' for nothing.

    What was acknowledged is committed, everything committed is whole, and the job run again ends
    in the expected bytes.
    """
    try:
        commits = commits_of(path)
        if not acknowledged.items() <= commits.items():
            return f"acknowledged segments {sorted(acknowledged.keys() - commits.keys())} are lost"
        if path.exists():
            if verify(path).damaged:
                return "what counts as committed is damaged"
        elif acknowledged:
            return "the file is gone"
        run_job(path)
    except HpctemError as error:
        return f"refused: {error}"
    if sha256(path) != expected:
        return "other bytes at the end"
    if not (journal_folder(path) / MARKER).exists() or not verify(path).intact:
        return "called complete, but it is not"
    return ""


@contextmanager
def fresh_folders(parent: Path) -> Iterator[Callable[[], Path]]:
    """A function that makes one new folder after the other, deleting the one before."""
    top = Path(tempfile.mkdtemp(dir=parent))
    numbers = itertools.count()

    def make() -> Path:
        for old in top.iterdir():
            shutil.rmtree(old)
        folder = top / str(next(numbers))
        folder.mkdir()
        return folder

    yield make
    shutil.rmtree(top)
