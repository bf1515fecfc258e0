"""The conditions under which each image of a structure is taken, drawn level by level.

A value drawn once per structure comes from the stream `imaging/<name>`, per exit wave from
`wave/<w>/<name>`, per focus from `focus/<f>/<name>`, per image from `image/<m>/<name>`, all at the
structure's index. Indices run within the structure: image m belongs to focus m // images_per_focus,
focus f to wave f // foci. Every value becomes a column of the image table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import numpy as np

from hpctem.config import Config
from hpctem.optics.aberrations import Aberrations, from_haider, from_power_notation
from hpctem.sampling import LEVELS, Distribution, Streams
from hpctem.sections.common import ParametricMtf
from hpctem.structures.scenes import Column

# Every aberration and its azimuth has a column; C10 is the defocus with the other sign.
COEFFICIENTS = tuple(f.name for f in fields(Aberrations) if f.name != "C10")

CONDITION_COLUMNS: tuple[Column, ...] = (
    Column("structure_id", "int64", "", "index of the structure in the campaign"),
    Column("wave_index", "int32", "", "exit wave within the structure"),
    Column("focus_index", "int32", "", "focal setting within the exit wave"),
    Column("dose_index", "int32", "", "image within the focal setting"),
    Column("energy", "float64", "eV", "energy of the electrons"),
    Column("pixel_size", "float64", "angstrom", "side of an image pixel"),
    Column("tilt_x", "float64", "rad", "tilt of the beam from the cell's z axis towards +x"),
    Column("tilt_y", "float64", "rad", "tilt of the beam from the cell's z axis towards +y"),
    Column("defocus", "float64", "angstrom", "underfocus, from the campaign's plane of reference"),
    Column("defocus_exit", "float64", "angstrom", "underfocus measured from the exit plane, -C10"),
    Column("focal_spread", "float64", "angstrom", "standard deviation of the defocus"),
    Column("convergence_semiangle", "float64", "rad", "semiangle of the illumination"),
    Column("objective_aperture", "float64", "rad", "semiangle of the aperture; 0 without one"),
    *(
        Column(name, "float64", "angstrom", f"aberration {name} in Krivanek's notation")
        if name.startswith("C")
        else Column(name, "float64", "rad", f"azimuth of C{name[3:]}, from +x to +y")
        for name in COEFFICIENTS
    ),
    Column("plasmon_weight", "float64", "", "share of the intensity that lost contrast"),
    Column("plasmon_background", "float64", "", "background added to that share"),
    Column("dose", "float64", "electron/angstrom^2", "incident electrons per area"),
    Column("quantum_efficiency", "float64", "", "share of the electrons that is counted"),
    Column("mtf_c1", "float64", "", "parametric MTF, c1; 0 without one"),
    Column("mtf_c2", "float64", "", "parametric MTF, c2; 0 without one"),
    Column("mtf_c3", "float64", "", "parametric MTF, c3; 0 without one"),
    Column("readout_noise", "float64", "", "standard deviation of the readout noise, in electrons"),
    Column("gain", "float64", "", "stored units per electron"),
    Column("offset", "float64", "", "stored units added to every pixel"),
    Column("crop_x", "int32", "pixel", "first column of the crop in the simulated image"),
    Column("crop_y", "int32", "pixel", "first row of the crop in the simulated image"),
)


@dataclass(frozen=True)
class DrawConditions:
    """Draws the conditions of one structure."""

    config: Config
    streams: Streams
    structure: int

    def generator(self, image: int, name: str) -> np.random.Generator:
        """The stream `image/<m>/<name>` for what is drawn pixel by pixel."""
        return self.streams(f"image/{image}/{name}", self.structure)

    def value(
        self, name: str, distribution: Distribution, wave: int, focus: int, image: int
    ) -> float:
        """One value at the level at which its distribution is drawn."""
        position = dict(zip(LEVELS, (self.structure, wave, focus, image), strict=True))[
            distribution.per
        ]
        prefix = "imaging" if distribution.per == "structure" else f"{distribution.per}/{position}"
        generator = self.streams(f"{prefix}/{name}", self.structure)
        return float(distribution.draw(generator, position))

    def wave_of(self, image: int) -> int:
        """The exit wave that an image of the structure is taken from."""
        return image // (self.config.imaging.foci * self.config.imaging.images_per_focus)

    def identify(self, image: int) -> dict[str, float]:
        """Which image of which structure, and what all images of its wave share."""
        imaging = self.config.imaging
        wave = self.wave_of(image)
        tilt_x, tilt_y = self.tilt(wave)
        return {
            "structure_id": self.structure,
            "wave_index": wave,
            "focus_index": image // imaging.images_per_focus % imaging.foci,
            "dose_index": image % imaging.images_per_focus,
            "energy": self.config.simulation.energy,
            "pixel_size": imaging.sampling,
            "tilt_x": tilt_x,
            "tilt_y": tilt_y,
        }

    def tilt(self, wave: int) -> tuple[float, float]:
        """Tilt of the beam (towards x, towards y) in rad for one exit wave."""
        tilt = self.config.simulation.tilt
        return self.value("tilt_x", tilt.x, wave, 0, 0), self.value("tilt_y", tilt.y, wave, 0, 0)

    def optics(self, focus: int) -> dict[str, float]:
        """Defocus, aberrations, spread and plasmon loss of one focal setting."""
        imaging = self.config.imaging
        wave = focus // imaging.foci

        def draw(name: str, distribution: Distribution) -> float:
            return self.value(name, distribution, wave, focus, 0)

        drawn = {
            name: (
                draw(name, magnitude),
                draw(f"phi_{name}", imaging.aberrations.angles[name])
                if name in imaging.aberrations.angles
                else 0.0,
            )
            for name, magnitude in imaging.aberrations.magnitudes.items()
        }
        coefficients = asdict(translate_aberrations(imaging.aberrations.notation, drawn))
        del coefficients["C10"]
        plasmon = imaging.plasmon
        return {
            "defocus": draw("defocus", imaging.defocus),
            "focal_spread": draw("focal_spread", imaging.focal_spread),
            "convergence_semiangle": draw("convergence_semiangle", imaging.convergence_semiangle),
            "objective_aperture": imaging.objective_aperture or 0.0,
            **coefficients,
            "plasmon_weight": draw("plasmon_weight", plasmon.weight) if plasmon else 0.0,
            "plasmon_background": draw("plasmon_background", plasmon.background)
            if plasmon
            else 0.0,
        }

    def detection(self, image: int) -> dict[str, float]:
        """Dose and detector of one image."""
        imaging, detector = self.config.imaging, self.config.imaging.detector
        focus = image // imaging.images_per_focus
        wave = focus // imaging.foci

        def draw(name: str, distribution: Distribution) -> float:
            return self.value(name, distribution, wave, focus, image)

        mtf = detector.mtf if isinstance(detector.mtf, ParametricMtf) else None
        return {
            "dose": draw("dose", imaging.dose),
            "quantum_efficiency": draw("quantum_efficiency", detector.quantum_efficiency),
            "mtf_c1": draw("mtf_c1", mtf.c1) if mtf else 0.0,
            "mtf_c2": draw("mtf_c2", mtf.c2) if mtf else 0.0,
            "mtf_c3": draw("mtf_c3", mtf.c3) if mtf else 0.0,
            "readout_noise": draw("readout_noise", detector.readout_noise),
            "gain": detector.gain,
            "offset": detector.offset,
        }


def translate_aberrations(notation: str, drawn: dict[str, tuple[float, float]]) -> Aberrations:
    """Aberrations {name: (magnitude in A, azimuth in rad)} of a notation, as Krivanek's."""
    if notation == "haider":
        return from_haider(drawn)
    if notation == "power_of_angle":
        return from_power_notation(drawn)
    values = {name: magnitude for name, (magnitude, _) in drawn.items()}
    azimuths = {f"phi{name[1:]}": angle for name, (_, angle) in drawn.items() if name[2] != "0"}
    return Aberrations(**values, **azimuths)
