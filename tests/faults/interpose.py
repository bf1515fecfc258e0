"""The library that notes a job's calls and makes some fail: built, preloaded, its notes read."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

SOURCE = Path(__file__).with_name("interpose.c")
CREATE, WRITE, RESIZE, SYNC, RENAME, UNLINK, MKDIR, LINK, SKIPPED_SYNC, REFUSED = range(1, 11)
RECORD = struct.Struct("<4I6Q")


@dataclass(frozen=True)
class Event:
    """A call that changed or synced a file or folder, said so without doing it, or was refused.

    start, end   nanoseconds of the system's monotonic clock, the same for all processes
    path         relative to the traced folder; '.' is the folder itself
    second       the name after a renaming, of a link; what was refused
    folder       the call was made on a folder
    size         of the file after the call
    offset, data what was written, and where
    """

    kind: int
    start: int
    end: int
    path: str
    second: str
    folder: bool
    inode: int
    size: int
    offset: int
    data: bytes


@functools.cache
def build() -> Path:
    """The compiled library; raises RuntimeError without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler: install gcc")
    source = SOURCE.read_bytes()
    name = f"hpctem-interpose-{os.getuid()}-{hashlib.sha256(source).hexdigest()[:16]}"
    library = Path(tempfile.gettempdir(), name, "interpose.so")
    if not library.exists():
        library.parent.mkdir(mode=0o700, exist_ok=True)
        draft = library.with_name(f"{os.getpid()}.so")
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, "-o", draft, SOURCE, "-ldl"], check=True)
        draft.rename(library)
    return library


def preload(folder: Path, **settings: object) -> dict[str, str]:
    """The environment of a job whose calls below `folder` are seen; settings as in the source."""
    chosen = {f"INTERPOSE_{name.upper()}": str(value) for name, value in settings.items()}
    return {"LD_PRELOAD": str(build()), "INTERPOSE_FOLDER": str(folder), **chosen}


def read_trace(notes: Path, folder: Path) -> list[Event]:
    """All events of all processes that left their notes in a folder, by the time they ended."""
    events = [event for path in notes.glob("*.trace") for event in _read(path, folder.resolve())]
    return list(_number_files(sorted(events, key=lambda event: event.end)))


def _number_files(events: list[Event]) -> Iterator[Event]:
    """Every file its own number: filesystems give the inode of a deleted file to the next one."""
    numbers: dict[int, int] = {}
    for count, event in enumerate(events):
        if event.kind == CREATE:
            numbers[event.inode] = count
        yield replace(event, inode=numbers.get(event.inode, -1))


def _read(path: Path, folder: Path) -> Iterator[Event]:
    raw, place = path.read_bytes(), 0
    while place < len(raw):
        kind, names, seconds, is_folder, *numbers = RECORD.unpack_from(raw, place)
        start, end, inode, offset, size, length = numbers
        place += RECORD.size
        name = raw[place : place + names].decode()
        second = raw[place + names : place + names + seconds].decode()
        place += names + seconds + length
        yield Event(
            kind,
            start,
            end,
            os.path.relpath(name, folder),
            os.path.relpath(second, folder) if second.startswith("/") else second,
            bool(is_folder),
            inode,
            size,
            offset,
            raw[place - length : place],
        )
