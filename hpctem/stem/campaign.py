"""One STEM campaign from structure to stored image: the one place that knows the order.

Structure i: fill the field of view with its crystal and defects, find the atom columns, form the
noise-free picture of every focus, lead the beam over it for every image, add the film of carbon,
count the electrons, and label the pixels where the scan stood. All of it is a pure function of
(config, seed, i); `hpctem.database` puts the rows where they belong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hpctem import tables
from hpctem.column_labels import columns as found
from hpctem.column_labels import maps
from hpctem.conditions import set_detector
from hpctem.database.schema import ATOMS_DIGEST
from hpctem.detection.contamination import CARBON_DENSITY, draw_film, scan_film
from hpctem.detection.detector import detect
from hpctem.detection.scan import ScanPath, add_streaks, draw_path
from hpctem.errors import SampleError
from hpctem.stem.conditions import DrawConditions, set_film, set_scan
from hpctem.stem.experiment import Experiment
from hpctem.stem.pictures import View, form_pictures, point_spread
from hpctem.stem.tables import (
    ATOM_MAP,
    DISTANCE_MAP,
    IMAGE_COLUMN,
    defect_map,
    image_columns,
    structure_columns,
)
from hpctem.structures.columns import tabulate
from hpctem.structures.scenes import Structure
from hpctem.structures.sheets import defect_columns

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Specimen:
    """What all images of a structure share."""

    structure: Structure

    @cached_property
    def columns(self) -> found.Columns:
        """Its atom columns."""
        structure = self.structure
        return found.find_columns(structure.positions, structure.numbers, structure.tags)


@dataclass(frozen=True)
class Recorded:
    """Image `number` of its structure on its way to the host, and what is known of it there.

    images    dataset -> the recorded image, once it has arrived
    labels    dataset -> label map (ny, nx)
    values    conditions and counts, by the column's name
    defects, columns   the rows of both tables; no columns where the campaign lists none
    """

    number: int
    images: Mapping[str, Callable[[], np.ndarray]]
    labels: Mapping[str, np.ndarray]
    values: Mapping[str, float]
    defects: Sequence[Mapping[str, Any]]
    columns: Mapping[str, np.ndarray]


def compute_structure(experiment: Experiment, index: int, stored: None = None) -> Rows:
    """All rows of structure `index`: dataset path -> array whose first axis counts its rows.

    Raises SampleError when the sample fails by its own nature.
    """
    config = experiment.config
    structure = experiment.structure(index)
    recorded, patterns = compute_images(experiment, structure, index, range(config.images))
    rows = tabulate_images(experiment, recorded)
    rows |= tabulate_structure(experiment, structure, recorded) | patterns
    if config.storage.store_atoms:
        rows |= tables.atom_rows(structure)
    return rows


def compute_images(
    experiment: Experiment, structure: Structure, index: int, images: range
) -> tuple[list[Recorded], Rows]:
    """Some images of structure `index`, and the diffraction patterns of their foci where kept."""
    specimen = Specimen(structure)
    draw = DrawConditions(experiment.config, experiment.streams, index)
    each = experiment.config.imaging.images_per_focus
    recorded: list[Recorded] = []
    patterns: list[Rows] = []
    for focus in dict.fromkeys(image // each for image in images):
        of_focus = [image for image in images if image // each == focus]
        taken, kept = image_focus(experiment, specimen, draw, focus, of_focus)
        recorded.extend(taken)
        patterns.append(kept)
    return recorded, {path: tables.stack([kept[path] for kept in patterns]) for path in patterns[0]}


def image_focus(
    experiment: Experiment,
    specimen: Specimen,
    draw: DrawConditions,
    focus: int,
    images: Sequence[int],
) -> tuple[list[Recorded], Rows]:
    """The images of one setting of the probe, and its diffraction patterns where they are kept."""
    probe = draw.probe(focus)
    conditions = [draw.image(image) | probe for image in images]
    paths = [lead_beam(experiment, draw, *pair) for pair in zip(images, conditions, strict=True)]
    pictures, patterns = form_pictures(experiment, specimen.structure, draw, focus, probe, paths)
    recorded = [
        record_image(experiment, specimen, pictures, draw, image, values, path)
        for image, values, path in zip(images, conditions, paths, strict=True)
    ]
    return recorded, patterns


def lead_beam(
    experiment: Experiment, draw: DrawConditions, image: int, values: Mapping[str, float]
) -> ScanPath:
    """The path of the beam for one image, about the middle of the field."""
    return draw_path(
        experiment.shape,
        values["pixel_size"],
        experiment.centre,
        set_scan(values),
        draw.generator(image, "jitter"),
        draw.generator(image, "flagging"),
        draw.generator(image, "frame_shift"),
    )


def record_image(
    experiment: Experiment,
    specimen: Specimen,
    pictures: Mapping[str, Sequence[View]],
    draw: DrawConditions,
    image: int,
    conditions: Mapping[str, float],
    path: ScanPath,
) -> Recorded:
    """One image as every detector records it, and what is true of its pixels."""
    values = dict(conditions)
    values["dose"] = values["electrons_per_pixel"] / path.pixel_area
    thickness = scan_carbon(experiment, draw, image, path, values)
    seen = look_at_pictures(experiment, pictures, path, thickness, values)
    recorded, values["saturated"] = count_electrons(experiment, draw, image, seen, values)
    labels = label_image(experiment, specimen, path, values)
    counts, shown, columns = list_shown(experiment, specimen, image, path)
    return Recorded(image, recorded, labels, values | counts, shown, columns)


def scan_carbon(
    experiment: Experiment,
    draw: DrawConditions,
    image: int,
    path: ScanPath,
    values: Mapping[str, float],
) -> Any:
    """Thickness in A of the carbon at each pixel, (ny, nx) float32; None without contamination."""
    if experiment.config.imaging.contamination is None:
        return None
    generator = draw.generator(image, "contamination")
    film = draw_film(experiment.extent, set_film(values), generator, experiment.films)
    return experiment.backend.asarray(scan_film(film, path))


def look_at_pictures(
    experiment: Experiment,
    pictures: Mapping[str, Sequence[View]],
    path: ScanPath,
    thickness: Any,
    values: Mapping[str, float],
) -> dict[str, list[Any]]:
    """What each segment of each detector collects at each pixel (see `expect_intensity`)."""
    return {
        dataset: [
            expect_intensity(experiment, dataset, view, path, thickness, values)
            for view in segments
        ]
        for dataset, segments in pictures.items()
    }


def count_electrons(
    experiment: Experiment,
    draw: DrawConditions,
    image: int,
    seen: Mapping[str, Sequence[Any]],
    values: Mapping[str, float],
) -> tuple[dict[str, Callable[[], np.ndarray]], float]:
    """The images of all detectors on their way, and the share of the first's pixels beyond 16 bits.

    The first segment speaks for its detector.
    """
    recorded: dict[str, Callable[[], np.ndarray]] = {}
    saturated = 0.0
    for dataset, segments in seen.items():
        counted = [
            count_intensity(experiment, draw, image, dataset, k, intensity, values)
            for k, intensity in enumerate(segments)
        ]
        if dataset == tables.IMAGES:
            saturated = counted[0][1]
        stack = [one for one, _ in counted]
        whole = stack[0] if len(stack) == 1 else experiment.backend.xp.stack(stack)
        recorded[dataset] = experiment.backend.copy_later(whole)
    return recorded, saturated


def list_shown(
    experiment: Experiment, specimen: Specimen, image: int, path: ScanPath
) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, np.ndarray]]:
    """What one image shows: how many of each, its rows in the tables of defects and of columns."""
    placed = found.place_defects(specimen.structure.defects, path)
    shown = [row | {"image": image} for row in placed if row["inside"]]
    counts = {f"n_{kind}": sum(row["kind"] == kind for row in shown) for kind in experiment.kinds}
    columns: dict[str, np.ndarray] = {}
    if experiment.config.labels.columns:
        columns = found.tabulate_columns(specimen.columns, path)
        counts["n_columns"] = len(columns["x"])
    else:
        counts["n_columns"] = found.count_shown(specimen.columns, path)
    return counts, shown, columns


def expect_intensity(
    experiment: Experiment,
    dataset: str,
    view: View,
    path: ScanPath,
    thickness: Any,
    values: Mapping[str, float],
) -> Any:
    """The share of the beam that a detector collects at each pixel: (ny, nx) float32."""
    intensity = view.look(path, experiment.backend)
    if experiment.detector is not None and float(intensity.max()) > 1:
        raise SampleError(
            f"the detector would collect {float(intensity.max()):.3g} times the beam: atoms behind "
            "each other scatter it more than once, which only the method multislice knows; use it "
            "or a thinner specimen"
        )
    if thickness is not None:
        intensity += thickness * np.float32(CARBON_DENSITY * experiment.carbon(dataset, values))
    return add_streaks(intensity, values["flyback_streak"], path.flyback_pixels, experiment.backend)


def count_intensity(
    experiment: Experiment,
    draw: DrawConditions,
    image: int,
    dataset: str,
    segment: int,
    intensity: Any,
    values: Mapping[str, float],
) -> tuple[Any, float]:
    """What the detector makes of it: (image of its type, share of the pixels beyond 16 bits).

    Without a beam the noise-free share itself. Every detector and segment counts its own electrons.
    """
    if experiment.config.imaging.beam is None:
        return intensity, 0.0
    own = "" if dataset == tables.IMAGES else f"/{dataset.rsplit('/', 1)[1]}"
    own += f"/{segment}" if segment else ""
    return detect(
        intensity.clip(0),
        values["electrons_per_pixel"],
        1.0,
        set_detector(experiment.config.imaging.detector, values),
        draw.generator(image, f"counts{own}"),
        draw.generator(image, f"readout{own}"),
        experiment.backend,
    )


def label_image(
    experiment: Experiment, specimen: Specimen, path: ScanPath, values: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Every label map that the campaign asks for: dataset -> (ny, nx)."""
    wanted, defects = experiment.config.labels, specimen.structure.defects
    made: dict[str, np.ndarray] = {}
    if wanted.atoms is not None:
        made[ATOM_MAP] = maps.map_columns(specimen.columns, path, wanted.atoms.radius)
    if wanted.distance:
        made[DISTANCE_MAP] = maps.map_distances(specimen.columns, path)
    if not experiment.kinds:
        return made
    of = wanted.defects
    if of.method == "disk":
        kinds = maps.map_defect_disks(defects, experiment.kinds, path, of.radius)
    elif of.method == "gaussian":
        kinds = maps.map_defect_gaussians(defects, experiment.kinds, path, of.radius)
    else:
        psf, sampling = point_spread(experiment, values)
        kinds = maps.map_defect_images(defects, experiment.kinds, path, psf, sampling, of.threshold)
    return made | {defect_map(kind): labels for kind, labels in kinds.items()}


