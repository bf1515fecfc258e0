"""Time every step of an HRTEM campaign on this machine, as its ranks compute it.

The functions of `hpctem.hrtem.campaign` are called in the order in which the main job calls them.
Of the phonon configurations two batches are computed and stand for the others: the first pays for
what is made once for a structure, the second for itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hpctem import tables
from hpctem.calibration.hrtem_work import average_work, describe_structure, rebuild_work
from hpctem.calibration.measure import MOST_IMAGES, Stopwatch
from hpctem.calibration.workload import Timed
from hpctem.database.schema import Layout
from hpctem.database.segment import StructureRows, empty_block, place_rows
from hpctem.detection.filters import integrate_pixels
from hpctem.errors import SampleError
from hpctem.hrtem.campaign import (
    Rows,
    displace_atoms,
    exit_waves_of,
    label_particles,
    record_image,
    tabulate_image,
    tabulate_structure,
)
from hpctem.hrtem.conditions import DrawConditions
from hpctem.hrtem.experiment import Experiment, set_optics
from hpctem.hrtem.tables import EXIT_WAVES
from hpctem.optics.multislice import FIELDS
from hpctem.optics.transfer import form_images
from hpctem.structures.scenes import Structure

__all__ = ["average_work", "describe_structure", "rebuild_work", "time_structure"]


def time_structure(experiment: Experiment, index: int, layout: Layout) -> Timed:
    """Compute structure `index` and time each step.

    Raises SampleError when the sample fails by its own nature.
    """
    config, backend = experiment.config, experiment.backend
    watch = Stopwatch(backend)
    with watch.step("structure"):
        structure = experiment.structure(index)
    with watch.step("atom tables"):
        rows = tabulate_structure(structure)
    with watch.step("displacements", config.waves):
        displaced = displace_atoms(experiment, structure, index, 0)
    draw = DrawConditions(config, experiment.streams, index)
    tilt = draw.tilt(0)
    waves, batch = _time_waves(experiment, watch, structure, displaced, tilt)
    repeated = len(displaced) / batch
    once = config.labels.mask.method == "projected_potential"
    with watch.step("labels", config.waves * (1 if once else repeated)):
        instances = label_particles(experiment, structure, displaced[:batch], tilt)
    stack = backend.xp.concatenate([waves] * math.ceil(repeated))[: len(displaced)]
    rows |= _time_images(experiment, watch, draw, stack, structure.cell[2], instances)
    with watch.step("rows"):
        if config.storage.exit_waves:
            shape = (config.waves, *stack.shape)
            rows[EXIT_WAVES] = np.broadcast_to(backend.to_host(stack), shape)
        if config.storage.store_atoms:
            rows |= {
                tables.POSITIONS: structure.positions,
                tables.NUMBERS: structure.numbers,
                tables.TAGS: structure.tags,
            }
        block = empty_block(layout, range(1))
        if not place_rows(layout, block, 0, StructureRows(rows)):
            raise SampleError(f"structure {index} holds NaN or more rows than its tables")
    work = describe_structure(experiment, index, structure, layout)
    return Timed(watch.seconds, work, rows)


def _time_waves(
    experiment: Experiment,
    watch: Stopwatch,
    structure: Structure,
    displaced: np.ndarray,
    tilt: tuple[float, float],
) -> tuple[Any, int]:
    """Time multislice; the exit waves of one batch, and its size."""
    config = experiment.config
    finite = config.simulation.projection == "finite"
    pixels = math.prod(experiment.grids.wave)
    batch = experiment.backend.planes_at_once(len(displaced), pixels, FIELDS)
    calls = config.waves * len(displaced) / batch

    def pass_batch(positions: np.ndarray) -> Any:
        return exit_waves_of(experiment, structure, positions, structure.tags >= 0, tilt)

    first, waves = watch.time(lambda: pass_batch(displaced[:batch]))
    following = first
    if calls > 1 or finite:
        another = displaced[batch : 2 * batch] if len(displaced) >= 2 * batch else displaced[:batch]
        following, _ = watch.time(lambda: pass_batch(another))
    once = max(first - following, 0.0) if finite else 0.0
    if finite:
        watch.add("depth functions", once)
    watch.add("exit waves", first - once + (calls - 1) * following)
    return waves, batch


def _time_images(
    experiment: Experiment,
    watch: Stopwatch,
    draw: DrawConditions,
    waves: Any,
    height: float,
    instances: Any,
) -> Rows:
    """Time image formation, detection and rows; the rows of all images of the structure."""
    config, grids = experiment.config, experiment.grids
    each = config.imaging.images_per_focus
    shown = min(config.imaging.foci * each, MOST_IMAGES)
    with watch.step("imaging", config.waves):  # all foci of a wave, for they share work
        optics = [draw.optics(focus) for focus in range(config.imaging.foci)]
        settings = [set_optics(config, values, height) for values in optics]
        formed = form_images(waves, grids.extent, settings, experiment.backend)
        intensities = [integrate_pixels(intensity, grids.binning) for intensity in formed]
    for values, setting in zip(optics, settings, strict=True):
        values["defocus_exit"] = setting.exit_defocus
    with watch.step("detection", config.images / shown):
        recorded = [
            record_image(
                experiment,
                intensities[image // each],
                instances,
                draw.identify(image) | optics[image // each] | draw.detection(image),
                draw,
                image,
            )
            for image in range(shown)
        ]
    with watch.step("rows", config.images / shown):
        tabulated = [tabulate_image(image) for image in recorded]
        stacked = {path: np.stack([row[path] for row in tabulated]) for path in tabulated[0]}
    return {
        path: np.resize(values, (config.images, *values.shape[1:]))
        for path, values in stacked.items()
    }
