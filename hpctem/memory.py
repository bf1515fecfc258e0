"""How much memory there is, and whether it is enough for the ranks that share it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hpctem.backend import Backend
from hpctem.database.create import gib


def available_memory(backend: Backend, on_device: bool = False) -> float:
    """Bytes free on this node, within a job's limit (cgroup), or on this rank's GPU."""
    if on_device:
        return float(backend.xp.cuda.runtime.memGetInfo()[0])
    free = float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        free = min(free, float(limit) - float(used))
    return free


def find_shortage(
    needed: Callable[[bool], float], backend: Backend, on_node: int, on_gpu: int
) -> str:
    """Say which memory is too small for the ranks that share it, or nothing when none is.

    `needed`: bytes that a rank needs on the host, or with True on its GPU; `on_node`: ranks on this
    node; `on_gpu`: those of them that compute on this rank's GPU.
    """
    places = [(False, on_node, "the node's memory")]
    if backend.name == "cupy":
        places.append((True, on_gpu, f"the memory of {backend.device}"))
    for on_device, ranks, memory in places:
        each = needed(on_device)
        free = available_memory(backend, on_device)
        if each * ranks > free:
            return (
                f"{ranks} rank(s) need about {gib(int(each * ranks))} of {memory}, "
                f"{gib(int(each))} each, and {gib(int(free))} are free"
            )
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
