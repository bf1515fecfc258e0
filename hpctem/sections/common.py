"""What the campaign files of every technique share: sections, elements, aberrations, detectors.

Every number with a dimension carries its unit; any value marked `Distribution` may be a constant or
a distribution (see `hpctem.distributions`). Unknown keys are errors that name the nearest one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from hpctem.distributions import Drawn, Quantity
from hpctem.sampling import Distribution, constant

Length = Annotated[float, Quantity("length", 0.0, 1e7)]
SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb
Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr
Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
""".split()
ELEMENT = f"^({'|'.join(SYMBOLS)})$"
Element = Annotated[str, Field(pattern=ELEMENT, description="chemical symbol")]


def nearest(name: str, known: Iterable[str]) -> str:
    """', did you mean ...?' with the nearest of the known names, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def by_form(value: Any) -> str:
    """Which member of a union a value of the file means: told by its form, not by trial."""
    if isinstance(value, dict):
        return "~table" if "frequencies" in value or "values" in value else "~section"
    if isinstance(value, MeasuredMtf):
        return "~table"
    return (
        "~section"
        if isinstance(value, Section)
        else "~number"
        if isinstance(value, int)
        else "~word"
    )


class Section(BaseModel):
    """A part of the campaign file; unknown keys are errors, values never change once read."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )


class Campaign(Section):
    """What the campaign is called and how large it is."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$", description="name of the database"
    )
    technique: Literal["hrtem", "stem"] = "hrtem"
    """High-resolution TEM of particles, or scanning TEM of crystals."""
    seed: int = Field(ge=0, lt=2**63, description="one seed gives the whole campaign")
    structures: int = Field(ge=1, le=10**9, description="number of structures")
    description: str = Field("", max_length=2000)
    """What the campaign is for; stored as the title of the database."""
    quarantine_limit: Annotated[float, Quantity(None, 0.0, 1.0)] = Field(
        0.01, description="share of quarantined structures above which the campaign fails"
    )
    structures_per_segment: int | None = Field(
        None, ge=1, description="structures committed together; by default fixed from their size"
    )


class Phonons(Section):
    """Frozen phonons: Gaussian displacements, independent in x, y and z."""

    configurations: int = Field(8, ge=1, le=1000)
    """Configurations that are averaged."""
    rms: dict[Element, Annotated[float, Quantity("length", 0.0, 1.0)]] = Field(
        default_factory=dict,
        description="one-dimensional rms displacement per element; known ones at 300 K by default",
    )


KRIVANEK = (
    "C12",
    "C21",
    "C23",
    "C30",
    "C32",
    "C34",
    "C41",
    "C43",
    "C45",
    "C50",
    "C52",
    "C54",
    "C56",
)
POWER = ("C22", "C31", "C33", "C40", "C42", "C44", "C51", "C53", "C55", "C60", "C62", "C64", "C66")
HAIDER = ("A1", "B2", "A2", "C3", "S3", "A3", "B4", "D4", "A4", "C5", "S5", "D5", "A5")
ROUND = ("C30", "C50", "C40", "C60", "C3", "C5")
NOTATIONS = {"krivanek": KRIVANEK, "power_of_angle": POWER, "haider": HAIDER}


class Aberrations(Section):
    """Aberrations beyond defocus, in a named notation: each a magnitude and mostly an angle."""

    notation: Literal["krivanek", "power_of_angle", "haider"] = "krivanek"
    """Whose names are used."""
    magnitudes: dict[str, Annotated[Distribution, Drawn("length", -1e10, 1e10, finest="focus")]] = (
        Field(default_factory=dict)
    )
    """Size of each aberration, by its name."""
    angles: dict[str, Annotated[Distribution, Drawn("angle", -100.0, 100.0, finest="focus")]] = (
        Field(default_factory=dict)
    )
    """Azimuth of an aberration, by the same name; for those that are not round."""

    @model_validator(mode="after")
    def _names(self) -> Aberrations:
        names = NOTATIONS[self.notation]
        for name in (*self.magnitudes, *self.angles):
            if name in ("C10", "C1", "C20"):
                raise ValueError(f"{name!r} is the defocus: give it as imaging.defocus (= -C10)")
            if name not in names:
                raise ValueError(
                    f"{name!r} is no aberration in {self.notation} notation{nearest(name, names)}; "
                    f"known: {', '.join(names)}"
                )
        for name in self.angles:
            if name not in self.magnitudes:
                raise ValueError(f"{name!r} has an angle but no magnitude")
            if name in ROUND:
                raise ValueError(f"{name!r} is round and has no angle")
        return self


class ParametricMtf(Section):
    """MTF of the detector, (1 - c1) / (1 + (q / (2 c2 qN))^c3) + c1, qN the Nyquist frequency."""

    c1: Annotated[Distribution, Drawn(None, -1.0, 1.0, finest="image")]
    """Level at high frequencies."""
    c2: Annotated[Distribution, Drawn(None, 0.001, 10.0, finest="image")]
    """Width of the central peak."""
    c3: Annotated[Distribution, Drawn(None, 0.1, 10.0, finest="image")]
    """Steepness."""


class MeasuredMtf(Section):
    """A measured MTF of the detector: values at frequencies in fractions of Nyquist."""

    frequencies: tuple[float, ...] = Field(description="rising from 0")
    values: tuple[float, ...] = Field(description="between 0 and 1, beginning with 1")


class Detector(Section):
    """What the camera adds after counting."""

    quantum_efficiency: Annotated[Distribution, Drawn(None, 1e-3, 1.0, finest="image")] = constant(
        1.0
    )
    """Share of the electrons that is detected."""
    mtf: (
        Annotated[
            Annotated[ParametricMtf, Tag("~section")] | Annotated[MeasuredMtf, Tag("~table")],
            Discriminator(by_form),
        ]
        | None
    ) = None
    """Modulation transfer, by three numbers or as measured; none without."""
    readout_noise: Annotated[Distribution, Drawn(None, 0.0, 1e4, finest="image")] = constant(0.0)
    """Standard deviation of the readout noise, in electrons."""
    gain: Annotated[float, Quantity(None, 1e-3, 1e4)] = Field(1.0, description="units per electron")
    offset: Annotated[float, Quantity(None, 0.0, 6e4)] = Field(0.0, description="units added")
    digitize: bool = Field(False, description="round to 16-bit integers although it is no count")
    saturation_limit: Annotated[float, Quantity(None, 0.0, 1.0)] = Field(
        1e-3, description="share of saturated pixels above which an image is refused"
    )
