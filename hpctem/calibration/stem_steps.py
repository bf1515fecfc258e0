"""Time every step of a STEM campaign on this machine, as its ranks compute it.

The functions of `hpctem.stem.campaign` are called in the order in which the main job calls them. Of
multislice a tile is passed by some of its probes, which stand for all tiles and probes: the others
cost the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hpctem import tables
from hpctem.calibration.measure import MOST_IMAGES, Stopwatch
from hpctem.calibration.stem_work import (
    average_work,
    describe_structure,
    rebuild_work,
)
from hpctem.calibration.workload import Timed
from hpctem.database.schema import Layout
from hpctem.database.segment import StructureRows, empty_block, place_rows
from hpctem.detection.scan import ScanPath
from hpctem.errors import SampleError
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.stem import TILE, Signals, list_tiles
from hpctem.stem.campaign import (
    Recorded,
    Rows,
    Specimen,
    count_electrons,
    label_image,
    lead_beam,
    list_shown,
    look_at_pictures,
    scan_carbon,
    tabulate_images,
    tabulate_structure,
)
from hpctem.stem.conditions import DrawConditions, set_probe
from hpctem.stem.experiment import Experiment
from hpctem.stem.pictures import (
    View,
    displace_atoms,
    pass_probes,
    plan_probes,
    show_signals,
    spread_atoms,
    transfer_of,
)
from hpctem.stem.tables import PATTERNS
from hpctem.structures.scenes import Structure

__all__ = ["average_work", "describe_structure", "rebuild_work", "time_structure"]

# Scans of a multislice tile that are timed: points a side.
FEW, SEVERAL = 2, 11
TURNS = 3


def time_structure(experiment: Experiment, index: int, layout: Layout) -> Timed:
    """Compute structure `index` and time each step.

    Raises SampleError when the sample fails by its own nature.
    """
    config = experiment.config
    watch = Stopwatch(experiment.backend)
    with watch.step("structure"):
        structure = experiment.structure(index)
    specimen = Specimen(structure)
    with watch.step("columns"):
        _ = specimen.columns
    draw = DrawConditions(config, experiment.streams, index)
    each = config.imaging.images_per_focus
    multislice = config.simulation.method == "multislice"
    foci = 1 if multislice else min(config.imaging.foci, max(1, MOST_IMAGES // each))
    recorded: list[Recorded] = []
    patterns: list[Rows] = []
    for focus in range(foci):
        images = range(focus * each, focus * each + min(each, MOST_IMAGES))
        taken, kept = _time_focus(experiment, watch, specimen, draw, focus, images, foci)
        recorded.extend(taken)
        patterns.append(kept)
    rows = {path: np.stack([kept[path] for kept in patterns]) for path in patterns[0]}
    with watch.step("rows", config.images / len(recorded)):
        rows |= tabulate_images(experiment, recorded)
        rows |= tabulate_structure(experiment, structure, recorded)
        if config.storage.store_atoms:
            rows |= tables.atom_rows(structure)
    rows = repeat_rows(rows, layout)
    with watch.step("rows"):
        block = empty_block(layout, range(1))
        if not place_rows(layout, block, 0, StructureRows(rows)):
            raise SampleError(f"structure {index} holds NaN or more rows than its tables")
    return Timed(watch.seconds, describe_structure(experiment, index, structure, layout), rows)


def _time_focus(
    experiment: Experiment,
    watch: Stopwatch,
    specimen: Specimen,
    draw: DrawConditions,
    focus: int,
    images: Sequence[int],
    foci: int,
) -> tuple[list[Recorded], Rows]:
    """Time some images of one setting of the probe, of `foci` that stand for all of them."""
    config = experiment.config
    times = config.imaging.foci / foci  # of what is done for a focus
    each = times * config.imaging.images_per_focus / len(images)
    with watch.step("conditions", each):
        values = draw.probe(focus)
        conditions = [draw.image(image) | values for image in images]
        paths = [lead_beam(experiment, draw, *p) for p in zip(images, conditions, strict=True)]
    if config.simulation.method == "multislice":
        pictures, patterns = _time_probes(
            experiment, watch, specimen.structure, draw, focus, values, paths, times
        )
    else:
        with watch.step("scattering", times):
            weights = experiment.scatter(specimen.structure, values)
        with watch.step("lens", times):
            transfer = transfer_of(experiment, values)
        with watch.step("pictures", times):
            view = spread_atoms(experiment, specimen.structure, values, weights, transfer)
        pictures, patterns = {tables.IMAGES: [view]}, {}
    recorded = [
        _time_image(experiment, watch, specimen, pictures, draw, image, given, path, each)
        for image, given, path in zip(images, conditions, paths, strict=True)
    ]
    return recorded, patterns


def _time_image(
    experiment: Experiment,
    watch: Stopwatch,
    specimen: Specimen,
    pictures: Mapping[str, Sequence[View]],
    draw: DrawConditions,
    image: int,
    conditions: Mapping[str, float],
    path: ScanPath,
    times: float,
) -> Recorded:
    """Time one image, as `hpctem.stem.campaign.record_image` makes it."""
    values = dict(conditions)
    values["dose"] = values["electrons_per_pixel"] / path.pixel_area
    thickness = None
    if experiment.config.imaging.contamination is not None:
        with watch.step("film", times):
            thickness = scan_carbon(experiment, draw, image, path, values)
    with watch.step("scan", times):
        seen = look_at_pictures(experiment, pictures, path, thickness, values)
    with watch.step("detection", times):
        recorded, values["saturated"] = count_electrons(experiment, draw, image, seen, values)
    with watch.step("labels", times):
        labels = label_image(experiment, specimen, path, values)
    with watch.step("places", times):
        counts, shown, columns = list_shown(experiment, specimen, image, path)
    return Recorded(image, recorded, labels, values | counts, shown, columns)


def _time_probes(
    experiment: Experiment,
    watch: Stopwatch,
    structure: Structure,
    draw: DrawConditions,
    focus: int,
    values: Mapping[str, float],
    paths: Sequence[ScanPath],
    times: float,
) -> tuple[dict[str, list[View]], Rows]:
    """Time multislice; pictures and diffraction patterns that have the size of the real ones.

    A tile is passed by few probes, then in turns by few, by several, and by few in two
    configurations: what is made once for a setting, what a probe takes, and a tile follow from the
    differences of the shortest turns, since one that was disturbed would change them most.
    """
    seconds, displaced = watch.time(lambda: displace_atoms(experiment, structure, draw, focus))
    if len(displaced) > 1:
        watch.add("displacements", times * seconds)
    probe = set_probe(experiment.config, values)
    grid = plan_probes(experiment, probe, paths)

    thinner = thin_out(grid, FEW), thin_out(grid, SEVERAL)

    def pass_some(some: ScanGrid, configurations: int) -> tuple[float, Signals]:
        chosen = np.resize(displaced, (configurations, *displaced.shape[1:]))
        return watch.time(lambda: pass_probes(experiment, structure, chosen, some, probe))

    first, _ = pass_some(thinner[0], 1)
    turns = []
    for _ in range(TURNS):
        few, _ = pass_some(thinner[0], 1)
        several, signals = pass_some(thinner[1], 1)
        twice, _ = pass_some(thinner[0], 2)
        turns.append((few, several, twice))
    few, several, twice = (min(each) for each in zip(*turns, strict=True))
    points = [some.points for some in thinner]
    each = max(several - few, 0.0) / (points[1] - points[0])
    tile = max(twice - few - each * points[0], 0.0)
    watch.add("lens", times * max(first - tile - each * points[0], 0.0))
    watch.add("potentials", times * len(displaced) * tile * len(list(list_tiles(grid.shape))))
    watch.add("probes", times * len(displaced) * each * grid.points)
    whole = enlarge_signals(signals, grid)
    with watch.step("pictures", times):
        pictures = show_signals(experiment, whole, grid, probe)
    return pictures, {PATTERNS: whole.patterns} if whole.patterns is not None else {}


def thin_out(grid: ScanGrid, side: int) -> ScanGrid:
    """About `side` points a side of one tile in the middle of a scan, which span the whole tile.

    What a tile takes beside its probes does not depend on how many there are. Every `side` gives
    tiles of the same size, to a pixel.
    """
    spans = [min(TILE, points) - 1 for points in grid.shape]
    strides = [max(span // (SEVERAL - 1), 1) for span in spans]
    if side == FEW:
        strides = [span // stride * stride for span, stride in zip(spans, strides, strict=True)]
    shape = [span // stride + 1 for span, stride in zip(spans, strides, strict=True)]
    first = [(points - 1 - span) // 2 for points, span in zip(grid.shape, spans, strict=True)]
    return replace(
        grid,
        origin=grid.point(first[0], first[1]),
        shape=(shape[0], shape[1]),
        step=(grid.step[0] * strides[0], grid.step[1] * strides[1]),
    )


def enlarge_signals(signals: Signals, grid: ScanGrid) -> Signals:
    """Signals at all points of a grid, each a copy of one of the few that there are."""
    few = signals.values.shape[-2:]
    rows, columns = (
        np.arange(points) * n // points for points, n in zip(grid.shape, few, strict=True)
    )
    patterns = signals.patterns
    return replace(
        signals,
        values=np.ascontiguousarray(signals.values[:, rows[:, None], columns]),
        patterns=None if patterns is None else patterns[rows[:, None], columns],
    )


def repeat_rows(rows: Rows, layout: Layout) -> Rows:
    """The rows of all images and foci, where those of the first ones are repeated."""
    each = {
        field.path: layout.rows_per_structure[field.table]
        for table in ("images", "patterns")
        for field in layout.fields_of(table)
    }
    return {
        path: np.resize(values, (each.get(path, len(values)), *values.shape[1:]))
        for path, values in rows.items()
    }
