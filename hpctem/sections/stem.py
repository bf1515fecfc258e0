"""The sections of a STEM campaign: crystals that fill the field of view, probe, scan and labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpctem.distributions import Drawn, Quantity
from hpctem.sampling import Distribution, constant
from hpctem.sections.common import (
    Aberrations,
    Detector,
    Element,
    Length,
    Phonons,
    Section,
)

FULL_TURN = 6.283185307179586  # rad


class Material(Section):
    """The crystal: a prototype with its elements and constants, a file, or a database of them."""

    prototype: Literal["graphene", "hbn", "1H", "1T", "perovskite"] | None = Field(
        None, description="1H and 1T are MX2; perovskite is cubic ABX3"
    )
    elements: tuple[Element, ...] = Field(
        (),
        description="[C]; [B, N]; [M, X], or [M, X above, X below] for a Janus layer; [A, B, X]",
    )
    a: Annotated[float, Quantity("length", 1.0, 50.0)] | None = Field(
        None, description="in-plane lattice constant; known ones by default"
    )
    thickness: Annotated[float, Quantity("length", 0.5, 20.0)] | None = Field(
        None, description="distance between the two planes of X in MX2; known ones by default"
    )
    file: str | None = Field(
        None, description="CIF, POSCAR or XYZ file; relative to the campaign file"
    )
    database: str | None = Field(
        None,
        description="ASE database (.db or .json) of which each structure takes a material; "
        "relative to the campaign file",
    )
    filter: str = Field(
        "", max_length=1000, description="ASE selection of a database, as 'natoms<=12,Mo'"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Material:
        if sum(x is not None for x in (self.prototype, self.file, self.database)) != 1:
            raise ValueError("give one of 'prototype', 'file' and 'database'")
        if self.prototype is None and (self.elements or self.a or self.thickness):
            raise ValueError("'elements', 'a' and 'thickness' are for a prototype")
        if self.filter and self.database is None:
            raise ValueError("'filter' is for a database")
        counts = {"graphene": (0, 1), "hbn": (0, 2), "1H": (2, 3), "1T": (2, 3), "perovskite": (3,)}
        if self.prototype and len(self.elements) not in counts[self.prototype]:
            wanted = " or ".join(str(n) for n in counts[self.prototype] if n)
            raise ValueError(f"{self.prototype} takes {wanted} elements in 'elements'")
        if self.thickness is not None and self.prototype not in ("1H", "1T"):
            raise ValueError("'thickness' is for 1H and 1T")
        return self


class Layers(Section):
    """Layers of a two-dimensional crystal, one upon the other."""

    count: Annotated[Distribution, Drawn("count", 1, 20)] = constant(1)
    """Number of layers."""
    distance: Annotated[float, Quantity("length", 1.0, 30.0)] | None = Field(
        None, description="between the middles of neighbouring layers; known ones by default"
    )
    stacking: Literal["AA", "AB", "AA'"] = "AA'"
    """AA: each over the other; AB: shifted by a third of the cell; AA': turned by 180 degrees."""
    twist: Annotated[Distribution, Drawn("angle", -7.0, 7.0)] = constant(0.0)
    """Angle by which each layer is turned from the one below."""


class Strain(Section):
    """Homogeneous strain of the lattice in the plane: x' = (1 + xx) x + xy y, and so on."""

    xx: Annotated[Distribution, Drawn(None, -0.3, 0.3)] = constant(0.0)
    yy: Annotated[Distribution, Drawn(None, -0.3, 0.3)] = constant(0.0)
    xy: Annotated[Distribution, Drawn(None, -0.3, 0.3)] = constant(0.0)
    """Symmetric shear: half of the engineering strain."""


class SpecimenTilt(Section):
    """Tilt of the specimen: its normal leans towards +x and towards +y."""

    x: Annotated[Distribution, Drawn("angle", -0.8, 0.8)] = constant(0.0)
    y: Annotated[Distribution, Drawn("angle", -0.8, 0.8)] = constant(0.0)


class Ripples(Section):
    """A smooth random height field."""

    amplitude: Annotated[Distribution, Drawn("length", 0.0, 50.0)]
    """Rms height."""
    wavelength: Annotated[Distribution, Drawn("length", 5.0, 10000.0)] = constant(100.0)
    """Mean wavelength."""


