"""The journals beside the file: what each rank began, computed and committed.

A journal is a sequence of 64-byte records, each checksummed with the campaign's plan as key, so a
torn or foreign record is recognised and ends the reading of that journal. Every run of a job gets a
number; `00000003.00001.journal` is rank 1 of run 3, `00000003.merged.journal` stands for all runs
before run 3. Each run begins with its merged journal, whose first record tells, also before any
commit, that the folder belongs to the plan.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

from hpctem.database.create import sync_folder
from hpctem.errors import DatabaseError, MachineError

MAGIC = b"HPCTEM-J"
# magic, kind, count, number, digest, padding; then 16 bytes of checksum
RECORD = struct.Struct("<8sIIQ16s8x")
SEALED = struct.Struct(RECORD.format + "16s")
RECORD_BYTES = SEALED.size
BEGIN, COMPUTED, RELEASED, COMMIT, DEATHS, RUN = 1, 2, 3, 4, 5, 6
NAME = re.compile(r"(\d{8})\.(\d{5}|merged)\.journal")
NO_DIGEST = bytes(16)


@dataclass
class Journals:
    """What all journals of a database say together.

    commits      segment -> (digest of its row digests, number of quarantined structures)
    deaths       structure -> number of runs that ended while it was being computed
    damaged      journals that end in a torn or foreign record
    run          number of the latest run, 0 before the first
    known        there is a record of this plan, so that these are the journals of its database
    """

    commits: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    run: int = 0
    known: bool = False


def journal_folder(path: str | Path) -> Path:
    """The folder that holds journals, lock and marker of a database: gold.hdf5.journal."""
    path = Path(path)
    return path.with_name(path.name + ".journal")


def pack_record(
    key: bytes, kind: int, number: int, count: int = 0, digest: bytes = NO_DIGEST
) -> bytes:
    """One record with its checksum (BLAKE2b-128 keyed with the plan)."""
    body = RECORD.pack(MAGIC, kind, count, number, digest)
    return body + hashlib.blake2b(body, digest_size=16, key=key).digest()


def unpack_records(key: bytes, raw: bytes) -> tuple[list[tuple[int, int, int, bytes]], bool]:
    """Records (kind, number, count, digest) up to the first torn one; True if all were whole."""
    records: list[tuple[int, int, int, bytes]] = []
    keyed = hashlib.blake2b(digest_size=16, key=key)  # a million records, the key hashed once
    end = len(raw) - len(raw) % RECORD_BYTES
    fields = SEALED.iter_unpack(memoryview(raw)[:end])
    for start, (_, kind, count, number, digest, checksum) in enumerate(fields):
        state = keyed.copy()
        state.update(raw[start * RECORD_BYTES : start * RECORD_BYTES + RECORD.size])
        if state.digest() != checksum:
            return records, False
        records.append((kind, number, count, digest))
    return records, end == len(raw)


class Journal:
    """The journal of one rank in one run, locked as long as the rank lives."""

    def __init__(self, folder: Path, run: int, rank: int, key: bytes) -> None:
        self.path = folder / f"{run:08d}.{rank:05d}.journal"
        self._key = key
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        try:
            self.descriptor = os.open(self.path, flags, 0o666)
            sync_folder(folder)
        except OSError as error:
            raise MachineError(f"cannot open the journal {self.path}: {error.strerror}") from error
        _try_lock(self.descriptor)

    def begin(self, structure: int) -> None:
        """Note that this structure is being computed, so that a death is put down to it."""
        self._append(pack_record(self._key, BEGIN, structure))

    def computed(self, structure: int) -> None:
        """Note that this structure is computed; its segment may still be open."""
        self._append(pack_record(self._key, COMPUTED, structure))

    def release(self, structure: int) -> None:
        """Note that computing this structure ended with an error, not with a death."""
        self._append(pack_record(self._key, RELEASED, structure))

    def commit(self, segment: int, digest: bytes, quarantined: int) -> None:
        """Make a segment count as done, durably. Its rows are on disk before this is called."""
        self._append(pack_record(self._key, COMMIT, segment, quarantined, digest))
        try:
            os.fdatasync(self.descriptor)
        except OSError as error:
            raise MachineError(f"writing {self.path} failed: {error.strerror}") from error

    def close(self) -> None:
        """Close the journal and let go of its lock."""
        os.close(self.descriptor)

    def _append(self, record: bytes) -> None:
        try:
            written = os.write(self.descriptor, record)
        except OSError as error:
            raise MachineError(
                f"writing {self.path} failed: {error.strerror}; everything committed is kept, "
                "mend the disk and run the same command again"
            ) from error
        if written != len(record):
            raise MachineError(f"writing {self.path} failed: the disk is full")


def read_journals(folder: Path, key: bytes) -> Journals:
    """Everything the journals of a database say; damaged tails are left out and reported."""
    while True:
        listed = _list_journals(folder)
        contents = [_read(path) for _, _, path in listed]
        # A resuming job may have merged them meanwhile: then what was read has gaps.
        if {path for _, _, path in listed} <= {path for _, _, path in _list_journals(folder)}:
            break
    result = Journals()
    for (run, _, path), raw in zip(listed, contents, strict=True):
        records, whole = unpack_records(key, raw)
        if not whole:
            result.damaged.append(path)
        result.run = max(result.run, run)
        result.known = result.known or bool(records)
        open_structures = set()
        for kind, number, count, digest in records:
            if kind == COMMIT:
                result.commits[number] = (digest, count)
            elif kind == BEGIN:
                open_structures.add(number)
            elif kind in (COMPUTED, RELEASED):
                open_structures.discard(number)
            elif kind == DEATHS:
                result.deaths[number] = result.deaths.get(number, 0) + count
        for structure in open_structures:
            result.deaths[structure] = result.deaths.get(structure, 0) + 1
    return result


def merge_journals(folder: Path, key: bytes, journals: Journals) -> int:
    """Write all that is known as one journal, delete the old ones; returns the new run's number.

    The merged journal replaces its predecessors by its number at the moment of its renaming: a
    death before, during or after the deletion changes nothing that a reader finds.
    """
    run = journals.run + 1
    parts = [pack_record(key, RUN, run)]
    parts += [
        pack_record(key, COMMIT, segment, count, digest)
        for segment, (digest, count) in sorted(journals.commits.items())
    ]
    parts += [
        pack_record(key, DEATHS, structure, count)
        for structure, count in sorted(journals.deaths.items())
    ]
    write_durably(folder / f"{run:08d}.merged.journal", b"".join(parts))
    for path in list(folder.iterdir()):
        found = NAME.fullmatch(path.name)
        if found and int(found[1]) < run:
            path.unlink(missing_ok=True)
    return run


def remove_journals(folder: Path) -> None:
    """Forget all journals of a database that no longer exists."""
    for path in list(folder.iterdir()):
        if NAME.fullmatch(path.name) or path.suffix in (".stop", ".tmp"):
            path.unlink(missing_ok=True)
    sync_folder(folder)


def wait_for_writers(folder: Path, patience: float) -> None:
    """Wait until no rank of an earlier run is alive: each holds a lock on its journal.

    Raises DatabaseError when one still is after `patience` seconds.
    """
    end = time.monotonic() + patience
    for _, name, path in _list_journals(folder):
        if name == "merged":
            continue
        descriptor = os.open(path, os.O_RDWR)
        try:
            while not _try_lock(descriptor):
                if time.monotonic() > end:
                    raise DatabaseError(
                        f"rank {int(name)} of an earlier job still writes (it holds {path}); "
                        "wait until it has ended, or end it"
                    )
                time.sleep(0.1)
        finally:
            os.close(descriptor)


def write_durably(path: Path, raw: bytes) -> None:
    """Write a small file so that after any death it is there whole, or as it was before."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise MachineError(f"writing {path} failed: {error.strerror}") from error


