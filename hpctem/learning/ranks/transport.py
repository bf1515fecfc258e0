"""How numbers of the ranks become one: gradients averaged, statistics summed, weights sent out.

Three transports behind the same few calls: Horovod, mpi4py where Horovod is not to be had, nothing
where one process trains alone. What a call sums travels as one flat buffer for each type of number,
and every sum of a function waits for the one before it. So the ranks meet in the same order however
TensorFlow schedules its threads, and nothing is fused with what happens to be ready: with a given
number of ranks a sum is always formed in the same order and has the same bits on every rank.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from hpctem.errors import ConfigError, HpctemError, MachineError
from hpctem.parallel import Communicator

Name = Literal["single", "horovod", "mpi4py"]
INSTALL = "jobs/install_horovod builds it for the TensorFlow that is installed"
# Horovod's thread looks for work once in so many milliseconds; a step waits for it at every batch
# normalisation, forwards and backwards. Its own 1 ms is made for gradients alone.
CYCLE = "0.2"
_HALVES = (tf.float16, tf.bfloat16)  # MPI cannot add them
_LAST = "hpctem/last_sum"


@dataclass(frozen=True)
class Transport:
    """The ranks that train one network together.

    name          'horovod', 'mpi4py' or 'single'
    communicator  of the same ranks
    add           sum over the ranks of one flat tensor, outside of any order
    """

    name: Name
    communicator: Communicator
    add: Callable[[tf.Tensor], tf.Tensor]

    @property
    def rank(self) -> int:
        return self.communicator.rank

    @property
    def size(self) -> int:
        return self.communicator.size

    @property
    def local_rank(self) -> int:
        return self.communicator.local_rank

    def total(self, tensor: tf.Tensor) -> tf.Tensor:
        """Sum over the ranks of a tensor that has the same shape and type on each.

        Its gradient is the total of the gradients: with y = sum of x_r and losses L_r on the ranks,
        dx_r = sum of dL_r/dy. Averaged afterwards, the gradients are those of the mean of the L_r.
        Every rank must come to it, so it must not stand in a branch that only some ranks take.
        """
        tensor = tf.convert_to_tensor(tensor)
        if self.size == 1:
            return tf.identity(tensor)

        @tf.custom_gradient
        def add_up(mine: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            return self._add_all([mine])[0], self.total

        return add_up(tensor)

    def average(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Means over the ranks of tensors of real numbers, in one buffer for each type.

        Shapes, types and their order are the same on all ranks. Every rank counts alike, whatever
        the sizes of their batches. 16-bit numbers travel and are added as float32.
        """
        given = [tf.convert_to_tensor(tensor) for tensor in tensors]
        for tensor in given:
            if not tensor.dtype.is_floating:
                raise TypeError(f"a mean of {tensor.dtype.name} is none of its kind: use total")
        if self.size == 1:
            return given
        return self._add_all(given, self.size)

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Give variables (of Keras or TensorFlow) their values on rank 0; not in a tf.function."""
        if self.size == 1:
            return
        for variable in variables:
            value = np.atleast_1d(np.array(variable.numpy()))
            self.communicator.mpi.Bcast(value.reshape(-1).view(np.uint8), root=0)
            if self.rank:
                variable.assign(value.reshape(variable.shape))

    def _add_all(self, tensors: list[tf.Tensor], among: int = 1) -> list[tf.Tensor]:
        """Sums over the ranks of tensors, divided by `among`, in one buffer for each type."""
        sums: list[tf.Tensor] = [None] * len(tensors)
        carried = [tf.float32 if t.dtype in _HALVES else t.dtype for t in tensors]
        for kind in dict.fromkeys(carried):
            places = [place for place, dtype in enumerate(carried) if dtype == kind]
            parts = [tf.reshape(tf.cast(tensors[place], kind), [-1]) for place in places]
            sizes = [tf.size(part) for part in parts]
            flat = self._add_in_turn(tf.concat(parts, 0) if len(parts) > 1 else parts[0])
            flat = flat if among == 1 else flat / among
            for place, part in zip(places, tf.split(flat, sizes), strict=True):
                given = tensors[place]
                shaped = tf.ensure_shape(tf.reshape(part, tf.shape(given)), given.shape)
                sums[place] = tf.cast(shaped, given.dtype)
        return sums

    def _add_in_turn(self, flat: tf.Tensor) -> tf.Tensor:
        """The sum, begun when the last one of the same function has come."""
        if tf.executing_eagerly():
            return self.add(flat)
        # Only stateful operations are kept in the order of the program by tf.function itself, and
        # Horovod's are not.
        last = tf.compat.v1.get_default_graph().get_collection_ref(_LAST)
        with tf.control_dependencies(last):
            result = self.add(flat)
        last[:] = [result]
        return result


def open_transport(communicator: Communicator, wanted: str = "auto") -> Transport:
    """The transport of these ranks, and this rank's GPU made the only one that TensorFlow sees.

    `wanted` is 'auto', 'horovod', 'mpi4py' or 'single'. 'auto' takes 'single' on one rank, Horovod
    on several, and mpi4py where Horovod is missing or does not fit, which rank 0 says on stderr. To
    be called by all ranks before TensorFlow computes.
    Raises ConfigError for a transport that these ranks cannot use, MachineError where Horovod was
    asked for and does not work, or a rank finds no GPU of its own.
    """
    if wanted not in ("auto", *get_args(Name)):
        raise _told_by_one(
            ConfigError(f"no transport {wanted}: take auto, {', '.join(get_args(Name))}")
        )
    if wanted == "single" and communicator.size > 1:
        raise _told_by_one(
            ConfigError(
                f"transport single: {communicator.size} ranks would each train a network of their "
                "own; start one process, or leave the choice of the transport to hpctem (auto)"
            )
        )
    take_gpu(communicator.local_rank)
    if wanted == "single" or (wanted != "horovod" and communicator.size == 1):
        return Transport("single", communicator, tf.identity)
    if wanted != "mpi4py":
        found = communicator.allgather(why_not_horovod(communicator.threads))
        trouble = next(filter(None, found), "") or _start_horovod(communicator)
        if not trouble:
            return Transport("horovod", communicator, _add_by_horovod())
        if wanted == "horovod":
            raise _told_by_one(MachineError(trouble))
        if communicator.rank == 0:
            print(f"{trouble}. Until then gradients travel by mpi4py.", file=sys.stderr)
    return Transport("mpi4py", communicator, _add_by_mpi(communicator))


def why_not_horovod(threads: bool = True) -> str:
    """Why Horovod cannot carry gradients here and what to do about it; nothing where it can.

    `threads`: MPI was started for several threads. Horovod itself is imported, not started.
    """
    spec = importlib.util.find_spec("horovod")
    if spec is None or not spec.submodule_search_locations:
        return f"Horovod is not installed: {INSTALL}"
    metadata = Path(spec.submodule_search_locations[0], "metadata.json")
    # Before it is imported: libraries of another version can crash, or work by chance.
    built_for = json.loads(metadata.read_text()).get("tensorflow") if metadata.exists() else None
    if built_for != tf.__version__:
        return f"Horovod was built for TensorFlow {built_for}, not for {tf.__version__}: {INSTALL}"
    try:
        import horovod.tensorflow as hvd
    except Exception as error:  # a library that does not load raises what its loader pleases
        reason = str(error).strip().partition("\n")[0]
        return f"Horovod cannot be imported ({reason}): {INSTALL}"
    if not hvd.mpi_built():
        return f"Horovod was built without MPI: {INSTALL}"
    if not threads:
        return (
            "Horovod needs an MPI that several threads may call, and this one was started for one: "
            "unset MPI4PY_RC_THREAD_LEVEL, or use an MPI built with thread support"
        )
    return ""


def choose_device(local_rank: int, devices: int) -> int | None:
    """The number of the GPU of a rank, among those that it sees; None where it sees none.

    A single GPU is every rank's: batch systems show each task its own. Raises MachineError when
    several are seen, and this rank comes too late for one.
    """
    if devices == 0:
        return None
    if devices == 1:
        return 0
    if local_rank >= devices:
        raise MachineError(
            f"rank {local_rank} of this node finds no GPU of its own among {devices}: start at "
            f"most {devices} ranks on a node (sbatch --ntasks-per-node, mpirun --npernode)"
        )
    return local_rank


def take_gpu(local_rank: int) -> None:
    """Let TensorFlow see this rank's GPU alone, and take its memory as needed."""
    devices = tf.config.list_physical_devices("GPU")
    number = choose_device(local_rank, len(devices))
    if number is None:
        return
    try:
        tf.config.set_visible_devices(devices[number], "GPU")
        tf.config.experimental.set_memory_growth(devices[number], True)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("GPU")) != 1:
            raise MachineError(
                f"TensorFlow has begun to use {len(devices)} GPUs before one was chosen for rank "
                f"{local_rank} of this node: {error}"
            ) from error


