"""One job at a time: the lock of a database, held by rank 0 as long as the job lives."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpctem.errors import DatabaseError, MachineError


@contextmanager
def hold_lock(folder: Path, patience: float = 5.0) -> Iterator[None]:
    """Hold the lock of the database whose journal folder this is.

    fcntl.lockf, which ends with the process; where the filesystem has no locks, a file created
    exclusively that counts as stale once its process or Slurm job is gone.

    Raises DatabaseError naming the holder when the lock is not free within `patience` seconds.
    """
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise MachineError(f"cannot write into {folder}: {error.strerror}") from error
    try:
        if _lock_range(descriptor, folder, patience):
            _name_holder(descriptor, folder / "lock")
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
                _refuse(folder, os.pread(descriptor, 4096, 0))
            time.sleep(0.1)
        except OSError:
            return False


@contextmanager
def _hold_file(path: Path, patience: float) -> Iterator[None]:
    end = time.monotonic() + patience
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            _remove_stale(path)
            if path.exists() and time.monotonic() > end:
                _refuse(path.parent, path.read_bytes(), path)
            time.sleep(0.1)
            continue
        except OSError as error:
            raise MachineError(f"cannot write {path}: {error.strerror}") from error
        break
    try:
        try:
            _name_holder(descriptor, path)
        finally:
            os.close(descriptor)
        yield
    finally:
        path.unlink(missing_ok=True)


def _name_holder(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _describe_self(), 0)
        os.fsync(descriptor)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from error


def _remove_stale(path: Path) -> None:
    """Remove a lock file whose process or job is gone; of several jobs only one takes it away."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    if _is_alive(raw):
        return
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if aside.read_bytes() != raw:  # another job had just taken the lock: give it back
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
    aside.unlink()


def _is_alive(raw: bytes) -> bool:
    try:
        holder = json.loads(raw)
    except ValueError:
        return True  # being written at this moment
    if holder.get("host") == socket.gethostname():
        return _start_of(int(holder["pid"])) == holder.get("started")
    job = holder.get("job")
    if job and shutil.which("squeue"):
        command = ["squeue", "-h", "-j", str(job), "-o", "%i"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
        known = answer.returncode == 0 or "Invalid job id" in answer.stderr
        return not known or bool(answer.stdout.strip())
    return True


def _describe_self() -> bytes:
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID", ""),
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


def _refuse(folder: Path, raw: bytes, file: Path | None = None) -> None:
    try:
        holder = json.loads(raw)
    except ValueError:
        holder = {}
    job = f" (Slurm job {holder['job']})" if holder.get("job") else ""
    who = (
        f"process {holder.get('pid', '?')} on {holder.get('host', '?')}{job} "
        f"since {holder.get('since', '?')}"
    )
    advice = f"; if it is surely gone, delete {file}" if file else ""
    raise DatabaseError(
        f"another job works on {folder.name.removesuffix('.journal')}: {who}; "
        f"wait for it or end it{advice}"
    )