class Edge(Section):
    """An edge of the flake: vacuum beyond a line across the field of view."""

    probability: Annotated[float, Quantity(None, 0.0, 1.0)] = Field(
        1.0, description="share of the structures that show an edge"
    )
    distance: Annotated[Distribution, Drawn("length", -1e4, 1e4)] = constant(0.0)
    """Of the edge from the middle of the field; the flake holds the middle where it is positive."""
    direction: Annotated[Distribution, Drawn("angle", -7.0, 7.0)] = Distribution(
        "uniform", parameters=(0.0, FULL_TURN)
    )
    """Azimuth of its outward normal."""
    roughness: Annotated[Distribution, Drawn("length", 0.0, 1000.0)] = constant(0.0)
    """Rms deviation from the line."""


class Holes(Section):
    """Holes, as the beam drills them: all atoms within a rough circle are gone."""

    count: Annotated[Distribution, Drawn("count", 0, 1000)]
    """Number in the field of view."""
    radius: Annotated[Distribution, Drawn("length", 0.5, 1000.0)]
    """Mean radius of each."""
    roughness: Annotated[float, Quantity(None, 0.0, 0.5)] = Field(
        0.15, description="rms deviation of the radius around the hole, as a fraction of it"
    )


class Islands(Section):
    """Islands of a further layer upon the uppermost."""

    count: Annotated[Distribution, Drawn("count", 0, 100)]
    """Number in the field of view."""
    radius: Annotated[Distribution, Drawn("length", 2.0, 5000.0)]
    """Radius of the circle about each, which is a hexagon or a triangle, or rough."""
    shape: Literal["triangle", "hexagon", "rough"] = "triangle"
    """Outline of the islands."""


