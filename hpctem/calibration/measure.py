"""Time every step of a campaign on this machine, as its ranks compute it.

The functions of `hpctem.hrtem.campaign` are called in the order in which the main job calls them.
Of the phonon configurations two batches are computed and stand for the others: the first pays for
what is made once for a structure, the second for itself.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpctem import tables
from hpctem.backend import Backend
from hpctem.calibration.workload import Work, describe_structure
from hpctem.database.create import create
from hpctem.database.digest import digest_rows, digest_segment
from hpctem.database.finish import find_bad_rows
from hpctem.database.journal import COMMIT, Journal, pack_record, unpack_records
from hpctem.database.plan import plan_key, write_plan
from hpctem.database.schema import Layout
from hpctem.database.segment import StructureRows, empty_block, place_rows
from hpctem.database.writer import open_writer, read_offsets
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
from hpctem.optics.multislice import GPU_BATCH
from hpctem.optics.transfer import form_images
from hpctem.parallel import Communicator
from hpctem.structures.scenes import Structure

# Images of a wave that are recorded; the others cost the same.
MOST_IMAGES = 24
SEGMENTS, SEGMENT_BYTES = 3, 64 * 2**20


@dataclass(frozen=True)
class Timed:
    """One structure, timed.

    seconds  step -> seconds that the whole structure takes in it
    work     the structure's work
    rows     its rows; images beyond the first two dozen repeat those
    """

    seconds: dict[str, float]
    work: Work
    rows: Rows


@dataclass(frozen=True)
class Storage:
    """What it takes to keep rows: seconds per byte, and per commit beside its bytes.

    digests, writing, syncing  of a segment's rows; `syncing` until they are on the disk
    reading                    back from the page cache, with their digests
    commit                     seconds of the two waits for the disk of each segment
    record                     seconds to check one record of a journal when a job resumes
    """

    digests: float
    writing: float
    syncing: float
    reading: float
    commit: float
    record: float


class Stopwatch:
    """Adds up the seconds of steps."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, times: float = 1.0) -> Iterator[None]:
        """Time what is inside, which stands for `times` as much, as a part of step `name`."""
        self._backend.synchronize()
        begin = time.perf_counter()
        yield
        self._backend.synchronize()
        self.add(name, (time.perf_counter() - begin) * times)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a step."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def time(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds of one call, of no step yet, and what it returns."""
        self._backend.synchronize()
        begin = time.perf_counter()
        result = work()
        self._backend.synchronize()
        return time.perf_counter() - begin, result


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
    batch = 1 if experiment.backend.name == "numpy" else min(GPU_BATCH, len(displaced))
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


def time_storage(rows: Rows, layout: Layout, folder: Path) -> Storage:
    """Time digests, writing, syncing and reading back of such rows in a folder of `folder`.

    At most 64 MiB at once and three times that in all; the folder is removed. Raises MachineError
    when they cannot be written.
    """
    each = min(layout.structures_per_segment, max(1, SEGMENT_BYTES // layout.structure_bytes))
    small = replace(layout, structures=SEGMENTS * each, structures_per_segment=each)
    block = empty_block(small, range(each))
    for position in range(each):
        place_rows(small, block, position, StructureRows(rows))
    size = each * layout.structure_bytes
    times: dict[str, list[float]] = {"digests": [], "writing": [], "syncing": [], "commit": []}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".hpctem-calibration-") as place:
        path = Path(place, "rows.hdf5")
        create(path, small, {})
        journal = Journal(path.parent, 1, 0, plan_key(write_plan(small, {})))
        writer = open_writer(path, small, Communicator(), "pwrite")
        commits = {}
        for segment in range(SEGMENTS):
            marks = [time.perf_counter()]
            digests = digest_rows(small, block)
            marks.append(time.perf_counter())
            for item in small.datasets:
                first = small.row_range(item.table, small.segment(segment)).start
                writer.write(item.path, first, (block | digests)[item.path])
            marks.append(time.perf_counter())
            writer.sync()
            marks.append(time.perf_counter())
            commits[segment] = digest_segment(small, digests), 0
            journal.commit(segment, *commits[segment])
            marks.append(time.perf_counter())
            for name, begin, end in zip(times, marks[:-1], marks[1:], strict=True):
                times[name].append(end - begin)
        offsets = read_offsets(path, small)
        begin = time.perf_counter()
        find_bad_rows(path, small, offsets, range(SEGMENTS), commits)
        reading = (time.perf_counter() - begin) / (SEGMENTS * size)
        writer.close()
        journal.close()
    median = {name: statistics.median(values) for name, values in times.items()}
    return Storage(
        digests=median["digests"] / size,
        writing=median["writing"] / size,
        syncing=max(median["syncing"] - median["commit"], 0.0) / size,
        reading=reading,
        commit=2 * median["commit"],
        record=_time_records(),
    )


def _time_records() -> float:
    """Seconds to check one journal record."""
    records, times = 4096, []
    raw = pack_record(bytes(32), COMMIT, 0) * records
    for _ in range(3):
        begin = time.perf_counter()
        unpack_records(bytes(32), raw)
        times.append(time.perf_counter() - begin)
    return min(times) / records


def process_age() -> float:
    """Seconds since this process began: what starting Python and importing hpctem takes."""
    try:
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(uptime - started / os.sysconf("SC_CLK_TCK"), 0.0)
