"""The ranks of a job: who they are, how they share work, how they stop together.

MPI is imported only when the program was started by mpirun or srun; alone, the same few calls work
on one rank.
"""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

from hpctem.errors import HpctemError, MachineError, describe_os_error

T = TypeVar("T")

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
_LAUNCHERS = ("mpirun", "mpiexec", "orterun", "prterun", "mpiexec.hydra", "hydra_pmi_proxy")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
_STARTED = _RANKS[:3]


class Communicator:
    """The ranks of a job, or this process alone when `mpi` is None.

    rank, size      of all ranks
    local_rank      among the ranks of this node (chooses the GPU)
    mpi             the mpi4py communicator or None
    threads         MPI may be called from several threads at once
    """

    def __init__(self, mpi: Any = None) -> None:
        self.mpi = mpi
        self.rank, self.size, self.local_rank, self.threads = 0, 1, 0, True
        if mpi is not None:
            from mpi4py import MPI

            self.rank, self.size = mpi.rank, mpi.size
            node = mpi.Split_type(MPI.COMM_TYPE_SHARED)
            self.local_rank = node.rank
            leader = node.bcast(self.rank)
            node.Free()
            self._node = sorted(set(mpi.allgather(leader))).index(leader)
            self._claim = mpi.bcast(f"hpctem-abort-{secrets.token_hex(8)}")
            self.threads = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def barrier(self) -> None:
        """Wait for all ranks without burning the processor of those that still compute."""
        if self.mpi is None:
            return
        request, pause = self.mpi.Ibarrier(), 1e-5
        while not request.Test():
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def bcast(self, value: Any, root: int = 0) -> Any:
        """The value of rank `root` on every rank."""
        return value if self.mpi is None else self.mpi.bcast(value, root)

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        """List of the values of all ranks on rank `root`, None elsewhere."""
        return [value] if self.mpi is None else self.mpi.gather(value, root)

    def allgather(self, value: Any) -> list[Any]:
        """List of the values of all ranks on every rank."""
        return [value] if self.mpi is None else self.mpi.allgather(value)

    def allreduce(self, value: Any, reduce: Callable[[list[Any]], Any] = sum) -> Any:
        """`reduce` (sum, min, max, any ...) of the values of all ranks, in rank order."""
        return reduce(self.allgather(value))

    @contextmanager
    def claim_last_word(self) -> Iterator[None]:
        """Speak for all failing ranks: the first of a node, and the first of all failing nodes.

        The others are killed by the abort that follows while they wait for their turn.
        """
        claim = os.path.join(tempfile.gettempdir(), self._claim)
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            _wait_unless_stopped(15)
        except OSError:  # no room for the file: better twice than not at all
            pass
        _wait_unless_stopped(min(self._node, 10))
        try:
            yield
        finally:
            with suppress(OSError):
                os.unlink(claim)

    def on_root(self, function: Callable[[], T]) -> T:
        """The result of `function` on rank 0, given to all; its error is raised on all ranks."""
        result: Any = None
        failure: Exception | None = None
        if self.rank == 0:
            try:
                result = function()
            except Exception as error:
                failure = error
        result, told = self.bcast((result, failure and _portable(failure)))
        if told is None:
            return result
        shared: Any = failure or told
        shared.shared = True
        raise shared


def _portable(error: Exception) -> Exception:
    """The error itself where it can be sent to other ranks, else one with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def world() -> Communicator:
    """The ranks that mpirun or srun started, or this process alone.

    Raises MachineError when ranks were started but mpi4py is missing, or does not see them.
    """
    size = max((int(os.environ.get(name) or 0) for name in _SIZES), default=0)
    if size <= 1 and not any(name in os.environ for name in _STARTED):
        return Communicator()
    try:
        from mpi4py import MPI
    except ImportError as error:
        if size <= 1:
            return Communicator()
        _leave_the_message_to_the_first()
        raise MachineError(
            f"mpirun or srun started {size} ranks, but mpi4py cannot be imported ({error}): "
            "pip install 'hpctem[mpi]', or run without mpirun"
        ) from error
    if size > 1 and MPI.COMM_WORLD.size == 1:
        _leave_the_message_to_the_first()
        raise MachineError(
            f"mpirun or srun started {size} ranks, but MPI ({_name_library(MPI)}) sees only one: "
            "use the mpirun of that MPI, or 'srun --mpi=pmix'"
        )
    return Communicator(MPI.COMM_WORLD)


def _leave_the_message_to_the_first() -> None:
    """End quietly on all ranks but the first, where MPI itself cannot tell them apart."""
    if next((os.environ[name] for name in _RANKS if name in os.environ), "0") != "0":
        raise SystemExit(1)


def _name_library(mpi: Any) -> str:
    return mpi.Get_library_version().splitlines()[0].split(",")[0].strip()


@contextmanager
def abort_on_error(communicator: Communicator) -> Iterator[None]:
    """End all ranks when one of them fails, with one message and the exit code of the error.

    An uncaught exception on one rank would otherwise leave the others waiting for ever. On a single
    rank, and for an error that all ranks share (see `Communicator.on_root`), the error goes on to
    the caller on rank 0; the other ranks leave quietly with its exit code. SystemExit is for
    the end of a job that all ranks have reached.
    """
    try:
        yield
    except SystemExit:
        raise  # a result that all ranks came to together
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        if communicator.size == 1:
            raise
        if getattr(error, "shared", False):
            if communicator.rank == 0:
                raise
            raise SystemExit(code) from None
        with communicator.claim_last_word():
            sys.stderr.write(_describe_failure(communicator, error))
            sys.stderr.flush()
            sys.stdout.flush()
            # MPICH's launcher drops what it has not yet read when it kills the ranks.
            time.sleep(0.5)
        communicator.mpi.Abort(code)
        os._exit(code)


def _describe_failure(communicator: Communicator, error: BaseException) -> str:
    where = f"rank {communicator.rank} of {communicator.size} on {socket.gethostname()}"
    if isinstance(error, HpctemError):
        return f"hpctem: error on {where}: {error}\n"
    if isinstance(error, OSError):
        return f"hpctem: error on {where}: {describe_os_error(error)}\n"
    trace = "".join(traceback.format_exception(error))
    return f"hpctem: unexpected error on {where}:\n{trace}"


def _wait_unless_stopped(seconds: float) -> None:
    """Wait; leave at once when another rank's abort asks this one to end."""
    previous = signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    try:
        time.sleep(seconds)
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