class PointDefect(Section):
    """A kind of point defect and how often it occurs."""

    kind: Literal["vacancy", "substitution", "antisite", "adatom"]
    """What it is; an antisite puts an element of the crystal on a site of another."""
    site: str = Field(
        pattern="^[A-Za-z0-9_]+$",
        description="class of sites (metal, chalcogen, carbon, boron, nitrogen, a_site, b_site, "
        "anion, atom) or a chemical symbol; of an adatom: hollow, bridge, top or random",
    )
    atoms: int = Field(1, ge=1, le=10, description="atoms of the column that are gone or replaced")
    element: Element | None = Field(None, description="what comes to lie there")
    rate: Annotated[Distribution, Drawn(None, 0.0, 0.5)]
    """Probability at each column of that class; of an adatom: at each unit cell."""
    height: Annotated[float, Quantity("length", 0.5, 10.0)] = Field(
        1.8, description="of an adatom above the uppermost atoms"
    )
    name: str | None = Field(
        None, pattern="^[A-Za-z][A-Za-z0-9_]{0,40}$", description="in tables and labels"
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> PointDefect:
        if (self.element is None) != (self.kind == "vacancy"):
            wants = "takes no 'element'" if self.kind == "vacancy" else "needs an 'element'"
            raise ValueError(f"a {self.kind} {wants}")
        if self.kind == "adatom" and self.atoms != 1:
            raise ValueError("an adatom is one atom")
        return self

    @property
    def label(self) -> str:
        """Its name in tables and labels: 'chalcogen_vacancy', 'Se2_on_chalcogen', 'W_adatom'."""
        if self.name is not None:
            return self.name
        number = str(self.atoms) if self.atoms > 1 else ""
        if self.kind == "vacancy":
            return f"{self.site}_vacancy{number}"
        if self.kind == "adatom":
            return f"{self.element}_{self.site}_adatom"
        return f"{self.element}{number}_on_{self.site}"


class Structure(Section):
    """What is imaged: a crystal that fills the field of view, and what is wrong with it."""

    material: Material
    """The crystal."""
    field: (
        tuple[
            Annotated[float, Quantity("length", 5.0, 100000.0)],
            Annotated[float, Quantity("length", 5.0, 100000.0)],
        ]
        | None
    ) = Field(
        None,
        description="width and height of the specimen, scanned in its middle; by default as large "
        "as scan and probe need. Campaigns of one seed with the same section 'structure' have the "
        "same atoms where it is given",
    )
    layers: Layers = Layers()
    """Of a two-dimensional crystal."""
    zone_axis: tuple[int, int, int] = Field(
        (0, 0, 1), description="direction [u, v, w] of a bulk crystal along the beam"
    )
    thickness: Annotated[Distribution, Drawn("length", 1.0, 2000.0)] | None = None
    """Of a bulk crystal along the beam; two-dimensional ones have none."""
    rotation: Annotated[Distribution, Drawn("angle", -7.0, 7.0)] = Distribution(
        "uniform", parameters=(0.0, FULL_TURN)
    )
    """Angle from the image's x axis to the crystal's first axis in the plane."""
    displacement: Annotated[Distribution, Drawn("length", 0.0, 1.0)] = constant(0.0)
    """Standard deviation of a random displacement of every atom, along each axis."""
    strain: Strain = Strain()
    """Homogeneous strain."""
    tilt: SpecimenTilt = SpecimenTilt()
    """Tilt of the specimen."""
    ripples: Ripples | None = None
    """Ripples of the layer."""
    edge: Edge | None = None
    """An edge of the flake."""
    holes: Holes | None = None
    """Holes drilled by the beam."""
    islands: Islands | None = None
    """Islands of a further layer."""
    defects: tuple[PointDefect, ...] = ()
    """Kinds of point defects; at most one lies at a column."""

    @model_validator(mode="after")
    def _defect_names(self) -> Structure:
        names = [defect.label for defect in self.defects]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two kinds of defects are called {twice!r}: give one a 'name'")
        return self


class Convolution(Section):
    """The convolution approximation: atoms of weight Z^exponent under a point spread function."""

    exponent: Annotated[Distribution, Drawn(None, 0.5, 3.0)] = constant(1.7)
    """Power of the atomic number."""
    width: Annotated[Distribution, Drawn("length", 0.05, 20.0, per="focus", finest="focus")] = (
        constant(0.5, per="focus")
    )
    """Standard deviation of the Gaussian point spread function."""
    psf: str | None = Field(
        None,
        description="file of a point spread function instead: a first line 'sampling 0.1 A', then "
        "a row of numbers a line; relative to the campaign file",
    )


class Simulation(Section):
    """How the beam is scattered by the specimen."""

    method: Literal["incoherent", "convolution", "multislice"] = "incoherent"
    """Incoherent: cross sections under the probe's intensity; convolution: Z^1.7 under a Gaussian;
    multislice: the probe passes the specimen at every point of a scan."""
    energy: Annotated[float, Quantity("energy", 1e4, 2e6)]
    """Energy of the electrons."""
    parametrization: Literal["lobato", "kirkland", "peng"] = "lobato"
    """Table of the scattering factors."""
    debye_waller: dict[Element, Annotated[float, Quantity("length", 0.0, 1.0)]] | None = Field(
        None,
        description="incoherent: one-dimensional rms displacements that blur each element; none "
        "without",
    )
    convolution: Convolution | None = None
    """For the method of that name."""
    sampling: Annotated[float, Quantity("length", 0.01, 0.5)] = Field(
        0.05, description="multislice: pixel of potential and wave"
    )
    slice_thickness: Annotated[float, Quantity("length", 0.05, 20.0)] = Field(
        2.0, description="multislice: greatest thickness of a slice"
    )
    window: Annotated[float, Quantity("length", 5.0, 200.0)] | None = Field(
        None,
        description="multislice: side of the square that each probe passes in; by default as wide "
        "as the probe spreads",
    )
    phonons: Phonons | None = None
    """Multislice: frozen phonons; none without."""

    @model_validator(mode="after")
    def _fits_method(self) -> Simulation:
        of = {
            "convolution": ("convolution",),
            "incoherent": ("debye_waller",),
            "multislice": ("sampling", "slice_thickness", "window", "phonons"),
        }
        for method, names in of.items():
            for name in names:
                if method != self.method and name in self.model_fields_set:
                    raise ValueError(
                        f"{name!r} is for method {method}, and this one is {self.method}"
                    )
        return self


class Probe(Section):
    """The focused probe."""

    semiangle_cutoff: Annotated[
        Distribution, Drawn("angle", 1e-3, 0.2, per="focus", finest="focus")
    ]
    """Convergence semiangle."""
    defocus: Annotated[Distribution, Drawn("length", -1e6, 1e6, per="focus", finest="focus")] = (
        constant(0.0, per="focus")
    )
    """Underfocus is positive, -C10; at zero the probe is in focus at the middle of the specimen."""
    aberrations: Aberrations = Aberrations()
    """Aberrations beyond defocus."""
    focal_spread: Annotated[
        Distribution, Drawn("length", 0.0, 1e4, per="focus", finest="focus")
    ] = constant(0.0, per="focus")
    """Standard deviation of the defocus, beside what 'chromatic' and 'energy_spread' give."""
    chromatic: Annotated[Distribution, Drawn("length", 0.0, 1e9, per="focus", finest="focus")] = (
        constant(0.0, per="focus")
    )
    """Coefficient of chromatic aberration Cc."""
    energy_spread: Annotated[
        Distribution, Drawn("energy", 0.0, 100.0, per="focus", finest="focus")
    ] = constant(0.0, per="focus")
    """Standard deviation of the energy; that of the defocus is Cc dE / E, relativistically."""
    source_size: Annotated[
        Distribution, Drawn("length", 0.0, 100.0, per="focus", finest="focus")
    ] = constant(0.0, per="focus")
    """Full width at half maximum of the source's Gaussian image in the specimen."""


class Collection(Section):
    """What a detector collects: an annulus or a disk, whole or in segments."""

    inner: Annotated[float, Quantity("angle", 0.0, 1.0)] = 0.0
    """Inner angle; 0 for a bright-field disk."""
    outer: Annotated[float, Quantity("angle", 1e-4, 1.0)]
    """Outer angle."""
    segments: int = Field(1, ge=1, le=64, description="sectors of equal angle")
    rotation: Annotated[float, Quantity("angle", -7.0, 7.0)] = 0.0
    """Azimuth at which the first sector begins."""

    @model_validator(mode="after")
    def _order(self) -> Collection:
        if self.inner >= self.outer:
            raise ValueError(
                f"the inner angle {1e3 * self.inner:g} mrad is not below the outer, "
                f"{1e3 * self.outer:g} mrad"
            )
        return self


class Beam(Section):
    """How many electrons fall on each pixel."""

    current: Annotated[Distribution, Drawn("current", 1e-3, 1e6, per="image", finest="image")]
    """Probe current."""
    dwell_time: Annotated[Distribution, Drawn("time", 1e-3, 1e7, per="image", finest="image")]
    """Time on each pixel in each frame."""


class Flyback(Section):
    """The start of each line, where the beam still comes back from the end of the last."""

    amplitude: Annotated[Distribution, Drawn("length", -1000.0, 1000.0, finest="image")]
    """By how much the first pixel of a line is displaced along it."""
    time: Annotated[Distribution, Drawn("time", 1e-3, 1e7, finest="image")]
    """Decay time of that."""
    streak: Annotated[Distribution, Drawn(None, 0.0, 1.0, finest="image")] = constant(0.0)
    """Share of the signal at the line's end that is still seen at its start."""


class Drift(Section):
    """Steady drift of the specimen during the scan."""

    x: Annotated[Distribution, Drawn("speed", -1e4, 1e4, finest="image")] = constant(0.0)
    y: Annotated[Distribution, Drawn("speed", -1e4, 1e4, finest="image")] = constant(0.0)


class Scan(Section):
    """How the beam is led over the specimen, and what goes wrong with it."""

    frames: int = Field(1, ge=1, le=1000, description="frames that are added up")
    jitter: Annotated[Distribution, Drawn("length", 0.0, 100.0, finest="image")] = constant(0.0)
    """Standard deviation of a random displacement of every line along x in each frame."""
    flagging: Annotated[Distribution, Drawn("length", 0.0, 100.0, finest="image")] = constant(0.0)
    """Standard deviation of a slow displacement along x, correlated over 'flagging_lines'."""
    flagging_lines: Annotated[Distribution, Drawn(None, 1.0, 1e4, finest="image")] = constant(20.0)
    """Lines over which it is correlated."""
    drift: Drift = Drift()
    """Steady drift, within the frames and between them: frames are added up as they lie."""
    frame_shift: Annotated[Distribution, Drawn("length", 0.0, 100.0, finest="image")] = constant(
        0.0
    )
    """Standard deviation of what the alignment of the frames leaves, along x and y."""
    line_time: Annotated[Distribution, Drawn("time", 0.0, 1e6, finest="image")] = constant(0.0)
    """Waiting time after each line."""
    shear: Annotated[Distribution, Drawn(None, -0.3, 0.3, finest="image")] = constant(0.0)
    """Displacement along x per length along y."""
    contraction: Annotated[Distribution, Drawn(None, -0.3, 0.3, finest="image")] = constant(0.0)
    """Relative lengthening of the pixel along y against that along x."""
    rotation: Annotated[Distribution, Drawn("angle", -7.0, 7.0, finest="image")] = constant(0.0)
    """Of the scan about the beam."""
    flyback: Flyback | None = None
    """Distortion and streaks at the start of the lines."""


class Contamination(Section):
    """Amorphous carbon on the surface: a smooth random thickness that scatters as carbon does."""

    thickness: Annotated[Distribution, Drawn("length", 0.0, 1000.0, finest="image")]
    """Mean thickness, of carbon of 0.11 atoms/A^3."""
    variation: Annotated[Distribution, Drawn(None, 0.0, 10.0, finest="image")] = constant(0.5)
    """Standard deviation of the thickness over its mean, before it is cut at zero."""
    exponent: Annotated[Distribution, Drawn(None, 0.0, 8.0, finest="image")] = constant(3.0)
    """The power spectrum falls as frequency^-exponent ..."""
    shortest: Annotated[Distribution, Drawn("length", 1.0, 1e4, finest="image")] = constant(8.0)
    """... down to this wavelength ..."""
    longest: Annotated[Distribution, Drawn("length", 1.0, 1e5, finest="image")] = constant(100.0)
    """... and is flat above this one."""
    images: tuple[str, ...] = Field(
        (),
        description="micrographs whose low frequencies (longer than 'shortest') give the field's "
        "shape instead; relative to the campaign file",
    )
    pixel_size: Annotated[float, Quantity("length", 0.001, 100.0)] | None = Field(
        None, description="of micrographs whose file does not say it"
    )


class Imaging(Section):
    """How the scan forms an image, and how many."""

    pixels: int = Field(ge=16, le=16384, description="pixels along x and y")
    sampling: Annotated[Distribution, Drawn("length", 0.01, 10.0, finest="image")]
    """Pixel of the scan along x."""
    foci: int = Field(1, ge=1, le=10000, description="settings of the probe for each structure")
    images_per_focus: int = Field(1, ge=1, le=10000, description="images of each setting")
    probe: Probe | None = None
    """The probe; the convolution method has none."""
    detectors: dict[Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]{0,30}$")], Collection] = (
        Field(
            default_factory=dict,
            description="what is collected, by name; the first one gives the images, further ones "
            "(multislice only) are stored beside them",
        )
    )
    beam: Beam | None = None
    """Electrons; without it images are noise-free: the share of the beam that is collected."""
    scan: Scan = Scan()
    """How the beam is led over the specimen."""
    contamination: Contamination | None = None
    """Carbon on the surface."""
    detector: Detector = Detector()
    """What the detector adds to the counted electrons."""


