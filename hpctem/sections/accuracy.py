"""What `simulation.accuracy` stands for: how finely waves pass the atoms, and how often.

A preset is written into the sections of the file before they are checked, where the file says
nothing itself. So the resolved config and its hash hold the values that were chosen, and a file
that names them one by one is the same campaign. What each costs and how right it is:
docs/performance.md, measured by `jobs/benchmark --presets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hpctem.distributions import Quantity

SLICE_PLANE = "centroid"
"""Half the slices for the accuracy of those that act at their edge."""

FOCAL_PLANES = "auto"
"""As few planes as give 1e-3 for any focal spread. A number that is enough for one spread is far
too small for another, and takes as long: foci share their planes."""

FINEST = 0.01
"""Least pixel in A that a file may ask for."""


@dataclass(frozen=True)
class Preset:
    """Pixel of potential and wave, greatest thickness of a slice in A, phonon configurations."""

    sampling: float
    slice_thickness: float
    configurations: int


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "fast": Preset(0.2, 4.0, 4),
        "standard": Preset(0.1, 2.0, 8),
        "converged": Preset(0.067, 1.0, 64),
    }
)


def apply_accuracy(document: Any) -> Any:
    """The sections of an HRTEM file with what `simulation.accuracy` stands for; keys given win.

    document: as parsed, not yet checked, and left as it is; anything that is no mapping of
    sections, or names no preset, is returned for the checks to judge.
    """
    simulation, imaging = (_section(document, name) for name in ("simulation", "imaging"))
    name = simulation.get("accuracy")
    if not isinstance(name, str) or name not in PRESETS:
        return document
    preset = PRESETS[name]
    chosen: dict[str, Any] = {
        "sampling": f"{_choose_sampling(preset, imaging)!r} A",
        "slice_thickness": f"{preset.slice_thickness!r} A",
        "slice_plane": SLICE_PLANE,
    }
    given = simulation.get("phonons", {})
    if isinstance(given, dict) and simulation.get("debye_waller") is None:
        chosen["phonons"] = {"configurations": preset.configurations, **given}
        simulation = {key: value for key, value in simulation.items() if key != "phonons"}
    return {
        **document,
        "simulation": {**chosen, **simulation},
        **({"imaging": {"focal_planes": FOCAL_PLANES, **imaging}} if imaging else {}),
    }


def _section(document: Any, name: str) -> dict[str, Any]:
    section = document.get(name) if isinstance(document, dict) else None
    return section if isinstance(section, dict) else {}


def _choose_sampling(preset: Preset, imaging: dict[str, Any]) -> float:
    """The preset's, or the image's pixel where that is finer: waves show no less than images."""
    try:
        pixel = Quantity("length", FINEST, preset.sampling).parse(imaging.get("sampling"))
    except ValueError:  # coarser, or what the checks of the section find wrong
        return preset.sampling
    return pixel
