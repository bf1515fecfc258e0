"""How much memory an HRTEM campaign takes on each rank."""

from __future__ import annotations

import math

from hpctem.database.schema import Layout
from hpctem.hrtem.experiment import Experiment
from hpctem.optics import focus, multislice
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


def estimate_memory(experiment: Experiment, layout: Layout, on_device: bool = False) -> float:
    """Bytes that one rank needs at its peak, from the sizes of its arrays; right to about a third.

    On the host, or with `on_device` on the GPU, beyond the CUDA context that it has already.
    """
    config, grids, backend = experiment.config, experiment.grids, experiment.backend
    simulation = config.simulation
    phonons = simulation.phonons.configurations if simulation.phonons else 1
    wave, image = 8.0 * math.prod(grids.wave), 8.0 * math.prod(grids.exit)
    finite = simulation.projection == "finite"
    channels = len(recipes.list_elements(config.structure)) * (DEPTH_FUNCTIONS if finite else 1)
    particles = config.structure.particles
    count = particles.count.support[1] if particles is not None else 0
    focused = config.imaging.foci / 2 + PARTICLE_ARRAYS * count
    tables = (GPU_WINDOW_ARRAYS + GPU_FACTOR_ARRAYS * channels) * wave + phonons * image
    if on_device:  # and the work area of cuFFT, as large as what it transforms
        passed, looked = (
            backend.planes_at_once(phonons, math.prod(shape), fields)
            for shape, fields in ((grids.wave, multislice.FIELDS), (grids.exit, focus.FIELDS))
        )
        passing = (GPU_WAVE_ARRAYS + 1) * passed * wave
        kept = focus.PLANES / 2  # real
        imaging = (phonons + GPU_IMAGE_ARRAYS + focused + kept + 2 * looked) * image
        return CUDA_DEVICE_BYTES + tables + max(passing, imaging)
    atoms = recipes.count_atoms(config.structure)
    places = atoms * ((FINITE_ATOM_BYTES if finite else ATOM_BYTES) + 24 * phonons)
    rows = SEGMENTS * layout.structure_bytes * layout.structures_per_segment
    if backend.name == "cupy":  # of the fields only tables and what is copied back
        return CUDA_HOST_BYTES + tables + GPU_IMAGE_ARRAYS * image + places + rows
    kept = (CPU_WINDOW_ARRAYS + CPU_FACTOR_ARRAYS * channels) * wave + phonons * image
    imaging = (2 * phonons + CPU_IMAGE_ARRAYS + focused) * image
    return PROGRAM_BYTES + kept + max(CPU_WAVE_ARRAYS * wave, imaging) + places + rows