class AtomMap(Section):
    """The label map of atom columns: 0 background, k class k."""

    radius: Length = Field(0.7, description="of the disk about each column")


class DefectMaps(Section):
    """The label maps of point defects, one for each kind."""

    method: Literal["image", "disk", "gaussian"] = "image"
    """Image: where the image of the defect's own atoms under the probe exceeds 'threshold' of one
    isolated defect's peak; disk: within 'radius'; gaussian: exp(-r^2 / 2 radius^2), in 1/255."""
    threshold: Annotated[float, Quantity(None, 0.01, 0.99)] = 0.25
    """For 'image'."""
    radius: Length = Field(0.7, description="of the disk, or standard deviation of the Gaussian")


class Labels(Section):
    """What is true of each image."""

    atoms: AtomMap | None = AtomMap()
    """Map of the atom columns."""
    defects: DefectMaps = DefectMaps()
    """Maps of the point defects that the campaign has."""
    distance: bool = Field(
        False, description="map of the distance in angstrom to the nearest atom column"
    )
    columns: bool = Field(False, description="table of all atom columns of each image")


class Storage(Section):
    """What is kept besides images, labels and metadata."""

    diffraction: bool = Field(
        False, description="multislice: keep the diffraction pattern of every probe (4D)"
    )
    store_atoms: bool = Field(False, description="keep all atoms instead of rebuilding them")