def require_equal(
    transport: Transport,
    communicator: Communicator,
    variables: Sequence[Any] | Mapping[str, Any],
) -> None:
    """Make sure that variables, by their own or by given names, have the same bytes on all ranks.

    Raises MachineError, on all ranks, that names the first variable that differs.
    """
    if isinstance(variables, Mapping):
        named = list(variables.items())
    else:
        named = [(getattr(v, "path", v.name), v) for v in variables]
    digests = [
        (name, hashlib.blake2b(v.numpy().tobytes(), digest_size=16).digest()) for name, v in named
    ]
    first, *others = communicator.allgather(digests)
    for rank, its in enumerate(others, 1):
        pairs = zip_longest(first, its)
        names = [(mine or his)[0] for mine, his in pairs if mine != his]
        if names:
            raise _told_by_one(
                MachineError(
                    f"{names[0]} is not the same on rank 0 and rank {rank} ({len(names)} of "
                    f"{len(first)} variables differ), although {transport.name} gives all ranks "
                    "the same gradients: start again from the last checkpoint; if this happens "
                    "again, look for a node whose memory or network is at fault"
                )
            )


def _told_by_one(error: HpctemError) -> HpctemError:
    """An error that all ranks raise alike."""
    error.shared = True
    return error


def _start_horovod(communicator: Communicator) -> str:
    """Start Horovod on the ranks of MPI; says why not when it counts others."""
    import horovod.tensorflow as hvd

    os.environ.setdefault("HOROVOD_CYCLE_TIME", CYCLE)
    try:
        hvd.init(communicator.mpi)
        seen = hvd.rank(), hvd.size()
    except Exception as error:
        seen = 0, f"none ({error})"
    if communicator.allreduce(seen == (communicator.rank, communicator.size), all):
        return ""
    hvd.shutdown()
    return f"Horovod sees {seen[1]} ranks of {communicator.size}, as if of another MPI: {INSTALL}"


def _add_by_horovod() -> Callable[[tf.Tensor], tf.Tensor]:
    import horovod.tensorflow as hvd

    def add(flat: tf.Tensor) -> tf.Tensor:
        # Ranks meet by this name. What a sum of the name needs is remembered, and forgotten when
        # its size changes: so the size is part of it.
        name = f"hpctem_{flat.dtype.name}_{flat.shape[0]}"
        return hvd.allreduce(flat, op=hvd.Sum, name=name)

    return add


def _add_by_mpi(communicator: Communicator) -> Callable[[tf.Tensor], tf.Tensor]:
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise _told_by_one(
            MachineError(
                "TensorFlow's threads must be allowed to call MPI, which was started for its main "
                "thread alone: unset MPI4PY_RC_THREAD_LEVEL, or use an MPI with thread support"
            )
        )
    # Of its own, because other threads use the communicator of the ranks meanwhile.
    mpi = communicator.mpi.Dup()

    def add_arrays(mine: np.ndarray) -> np.ndarray:
        total = np.array(mine)  # a copy: TensorFlow's memory is not ours to write to
        mpi.Allreduce(MPI.IN_PLACE, total)
        return total

    def add(flat: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(add_arrays, [flat], flat.dtype), flat.shape)

    return add
