"""Journals and marker damaged at any byte: flipped, cut off there, zeroed from there on."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from small_job import COMPUTE, IDENTITY, LAYOUT, find_fault, fresh_folders, run_job

from hpctem.database.fill import fill
from hpctem.database.finish import MARKER
from hpctem.database.journal import NAME, journal_folder

WAYS = ("flip", "cut", "zero", "garbage")


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


def damage_everywhere(memory: Path, finished: bool, every: int, expected: str) -> tuple[int, list]:
    """How many damages were tried on a half-done or finished job, and what was found wrong."""
    chance = random.Random(2)
    whole = memory / ("finished" if finished else "half") / "gold.hdf5"
    whole.parent.mkdir()
    (run_job if finished else half_a_job)(whole)
    problems, tried = [], 0
    with fresh_folders(memory) as make:
        for name, place, way in places(journal_folder(whole), every):
            folder = make()
            shutil.copytree(whole.parent, folder, dirs_exist_ok=True)
            path = folder / "gold.hdf5"
            damage(journal_folder(path) / name, place, way, chance)
            tried += 1
            problem = find_fault(path, {}, expected, refusal=True)
            if problem:
                problems.append(f"{way} at byte {place} of {name}: {problem}")
    return tried, problems
