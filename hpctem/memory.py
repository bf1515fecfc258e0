"""How much memory a campaign takes on each rank, and how much there is: asked before any work."""

from __future__ import annotations

import math
import os
from pathlib import Path

from hpctem.backend import Backend
from hpctem.config import Config
from hpctem.database.schema import Layout
from hpctem.grids import Grids
from hpctem.structures import recipes

# Python with its libraries and compiled kernels, measured: 250-330 MB.
PROGRAM_BYTES = 350e6
# Full-size complex arrays of the multislice: wave, transmission, potential, its spectrum, a buffer.
WAVE_ARRAYS = 5
# Complex and real arrays of the image grid while images form: wave, focused wave, transfer, sums.
IMAGE_ARRAYS = 6
# Bytes for each atom: positions at rest, their neighbours' search, deposits, indices.
ATOM_BYTES = 250
# Segments held at once: one computed, one written, and its rows before they are put in place.
SEGMENTS = 3


def estimate_memory(config: Config, grids: Grids, layout: Layout, backend: Backend) -> float:
    """Bytes that one rank needs at its peak, from the sizes of its arrays; right to about a third.

    On a GPU the arrays lie on the device; what the host keeps is no more than on a CPU.
    """
    wave, image = 8.0 * math.prod(grids.wave), 8.0 * math.prod(grids.image)
    phonons = config.simulation.phonons.configurations if config.simulation.phonons else 1
    atoms = recipes.count_atoms(config.structure)
    arrays = WAVE_ARRAYS * wave + IMAGE_ARRAYS * image + phonons * image
    arrays += config.imaging.foci * image / 2
    places = atoms * (ATOM_BYTES + 24 * phonons)
    rows = SEGMENTS * layout.structure_bytes * layout.structures_per_segment
    if backend.name == "cupy":
        return arrays * 4
    return PROGRAM_BYTES + arrays + places + rows


def available_memory(backend: Backend) -> float:
    """Bytes free on this node, within a job's limit (cgroup), or on this rank's GPU."""
    if backend.name == "cupy":
        return float(backend.xp.cuda.runtime.memGetInfo()[0])
    free = float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        free = min(free, float(limit) - float(used))
    return free


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
