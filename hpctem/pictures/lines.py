"""What the metadata of one image say, line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem.conditions import COEFFICIENTS
from hpctem.report import format_quantity

# Columns that say nothing to a reader of one picture, or are said in another line.
SILENT = (
    *("atoms_digest", "status", "error", "structure", "row", "surface_z", "n_displaced_atoms"),
    *("defects_listed", "columns_listed", "material_id"),
)
# Columns that mean nothing where another one is zero.
IDLE = {
    "scan_flagging_lines": "scan_flagging",
    "flyback_time": "flyback_amplitude",
    "defocus": "semiangle_cutoff",
}


def write_lines(values: Mapping[str, Any], units: Mapping[str, str]) -> dict[str, str]:
    """What the metadata of an image say, line by line: name -> value with unit.

    Columns that belong together share a line; what says nothing, because the campaign has no such
    thing, is left out.
    """
    silent = {*SILENT, *(name for name, other in IDLE.items() if values.get(other) == 0)}
    left = {name: value for name, value in values.items() if name not in silent}
    lines: dict[str, str] = {}
    for line in _LINES:
        if all(name in left for name in line.names):
            numbers = [left.pop(name) for name in line.names]
            if any(number != line.nothing for number in numbers):
                if line.counted and all(float(number).is_integer() for number in numbers):
                    numbers = [int(number) for number in numbers]
                unit = line.unit if line.unit is not None else units.get(line.names[0], "")
                lines[line.title] = _write_together(numbers, unit, line.between)
    for name in COEFFICIENTS:
        if name.startswith("C") and name in left:
            magnitude, azimuth = left.pop(name), left.pop(f"phi{name[1:]}", 0.0)
            angle = f" / {np.degrees(azimuth):.1f}°" if name[2] != "0" else ""
            if magnitude:
                lines[name] = f"{format_quantity(magnitude, 'A')}{angle}"
    for name, value in left.items():
        if np.ndim(value) == 0 and (isinstance(value, str) or value):
            lines[name.replace("_", " ")] = format_quantity(value, units.get(name, ""))
    return lines


def _write_together(numbers: Sequence[Any], unit: str, between: str) -> str:
    """Numbers of one unit, which is written once."""
    if unit == "°":
        return between.join(f"{np.degrees(number):.1f}°" for number in numbers)
    if unit == "%":
        return f"{100 * numbers[0]:.1f} %"
    texts = [format_quantity(number, unit) for number in numbers]
    ends = [text.partition(" ")[2] for text in texts]
    if len(set(ends)) == 1 and ends[0]:
        return f"{between.join(text.partition(' ')[0] for text in texts)} {ends[0]}"
    return between.join(texts)


@dataclass(frozen=True)
class _Line:
    """A line of metadata: columns that share it, and the value that says nothing.

    counted   numbers that counting gives are written as whole
    """

    title: str
    names: tuple[str, ...]
    nothing: float | None = None
    unit: str | None = None
    between: str = " / "
    counted: bool = False


_LINES = (
    _Line("structure", ("structure_id",)),
    _Line("wave / focus / dose", ("wave_index", "focus_index", "dose_index")),
    _Line("material", ("material",)),
    _Line("energy", ("energy",)),
    _Line("pixel", ("pixel_size",), unit="Å"),
    _Line("beam tilt x / y", ("tilt_x", "tilt_y"), 0),
    _Line("defocus", ("defocus",)),
    _Line("from exit plane", ("defocus_exit",)),
    _Line("focal spread", ("focal_spread",), 0),
    _Line("convergence", ("convergence_semiangle",), 0),
    _Line("convergence", ("semiangle_cutoff",), 0),
    _Line("source size", ("source_size",), 0),
    _Line("point spread", ("psf_width",), 0),
    _Line("aperture", ("objective_aperture",), 0),
    _Line("plasmon weight / b", ("plasmon_weight", "plasmon_background"), 0),
    _Line("current", ("current",), 0),
    _Line("dwell time", ("dwell_time",), 0),
    _Line("frames", ("frames",), 1),
    _Line("electrons per pixel", ("electrons_per_pixel",), 0, ""),
    _Line("dose", ("dose",), 0),
    _Line("line jitter", ("scan_jitter",), 0, "Å"),
    _Line("drift x / y", ("drift_x", "drift_y"), 0),
    _Line("shear / contraction", ("scan_shear", "scan_contraction"), 0),
    _Line("quantum efficiency", ("quantum_efficiency",), 1),
    _Line("MTF c1 / c2 / c3", ("mtf_c1", "mtf_c2", "mtf_c3"), 0),
    _Line("readout noise", ("readout_noise",), 0),
    _Line("gain", ("gain",), 1),
    _Line("offset", ("offset",), 0),
    _Line("mean / deviation", ("mean", "standard_deviation")),
    _Line("lowest / highest", ("minimum", "maximum"), counted=True),
    _Line("saturated", ("saturated",), 0, "%"),
    _Line("crop from x / y", ("crop_x", "crop_y"), 0, ""),
    _Line("particle area", ("particle_fraction",), 0, "%"),
    _Line("particles / asked", ("particles_placed", "particles_requested"), 0),
    _Line("mean radius", ("mean_radius",), 0),
    _Line("defects / asked", ("planar_defects_placed", "planar_defects_requested"), 0),
    _Line("substrate", ("substrate_thickness",), 0),
    _Line("lattice a / b", ("a", "b"), 0, "Å"),
    _Line("lattice angle", ("gamma",), 0, "°"),
    _Line("rotation", ("rotation",), 0, "°"),
    _Line("twist", ("twist",), 0, "°"),
    _Line("scan rotation", ("scan_rotation",), 0, "°"),
    _Line("edge direction", ("edge_direction",), 0, "°"),
    _Line("cell", ("cell_x", "cell_y", "height"), between=" × "),
    _Line("atoms", ("n_atoms",)),
    _Line("in the substrate", ("n_substrate_atoms",), 0),
    _Line("in particles", ("n_particle_atoms",), 0),
)
