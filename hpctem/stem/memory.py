"""How much memory a STEM campaign takes on each rank."""

from __future__ import annotations

import math

from hpctem.database.schema import Layout
from hpctem.optics.incoherent import DENSITY
from hpctem.stem.experiment import Experiment
from hpctem.structures import sheets

# Python with its libraries and compiled kernels, as of HRTEM.
PROGRAM_BYTES = 300e6
CUDA_HOST_BYTES, CUDA_DEVICE_BYTES = 1e9, 200e6
# Real numbers of single precision on the picture's grid while it forms: atoms spread, their
# spectrum, that of the transfer, the picture.
PICTURE_ARRAYS = 6.0
# The same on an image's pixels: intensity, film, counts, their noise, labels, positions of lines.
IMAGE_ARRAYS = 12.0
# Bytes for each atom: sites, positions, draws, columns and their places.
ATOM_BYTES = 900
SEGMENTS = 3


def estimate_memory(experiment: Experiment, layout: Layout, on_device: bool = False) -> float:
    """Bytes that one rank needs at its peak, from the sizes of its arrays; right to about a third.

    On the host, or with `on_device` on the GPU, beyond the CUDA context that it has already.
    """
    config = experiment.config
    band = experiment.band
    picture = 4.0 * math.prod(length * band / DENSITY for length in experiment.extent)
    image = 4.0 * math.prod(experiment.shape)
    segments = sum(d.segments for d in config.imaging.detectors.values()) or 1
    fields = PICTURE_ARRAYS * picture * segments + IMAGE_ARRAYS * image
    if on_device:
        return CUDA_DEVICE_BYTES + fields
    atoms = ATOM_BYTES * sheets.count_atoms(config.structure, experiment.field)
    rows = SEGMENTS * layout.structure_bytes * layout.structures_per_segment
    if experiment.backend.name == "cupy":
        return CUDA_HOST_BYTES + IMAGE_ARRAYS * image + atoms + rows
    return PROGRAM_BYTES + fields + atoms + rows
