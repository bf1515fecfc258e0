"""What is written under an image of a contact sheet: its conditions and what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpctem.database.reader import Database
from hpctem.database.schema import Field
from hpctem.pictures.marking import list_kinds
from hpctem.report import format_quantity

CONDITIONS = (
    *("structure_id", "defocus", "focal_spread", "dose", "pixel_size", "electrons_per_pixel"),
    *("contamination_thickness",),
)
STRUCTURE = (
    *("mean_radius", "substrate_thickness", "particles_placed", "planar_defects_placed"),
    *("material", "formula"),
)


def list_captioned(fields: Sequence[Field]) -> dict[str, str]:
    """Name -> dataset of the columns that captions say, of those that a layout has."""
    conditions = (*CONDITIONS, *(f"n_{kind}" for kind in list_kinds(fields)))
    wanted = {f"/entry/metadata/{name}": name for name in conditions}
    wanted |= {f"/entry/structures/{name}": name for name in STRUCTURE}
    return {wanted[item.path]: item.path for item in fields if item.path in wanted}


def read_captions(database: Database, rows: np.ndarray) -> list[dict[str, Any]]:
    """The captions of images by their file rows."""
    fields = database.layout.fields
    paths = list_captioned(fields)
    columns = {name: database.column(path, "images", rows) for name, path in paths.items()}
    kinds = list_kinds(fields)
    return [
        write_caption({name: values[k] for name, values in columns.items()}, kinds)
        for k in range(len(rows))
    ]


def write_caption(values: Mapping[str, Any], kinds: Sequence[str] = ()) -> dict[str, Any]:
    """The caption of an image: its conditions with units, of the columns that there are.

    kinds   of defects, which are counted together
    """
    if "particles_placed" in values:
        return _tell_particles(values)
    text: dict[str, Any] = {"structure": int(values["structure_id"])}
    material = str(values.get("material", "") or values.get("formula", ""))
    text |= {"material": material} if material else {}
    if "pixel_size" in values:
        text["pixel"] = f"{100 * float(values['pixel_size']):.3g} pm"
    if values.get("defocus"):
        text["defocus"] = (float(values["defocus"]), "A")
    if "dose" in values:
        text["dose"] = (float(values["dose"]), "e/A²") if values["dose"] else "noise-free"
    if values.get("electrons_per_pixel"):
        text["electrons"] = f"{format_quantity(float(values['electrons_per_pixel']))} per pixel"
    if values.get("contamination_thickness"):
        text["carbon"] = (float(values["contamination_thickness"]), "A")
    counts = [int(values[f"n_{kind}"]) for kind in kinds if f"n_{kind}" in values]
    return text | ({"defects": sum(counts)} if counts else {})


def _tell_particles(values: Mapping[str, Any]) -> dict[str, Any]:
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