def tabulate_images(experiment: Experiment, recorded: Sequence[Recorded]) -> Rows:
    """The rows of images in the image table: pixels, labels, conditions and statistics."""
    arrays = [
        {path: arrived() for path, arrived in one.images.items()} | dict(one.labels)
        for one in recorded
    ]
    for image in arrays:
        for path in recorded[0].images:
            if path == tables.IMAGES:  # measured below
                continue
            if not np.isfinite(image[path].sum(dtype=np.float64)):
                raise SampleError(f"{path} holds NaN or infinity")
    values = [
        dict(one.values) | tables.measure_image(image[tables.IMAGES])
        for one, image in zip(recorded, arrays, strict=True)
    ]
    rows = {path: tables.stack([image[path] for image in arrays]) for path in arrays[0]}
    return rows | tables.metadata_rows(values, image_columns(experiment.kinds))


def tabulate_structure(
    experiment: Experiment, structure: Structure, recorded: Sequence[Recorded]
) -> Rows:
    """The rows of a structure in the tables of structures, defects and columns."""
    config = experiment.config
    listed = [row for one in recorded for row in one.defects]
    count = sum(len(one.columns["x"]) for one in recorded) if config.labels.columns else 0
    values = dict(structure.values) | {"defects_listed": len(listed), "columns_listed": count}
    table = tabulate([values], structure_columns(config))
    rows = {f"/entry/structures/{name}": column for name, column in table.items()}
    rows[ATOMS_DIGEST] = tables.digest_row(structure)
    if experiment.kinds:
        columns = (IMAGE_COLUMN, *defect_columns(config.structure), *found.DEFECT_PLACE_COLUMNS)
        table = tabulate(listed, columns)
        rows |= {f"/entry/defects/{name}": column for name, column in table.items()}
    if config.labels.columns:
        numbers = np.array([one.number for one in recorded], IMAGE_COLUMN.dtype)
        of = np.repeat(numbers, [len(one.columns["x"]) for one in recorded])
        rows[f"/entry/columns/{IMAGE_COLUMN.name}"] = of
        for column in found.COLUMN_COLUMNS:
            parts = [one.columns[column.name] for one in recorded]
            rows[f"/entry/columns/{column.name}"] = np.concatenate(parts)
    return rows
