"""One job at a time: the lock of a database, held by rank 0 as long as the job lives."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpctem.errors import DatabaseError, MachineError

# A lock file appears with its text or not at all: one that says nothing so long is a remnant.
UNREADABLE_SECONDS = 2.0
SQUEUE_SECONDS = 30.0
log = logging.getLogger("hpctem")


@contextmanager
def hold_lock(folder: Path, patience: float = 5.0) -> Iterator[None]:
    """Hold the lock of the database whose journal folder this is.

    fcntl.lockf, which ends with the process; where the filesystem has no locks, a file that only
    one job can put in its place and that counts as stale once its process or Slurm job is gone.

    Raises DatabaseError naming the holder when the lock is not free within `patience` seconds,
    MachineError when the folder cannot be written.
    """
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from error
    try:
        if _lock_range(descriptor, folder, patience):
            _name_holder(descriptor, path)
            yield
        else:
            with _hold_file(folder / "lock.owner", patience):
                yield
    finally:
        os.close(descriptor)


def _lock_range(descriptor: int, folder: Path, patience: float) -> bool:
    """True once the range lock is ours, False where the filesystem has none."""
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            if time.monotonic() > end:
                _refuse(folder, _read_holder(os.pread(descriptor, 4096, 0)) or {})
            time.sleep(0.1)
        except OSError:
            return False


@contextmanager
def _hold_file(path: Path, patience: float) -> Iterator[None]:
    end = time.monotonic() + patience
    unreadable_since: float | None = None
    while not _put_in_place(path):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            continue
        holder = _read_holder(raw)
        if holder is None:
            unreadable_since = unreadable_since or time.monotonic()
            still = time.monotonic() - unreadable_since < UNREADABLE_SECONDS
            state = "it does not say whose it is" if still else "gone"
        else:
            unreadable_since, state = None, _look_for(holder)
        if state == "gone":
            _take_away(path, raw)
            continue
        if time.monotonic() > end:
            _refuse(path.parent, holder or {}, path, state)
        time.sleep(0.1)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _put_in_place(path: Path) -> bool:
    """Make the lock file, whole from its first moment on; False where there is one."""
    if path.exists():
        return False
    draft = _aside(path)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _name_holder(descriptor, path)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            # Also said over NFS when the answer to a link that was made got lost.
            return draft.stat().st_nlink == 2
        return True
    except OSError as error:
        raise MachineError(
            f"cannot make {path}: {error.strerror}; a filesystem without file locks needs room and "
            "hard links for it"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}")


def _name_holder(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _describe_self(), 0)
        os.fsync(descriptor)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from error


def _take_away(path: Path, raw: bytes) -> None:
    """Remove a stale lock file that holds `raw`; of several jobs only one takes it away."""
    aside = _aside(path)
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if aside.read_bytes() != raw:  # another job had just taken the lock: give it back
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
    else:
        log.warning("%s was left by a job that is gone: %s", path, raw.decode(errors="replace"))
    aside.unlink()


def _read_holder(raw: bytes) -> dict[str, Any] | None:
    """What `_describe_self` wrote; None where it is anything else."""
    try:
        holder = json.loads(raw)
        return holder if isinstance(holder["pid"], int) else None
    except (ValueError, LookupError, TypeError):
        return None


def _look_for(holder: Mapping[str, Any]) -> str:
    """'gone' or 'alive', or why that cannot be told."""
    if holder.get("host") == socket.gethostname():
        return "alive" if _start_of(holder["pid"]) == holder.get("started") else "gone"
    job = holder.get("job")
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if job and job == os.environ.get("SLURM_JOB_ID") and holder.get("restarts", 0) < restarts:
        # Slurm has ended this very job on the other node before it started it anew.
        return "gone"
    if not job or not shutil.which("squeue"):
        return f"whether it lives cannot be seen on {socket.gethostname()}"
    command = ["squeue", "-h", "-j", str(job), "-o", "%i"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"whether it lives squeue did not say in {SQUEUE_SECONDS:.0f} s"
    except OSError as error:
        return f"whether it lives squeue did not say: {error.strerror}"
    if answer.returncode == 0:
        return "alive" if answer.stdout.strip() else "gone"
    if "Invalid job id" in answer.stderr:
        return "gone"
    return f"whether it lives squeue did not say: {' '.join(answer.stderr.split())}"


def _describe_self() -> bytes:
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    return json.dumps(holder).encode()


def _start_of(pid: int) -> str:
    """Start time of a process in clock ticks, so that a reused pid is not taken for the holder."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def _refuse(
    folder: Path, holder: Mapping[str, Any], file: Path | None = None, state: str = "alive"
) -> None:
    job = f" (Slurm job {holder['job']})" if holder.get("job") else ""
    who = (
        f"process {holder.get('pid', '?')} on {holder.get('host', '?')}{job} "
        f"since {holder.get('since', '?')}"
    )
    doubt = f" ({state})" if state != "alive" else ""
    advice = f"; if it is surely gone, delete {file}" if file else ""
    raise DatabaseError(
        f"another job works on {folder.name.removesuffix('.journal')}: {who}{doubt}; "
        f"wait for it or end it{advice}"
    )
