"""Imaging conditions of every technique: at which level a value is drawn, and aberrations.

A value drawn once per structure comes from the stream `imaging/<name>`, per exit wave from
`wave/<w>/<name>`, per focus from `focus/<f>/<name>`, per image from `image/<m>/<name>`, all at the
structure's index. Indices run within the structure: image m belongs to focus m // images_per_focus,
focus f to wave f // foci. Every value becomes a column of the image table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from hpctem.detection.detector import Detector as Camera
from hpctem.detection.mtf import MTF, ParametricMTF, TabulatedMTF
from hpctem.optics import aberrations as optics
from hpctem.sampling import LEVELS, Distribution, Streams
from hpctem.sections.common import Aberrations, Detector, MeasuredMtf, ParametricMtf
from hpctem.structures.scenes import Column

# Every aberration and its azimuth has a column; C10 is the defocus with the other sign.
COEFFICIENTS = tuple(f.name for f in fields(optics.Aberrations) if f.name != "C10")

ABERRATION_COLUMNS: tuple[Column, ...] = tuple(
    Column(name, "float64", "angstrom", f"aberration {name} in Krivanek's notation")
    if name.startswith("C")
    else Column(name, "float64", "rad", f"azimuth of C{name[3:]}, from +x to +y")
    for name in COEFFICIENTS
)

IDENTITY_COLUMNS: tuple[Column, ...] = (
    Column("structure_id", "int64", "", "index of the structure in the campaign"),
    Column("wave_index", "int32", "", "exit wave within the structure"),
    Column("focus_index", "int32", "", "focal setting within the exit wave"),
    Column("dose_index", "int32", "", "image within the focal setting"),
    Column("energy", "float64", "eV", "energy of the electrons"),
    Column("pixel_size", "float64", "angstrom", "side of an image pixel"),
)

DETECTOR_COLUMNS: tuple[Column, ...] = (
    Column("quantum_efficiency", "float64", "", "share of the electrons that is counted"),
    Column("mtf_c1", "float64", "", "parametric MTF, c1; 0 without one"),
    Column("mtf_c2", "float64", "", "parametric MTF, c2; 0 without one"),
    Column("mtf_c3", "float64", "", "parametric MTF, c3; 0 without one"),
    Column("readout_noise", "float64", "", "standard deviation of the readout noise, in electrons"),
    Column("gain", "float64", "", "stored units per electron"),
    Column("offset", "float64", "", "stored units added to every pixel"),
)


@dataclass(frozen=True)
class Draws:
    """Draws the imaging conditions of one structure."""

    streams: Streams
    structure: int

    def generator(self, image: int, name: str) -> np.random.Generator:
        """The stream `image/<m>/<name>` for what is drawn pixel by pixel."""
        return self.streams(f"image/{image}/{name}", self.structure)

    def value(
        self, name: str, distribution: Distribution, wave: int, focus: int, image: int
    ) -> float:
        """One value at the level at which its distribution is drawn."""
        if distribution.kind == "constant":  # most are, and a generator takes its time
            return float(distribution.values[0])
        position = dict(zip(LEVELS, (self.structure, wave, focus, image), strict=True))[
            distribution.per
        ]
        prefix = "imaging" if distribution.per == "structure" else f"{distribution.per}/{position}"
        generator = self.streams(f"{prefix}/{name}", self.structure)
        return float(distribution.draw(generator, position))

    def coefficients(self, aberrations: Aberrations, wave: int, focus: int) -> dict[str, float]:
        """Every aberration but the defocus, and its azimuth, of one focal setting."""
        drawn = {
            name: (
                self.value(name, magnitude, wave, focus, 0),
                self.value(f"phi_{name}", aberrations.angles[name], wave, focus, 0)
                if name in aberrations.angles
                else 0.0,
            )
            for name, magnitude in aberrations.magnitudes.items()
        }
        coefficients = asdict(translate_aberrations(aberrations.notation, drawn))
        del coefficients["C10"]
        return coefficients

    def detector(self, detector: Detector, wave: int, focus: int, image: int) -> dict[str, float]:
        """What the detector of one image is like: a value for each of DETECTOR_COLUMNS."""

        def draw(name: str, distribution: Distribution) -> float:
            return self.value(name, distribution, wave, focus, image)

        mtf = detector.mtf if isinstance(detector.mtf, ParametricMtf) else None
        return {
            "quantum_efficiency": draw("quantum_efficiency", detector.quantum_efficiency),
            "mtf_c1": draw("mtf_c1", mtf.c1) if mtf else 0.0,
            "mtf_c2": draw("mtf_c2", mtf.c2) if mtf else 0.0,
            "mtf_c3": draw("mtf_c3", mtf.c3) if mtf else 0.0,
            "readout_noise": draw("readout_noise", detector.readout_noise),
            "gain": detector.gain,
            "offset": detector.offset,
        }


def set_detector(detector: Detector, conditions: Mapping[str, float]) -> Camera:
    """The detector of one image, from its row of conditions."""
    mtf: MTF | None = None
    if isinstance(detector.mtf, MeasuredMtf):
        mtf = TabulatedMTF(detector.mtf.frequencies, detector.mtf.values)
    elif detector.mtf is not None:
        mtf = ParametricMTF(conditions["mtf_c1"], conditions["mtf_c2"], conditions["mtf_c3"])
    return Camera(
        mtf=mtf,
        quantum_efficiency=conditions["quantum_efficiency"],
        readout_noise=conditions["readout_noise"],
        gain=detector.gain,
        offset=detector.offset,
        digitize=detector.digitize,
        saturation_limit=detector.saturation_limit,
    )


def noisiest_detector(detector: Detector) -> Camera:
    """The detector with all the noise that it can have: it tells the type and unit of images."""
    unit = {"mtf_c1": 0.0, "mtf_c2": 1.0, "mtf_c3": 1.0, "quantum_efficiency": 1.0}
    return set_detector(detector, unit | {"readout_noise": detector.readout_noise.support[1]})


def translate_aberrations(
    notation: str, drawn: dict[str, tuple[float, float]]
) -> optics.Aberrations:
    """Aberrations {name: (magnitude in A, azimuth in rad)} of a notation, as Krivanek's."""
    if notation == "haider":
        return optics.from_haider(drawn)
    if notation == "power_of_angle":
        return optics.from_power_notation(drawn)
    values = {name: magnitude for name, (magnitude, _) in drawn.items()}
    azimuths = {f"phi{name[1:]}": angle for name, (_, angle) in drawn.items() if name[2] != "0"}
    return optics.Aberrations(**values, **azimuths)
