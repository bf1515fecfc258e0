"""Contact sheets of campaigns: of a database that is there, and of one that is not made yet.

Images are shown through the view that the campaign records (`imaging.median: view`), as networks
are trained on them; what is stored stays as it was counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem import tables
from hpctem.backend import select_backend
from hpctem.config import Config
from hpctem.database.reader import Database, open_database
from hpctem.detection.filters import MEDIAN_VIEW, RAW_VIEW, apply_view
from hpctem.errors import SampleError
from hpctem.hrtem.campaign import compute_images
from hpctem.hrtem.experiment import Experiment
from hpctem.parallel import Communicator, share_cyclically
from hpctem.report import contact_sheet

SHOWN = 16


def draw_database(path: Path, target: Path) -> Path:
    """Draw images spread evenly over the good rows of a database; returns `target`."""
    with open_database(path) as database:
        shown = choose_images(database, SHOWN)
        view = database.field(tables.IMAGES).attributes.get("view", RAW_VIEW)
        pixel_size = float(database.column("pixel_size", rows=shown.rows[:1])[0])
        pairs = list(zip(shown.images, shown.masks, strict=True))
        return _draw(pairs, shown.captions, pixel_size, target, database.layout.title, str(view))


@dataclass(frozen=True)
class Chosen:
    """Some images of a database: file rows (n,), images and masks (n, ny, nx), captions."""

    rows: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    captions: list[dict[str, Any]]


def choose_images(database: Database, count: int) -> Chosen:
    """At most `count` images spread evenly over the good rows of a database."""
    good = database.rows("images")
    rows = good[np.unique(np.linspace(0, len(good) - 1, count).astype(int))]
    paths = {name: f"/entry/metadata/{name}" for name in _CONDITIONS}
    paths |= {name: f"/entry/structures/{name}" for name in _STRUCTURE}
    columns = {name: database.column(path, "images", rows) for name, path in paths.items()}
    captions = [
        caption({name: values[k] for name, values in columns.items()}) for k in range(len(rows))
    ]
    images, masks = (database.stored(name, rows)[:] for name in (tables.IMAGES, tables.INSTANCES))
    return Chosen(rows, images, masks, captions)


def draw_preview(
    config: Config, count: int, phonons: int, target: Path, device: str, communicator: Communicator
) -> None:
    """Simulate one image of each of the first structures and draw them; all ranks share the work.

    At most `phonons` phonon configurations are averaged. Raises SampleError when none is good.
    """
    count = min(count, config.campaign.structures)
    experiment = Experiment(
        limit_phonons(config, phonons), select_backend(device, communicator.local_rank)
    )
    mine: list[tuple[int, Any, Any]] = []
    for index in share_cyclically(range(count), communicator):
        try:
            mine.append((index, *preview_image(experiment, index)))
        except SampleError as error:
            mine.append((index, None, str(error)))
    gathered = communicator.gather(mine)
    if gathered is None:
        return
    found = sorted(item for part in gathered for item in part)
    good = [(images, text) for _, images, text in found if images is not None]
    if not good:
        raise SampleError(f"none of the first {count} structures is good: {found[0][2]}")
    images, captions = zip(*good, strict=True)
    averaged = experiment.config.simulation.phonons
    note = f"preview, {averaged.configurations} phonon configuration(s)" if averaged else "preview"
    title = f"{config.campaign.name}: {note}"
    view = MEDIAN_VIEW if config.imaging.median == "view" else RAW_VIEW
    _draw(list(images), list(captions), config.imaging.sampling, target, title, view)


def preview_image(
    experiment: Experiment, index: int
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, Any]]:
    """Image, mask and caption of one image of a structure, another focus and dose for each."""
    config = experiment.config
    structure = experiment.structure(index)
    # A stride of the golden ratio visits foci and doses alike, however many there are.
    image = int(index * 0.6180339887498949 * config.images) % config.images
    rows = compute_images(experiment, structure, index, range(image, image + 1))[0][0]
    values = {name: rows[f"/entry/metadata/{name}"] for name in _CONDITIONS}
    values |= {name: structure.values[name] for name in _STRUCTURE}
    return (rows[tables.IMAGES], rows[tables.INSTANCES]), caption(values)


def limit_phonons(config: Config, most: int) -> Config:
    """The config with at most so many phonon configurations."""
    phonons = config.simulation.phonons
    if phonons is None or phonons.configurations <= most:
        return config
    fewer = phonons.model_copy(update={"configurations": most})
    simulation = config.simulation.model_copy(update={"phonons": fewer})
    return config.model_copy(update={"simulation": simulation})


_CONDITIONS = ("structure_id", "defocus", "focal_spread", "dose")
_STRUCTURE = (
    "mean_radius",
    "substrate_thickness",
    "particles_placed",
    "planar_defects_placed",
)


def caption(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is written under an image: its conditions with units."""
    text: dict[str, Any] = {
        "structure": int(values["structure_id"]),
        "defocus": (float(values["defocus"]), "A"),
        "spread": (float(values["focal_spread"]), "A"),
        "dose": (float(values["dose"]), "e/A²"),
        "substrate": (float(values["substrate_thickness"]), "A"),
    }
    if values["particles_placed"]:
        text["radius"] = (float(values["mean_radius"]), "A")
        text["particles"] = int(values["particles_placed"])
        text["planar defects"] = int(values["planar_defects_placed"])
    return text


def _draw(
    shown: list[tuple[np.ndarray, np.ndarray]],
    captions: list[dict[str, Any]],
    pixel_size: float,
    target: Path,
    title: str,
    view: str,
) -> Path:
    images = [apply_view(image, view) for image, _ in shown]
    return contact_sheet(
        images, [mask for _, mask in shown], captions, target, title, pixel_sizes=pixel_size
    )
