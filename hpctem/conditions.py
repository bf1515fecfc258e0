"""The conditions under which each image of a structure is taken, drawn level by level.

A value drawn once per structure comes from the stream `imaging/<name>`, per exit wave from
`wave/<w>/<name>`, per focus from `focus/<f>/<name>`, per image from `image/<m>/<name>`, all at the
structure's index. Indices run within the structure: image m belongs to focus m // images_per_focus,
focus f to wave f // foci. Every value becomes a column of the image table.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpctem.config import Config
from hpctem.optics import aberrations as optics_aberrations
from hpctem.sampling import LEVELS, Distribution, Streams
from hpctem.structures.scenes import Column

COEFFICIENTS = optics_aberrations.NAMES

CONDITION_COLUMNS: tuple[Column, ...] = (
    Column("structure_id", "int64", "", "index of the structure in the campaign"),
    Column("wave_index", "int32", "", "exit wave within the structure"),
    Column("focus_index", "int32", "", "focal setting within the exit wave"),
    Column("dose_index", "int32", "", "image within the focal setting"),
    Column("energy", "float64", "eV", "energy of the electrons"),
    Column("pixel_size", "float64", "A", "side of an image pixel"),
    Column("tilt_x", "float64", "rad", "tilt of the specimen towards +x"),
    Column("tilt_y", "float64", "rad", "tilt of the specimen towards +y"),
    Column("defocus", "float64", "A", "underfocus, from the campaign's plane of reference"),
    Column("defocus_exit", "float64", "A", "underfocus measured from the exit plane, -C10"),
    Column("focal_spread", "float64", "A", "standard deviation of the defocus"),
    Column("convergence_semiangle", "float64", "rad", "semiangle of the illumination"),
    Column("objective_aperture", "float64", "rad", "semiangle of the aperture; 0 without one"),
    *(
        Column(name, "float64", "A" if name.startswith("C") else "rad", description)
        for name, description in optics_aberrations.DESCRIPTIONS.items()
        if name != "C10"
    ),
    Column("plasmon_weight", "float64", "", "share of the intensity that lost contrast"),
    Column("plasmon_background", "float64", "", "background added to that share"),
    Column("dose", "float64", "e/A^2", "incident electrons per area"),
    Column("quantum_efficiency", "float64", "", "share of the electrons that is counted"),
    Column("mtf_c1", "float64", "", "detector MTF, c1; 0 without MTF"),
    Column("mtf_c2", "float64", "", "detector MTF, c2; 0 without MTF"),
    Column("mtf_c3", "float64", "", "detector MTF, c3; 0 without MTF"),
    Column("readout_noise", "float64", "", "standard deviation of the readout noise, in electrons"),
    Column("gain", "float64", "", "stored units per electron"),
    Column("offset", "float64", "", "stored units added to every pixel"),
    Column("crop_x", "int32", "px", "first column of the crop in the simulated image"),
    Column("crop_y", "int32", "px", "first row of the crop in the simulated image"),
)


@dataclass(frozen=True)
class Draw:
    """Draws the conditions of one structure."""

    config: Config
    streams: Streams
    structure: int

    def value(self, name: str, distribution: Distribution, wave: int, focus: int, image: int) -> float:
        """One value at the level at which its distribution is drawn."""
        position = dict(zip(LEVELS, (self.structure, wave, focus, image), strict=True))[distribution.per]
        prefix = "imaging" if distribution.per == "structure" else f"{distribution.per}/{position}"
        generator = self.streams(f"{prefix}/{name}", self.structure)
        return float(distribution.draw(generator, position))

    def tilt(self, wave: int) -> dict[str, float]:
        """Tilt of the specimen in radian for one exit wave."""
        tilt = self.config.simulation.tilt
        return {
            "tilt_x": self.value("tilt_x", tilt.x, wave, 0, 0),
            "tilt_y": self.value("tilt_y", tilt.y, wave, 0, 0),
        }

    def optics(self, focus: int, height: float) -> dict[str, float]:
        """Defocus, aberrations, spread and plasmon loss of one focal setting.

        `height` is that of the cell in A: half of it lies between the exit plane and the centre.
        """
        imaging = self.config.imaging
        wave = focus // imaging.foci

        def draw(name: str, distribution: Distribution) -> float:
            return self.value(name, distribution, wave, focus, 0)

        defocus = draw("defocus", imaging.defocus)
        from_centre = imaging.defocus_reference == "cell_centre"
        aberrations = imaging.aberrations
        drawn = {name: draw(name, d) for name, d in aberrations.magnitudes.items()}
        angles = {name: draw(f"phi_{name}", d) for name, d in aberrations.angles.items()}
        coefficients = optics_aberrations.to_krivanek(aberrations.notation, drawn, angles)
        plasmon = imaging.plasmon
        return {
            "defocus": defocus,
            "defocus_exit": defocus + (height / 2 if from_centre else 0.0),
            "focal_spread": draw("focal_spread", imaging.focal_spread),
            "convergence_semiangle": draw("convergence_semiangle", imaging.convergence_semiangle),
            "objective_aperture": imaging.objective_aperture or 0.0,
            **coefficients,
            "plasmon_weight": draw("plasmon_weight", plasmon.weight) if plasmon else 0.0,
            "plasmon_background": draw("plasmon_background", plasmon.background) if plasmon else 0.0,
        }

    def detection(self, image: int) -> dict[str, float]:
        """Dose and detector of one image."""
        imaging, detector = self.config.imaging, self.config.imaging.detector
        focus = image // imaging.images_per_focus
        wave = focus // imaging.foci

        def draw(name: str, distribution: Distribution) -> float:
            return self.value(name, distribution, wave, focus, image)

        mtf = detector.mtf
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
