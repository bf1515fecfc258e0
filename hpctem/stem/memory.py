"""How much memory a STEM campaign takes on each rank."""

from __future__ import annotations

import math

from hpctem.database.schema import Layout
from hpctem.errors import SampleError
from hpctem.optics.atomic_layers import plan_layers
from hpctem.optics.incoherent import DENSITY
from hpctem.optics.probe_passage import GPU_BATCH
from hpctem.optics.stem import frame_tile
from hpctem.stem.conditions import widest_probe
from hpctem.stem.experiment import Experiment
from hpctem.structures import sheets

# Python with its libraries and compiled kernels, measured: 265 MB, and 30 MB more of multislice.
PROGRAM_BYTES, MULTISLICE_BYTES = 265e6, 30e6
# What the multislice of pairs of atoms takes that corrects an incoherent picture, once a process.
PAIR_BYTES = 160e6
CUDA_HOST_BYTES, CUDA_DEVICE_BYTES = 1e9, 200e6
# Real numbers of single precision on the picture's grid while it forms: atoms spread, their
# spectrum, that of the transfer, the picture; and on an image's pixels while it is recorded:
# carbon, intensity, counts, their copies, what labels take.
PICTURE_ARRAYS, IMAGE_ARRAYS = 4.0, 6.0
# Bytes for each atom: positions, draws, columns and their places.
ATOM_BYTES = 300
# Bytes for each pixel of a tile: of every slice, twice, and of the fields that make them; of a
# window: probe, aperture, wave; and of the weights of every segment.
SLICE_BYTES, TILE_BYTES, WINDOW_BYTES, SEGMENT_BYTES = 16, 32, 64, 8
# Bytes for each pixel of the windows that pass at once on a GPU: wave, window of the slice, where
# it lies, intensity, work area of the transform.
PROBE_BYTES = 48
# Slices where no structure can be looked at, and structures that are tried for it.
SLICES, TRIED = 8, 4
# Segments held at once: one computed, one written, and its rows before they are put in place.
SEGMENTS = 3


def estimate_memory(experiment: Experiment, layout: Layout, on_device: bool = False) -> float:
    """Bytes that one rank needs at its peak, from the sizes of its arrays; right to about a third.

    On the host, or with `on_device` on the GPU, beyond the CUDA context that it has already.
    """
    config, on_gpu = experiment.config, experiment.backend.name == "cupy"
    multislice = config.simulation.method == "multislice"
    segments = sum(d.segments for d in config.imaging.detectors.values()) or 1
    picture = 4.0 * math.prod(length * experiment.band / DENSITY for length in experiment.extent)
    image = IMAGE_ARRAYS * 4.0 * math.prod(experiment.shape)
    fields = segments * picture + PICTURE_ARRAYS * picture
    passage = _estimate_passage(experiment, segments, on_device) if multislice else 0.0
    if on_device:
        return CUDA_DEVICE_BYTES + max(fields + segments * image, passage)
    atoms = ATOM_BYTES * float(sheets.count_atoms(config.structure, experiment.field))
    row = float(layout.structure_bytes)
    block = row * layout.structures_per_segment
    if on_gpu:
        return CUDA_HOST_BYTES + image + atoms + SEGMENTS * block
    flat = config.simulation.method == "incoherent" and config.structure.thickness is None
    working = max(fields, passage, row + segments * image, PAIR_BYTES * flat)
    program = PROGRAM_BYTES + MULTISLICE_BYTES * multislice
    return program + atoms + max(working + 2 * (block - row), SEGMENTS * block)


def _estimate_passage(experiment: Experiment, segments: int, on_device: bool) -> float:
    """Bytes of a tile's slices and of the probes that pass them."""
    probe = widest_probe(experiment.config)
    slices, height = _look_at_slices(experiment)
    multislice = experiment.multislice(probe, height)
    grid = experiment.plan_scan(experiment.scan_area, probe)
    tile = float(math.prod(frame_tile(grid, multislice.window)[0].shape))
    window = float(math.prod(multislice.window))
    batch = GPU_BATCH * PROBE_BYTES if on_device else 0
    values = 8.0 * grid.points * segments
    weights = SEGMENT_BYTES * segments
    return (
        (slices * SLICE_BYTES + TILE_BYTES) * tile + (WINDOW_BYTES + weights + batch) * window
    ) + values


def _look_at_slices(experiment: Experiment) -> tuple[int, float]:
    """Slices of one of the first structures that can be built, and the height of its cell in A."""
    simulation, count = experiment.config.simulation, experiment.config.campaign.structures
    for index in range(min(TRIED, count)):
        try:
            structure = experiment.structure(index)
        except SampleError:
            continue
        layers = plan_layers(
            structure.positions[:, 2],
            structure.numbers,
            simulation.slice_thickness,
            simulation.parametrization,
        )
        return len(layers.planes), structure.cell[2]
    return SLICES, SLICES * simulation.slice_thickness
