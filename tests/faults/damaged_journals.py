"""Journals and marker damaged at any byte: flipped, cut off there, zeroed from there on."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from small_job import (
    COMPUTE,
    IDENTITY,
    KEY,
    LAYOUT,
    Commits,
    find_fault,
    fresh_folders,
    run_job,
)

from hpctem.database.fill import fill
from hpctem.database.finish import MARKER
from hpctem.database.journal import COMMIT, NAME, RECORD_BYTES, journal_folder, unpack_records
from hpctem.database.verify import verify
from hpctem.errors import DatabaseError

WAYS = ("flip", "cut", "zero", "garbage")


@dataclass
class Damages:
    """How many damages were survived, how many refused by name, and what was found wrong."""

    survived: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)


def half_a_job(path: Path) -> None:
    """A job stopped and taken up again: it leaves a merged journal and one of a rank."""
    for stop_after in (2, 2):
        segments = iter(range(LAYOUT.segments))
        fill(path, LAYOUT, IDENTITY, COMPUTE, stop=lambda s=segments, n=stop_after: next(s) >= n)


def damage(path: Path, place: int, way: str, chance: random.Random) -> None:
    """Damage a file at a byte."""
    raw = bytearray(path.read_bytes())
    if way == "flip":
        raw[place] ^= 1 << chance.randrange(8)
    elif way == "cut":
        del raw[place:]
    elif way == "zero":
        raw[place:] = bytes(len(raw) - place)
    else:
        raw[place : place + 64] = chance.randbytes(len(raw[place : place + 64]))
    path.write_bytes(raw)


def places(folder: Path, every: int) -> Iterator[tuple[str, int, str]]:
    """Each file that has a say, each so manieth byte of it, each way of damaging it."""
    for path in sorted(folder.iterdir()):
        if NAME.fullmatch(path.name) or path.name == MARKER:
            step = every if NAME.fullmatch(path.name) else 8 * every
            for count, place in enumerate(range(0, path.stat().st_size, step)):
                for way in WAYS if every == 1 else (WAYS[count % len(WAYS)],):
                    yield path.name, place, way


def read_untouched(folder: Path, name: str, place: int) -> Commits:
    """The commits of all records that lie before the damage, or in another journal."""
    commits: Commits = {}
    for path in sorted(folder.iterdir()):
        if NAME.fullmatch(path.name):
            raw = path.read_bytes()
            whole = place // RECORD_BYTES * RECORD_BYTES if path.name == name else len(raw)
            for kind, number, count, digest in unpack_records(KEY, raw[:whole])[0]:
                if kind == COMMIT:
                    commits[number] = (digest, count)
    return commits


def is_refused(path: Path) -> str:
    """'' where nothing goes on with a damaged marker and says which it is, else what is wrong."""
    marker = journal_folder(path) / MARKER
    for act in (verify, run_job):
        try:
            act(path)
        except DatabaseError as error:
            if f"{marker} is damaged: delete it" not in str(error):
                return f"{act.__name__} does not say why: {error}"
        else:
            return f"{act.__name__} does not see it"
    return ""


def damage_everywhere(memory: Path, finished: bool, every: int, expected: str) -> Damages:
    """Damage a half-done or finished job, at each so manieth byte.

    A journal may lose what lies behind the damage and nothing else, and the job goes on; with a
    damaged marker it is refused, and goes on once that is deleted.
    """
    chance = random.Random(2)
    whole = memory / ("finished" if finished else "half") / "gold.hdf5"
    whole.parent.mkdir()
    (run_job if finished else half_a_job)(whole)
    found = Damages()
    with fresh_folders(memory) as make:
        for name, place, way in places(journal_folder(whole), every):
            folder = make()
            shutil.copytree(whole.parent, folder, dirs_exist_ok=True)
            path = folder / "gold.hdf5"
            damage(journal_folder(path) / name, place, way, chance)
            problem = ""
            if name == MARKER:
                problem = is_refused(path)
                (journal_folder(path) / MARKER).unlink()
                found.refused += not problem
            else:
                found.survived += 1
            kept = read_untouched(journal_folder(whole), name, place)
            problem = problem or find_fault(path, kept, expected)
            if problem:
                found.problems.append(f"{way} at byte {place} of {name}: {problem}")
    return found
