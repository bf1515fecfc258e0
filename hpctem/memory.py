"""How much memory a campaign takes on each rank, and how much there is: asked before any work."""

from __future__ import annotations

import math
import os
from pathlib import Path

from hpctem.backend import Backend
from hpctem.config import Config
from hpctem.database.create import gib
from hpctem.database.schema import Layout
from hpctem.hrtem.grids import Grids
from hpctem.optics.multislice import GPU_BATCH
from hpctem.structures import recipes

# Python with its libraries and compiled kernels, measured: 275 MB, 3 % more or less.
PROGRAM_BYTES = 280e6
# The same with CuPy and the CUDA driver's share of the host, and the kernels and FFT plans that
# come to lie on the device beside its context.
CUDA_HOST_BYTES = 1e9
CUDA_DEVICE_BYTES = 200e6
# Complex arrays of the wave's grid. On a GPU: wave, transmission, potential, buffer for each
# configuration at once; aperture and window are kept, and for each element (and function of depth)
# the scattering factor on a half. On a CPU the passage holds more and keeps every factor once more
# in the order in which it meets it; measured on 1800 x 1800 pixels.
GPU_WAVE_ARRAYS, GPU_WINDOW_ARRAYS, GPU_FACTOR_ARRAYS = 4, 0.75, 0.25
CPU_WAVE_ARRAYS, CPU_WINDOW_ARRAYS, CPU_FACTOR_ARRAYS = 5.5, 1.1, 0.7
DEPTH_FUNCTIONS = 7
# Complex arrays of the exit wave's grid while images form: the transfer function with its float64
# parts, the focused wave, the sum, the counts; on a CPU the wave of every configuration a second
# time, in the order of its passes; for each particle its mask and phase.
GPU_IMAGE_ARRAYS, CPU_IMAGE_ARRAYS, PARTICLE_ARRAYS = 10, 5, 0.7
# Bytes for each atom: positions at rest, their neighbours' search, deposits, indices. In finite
# projection an atom is deposited in each slice that it reaches into.
ATOM_BYTES, FINITE_ATOM_BYTES = 250, 1000
# Segments held at once: one computed, one written, and its rows before they are put in place.
SEGMENTS = 3


def estimate_memory(
    config: Config, grids: Grids, layout: Layout, backend: Backend, on_device: bool = False
) -> float:
    """Bytes that one rank needs at its peak, from the sizes of its arrays; right to about a third.

    On the host, or with `on_device` on the GPU, beyond the CUDA context that it has already.
    """
    simulation = config.simulation
    phonons = simulation.phonons.configurations if simulation.phonons else 1
    batch = min(phonons, GPU_BATCH) if on_device else 1
    wave, image = 8.0 * math.prod(grids.wave), 8.0 * math.prod(grids.exit)
    finite = simulation.projection == "finite"
    channels = len(recipes.list_elements(config.structure)) * (DEPTH_FUNCTIONS if finite else 1)
    particles = config.structure.particles
    count = particles.count.support[1] if particles is not None else 0
    focused = config.imaging.foci / 2 + PARTICLE_ARRAYS * count
    tables = (GPU_WINDOW_ARRAYS + GPU_FACTOR_ARRAYS * channels) * wave + phonons * image
    if on_device:  # and the work area of cuFFT, as large as what it transforms
        passing = (GPU_WAVE_ARRAYS + 1) * batch * wave
        imaging = (phonons + GPU_IMAGE_ARRAYS + focused + 2 * batch) * image
        return CUDA_DEVICE_BYTES + tables + max(passing, imaging)
    atoms = recipes.count_atoms(config.structure)
    places = atoms * ((FINITE_ATOM_BYTES if finite else ATOM_BYTES) + 24 * phonons)
    rows = SEGMENTS * layout.structure_bytes * layout.structures_per_segment
    if backend.name == "cupy":  # of the fields only tables and what is copied back
        return CUDA_HOST_BYTES + tables + GPU_IMAGE_ARRAYS * image + places + rows
    kept = (CPU_WINDOW_ARRAYS + CPU_FACTOR_ARRAYS * channels) * wave + phonons * image
    imaging = (2 * phonons + CPU_IMAGE_ARRAYS + focused) * image
    return PROGRAM_BYTES + kept + max(CPU_WAVE_ARRAYS * wave, imaging) + places + rows


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
    config: Config, grids: Grids, layout: Layout, backend: Backend, on_node: int, on_gpu: int
) -> str:
    """Say which memory is too small for the ranks that share it, or nothing when none is.

    `on_node`: ranks on this node; `on_gpu`: those of them that compute on this rank's GPU.
    """
    places = [(False, on_node, "the node's memory")]
    if backend.name == "cupy":
        places.append((True, on_gpu, f"the memory of {backend.device}"))
    for on_device, ranks, memory in places:
        needed = estimate_memory(config, grids, layout, backend, on_device)
        free = available_memory(backend, on_device)
        if needed * ranks > free:
            return (
                f"{ranks} rank(s) need about {gib(int(needed * ranks))} of {memory}, "
                f"{gib(int(needed))} each, and {gib(int(free))} are free"
            )
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
