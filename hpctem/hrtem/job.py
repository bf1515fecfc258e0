"""What the main job asks of an HRTEM campaign (see `hpctem.techniques`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpctem.backend import Backend, select_backend
from hpctem.config import HrtemConfig
from hpctem.database.schema import Layout
from hpctem.errors import ConfigError
from hpctem.hrtem import tables
from hpctem.hrtem.campaign import Rows, compute_images, compute_structure
from hpctem.hrtem.experiment import Experiment
from hpctem.hrtem.grids import choose_grids
from hpctem.hrtem.memory import estimate_memory
from hpctem.optics.grid import Grid
from hpctem.optics.scattering_factors import check_elements
from hpctem.structures import recipes

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

THRIFTY = "a coarser simulation.sampling, a smaller cell"


def check_campaign(config: HrtemConfig) -> None:
    """Check before any work what no sample could mend; raises ConfigError.

    Grids and apertures that fit, a structure that can be built, elements with scattering factors
    (at every frequency that the wave's grid holds) and with phonon displacements, images within
    the reach of 16 bits.
    """
    grids = choose_grids(config)
    for shape in (grids.wave, grids.exit):
        Grid(shape, grids.extent)
    recipes.check_recipe(config.structure)
    elements = np.array(recipes.list_elements(config.structure), dtype=np.uint8)
    largest = max(n / (3 * length) for n, length in zip(grids.wave, grids.extent, strict=True))
    check_elements(elements, config.simulation.parametrization, largest)
    experiment = Experiment(config, select_backend("cpu"))
    experiment.check_displacements(elements)
    detector, dose = config.imaging.detector, config.imaging.dose.support[0]
    if experiment.image_dtype.kind == "u":
        counts = dose * grids.pixel_area * detector.quantum_efficiency.support[0]
        level = counts * detector.gain + detector.offset
        if level > 65535:
            raise ConfigError(
                f"imaging.dose: already the lowest dose, {dose:g} e/A^2, gives {level:.3g} in "
                "vacuum, more than 16 bits hold; lower the dose, the pixel or the gain"
            )


def list_warnings(config: HrtemConfig) -> list[str]:
    """What a campaign may be doubted for although it can be computed: nothing is known."""
    return []


def open_experiment(config: HrtemConfig, backend: Backend) -> Experiment:
    """The campaign on a device."""
    return Experiment(config, backend)


def plan_layout(experiment: Experiment, structures: range, texts: Mapping[str, str]) -> Layout:
    """The layout of the database that holds a range of the campaign's structures."""
    return tables.plan_layout(
        experiment.config,
        experiment.grids,
        structures,
        experiment.image_dtype,
        experiment.image_units,
        texts,
    )


def compute_preview(experiment: Experiment, index: int, image: int) -> tuple[Rows, dict[str, Any]]:
    """The row of one image of a structure alone, and the values of the structure's own row."""
    structure = experiment.structure(index)
    recorded, _ = compute_images(experiment, structure, index, range(image, image + 1))
    return recorded[0], dict(structure.values)
