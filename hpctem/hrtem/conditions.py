"""The conditions under which each HRTEM image of a structure is taken, drawn level by level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctem.conditions import (
    ABERRATION_COLUMNS,
    DETECTOR_COLUMNS,
    IDENTITY_COLUMNS,
    Draws,
)
from hpctem.config import HrtemConfig
from hpctem.sampling import Distribution, Streams
from hpctem.structures.scenes import Column

CONDITION_COLUMNS: tuple[Column, ...] = (
    *IDENTITY_COLUMNS,
    Column("tilt_x", "float64", "rad", "tilt of the beam from the cell's z axis towards +x"),
    Column("tilt_y", "float64", "rad", "tilt of the beam from the cell's z axis towards +y"),
    Column("defocus", "float64", "angstrom", "underfocus, from the campaign's plane of reference"),
    Column("defocus_exit", "float64", "angstrom", "underfocus measured from the exit plane, -C10"),
    Column("focal_spread", "float64", "angstrom", "standard deviation of the defocus"),
    Column("convergence_semiangle", "float64", "rad", "semiangle of the illumination"),
    Column("objective_aperture", "float64", "rad", "semiangle of the aperture; 0 without one"),
    *ABERRATION_COLUMNS,
    Column("plasmon_weight", "float64", "", "share of the intensity that lost contrast"),
    Column("plasmon_background", "float64", "", "background added to that share"),
    Column("dose", "float64", "electron/angstrom^2", "incident electrons per area"),
    *DETECTOR_COLUMNS,
    Column("crop_x", "int32", "pixel", "first column of the crop in the simulated image"),
    Column("crop_y", "int32", "pixel", "first row of the crop in the simulated image"),
)


@dataclass(frozen=True)
class DrawConditions:
    """Draws the conditions of one structure."""

    config: HrtemConfig
    streams: Streams
    structure: int

    @property
    def draws(self) -> Draws:
        """Where its values come from."""
        return Draws(self.streams, self.structure)

    def generator(self, image: int, name: str) -> np.random.Generator:
        """The stream `image/<m>/<name>` for what is drawn pixel by pixel."""
        return self.draws.generator(image, name)

    def value(
        self, name: str, distribution: Distribution, wave: int, focus: int, image: int
    ) -> float:
        """One value at the level at which its distribution is drawn."""
        return self.draws.value(name, distribution, wave, focus, image)

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

        plasmon = imaging.plasmon
        return {
            "defocus": draw("defocus", imaging.defocus),
            "focal_spread": draw("focal_spread", imaging.focal_spread),
            "convergence_semiangle": draw("convergence_semiangle", imaging.convergence_semiangle),
            "objective_aperture": imaging.objective_aperture or 0.0,
            **self.draws.coefficients(imaging.aberrations, wave, focus),
            "plasmon_weight": draw("plasmon_weight", plasmon.weight) if plasmon else 0.0,
            "plasmon_background": draw("plasmon_background", plasmon.background)
            if plasmon
            else 0.0,
        }

    def detection(self, image: int) -> dict[str, float]:
        """Dose and detector of one image."""
        imaging = self.config.imaging
        focus = image // imaging.images_per_focus
        wave = focus // imaging.foci
        dose = self.value("dose", imaging.dose, wave, focus, image)
        return {"dose": dose} | self.draws.detector(imaging.detector, wave, focus, image)
