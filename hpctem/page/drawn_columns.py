"""Where the draws of each key of a campaign file are stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hpctem.conditions import translate_aberrations
from hpctem.config import Config, StemConfig
from hpctem.page.settings import Setting
from hpctem.sampling import Distribution
from hpctem.sections.common import Aberrations


@dataclass(frozen=True)
class Place:
    """Where a key's draws are stored.

    factor   stored value over what was drawn
    needs    column of the same table in whose rows alone it was drawn, and its least value there
    """

    table: str
    column: str
    factor: float = 1.0
    needs: tuple[str, float] | None = None


DETECTOR = {
    f"imaging.detector.{key}": Place("images", key.replace(".", "_"))
    for key in ("quantum_efficiency", "mtf.c1", "mtf.c2", "mtf.c3", "readout_noise")
}
HRTEM = DETECTOR | {
    "structure.substrate.thickness": Place("structures", "substrate_thickness"),
    "structure.particles.count": Place("structures", "particles_requested"),
    "structure.particles.radius": Place("particles", "radius"),
    "structure.particles.embedding": Place("particles", "embedding"),
    "structure.particles.orientation.in_plane": Place("particles", "in_plane"),
    "structure.particles.planar_defects.count": Place("particles", "planar_defects_requested"),
    "structure.particles.planar_defects.kind": Place("planar_defects", "kind"),
    "simulation.tilt.x": Place("images", "tilt_x"),
    "simulation.tilt.y": Place("images", "tilt_y"),
    "imaging.defocus": Place("images", "defocus"),
    "imaging.focal_spread": Place("images", "focal_spread"),
    "imaging.convergence_semiangle": Place("images", "convergence_semiangle"),
    "imaging.plasmon.weight": Place("images", "plasmon_weight"),
    "imaging.plasmon.background": Place("images", "plasmon_background"),
    "imaging.dose": Place("images", "dose"),
}
# Bulk crystals have no layers, single layers no twist, structures without an edge no place of it.
LAYERED, TWISTED, EDGED = ("layers", 1), ("layers", 2), ("edge", 1)
STEM = DETECTOR | {
    "structure.layers.count": Place("structures", "layers", needs=LAYERED),
    "structure.layers.twist": Place("structures", "twist", needs=TWISTED),
    "structure.thickness": Place("structures", "thickness"),
    "structure.rotation": Place("structures", "rotation"),
    "structure.displacement": Place("structures", "displacement"),
    "structure.strain.xx": Place("structures", "strain_xx"),
    "structure.strain.yy": Place("structures", "strain_yy"),
    "structure.strain.xy": Place("structures", "strain_xy"),
    "structure.tilt.x": Place("structures", "tilt_x"),
    "structure.tilt.y": Place("structures", "tilt_y"),
    "structure.ripples.amplitude": Place("structures", "ripple_amplitude"),
    "structure.ripples.wavelength": Place("structures", "ripple_wavelength"),
    "structure.edge.distance": Place("structures", "edge_distance", needs=EDGED),
    "structure.edge.direction": Place("structures", "edge_direction", needs=EDGED),
    "structure.edge.roughness": Place("structures", "edge_roughness", needs=EDGED),
    "structure.holes.count": Place("structures", "holes"),
    "structure.islands.count": Place("structures", "islands"),
    "simulation.convolution.exponent": Place("images", "exponent"),
    "simulation.convolution.width": Place("images", "psf_width"),
    "imaging.sampling": Place("images", "pixel_size"),
    "imaging.probe.semiangle_cutoff": Place("images", "semiangle_cutoff"),
    "imaging.probe.defocus": Place("images", "defocus"),
    "imaging.probe.focal_spread": Place("images", "focal_spread"),
    "imaging.probe.source_size": Place("images", "source_size"),
    "imaging.beam.current": Place("images", "current"),
    "imaging.beam.dwell_time": Place("images", "dwell_time"),
    "imaging.scan.jitter": Place("images", "scan_jitter"),
    "imaging.scan.flagging": Place("images", "scan_flagging"),
    "imaging.scan.flagging_lines": Place("images", "scan_flagging_lines"),
    "imaging.scan.drift.x": Place("images", "drift_x"),
    "imaging.scan.drift.y": Place("images", "drift_y"),
    "imaging.scan.frame_shift": Place("images", "frame_shift"),
    "imaging.scan.line_time": Place("images", "line_time"),
    "imaging.scan.shear": Place("images", "scan_shear"),
    "imaging.scan.contraction": Place("images", "scan_contraction"),
    "imaging.scan.rotation": Place("images", "scan_rotation"),
    "imaging.scan.flyback.amplitude": Place("images", "flyback_amplitude"),
    "imaging.scan.flyback.time": Place("images", "flyback_time"),
    "imaging.scan.flyback.streak": Place("images", "flyback_streak"),
    "imaging.contamination.thickness": Place("images", "contamination_thickness"),
    "imaging.contamination.variation": Place("images", "contamination_variation"),
    "imaging.contamination.exponent": Place("images", "contamination_exponent"),
    "imaging.contamination.shortest": Place("images", "contamination_shortest"),
    "imaging.contamination.longest": Place("images", "contamination_longest"),
}


def find_column(config: Config, setting: Setting) -> Place | None:
    """Where the draws of a setting are stored; None where they are in no column of their own."""
    key = setting.key
    if not isinstance(config, StemConfig):
        own = config.imaging.aberrations
        return HRTEM.get(key) or _find_aberration(own, "imaging.aberrations.", key)
    probe = config.imaging.probe
    if (
        key == "imaging.probe.focal_spread"
        and probe
        and _draws(probe.chromatic, probe.energy_spread)
    ):
        return None
    convolution = config.simulation.convolution
    if key == "simulation.convolution.width" and convolution and convolution.psf:
        return None
    if key.startswith("structure.defects.") and key.endswith(".rate"):
        return Place("structures", f"rate_{key.split('.')[2]}")
    aberrations = probe.aberrations if probe else None
    return STEM.get(key) or _find_aberration(aberrations, "imaging.probe.aberrations.", key)


def _draws(*distributions: Distribution) -> bool:
    """Whether all of them can be other than zero."""
    return all(one.support != (0.0, 0.0) for one in distributions)


def _find_aberration(aberrations: Aberrations | None, prefix: str, key: str) -> Place | None:
    kind, _, name = key.removeprefix(prefix).partition(".")
    if aberrations is None or kind not in ("magnitudes", "angles") or not key.startswith(prefix):
        return None
    # One unit of that aberration alone says which coefficient it becomes, and how large.
    one = translate_aberrations(aberrations.notation, {name: (1.0, 0.0)})
    krivanek, factor = next((k, v) for k, v in asdict(one).items() if v)
    if kind == "magnitudes":
        return Place("images", krivanek, factor)
    return Place("images", f"phi{krivanek[1:]}")
