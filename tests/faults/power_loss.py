"""The power fails: what a disk may hold at any moment of a job, rebuilt from the job's own calls.

Of a traced job every write, resize, creation, renaming, deletion and sync is known. What a sync
covered is on the disk. Of what came later any part may be there: each write whole, in some of its
512-byte sectors or not at all, each change of a folder made or not. Such states are built, and the
job is run again on each: whatever it had acknowledged must be there, and it must end in the same
bytes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from interpose import (
    CREATE,
    LINK,
    MKDIR,
    RENAME,
    RESIZE,
    SKIPPED_SYNC,
    SYNC,
    UNLINK,
    WRITE,
    Event,
)

from hpctem.database.journal import COMMIT, NAME, unpack_records

SECTOR = 512
FATES = ("all lost", "all kept", "a prefix", "any subset")


@dataclass(frozen=True)
class State:
    """What is on the disk after the power failed.

    files         path -> content
    folders       those that exist
    acknowledged  segment -> (digest, number of quarantined structures): commits on whose journal a
                  later sync had returned, done or not, which is when the job counts on them
    """

    files: dict[str, bytes]
    folders: frozenset[str]
    acknowledged: dict[int, tuple[bytes, int]]


def lose_power(
    events: Sequence[Event],
    moment: int,
    key: bytes,
    chance: random.Random,
    fate: str,
) -> State:
    """A state that the disk may have at a moment of the trace's clock.

    `fate`, one of FATES: what becomes of all that no sync covers.
    """
    begun = [event for event in events if event.start < moment]
    synced = _find_syncs(begun, moment, (SYNC,))
    pending = [event for event in begun if not _is_durable(event, synced)]
    kept = _choose(pending, fate, chance)
    alive = [event for event in begun if _is_durable(event, synced) or id(event) in kept]
    contents: dict[int, bytearray] = defaultdict(bytearray)
    for event in alive:
        if event.kind == WRITE:
            torn = fate == "any subset" and id(event) in kept
            _write(contents[event.inode], event, chance if torn else None)
        elif event.kind == RESIZE:
            content = contents[event.inode]
            del content[event.size :]
            content.extend(bytes(event.size - len(content)))
    names, folders = _name_files(alive)
    return State(
        {name: bytes(contents[inode]) for name, inode in names.items()},
        frozenset(folders),
        find_acknowledged(begun, key, moment),
    )


def _find_syncs(events: Iterable[Event], moment: int, kinds: tuple[int, ...]) -> dict[object, int]:
    """File (inode) or folder (path) -> the moment up to which a finished sync covers it."""
    synced: dict[object, int] = {}
    for event in events:
        if event.kind in kinds and event.end <= moment:
            what = event.path if event.folder else event.inode
            synced[what] = max(synced.get(what, 0), event.start)
    return synced


def _is_durable(event: Event, synced: dict[object, int]) -> bool:
    if event.kind in (WRITE, RESIZE):
        return event.end <= synced.get(event.inode, 0)
    if event.kind in (SYNC, SKIPPED_SYNC):
        return False
    return event.end <= synced.get(str(PurePosixPath(event.path).parent), 0)


def _choose(pending: Sequence[Event], fate: str, chance: random.Random) -> set[int]:
    if fate == "all lost":
        return set()
    if fate == "a prefix":
        pending = pending[: chance.randint(0, len(pending))]
    share = chance.choice((0.1, 0.5, 0.9)) if fate == "any subset" else 1.0
    return {id(event) for event in pending if share == 1.0 or chance.random() < share}


def _write(content: bytearray, event: Event, torn: random.Random | None) -> None:
    """Put a write's bytes into a file; of a torn one only some sectors, zeros in the others."""
    end = event.offset + len(event.data)
    content.extend(bytes(max(0, end - len(content))))
    first = event.offset
    while first < end:
        last = min(end, (first // SECTOR + 1) * SECTOR)
        if torn is None or torn.random() < 0.7:
            content[first:last] = event.data[first - event.offset : last - event.offset]
        first = last


def _name_files(events: Iterable[Event]) -> tuple[dict[str, int], set[str]]:
    """Path -> inode of all files that have a name, and the folders."""
    names: dict[str, int] = {}
    folders = {"."}
    for event in events:
        if event.kind == CREATE:
            names[event.path] = event.inode
        elif event.kind == RENAME:
            names.pop(event.path, None)
            names[event.second] = event.inode
        elif event.kind == LINK:
            names[event.second] = event.inode
        elif event.kind == UNLINK:
            names.pop(event.path, None)
        elif event.kind == MKDIR:
            folders.add(event.path)
    there = {n: i for n, i in names.items() if str(PurePosixPath(n).parent) in folders}
    return there, folders


def find_acknowledged(
    events: Sequence[Event], key: bytes, moment: int
) -> dict[int, tuple[bytes, int]]:
    """Segment -> (digest, quarantined structures) of the commits that a job counts on by then."""
    claimed = _find_syncs(events, moment, (SYNC, SKIPPED_SYNC))
    commits = {}
    for event in events:
        found = event.kind == WRITE and NAME.fullmatch(PurePosixPath(event.path).name)
        if found and found[2] != "merged":
            if event.end <= claimed.get(event.inode, 0):
                for kind, number, count, digest in unpack_records(key, event.data)[0]:
                    if kind == COMMIT:
                        commits[number] = (digest, count)
    return commits


def lay_down(state: State, folder: Path) -> None:
    """Write a state into an empty folder."""
    for name in sorted(state.folders):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in state.files.items():
        (folder / name).write_bytes(content)


def replay(
    events: Sequence[Event],
    states: int,
    key: bytes,
    seed: int,
    make_folder: Callable[[], Path],
    check: Callable[[Path, State], str],
) -> list[str]:
    """Lose the power `states` times; what `check` finds wrong with each state ('' for nothing).

    After every call that changes or syncs names and sizes comes one with each fate, as far as the
    number of states goes, for there the order matters most; the others are within and after
    any call.
    """
    chance = random.Random(seed)
    cases = [(event.end, fate) for event in events if event.kind != WRITE for fate in FATES]
    chance.shuffle(cases)
    anywhere = [time for event in events for time in (event.end, (event.start + event.end) // 2)]
    while len(cases) < states:
        cases.append((chance.choice(anywhere), chance.choice(FATES)))
    problems = []
    for moment, fate in cases[:states]:
        state = lose_power(events, moment, key, chance, fate)
        folder = make_folder()
        lay_down(state, folder)
        problems.append(check(folder, state))
    return problems
