"""Contact sheets of campaigns: of a database that is there, and of one that is not made yet.

Images are shown through the view that the campaign records (`imaging.median: view`), as networks
are trained on them; what is stored stays as it was counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.backend import select_backend
from hpctem.config import Config
from hpctem.database.reader import Database, open_database
from hpctem.database.schema import Layout
from hpctem.detection.filters import RAW_VIEW, apply_view
from hpctem.errors import SampleError
from hpctem.parallel import Communicator, share_cyclically
from hpctem.pictures.captions import list_captioned, read_captions, write_caption
from hpctem.pictures.marking import choose_marking, list_kinds
from hpctem.report import contact_sheet
from hpctem.simulate import require_memory
from hpctem.techniques import choose_technique

SHOWN = 16


@dataclass(frozen=True)
class Shown:
    """One image of a sheet: pixels as stored (ny, nx), mask of that shape or None, caption, A."""

    image: np.ndarray
    mask: np.ndarray | None
    caption: dict[str, Any]
    pixel_size: float


@dataclass(frozen=True)
class Chosen:
    """Some images of a database.

    rows    (n,) file rows
    view    how the images are looked at
    names   what 1, 2, ... mean in the masks; () for particles
    """

    rows: np.ndarray
    images: list[Shown]
    view: str
    names: tuple[str, ...]


def draw_database(path: Path, target: Path) -> Path:
    """Draw images spread evenly over the good rows of a database; returns `target`."""
    with open_database(path) as database:
        shown = choose_images(database, SHOWN)
        return _draw(shown.images, target, database.layout.title, shown.view, shown.names)


def choose_images(database: Database, count: int) -> Chosen:
    """At most `count` images spread evenly over the good rows of a database."""
    good = database.rows("images")
    rows = good[np.unique(np.linspace(0, len(good) - 1, count).astype(int))]
    marking = choose_marking(database.layout.fields)
    masks: Sequence[np.ndarray | None] = [None] * len(rows)
    if marking is not None:
        maps = {item.path: database.stored(item.path, rows)[:] for item in marking.fields}
        masks = list(marking.merge(maps))
    shown = zip(
        database.stored(database.image_path, rows)[:],
        masks,
        read_captions(database, rows),
        database.column("pixel_size", rows=rows).tolist(),
        strict=True,
    )
    names = marking.names if marking else ()
    return Chosen(rows, [Shown(*one) for one in shown], find_view(database.layout), names)


def find_view(layout: Layout) -> str:
    """How the images of a database are looked at."""
    signal = layout.stacks[0].signal
    item = next(item for item in layout.fields if item.path == signal)
    return str(item.attributes.get("view", RAW_VIEW))


def draw_preview(
    config: Config, count: int, phonons: int, target: Path, device: str, communicator: Communicator
) -> None:
    """Simulate one image of each of the first structures and draw them; all ranks share the work.

    At most `phonons` phonon configurations are averaged. Raises SampleError when none is good.
    """
    count = min(count, config.campaign.structures)
    config, technique = limit_phonons(config, phonons), choose_technique(config)
    experiment = technique.open_experiment(config, select_backend(device, communicator.local_rank))
    layout = technique.plan_layout(experiment, range(count), {})
    require_memory(communicator, experiment, layout)
    mine: list[tuple[int, Shown | None, str]] = []
    for index in share_cyclically(range(count), communicator):
        # A stride of the golden ratio visits foci and doses alike, however many there are.
        image = int(index * 0.6180339887498949 * config.images) % config.images
        try:
            rows, values = technique.compute_preview(experiment, index, image)
            mine.append((index, gather_row(layout, rows, values), ""))
        except SampleError as error:
            mine.append((index, None, str(error)))
    gathered = communicator.gather(mine)
    if gathered is None:
        return
    found = sorted((item for part in gathered for item in part), key=lambda item: item[0])
    good = [shown for _, shown, _ in found if shown is not None]
    if not good:
        raise SampleError(f"none of the first {count} structures is good: {found[0][2]}")
    averaged = config.simulation.phonons
    note = f"preview, {averaged.configurations} phonon configuration(s)" if averaged else "preview"
    marking = choose_marking(layout.fields)
    names = marking.names if marking else ()
    _draw(good, target, f"{config.campaign.name}: {note}", find_view(layout), names)


def gather_row(layout: Layout, rows: Mapping[str, Any], values: Mapping[str, Any]) -> Shown:
    """What is shown of an image that is in no database yet.

    rows     dataset path -> its row
    values   of the row of its structure
    """
    marking = choose_marking(layout.fields)
    paths = list_captioned(layout.fields)
    known = {name: _find_value(path, rows, values) for name, path in paths.items()}
    return Shown(
        rows[layout.stacks[0].signal],
        marking.merge(rows) if marking else None,
        write_caption(known, list_kinds(layout.fields)),
        float(rows["/entry/metadata/pixel_size"]),
    )


def _find_value(path: str, rows: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    name = path.rsplit("/", 1)[1]
    value = values[name] if path.startswith("/entry/structures/") else rows[path]
    return value.decode() if isinstance(value, bytes) else value


def limit_phonons(config: Config, most: int) -> Config:
    """The config with at most so many phonon configurations."""
    phonons = config.simulation.phonons
    if phonons is None or phonons.configurations <= most:
        return config
    fewer = phonons.model_copy(update={"configurations": most})
    simulation = config.simulation.model_copy(update={"phonons": fewer})
    return config.model_copy(update={"simulation": simulation})


def _draw(
    shown: Sequence[Shown], target: Path, title: str, view: str, names: Sequence[str]
) -> Path:
    return contact_sheet(
        [apply_view(one.image, view) for one in shown],
        [one.mask for one in shown if one.mask is not None],
        [one.caption for one in shown],
        target,
        title,
        [one.pixel_size for one in shown],
        names,
    )
