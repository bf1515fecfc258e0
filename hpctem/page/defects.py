"""How often point defects came, against the rates that were asked for.

Images of one structure show the same defects, so one image of each counts. The columns that could
bear a defect are not stored; their number is that which the area of the image holds on average. An
edge or an island would change it: structures with either are left out of the rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpctem.config import Config, StemConfig
from hpctem.database.reader import Database
from hpctem.sections.stem import PointDefect
from hpctem.structures.sheet_crystals import load_crystal, match_sites

NORMAL_95 = 1.959964  # quantile of the normal distribution that leaves 2.5 % above it


@dataclass(frozen=True)
class Found:
    """One kind of point defect.

    asked         mean of the rates that were drawn, over the columns
    defects       in one image of each structure that counts; columns: that could bear one there
    rate, low, high   found, and the ends of its 95 % interval
    total         in all images

    asked to high are None where nobody knows how many columns there were.
    """

    kind: str
    total: int
    defects: int = 0
    columns: float | None = None
    asked: float | None = None
    rate: float | None = None
    low: float | None = None
    high: float | None = None


def count_defects(databases: Sequence[Database], config: Config) -> Iterator[Found]:
    """Every kind of point defect of a campaign, as its files hold it."""
    if not isinstance(config, StemConfig):
        return
    for defect in config.structure.defects:
        name = f"n_{defect.label}"
        total = sum(int(database.column(name).sum()) for database in databases)
        each = count_columns(config, defect)
        if each is None:
            yield Found(defect.label, total)
            continue
        parts = [_read_part(database, defect, each) for database in databases]
        counts, columns, rates = (np.concatenate(values) for values in zip(*parts, strict=True))
        if not columns.sum() > 0:
            yield Found(defect.label, total)
            continue
        seen, known = int(counts.sum()), float(columns.sum())
        yield Found(
            defect.label,
            total,
            seen,
            known,
            float((rates * columns).sum() / known),
            seen / known,
            *find_interval(seen, known),
        )


def count_columns(config: StemConfig, defect: PointDefect) -> int | None:
    """Columns of a unit cell that can bear a kind of defect; None where every structure differs.

    Of an adatom it is the cell itself, of the uppermost layer.
    """
    material = config.structure.material
    if material.database is not None:
        return None
    if defect.kind == "adatom":
        return 1
    crystal = load_crystal(material, config.structure.zone_axis)
    unit = crystal.unit
    match = match_sites(defect, crystal.material.class_names, unit.classes, unit.numbers)
    return int((np.bincount(unit.columns[match], minlength=1) >= defect.atoms).sum())


def _read_part(
    database: Database, defect: PointDefect, each: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Defects in an image of each structure, columns that the image holds, rates asked, all (n,).

    each   columns of a unit cell and, but for adatoms, layer
    """
    first = database.rows("images")
    first = first[first % database.layout.rows_per_structure["images"] == 0]

    def read(name: str, group: str = "structures") -> np.ndarray:
        return database.column(f"/entry/{group}/{name}", "images", first)

    ny, nx = database.field(database.image_path).shape[-2:]
    area = ny * nx * read("pixel_size", "metadata") ** 2
    area *= 1 + read("scan_contraction", "metadata")
    strain = (1 + read("strain_xx")) * (1 + read("strain_yy")) - read("strain_xy") ** 2
    lean = np.cos(read("tilt_x")) * np.cos(read("tilt_y"))
    cell = read("a") * read("b") * np.sin(read("gamma")) * strain * lean
    layers = 1 if defect.kind == "adatom" else np.maximum(read("layers"), 1)
    columns = each * layers * area / cell * (1 - read("hole_fraction"))
    whole = (read("edge") == "no") & (read("islands") == 0)
    counts = read(f"n_{defect.label}", "metadata")
    return counts[whole], columns[whole], read(f"rate_{defect.label}")[whole]


def find_interval(count: int, tries: float) -> tuple[float, float]:
    """Ends of the 95 % interval of a probability (Wilson, J. Am. Stat. Assoc. 22, 209, 1927)."""
    z, share = NORMAL_95, count / tries
    middle = (share + z * z / (2 * tries)) / (1 + z * z / tries)
    spread = share * (1 - share) / tries + z * z / (4 * tries * tries)
    half = z / (1 + z * z / tries) * math.sqrt(max(spread, 0.0))
    return max(middle - half, 0.0), min(middle + half, 1.0)
