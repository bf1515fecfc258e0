"""The conditions under which each STEM image of a structure is taken, drawn level by level.

A structure has one wave, so that `per: wave` is as often as `per: structure`; a focus is one
setting of the probe.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hpctem.conditions import (
    ABERRATION_COLUMNS,
    COEFFICIENTS,
    DETECTOR_COLUMNS,
    IDENTITY_COLUMNS,
    Draws,
    translate_aberrations,
)
from hpctem.config import StemConfig
from hpctem.detection.contamination import FilmSettings
from hpctem.detection.dose import electrons_per_pixel
from hpctem.detection.scan import ScanSettings
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.probe import Probe, defocus_of_chromatic, ray_reach
from hpctem.sampling import Distribution, Streams
from hpctem.sections.stem import Imaging
from hpctem.structures.scenes import Column

PROBE_COLUMNS: tuple[Column, ...] = (
    Column("semiangle_cutoff", "float64", "rad", "convergence semiangle of the probe"),
    Column("defocus", "float64", "angstrom", "underfocus, -C10, from the middle of the specimen"),
    Column("focal_spread", "float64", "angstrom", "standard deviation of the defocus, in all"),
    Column("source_size", "float64", "angstrom", "full width at half maximum of the source"),
    *ABERRATION_COLUMNS,
    Column("exponent", "float64", "", "power of the atomic number; 0 where there is none"),
    Column("psf_width", "float64", "angstrom", "standard deviation of the point spread; 0 if none"),
)

BEAM_COLUMNS: tuple[Column, ...] = (
    Column("current", "float64", "pA", "probe current; 0 in a noise-free image"),
    Column("dwell_time", "float64", "us", "time on each pixel in each frame"),
    Column("frames", "int32", "", "frames that are added up"),
    Column("electrons_per_pixel", "float64", "electron", "incident on a pixel, over all frames"),
    Column("dose", "float64", "electron/angstrom^2", "incident electrons per area"),
)

SCAN_COLUMNS: tuple[Column, ...] = (
    Column("scan_jitter", "float64", "angstrom", "standard deviation of lines along x"),
    Column("scan_flagging", "float64", "angstrom", "standard deviation of slow displacements"),
    Column("scan_flagging_lines", "float64", "", "lines over which they are correlated"),
    Column("drift_x", "float64", "angstrom/s", "drift of the specimen along x"),
    Column("drift_y", "float64", "angstrom/s", "drift of the specimen along y"),
    Column("frame_shift", "float64", "angstrom", "standard deviation of the frames' shifts"),
    Column("line_time", "float64", "us", "waiting time after each line"),
    Column("scan_shear", "float64", "", "displacement along x per length along y"),
    Column("scan_contraction", "float64", "", "lengthening of the pixel along y against x"),
    Column("scan_rotation", "float64", "rad", "of the scan about the beam"),
    Column("flyback_amplitude", "float64", "angstrom", "displacement of the first pixel of a line"),
    Column("flyback_time", "float64", "us", "its decay time"),
    Column("flyback_streak", "float64", "", "share of a line's end seen at the next one's start"),
)

CONTAMINATION_COLUMNS: tuple[Column, ...] = (
    Column("contamination_thickness", "float64", "angstrom", "mean thickness of carbon"),
    Column("contamination_variation", "float64", "", "its standard deviation over the mean"),
    Column("contamination_exponent", "float64", "", "power law of its spectrum"),
    Column("contamination_shortest", "float64", "angstrom", "shortest wavelength"),
    Column("contamination_longest", "float64", "angstrom", "wavelength above which it is flat"),
)

CONDITION_COLUMNS: tuple[Column, ...] = (
    *IDENTITY_COLUMNS,
    *PROBE_COLUMNS,
    *BEAM_COLUMNS,
    *SCAN_COLUMNS,
    *CONTAMINATION_COLUMNS,
    *DETECTOR_COLUMNS,
)

# The settings of a scan by the names of their columns.
SCAN_SETTINGS = {
    "frames": "frames",
    "dwell_time": "dwell_time",
    "line_time": "line_time",
    "jitter": "scan_jitter",
    "flagging": "scan_flagging",
    "flagging_lines": "scan_flagging_lines",
    "drift_x": "drift_x",
    "drift_y": "drift_y",
    "frame_shift": "frame_shift",
    "shear": "scan_shear",
    "contraction": "scan_contraction",
    "rotation": "scan_rotation",
    "flyback_amplitude": "flyback_amplitude",
    "flyback_time": "flyback_time",
    "streak": "flyback_streak",
}


def list_distributions(imaging: Imaging) -> dict[str, Distribution]:
    """What is drawn for every image, by the name of its column; only what the campaign has."""
    scan, flyback, carbon = imaging.scan, imaging.scan.flyback, imaging.contamination
    found = {
        "pixel_size": imaging.sampling,
        "scan_jitter": scan.jitter,
        "scan_flagging": scan.flagging,
        "scan_flagging_lines": scan.flagging_lines,
        "drift_x": scan.drift.x,
        "drift_y": scan.drift.y,
        "frame_shift": scan.frame_shift,
        "line_time": scan.line_time,
        "scan_shear": scan.shear,
        "scan_contraction": scan.contraction,
        "scan_rotation": scan.rotation,
    }
    if imaging.beam is not None:
        found |= {"current": imaging.beam.current, "dwell_time": imaging.beam.dwell_time}
    if flyback is not None:
        found |= {
            "flyback_amplitude": flyback.amplitude,
            "flyback_time": flyback.time,
            "flyback_streak": flyback.streak,
        }
    if carbon is not None:
        found |= {
            "contamination_thickness": carbon.thickness,
            "contamination_variation": carbon.variation,
            "contamination_exponent": carbon.exponent,
            "contamination_shortest": carbon.shortest,
            "contamination_longest": carbon.longest,
        }
    return found


def set_scan(values: Mapping[str, float]) -> ScanSettings:
    """The scan of one image, from its row of conditions."""
    named = {name: values[column] for name, column in SCAN_SETTINGS.items() if name != "frames"}
    return ScanSettings(frames=int(values["frames"]), **named)


def set_film(values: Mapping[str, float]) -> FilmSettings:
    """The film of carbon of one image, from its row of conditions."""
    names = ("thickness", "variation", "exponent", "shortest", "longest")
    return FilmSettings(*(values[f"contamination_{name}"] for name in names))


def greatest_scan(imaging: Imaging) -> ScanSettings:
    """The largest magnitude of every setting of the scan that a campaign can draw."""
    largest = {c.name: 0.0 for c in (*SCAN_COLUMNS, *BEAM_COLUMNS)} | {"flyback_time": 1.0}
    for name, distribution in list_distributions(imaging).items():
        largest[name] = _largest(distribution)
    return set_scan(largest | {"frames": imaging.scan.frames})


def set_probe(config: StemConfig, values: Mapping[str, float]) -> Probe:
    """The probe of one focal setting, from its row of conditions."""
    return Probe(
        energy=config.simulation.energy,
        semiangle_cutoff=values["semiangle_cutoff"],
        defocus=values["defocus"],
        aberrations=Aberrations(**{name: values[name] for name in COEFFICIENTS}),
        focal_spread=values["focal_spread"],
        source_size=values["source_size"],
    )


def widest_probe(config: StemConfig) -> Probe:
    """The probe that reaches farthest of all that a campaign can draw, with the largest aperture.

    Defocus and spherical aberrations may balance each other: of the ends of what each can be, those
    count whose rays end farthest out. The other aberrations are at their largest, their azimuths
    such that they add up, to the round ones or against them.
    """
    probe, energy = config.imaging.probe, config.simulation.energy
    assert probe is not None  # check_campaign
    notation, magnitudes = probe.aberrations.notation, probe.aberrations.magnitudes
    rounds = [name for name in magnitudes if _is_round(notation, name)]
    chromatic = defocus_of_chromatic(
        _largest(probe.chromatic), _largest(probe.energy_spread), energy
    )

    def bend(defocus: float, side: float, *values: float) -> Probe:
        ends = {name: side * _largest(magnitude) for name, magnitude in magnitudes.items()}
        ends |= dict(zip(rounds, values, strict=True))
        drawn = {name: (end, 0.0) for name, end in ends.items()}
        return Probe(
            energy=energy,
            semiangle_cutoff=probe.semiangle_cutoff.support[1],
            defocus=defocus,
            aberrations=translate_aberrations(notation, drawn),
            focal_spread=float(np.hypot(_largest(probe.focal_spread), chromatic)),
            source_size=_largest(probe.source_size),
        )

    of_round = (magnitudes[name].support for name in rounds)
    corners = itertools.product(probe.defocus.support, (1.0, -1.0), *of_round)
    return max((bend(*corner) for corner in corners), key=ray_reach)


def _is_round(notation: str, name: str) -> bool:
    """Whether an aberration is the same at every azimuth."""
    return not any(m for _, m, _, _ in translate_aberrations(notation, {name: (1.0, 0.0)}).terms())


def _largest(distribution: Distribution) -> float:
    """The largest magnitude that can be drawn."""
    return max(map(abs, distribution.support))


@dataclass(frozen=True)
class DrawConditions:
    """Draws the conditions of one structure."""

    config: StemConfig
    streams: Streams
    structure: int

    @property
    def draws(self) -> Draws:
        """Where its values come from."""
        return Draws(self.streams, self.structure)

    def generator(self, image: int, name: str) -> np.random.Generator:
        """The stream `image/<m>/<name>` for what is drawn pixel by pixel."""
        return self.draws.generator(image, name)

    def probe(self, focus: int) -> dict[str, float]:
        """The setting of the probe: a value for each of PROBE_COLUMNS."""
        simulation, probe = self.config.simulation, self.config.imaging.probe
        values = {column.name: 0.0 for column in PROBE_COLUMNS}

        def draw(name: str, distribution: Distribution) -> float:
            return self.draws.value(name, distribution, 0, focus, 0)

        if simulation.convolution is not None:
            values["exponent"] = draw("exponent", simulation.convolution.exponent)
            if simulation.convolution.psf is None:
                values["psf_width"] = draw("psf_width", simulation.convolution.width)
        if probe is None:
            return values
        chromatic = defocus_of_chromatic(
            draw("chromatic", probe.chromatic),
            draw("energy_spread", probe.energy_spread),
            simulation.energy,
        )
        return values | {
            "semiangle_cutoff": draw("semiangle_cutoff", probe.semiangle_cutoff),
            "defocus": draw("defocus", probe.defocus),
            "focal_spread": float(np.hypot(draw("focal_spread", probe.focal_spread), chromatic)),
            "source_size": draw("source_size", probe.source_size),
            **self.draws.coefficients(probe.aberrations, 0, focus),
        }

    def image(self, image: int) -> dict[str, float]:
        """The conditions of an image but for its probe, whose columns are 0."""
        imaging = self.config.imaging
        focus = image // imaging.images_per_focus

        def draw(name: str, distribution: Distribution) -> float:
            return self.draws.value(name, distribution, 0, focus, image)

        values = {column.name: 0.0 for column in CONDITION_COLUMNS} | {"flyback_time": 1.0}
        values |= {name: draw(name, one) for name, one in list_distributions(imaging).items()}
        frames = imaging.scan.frames
        electrons = electrons_per_pixel(values["current"], values["dwell_time"], frames)
        values |= {
            "structure_id": self.structure,
            "focus_index": focus,
            "dose_index": image % imaging.images_per_focus,
            "energy": self.config.simulation.energy,
            "frames": frames,
            "electrons_per_pixel": electrons,
            **self.draws.detector(imaging.detector, 0, focus, image),
        }
        return values
