"""The tables of a STEM campaign's database: which columns and arrays, and how large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from hpctem.column_labels.columns import COLUMN_COLUMNS, DEFECT_PLACE_COLUMNS
from hpctem.config import StemConfig
from hpctem.database.schema import (
    Axis,
    Field,
    Layout,
    Stack,
    choose_structures_per_segment,
)
from hpctem.optics.electron import wavelength
from hpctem.optics.stem import pattern_shape
from hpctem.stem.conditions import CONDITION_COLUMNS, widest_probe
from hpctem.stem.experiment import Experiment
from hpctem.structures import sheets
from hpctem.structures.scenes import Column
from hpctem.tables import (
    IMAGE_STATISTICS,
    IMAGES,
    atom_fields,
    column_fields,
    digest_field,
)

ATOM_MAP = "/entry/labels/atoms"
DISTANCE_MAP = "/entry/labels/distance"
PATTERNS = "/entry/diffraction/patterns"
COUNTS = {
    "defects": "/entry/structures/defects_listed",
    "columns": "/entry/structures/columns_listed",
    "atoms": "/entry/structures/n_atoms",
}
IMAGE_COLUMN = Column("image", "int32", "", "image within the structure, from 0")
LISTED = (
    Column("defects_listed", "int32", "", "rows of its images in the table of defects"),
    Column("columns_listed", "int32", "", "rows of its images in the table of columns; 0 if none"),
)


def defect_map(kind: str) -> str:
    """Dataset of the map of one kind of defect."""
    return f"/entry/labels/{kind}"


def image_columns(kinds: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of the image table."""
    counts = (
        Column(f"n_{kind}", "int32", "", f"defects of the kind {kind} in the image")
        for kind in kinds
    )
    columns = Column("n_columns", "int32", "", "atom columns in the image")
    return (*CONDITION_COLUMNS, *IMAGE_STATISTICS, columns, *counts)


def structure_columns(config: StemConfig) -> tuple[Column, ...]:
    """The columns of the structure table."""
    return (*sheets.sheet_columns(config.structure), *LISTED)


def plan_layout(experiment: Experiment, structures: range, texts: Mapping[str, str]) -> Layout:
    """The layout of the database that holds a range of the campaign's structures.

    `texts` are stored with the data.
    """
    config, field = experiment.config, experiment.field
    defects = sheets.count_defects(config.structure, field) if experiment.kinds else 0
    columns = sheets.count_columns(config.structure, field) if config.labels.columns else 0
    atoms = sheets.count_atoms(config.structure, field) if config.storage.store_atoms else 0
    rows = {
        "images": config.images,
        "structures": 1,
        "defects": config.images * defects,
        "columns": config.images * columns,
        "patterns": config.foci if config.storage.diffraction else 0,
        "atoms": atoms,
    }
    rows = {table: count for table, count in rows.items() if count > 0}
    fields = [f for f in _fields(experiment) if f.table in rows]
    size = sum(f.row_bytes * rows[f.table] for f in fields)
    wanted = config.campaign.structures_per_segment
    return Layout(
        structures=len(structures),
        first_structure=structures.start,
        rows_per_structure=rows,
        structures_per_segment=wanted or choose_structures_per_segment(size, len(structures)),
        fields=tuple(fields),
        counts={table: path for table, path in COUNTS.items() if table in rows},
        campaign=texts,
        stacks=tuple(_stacks(experiment, fields)),
        title=config.campaign.description or config.campaign.name,
    )


def _stacks(experiment: Experiment, fields: list[Field]) -> Iterator[Stack]:
    """The images first, then one map for each group of datasets that viewers can plot."""
    name = experiment.config.campaign.name
    paths = [item.path for item in fields]
    yield Stack(IMAGES, _axes(experiment), title=name)
    maps = [path for path in paths if path.startswith("/entry/labels/")]
    if maps:
        yield Stack(maps[0], _axes(experiment), title=maps[0].rsplit("/", 1)[1])


def _axes(experiment: Experiment) -> tuple[Axis, Axis]:
    """The axes of an image, in angstrom where all have one pixel, else in pixels."""
    ny, nx = experiment.shape
    pixel = experiment.pixel_size
    step, units = (1.0, "") if pixel is None else (pixel, "angstrom")
    return Axis("y", ny, step, units), Axis("x", nx, step, units)


