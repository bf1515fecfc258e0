"""Everything that a report says of a campaign, read from its databases: tables, few images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.campaign_file import reopen_campaign
from hpctem.config import Config
from hpctem.database.journal import journal_folder
from hpctem.database.pace import Look, read_pace
from hpctem.database.reader import Database
from hpctem.database.schema import Field
from hpctem.database.verify import Verification
from hpctem.page.agreement import Fit, compare
from hpctem.page.defects import Found, count_defects
from hpctem.page.draws import Draws, read_draws
from hpctem.page.histogram import Histogram, count_draws, count_values
from hpctem.page.settings import Setting, list_settings
from hpctem.page.spectra import Measured, measure_spectra
from hpctem.pictures.marking import list_kinds
from hpctem.pictures.sheets import Chosen, choose_images

TILES = 12
# Columns that nobody asked for and that tell much about what came out.
OUTCOMES = (
    *("/entry/metadata/mean", "/entry/metadata/standard_deviation", "/entry/metadata/saturated"),
    *("/entry/metadata/particle_fraction", "/entry/structures/particles_placed"),
    *("/entry/structures/planar_defects_placed", "/entry/structures/n_atoms"),
    *("/entry/structures/height", "/entry/structures/n_defects", "/entry/structures/thickness"),
    *("/entry/structures/hole_fraction", "/entry/metadata/n_columns"),
    "/entry/metadata/electrons_per_pixel",
)


@dataclass(frozen=True)
class Comparison:
    """What was asked of one value and what was drawn.

    each   what each value was drawn for; column: where it is stored; note: what is missing
    """

    setting: Setting
    column: str
    each: str
    note: str
    fit: Fit
    histogram: Histogram | None


@dataclass(frozen=True)
class Volume:
    """One file of a campaign: its state, what a check of it found (None: not run), its pace."""

    path: Path
    size: int
    structures: range
    complete: bool
    marked: bool
    verification: Verification | None
    looks: list[Look]


@dataclass(frozen=True)
class Tiles:
    """Images for the page; the file's name where there are several."""

    chosen: Chosen
    file: str


@dataclass(frozen=True)
class Survey:
    """One campaign over all its files.

    counts        summed over the files, as `Database.counts`
    signal        the field of the images
    pixels        smallest and largest pixel in angstrom, None where there is no image
    defects       kinds of point defects, asked and found
    comparisons   every value that was drawn; constants: every other with a column of its own
    settings      every key of the campaign file
    outcomes      columns that resulted
    quarantined   (campaign index, reason)
    """

    config: Config
    volumes: tuple[Volume, ...]
    counts: dict[str, int]
    signal: Field
    pixels: tuple[float, float] | None
    defects: tuple[Found, ...]
    comparisons: tuple[Comparison, ...]
    constants: tuple[Comparison, ...]
    settings: tuple[Setting, ...]
    outcomes: tuple[tuple[Field, Histogram], ...]
    tiles: tuple[Tiles, ...]
    spectra: Measured | None
    quarantined: tuple[tuple[int, str], ...]
    texts: dict[str, str]
    identity: dict[str, str]

    @property
    def tests(self) -> int:
        """Distributions of which a statistic was computed."""
        return sum(found.fit.probability is not None for found in self.comparisons)

    @property
    def departing(self) -> list[Comparison]:
        """Values that were not drawn as asked."""
        every = (*self.comparisons, *self.constants)
        return [found for found in every if found.fit.departs(self.tests)]


def group_campaigns(databases: Sequence[Database]) -> list[list[Database]]:
    """Files that belong to one campaign together, each in the order of their structures.

    A copy, and images made anew from the same campaign file, hold structures that another file has
    already: they are a group of their own, so that no draw counts twice.
    """
    groups: list[list[Database]] = []
    for database in databases:
        home = next((group for group in groups if _belongs(database, group)), None)
        if home is None:
            groups.append([database])
        else:
            home.append(database)
    return [sorted(group, key=lambda d: d.layout.first_structure) for group in groups]


def _belongs(database: Database, group: Sequence[Database]) -> bool:
    """Same campaign, both simulated or both imaged anew, and structures that the group lacks."""
    first, mine = group[0], _own_structures(database)
    return (
        first.campaign["config_hash"] == database.campaign["config_hash"]
        and ("parent" in first.campaign) == ("parent" in database.campaign)
        and not any(
            mine.start < other.stop and other.start < mine.stop
            for other in map(_own_structures, group)
        )
    )


