"""What the main job asks of a STEM campaign (see `hpctem.techniques`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.config import StemConfig
from hpctem.stem.campaign import Rows, compute_images, compute_structure, tabulate_images
from hpctem.stem.checks import check_campaign, list_warnings
from hpctem.stem.experiment import Experiment
from hpctem.stem.memory import estimate_memory
from hpctem.stem.tables import plan_layout

__all__ = [
    "THRIFTY",
    "check_campaign",
    "compute_preview",
    "compute_structure",
    "estimate_memory",
    "list_warnings",
    "open_experiment",
    "plan_layout",
]

THRIFTY = "fewer imaging.pixels, no storage.diffraction, a smaller structure.field"


def open_experiment(config: StemConfig, backend: Backend) -> Experiment:
    """The campaign on a device."""
    return Experiment(config, backend)


def compute_preview(experiment: Experiment, index: int, image: int) -> tuple[Rows, dict[str, Any]]:
    """The row of one image of a structure alone, and the values of the structure's own row.

    The rows hold the image's defects too: kind, pixel_x and pixel_y of each.
    """
    structure = experiment.structure(index)
    recorded, _ = compute_images(experiment, structure, index, range(image, image + 1))
    rows = {path: one[0] for path, one in tabulate_images(experiment, recorded).items()}
    for name in ("kind", "pixel_x", "pixel_y"):
        rows[f"/entry/defects/{name}"] = np.array([row[name] for row in recorded[0].defects])
    return rows, dict(structure.values)
