"""The values that a campaign's distributions gave, from the columns of its databases.

Of a value that several images share only one row is taken, so that every draw counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.config import Config
from hpctem.database.reader import Database
from hpctem.page.drawn_columns import Place, find_column
from hpctem.page.settings import Setting
from hpctem.sampling import LEVELS, Distribution
from hpctem.sections.hrtem import Particles

EACH = {"structures": "structure", "particles": "particle", "planar_defects": "defect"}
PATHS = {"images": "metadata"}


@dataclass(frozen=True)
class Draws:
    """What one setting gave.

    setting     what was asked for
    column      where it is stored, 'particles.radius'
    each        for what each value was drawn: structure, wave, focus, image, particle, defect
    values      (n,) in the unit of the setting, str of a category
    positions   (n,) int64, the running index at its level
    note        what a reader has to know about what is missing
    """

    setting: Setting
    column: str
    each: str
    values: np.ndarray
    positions: np.ndarray
    note: str = ""


def read_draws(
    databases: Sequence[Database], config: Config, settings: Sequence[Setting]
) -> Iterator[Draws]:
    """What every distribution of a campaign gave in the good rows of its databases, one by one.

    Constants are among them: their columns hold one value.
    """
    for setting in settings:
        place = find_column(config, setting)
        if place is None or not isinstance(setting.value, Distribution):
            continue
        table, name, factor = place.table, place.column, place.factor
        parts = [
            _read_part(database, config, setting, place)
            for database in databases
            if table in database.layout.tables
        ]
        if not parts:
            continue
        values = np.concatenate([values for values, _ in parts])
        if place.needs is not None and not len(values):
            continue
        if factor != 1:
            values = values / factor
        yield Draws(
            setting,
            name if table == "images" else f"{table}.{name}",
            EACH.get(table, setting.value.per),
            values,
            np.concatenate([positions for _, positions in parts]),
            _note_missing(databases) if table == "particles" else "",
        )
    particles = getattr(config.structure, "particles", None)
    if particles is not None and particles.orientation == "uniform":
        yield from _read_orientations(databases, particles)


def _read_part(
    database: Database, config: Config, setting: Setting, place: Place
) -> tuple[np.ndarray, np.ndarray]:
    """Values and positions in one database."""
    table = place.table
    rows = database.rows(table)
    if place.needs is not None:
        column, least = place.needs
        rows = rows[np.asarray(database.mapped(f"/entry/{table}/{column}"))[rows] >= least]
    structures = database.structure_of(table, rows)
    positions = database.layout.first_structure + structures
    if table == "images":
        each, imaging = database.layout.rows_per_structure[table], config.imaging
        per_wave = imaging.foci * imaging.images_per_focus
        steps = dict(zip(LEVELS, (each, per_wave, imaging.images_per_focus, 1), strict=True))
        step, within = steps[setting.value.per], rows % each
        first = within % step == 0
        rows = rows[first]
        if setting.value.per == "structure":
            positions = positions[first]
        else:
            positions = within[first] // step
    path = f"/entry/{PATHS.get(table, table)}/{place.column}"
    return database.column(path, rows=rows), positions


def _note_missing(databases: Sequence[Database]) -> str:
    """What the particle table lacks of what was drawn."""
    asked = sum(int(d.column("particles_requested").sum()) for d in databases)
    placed = sum(int(d.column("particles_placed").sum()) for d in databases)
    if asked == placed:
        return ""
    return (
        f"{asked - placed} of {asked} particles found no place and are missing here; large ones "
        "find it less often"
    )


def _read_orientations(databases: Sequence[Database], particles: Particles) -> Iterator[Draws]:
    """The tilt of the crystals: uniform rotations give a uniform cosine of it."""
    parts = []
    for database in databases:
        if "particles" in database.layout.tables:
            x, y = (database.column(f"/entry/particles/quaternion_{axis}") for axis in "xy")
            parts.append(1 - 2 * (x * x + y * y))
    if parts:
        values = np.concatenate(parts)
        meaning = "Cosine of the angle between the crystal's z axis and the beam."
        asked = Distribution("uniform", parameters=(-1.0, 1.0))
        said = "uniform over all rotations"
        setting = Setting("structure.particles.orientation", asked, "", meaning, said)
        column = "particles.quaternion_x, _y"
        note = "shown: cosine of the angle between the crystal's z axis and the beam"
        yield Draws(setting, column, "particle", values, np.arange(len(values)), note)