def _own_structures(database: Database) -> range:
    """Campaign indices of the structures in a file."""
    first = database.layout.first_structure
    return range(first, first + database.layout.structures)


def survey_campaign(
    databases: Sequence[Database], verifications: Sequence[Verification | None]
) -> Survey:
    """Read what the report says of the files of one campaign.

    Holds a column or two at a time, and the images it shows.
    """
    first = databases[0]
    with reopen_campaign(first) as campaign:
        config = campaign.config
        settings = list_settings(config)
        compared = [_compare(draws) for draws in read_draws(databases, config, settings)]
        spectra = measure_spectra(databases, config)
        defects = count_defects(databases, config)
    counts: dict[str, int] = {}
    for database in databases:
        for name, count in database.counts.items():
            counts[name] = counts.get(name, 0) + count
    return Survey(
        config=config,
        volumes=tuple(map(_describe_volume, databases, verifications)),
        counts=counts,
        signal=first.field(first.image_path),
        pixels=_find_pixels(databases),
        defects=tuple(defects),
        comparisons=tuple(found for found in compared if found.histogram is not None),
        constants=tuple(found for found in compared if found.histogram is None),
        settings=tuple(_name_files(settings, first.campaign)),
        outcomes=tuple(_count_outcomes(databases)),
        tiles=tuple(_choose_tiles(databases)),
        spectra=spectra,
        quarantined=tuple(item for database in databases for item in database.quarantined),
        texts=first.campaign,
        identity=unite_identities([database.identity for database in databases]),
    )


def _compare(draws: Draws) -> Comparison:
    distribution = draws.setting.value
    fit = compare(distribution, draws.values, draws.positions)
    histogram = None
    if draws.setting.drawn:
        histogram = count_draws(distribution, draws.values, draws.setting.unit)
    return Comparison(draws.setting, draws.column, draws.each, draws.note, fit, histogram)


def _describe_volume(database: Database, verification: Verification | None) -> Volume:
    return Volume(
        path=database.path,
        size=database.path.stat().st_size,
        structures=_own_structures(database),
        complete=database.complete,
        marked=database.marked,
        verification=verification,
        looks=read_pace(journal_folder(database.path)),
    )


def unite_identities(identities: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Code, libraries and machine of all files; where they differ, each value there is."""
    names = dict.fromkeys(name for identity in identities for name in identity)
    return {
        name: " | ".join(dict.fromkeys(one[name] for one in identities if name in one))
        for name in names
    }


def _name_files(settings: Sequence[Setting], texts: dict[str, str]) -> Iterator[Setting]:
    """Settings that name a file get the file's own name back, not that of a copy."""
    files: dict[str, Any] = json.loads(texts["inputs"])
    for setting in settings:
        value = files[setting.key]["name"] if setting.key in files else setting.value
        listed = [file["name"] for key, file in files.items() if key.startswith(f"{setting.key}.")]
        if listed and isinstance(setting.value, tuple):
            value = tuple(listed)
        yield Setting(setting.key, value, setting.unit, setting.meaning)


def _count_outcomes(databases: Sequence[Database]) -> Iterator[tuple[Field, Histogram]]:
    fields = databases[0].layout.fields
    known = {item.path: item for item in fields}
    for path in (*OUTCOMES, *(f"/entry/metadata/n_{kind}" for kind in list_kinds(fields))):
        if path in known:
            values = np.concatenate([database.column(path) for database in databases])
            if values.size and values.min() != values.max():
                yield known[path], count_values(values, known[path].units)


def _choose_tiles(databases: Sequence[Database]) -> Iterator[Tiles]:
    """A dozen images, alike many of each file."""
    files = [database for database in databases if len(database.rows("images"))][:TILES]
    for database in files:
        chosen = choose_images(database, max(1, TILES // len(files)))
        yield Tiles(chosen, database.path.name if len(files) > 1 else "")


def _find_pixels(databases: Sequence[Database]) -> tuple[float, float] | None:
    sizes = np.concatenate([database.column("pixel_size") for database in databases])
    return (float(sizes.min()), float(sizes.max())) if len(sizes) else None
