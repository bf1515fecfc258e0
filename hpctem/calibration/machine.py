"""The node that a calibration is made on: its cores, its memory, its GPUs."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

import hpctem
from hpctem.backend import Backend


@dataclass(frozen=True)
class Machine:
    """Where a calibration was made: one node of it and what hpctem used there.

    cores and memory (bytes) are those that the process may use; `devices`: GPUs of the node;
    `cache`: bytes of the L2 cache of each.
    """

    host: str
    processor: str
    cores: int
    memory: float
    device: str
    devices: int
    fft: str
    version: str
    cache: int = 0

    @property
    def by_lines(self) -> bool:
        """Whether waves are transformed line by line, as a CPU does, and not field by field."""
        return self.device == "CPU"


def describe_machine(backend: Backend) -> Machine:
    """The node that this process runs on."""
    devices = backend.xp.cuda.runtime.getDeviceCount() if backend.name == "cupy" else 0
    return Machine(
        host=socket.gethostname(),
        processor=_read_processor(),
        cores=count_cores(),
        memory=count_memory(),
        device=backend.device,
        devices=devices,
        fft=backend.fft_provider,
        version=hpctem.__version__,
        cache=backend.cache,
    )


def count_cores() -> int:
    """Processor cores of this node that the job may use; two threads of a core count once.

    What mpirun binds this rank to does not count: the other ranks have the other cores.
    """
    allowed = _read_cpus() or {str(cpu) for cpu in os.sched_getaffinity(0)}
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text())
        except OSError:
            return len(allowed)
    return len(cores)


def _read_cpus() -> set[str]:
    """Numbers of the processors that the job's cgroup, or the node, has; empty if not known."""
    for path in ("/sys/fs/cgroup/cpuset.cpus.effective", "/sys/devices/system/cpu/online"):
        try:
            parts = Path(path).read_text().strip().split(",")
            ranges = [part.partition("-") for part in parts if part]
            cpus = {str(n) for a, _, b in ranges for n in range(int(a), int(b or a) + 1)}
        except (OSError, ValueError):
            continue
        if cpus:
            return cpus
    return set()


def count_memory() -> float:
    """Bytes of memory of this node, within the limit of the job (cgroup)."""
    total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, float(limit)) if limit.isdigit() else total


def _read_processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    names = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(names, platform.processor() or platform.machine())