class StopRequest:
    """Remembers a signal that asks the job to finish its segments and stop."""

    def __init__(self) -> None:
        self.signal: str = ""

    def __bool__(self) -> bool:
        return bool(self.signal)

    def __call__(self) -> bool:
        return bool(self.signal)

    def _receive(self, number: int, frame: Any) -> None:
        self.signal = signal.Signals(number).name


def listen_for_stop(
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1),
) -> StopRequest:
    """A request that becomes true when one of the signals arrives; main thread only."""
    request = StopRequest()
    for number in signals:
        signal.signal(number, request._receive)
    return request


def share_cyclically(items: Sequence[T], communicator: Communicator) -> Sequence[T]:
    """This rank's share: items rank, rank + size, rank + 2 size ..."""
    return items[communicator.rank :: communicator.size]


@dataclass(frozen=True)
class Progress:
    """How far a job is, in structures.

    before       committed by earlier jobs
    total        of the database
    computed     by each rank in this job
    shares       that each rank has to compute in this job
    quarantined  in the whole database
    seconds      since this job began to compute
    last         this is the end of the job
    """

    before: int
    total: int
    computed: tuple[int, ...]
    shares: tuple[int, ...]
    quarantined: int
    seconds: float
    last: bool = False

    @property
    def done(self) -> int:
        """Structures computed by this and earlier jobs."""
        return self.before + sum(self.computed)


class ProgressDisplay:
    """Shows progress on stderr: one live line on a terminal, else a plain line every 30 s."""

    def __init__(self, images_per_structure: float, stream: TextIO | None = None) -> None:
        self._images = images_per_structure
        self._stream = stream or sys.stderr
        self.live = reaches_terminal(self._stream)
        self.interval = 1.0 if self.live else 30.0

    def __call__(self, progress: Progress) -> None:
        line = describe_progress(progress, self._images)
        if self.live:
            self._stream.write(f"\r{line:<110.110}" + ("\n" if progress.last else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def describe_progress(progress: Progress, images_per_structure: float) -> str:
    """'120/512 structures, 2400/10240 images, 35.2 images/s, 4 min left, slowest rank 3 (21 %)'."""
    here = sum(progress.computed)
    images = round(progress.done * images_per_structure)
    total = round(progress.total * images_per_structure)
    parts = [f"{progress.done}/{progress.total} structures", f"{images}/{total} images"]
    if here and progress.seconds > 0:
        parts.append(f"{here * images_per_structure / progress.seconds:.1f} images/s")
    shares = enumerate(zip(progress.computed, progress.shares, strict=True))
    busy = [(done / share, done, share, rank) for rank, (done, share) in shares if share]
    if 0 < here < sum(progress.shares):
        fraction, done, share, rank = min(busy)
        # The job ends with its slowest rank; until that one has begun, take the mean pace.
        pace, left = (done, share - done) if done else (here, sum(progress.shares) - here)
        parts.append(f"{describe_duration(progress.seconds * left / pace)} left")
        if len(busy) > 1:
            parts.append(f"slowest rank {rank} ({100 * fraction:.0f} %)")
    if progress.quarantined:
        parts.append(f"{progress.quarantined} quarantined")
    return ", ".join(parts)


def describe_duration(seconds: float) -> str:
    """'45 s', '12 min', '3.4 h', '2.1 d'."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if name == "h" else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.1f} d"


def reaches_terminal(stream: TextIO) -> bool:
    """Whether what is written ends on a terminal, also through the pipe of a local mpirun."""
    if stream.isatty():
        return True
    process = os.getppid()
    for _ in range(4):
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as status:
                head, _, tail = status.read().rpartition(")")
            if head.partition("(")[2] not in _LAUNCHERS:
                return False
            if os.readlink(f"/proc/{process}/fd/2").startswith(("/dev/pts/", "/dev/tty")):
                return True
            process = int(tail.split()[1])
        except OSError:
            return False
    return False