def _fields(experiment: Experiment) -> Iterator[Field]:
    config, shape = experiment.config, experiment.shape
    for name, (path, detector) in zip(
        config.imaging.detectors, experiment.detectors.items(), strict=True
    ):
        many = (detector.segments,) if detector.segments > 1 else ()
        yield Field(
            path,
            "images",
            experiment.image_dtype,
            (*many, *shape),
            experiment.image_units,
            f"images of the detector {name}"
            if config.imaging.beam
            else f"share of the beam that the detector {name} collects, without noise",
            attributes={"chunks": [1, *many, *shape], "detector": name},
        )
    if not config.imaging.detectors:
        yield Field(
            IMAGES, "images", experiment.image_dtype, shape, "",
            "sum of Z^exponent under the point spread function, per square angstrom",
            attributes={"chunks": [1, *shape]},
        )  # fmt: skip
    yield from _maps(experiment)
    yield from column_fields("metadata", "images", image_columns(experiment.kinds))
    yield from column_fields("structures", "structures", structure_columns(config))
    yield digest_field()
    defects = (IMAGE_COLUMN, *sheets.defect_columns(config.structure), *DEFECT_PLACE_COLUMNS)
    if experiment.kinds:
        yield from column_fields("defects", "defects", defects)
    yield from column_fields("columns", "columns", (IMAGE_COLUMN, *COLUMN_COLUMNS))
    if config.storage.diffraction:
        yield _patterns(experiment)
    yield from atom_fields("k + 1 for class k of sites, 0 for foreign atoms")


def _maps(experiment: Experiment) -> Iterator[Field]:
    labels, shape = experiment.config.labels, experiment.shape
    chunks = {"chunks": [1, *shape]}
    if labels.atoms is not None:
        classes = list(experiment.classes)
        meaning = f"class of the atom column within {labels.atoms.radius:g} A: 0 none, k class k"
        yield Field(
            ATOM_MAP, "images", np.dtype("u1"), shape, "", meaning,
            attributes=chunks | {"classes": classes},
        )  # fmt: skip
    how = {
        "image": "1 where the image of its own atoms exceeds "
        f"{labels.defects.threshold:g} of one isolated defect's peak",
        "disk": f"1 within {labels.defects.radius:g} A",
        "gaussian": f"255 exp(-r^2 / 2 s^2) with s of {labels.defects.radius:g} A",
    }[labels.defects.method]
    scale = {"scale": 1 / 255} if labels.defects.method == "gaussian" else {}
    for kind in experiment.kinds:
        meaning = f"defects of the kind {kind}: {how}"
        yield Field(
            defect_map(kind), "images", np.dtype("u1"), shape, "", meaning,
            attributes=chunks | scale,
        )  # fmt: skip
    if labels.distance:
        meaning = "distance to the nearest atom column"
        yield Field(
            DISTANCE_MAP, "images", np.dtype("f4"), shape, "angstrom", meaning, attributes=chunks
        )


def _patterns(experiment: Experiment) -> Field:
    """The diffraction pattern of every point of the scan, one four-dimensional row a focus."""
    config = experiment.config
    probe = widest_probe(config)
    grid = experiment.plan_scan(experiment.scan_area, probe)
    window = experiment.multislice(probe, 0.0).window
    shape = pattern_shape(window, grid.pixel, probe.energy, experiment.annuli)
    angles = [
        wavelength(probe.energy) / (n * step) for n, step in zip(window, grid.pixel, strict=True)
    ]
    return Field(
        PATTERNS,
        "patterns",
        np.dtype("f4"),
        (*grid.shape, *shape),
        "",
        "share of the beam in each pixel of the diffraction pattern behind each point of the scan "
        "(scan y, scan x, angle y, angle x), the direct beam in the middle",
        attributes={
            "chunks": [1, 1, 1, *shape],
            "scan_origin_xy": list(grid.origin),
            "scan_step_yx": list(grid.spacing),
            "angle_step_yx": angles,
        },
    )
