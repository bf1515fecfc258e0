"""The files of an export: written under another name first, then hashed."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hpctem.errors import MachineError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Written:
    """A finished file of an export: its path in it, bytes, SHA-256; whether it holds images."""

    path: PurePosixPath
    size: int
    sha256: str
    image: bool


@contextmanager
def open_new(path: Path, packed: bool = False) -> Iterator[Any]:
    """A new file to write to, in a folder that is there; `packed` as gzip without name and date."""
    with open(path, "wb") as stream:
        if packed:
            with gzip.GzipFile("", "wb", 4, stream, mtime=0) as inner:
                yield inner
        else:
            yield stream


def read_back(folder: Path, path: PurePosixPath, image: bool = False) -> Written:
    """What a file of the export in `folder` has become."""
    with open(folder / path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Written(path, os.fstat(stream.fileno()).st_size, digest, image)


@contextmanager
def name_failures(target: Path) -> Iterator[None]:
    """What the machine refuses while an export is written becomes one MachineError."""
    try:
        yield
    except OSError as error:
        full = error.errno in FULL
        reason = "no space is left" if full else error.strerror or str(error)
        advice = "free space or choose another folder" if full else "check the folder"
        raise MachineError(
            f"writing the export {target} failed: {reason}; nothing of it was kept, {advice} and "
            "run the same command again"
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Raise MachineError when the filesystem of `folder` has fewer than `needed` bytes free."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise MachineError(
            f"the export needs about {needed / 2**30:.2f} GiB but {folder.absolute()} has only "
            f"{free / 2**30:.2f} GiB free; free space, choose another folder or export a part"
        )