class JournalWatch:
    """Counts what all ranks of a run have computed and committed, by reading only what is new."""

    def __init__(self, folder: Path, run: int, key: bytes, own: Journal) -> None:
        self._folder, self._run, self._key, self._own = folder, run, key, own
        self._places: dict[int, int] = {}
        self.computed: dict[int, int] = {}
        self.quarantined = 0
        self.committed: set[int] = set()

    def update(self) -> None:
        """Read the records that have been added since the last call."""
        for run, name, path in _list_journals(self._folder):
            if run != self._run or name == "merged":
                continue
            rank = int(name)
            place = self._places.get(rank, 0)
            raw = self._read_new(path, place)
            raw = raw[: len(raw) - len(raw) % RECORD_BYTES]
            for kind, number, count, _ in unpack_records(self._key, raw)[0]:
                if kind == COMPUTED:
                    self.computed[rank] = self.computed.get(rank, 0) + 1
                elif kind == COMMIT and number not in self.committed:
                    self.committed.add(number)
                    self.quarantined += count
            self._places[rank] = place + len(raw)

    def _read_new(self, path: Path, place: int) -> bytes:
        # Closing a second descriptor of our own journal would drop our lock on it (POSIX).
        if path == self._own.path:
            size = os.fstat(self._own.descriptor).st_size
            return os.pread(self._own.descriptor, size - place, place)
        with open(path, "rb") as stream:
            stream.seek(place)
            return stream.read()


def _list_journals(folder: Path) -> list[tuple[int, str, Path]]:
    """(run, rank or 'merged', path) of the journals that count, oldest first."""
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            match = NAME.fullmatch(path.name)
            if match:
                found.append((int(match[1]), match[2], path))
    start = max((run for run, name, _ in found if name == "merged"), default=0)
    return sorted(item for item in found if item[0] >= start)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # merged and removed by a resuming job since it was listed
        return b""
    except OSError as error:
        raise MachineError(f"cannot read the journal {path}: {error.strerror}") from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a filesystem without locks: nothing to wait for
        return True
    return True
