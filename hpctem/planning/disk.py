"""The disk that a database takes, to the byte, and the disk that there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpctem.database.create import HEADER_BYTES, write_empty
from hpctem.database.journal import RECORD_BYTES
from hpctem.database.plan import write_plan
from hpctem.database.schema import Layout

# Numbers of rows are written out as the stacks' first axes: more of them only to be measured would
# take longer than a plan may.
MOST_AXIS_ROWS = 10**7
QUOTA_SECONDS = 10.0


@dataclass(frozen=True)
class FileSize:
    """Bytes of a database; `exact` when measured on an empty one, else right to a megabyte."""

    bytes: int
    exact: bool


def measure_file(layout: Layout, identity: Mapping[str, str]) -> FileSize:
    """The size of the file that `create` would make, from one without content.

    It is written sparse into the folder for temporary files and takes no more space there than its
    headers; a layout of very many rows, or of more bytes than that filesystem's files can have, is
    estimated.
    """
    stacked = [next(f for f in layout.fields if f.path == s.signal) for s in layout.stacks]
    axes = [8 * layout.rows(field.table) for field in stacked]
    if sum(axes) <= 8 * MOST_AXIS_ROWS:
        with tempfile.TemporaryDirectory(prefix="hpctem-") as folder:
            path = Path(folder, "empty.hdf5")
            if _can_be_so_large(path, layout.data_bytes + HEADER_BYTES):
                write_empty(path, layout, write_plan(layout, identity))
                return FileSize(path.stat().st_size, True)
    return FileSize(layout.data_bytes + sum(axes) + HEADER_BYTES // 2, False)


def _can_be_so_large(path: Path, size: int) -> bool:
    """Whether the filesystem makes files of that size: HDF5 does not survive that it does not."""
    try:
        path.touch()
        os.truncate(path, size)
    except OSError:
        return False
    return True


def count_journal_bytes(layout: Layout) -> int:
    """Bytes of the journals of an uninterrupted run: two records a structure, one a segment."""
    return RECORD_BYTES * (1 + 2 * layout.structures + layout.segments)


def free_bytes(folder: Path) -> float:
    """Bytes free on the filesystem of a folder, or of the nearest parent that exists."""
    status = os.statvfs(_existing(folder))
    return float(status.f_bavail * status.f_frsize)


def find_quota(folder: Path) -> float | None:
    """Bytes left of the user's quota on the filesystem of a folder; None where none is found.

    `lfs quota` is asked on Lustre, else `quota`. What they cannot say within ten seconds is not
    known.
    """
    device, mount, kind = find_mount(folder)
    if kind == "lustre" and shutil.which("lfs"):
        return parse_lustre_quota(_ask("lfs", "quota", "-q", "-u", str(os.getuid()), mount))
    if shutil.which("quota"):
        return parse_quota(_ask("quota", "-w", "-p"), device)
    return None


def parse_lustre_quota(text: str) -> float | None:
    """Bytes left, from `lfs quota -q`: path, KiB used, quota, limit ..., maybe on two lines."""
    words = text.split()
    if len(words) < 4:
        return None
    return _left(*words[1:4])


def parse_quota(text: str, device: str) -> float | None:
    """Bytes left on a device, from `quota -w -p`: device, KiB used, quota, limit ..."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 4 and words[0] == device:
            return _left(*words[1:4])
    return None


def _left(used: str, soft: str, hard: str) -> float | None:
    """Bytes up to the hard limit, or the soft one where there is no hard one; 0 is no limit."""
    try:
        numbers = [int(word.rstrip("*")) for word in (used, hard, soft)]
    except ValueError:
        return None
    limit = numbers[1] or numbers[2]
    return max(1024.0 * (limit - numbers[0]), 0.0) if limit else None


def find_mount(folder: Path) -> tuple[str, str, str]:
    """Device, mount point and kind of the filesystem of a folder."""
    place = _existing(folder)
    best = ("", "/", "")
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return best
    for line in lines:
        device, mount, kind = (word.replace("\\040", " ") for word in line.split()[:3])
        if place.is_relative_to(mount) and len(mount) >= len(best[1]):
            best = (device, mount, kind)
    return best


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists()).resolve()


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=QUOTA_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
