"""The sections of an HRTEM campaign: particles on a substrate, their exit waves and images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from hpctem.distributions import Drawn, Quantity
from hpctem.sampling import Distribution, constant
from hpctem.sections.common import Aberrations, Detector, Element, Length, Phonons, Section, by_form


class Crystal(Section):
    """A crystal: a lattice by name with its elements and constants, or a file."""

    lattice: (
        Literal["fcc", "bcc", "hcp", "diamond", "zincblende", "wurtzite", "rocksalt"] | None
    ) = Field(None, description="lattice by name")
    elements: tuple[Element, ...] = Field(
        (), description="[Au], or [Cd, Se] for two-element lattices"
    )
    a: Annotated[float, Quantity("length", 1.0, 100.0)] | None = Field(
        None, description="constant a"
    )
    c: Annotated[float, Quantity("length", 1.0, 200.0)] | None = Field(
        None, description="constant c of hcp and wurtzite"
    )
    u: Annotated[float, Quantity(None, 0.0, 1.0)] | None = Field(
        None, description="internal parameter u of wurtzite (ideal 3/8)"
    )
    file: str | None = Field(
        None, description="CIF, POSCAR or XYZ file; relative to the campaign file"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Crystal:
        if (self.lattice is None) == (self.file is None):
            raise ValueError("give either 'lattice' (with 'elements' and 'a') or 'file'")
        if self.file is not None and (self.elements or self.a or self.c or self.u):
            raise ValueError("a crystal from a file takes no 'elements', 'a', 'c' or 'u'")
        if self.lattice is not None:
            count = 2 if self.lattice in ("zincblende", "wurtzite", "rocksalt") else 1
            if len(self.elements) != count:
                raise ValueError(f"{self.lattice} takes {count} element(s) in 'elements'")
            if self.a is None:
                raise ValueError(f"{self.lattice} needs the lattice constant 'a'")
            if (self.c is not None) != (self.lattice in ("hcp", "wurtzite")):
                raise ValueError("'c' is needed for hcp and wurtzite, and for no other lattice")
            if self.u is not None and self.lattice != "wurtzite":
                raise ValueError("'u' is for wurtzite alone")
        return self


class ZoneAxis(Section):
    """A fixed orientation: the zone axis along the beam, turned about it by an angle."""

    zone_axis: tuple[int, int, int] = Field(description="direction [u, v, w] along the beam")
    in_plane: Annotated[Distribution, Drawn("angle", -7.0, 7.0)] = constant(0.0)
    """Angle by which the particle is turned about the beam."""

    @model_validator(mode="after")
    def _direction(self) -> ZoneAxis:
        if not any(self.zone_axis):
            raise ValueError("the zone axis [0, 0, 0] has no direction")
        return self


class PlanarDefects(Section):
    """Twins and intrinsic stacking faults on (111) planes of an fcc particle."""

    count: Annotated[Distribution, Drawn("count", 0, 20)] = constant(0)
    """Number of planar defects in a particle."""
    kind: Annotated[Distribution, Drawn("category", categories=("twin", "stacking_fault"))] = (
        Distribution("choice", ("twin", "stacking_fault"))
    )
    """What each of them is."""
    minimum_separation: int = Field(3, ge=1, le=1000, description="(111) planes between defects")
    edge_distance: int = Field(3, ge=0, le=1000, description="(111) planes to the particle's edge")


class Particles(Section):
    """Spherical nanoparticles on the substrate."""

    count: Annotated[Distribution, Drawn("count", 0, 100)] = constant(1)
    """Number of particles; 0 gives images without any."""
    crystal: Crystal
    """What the particles are made of."""
    radius: Annotated[Distribution, Drawn("length", 2.0, 1000.0)]
    """Radius of the spheres."""
    orientation: Annotated[
        Annotated[Literal["uniform"], Tag("~word")] | Annotated[ZoneAxis, Tag("~section")],
        Discriminator(by_form),
    ] = "uniform"
    """Uniform over all rotations, or a zone axis along the beam."""
    planar_defects: PlanarDefects | None = None
    """Twins and stacking faults."""
    embedding: Annotated[Distribution, Drawn(None, 0.0, 2.0)] = constant(0.2)
    """Depth below the surface as a fraction of the radius."""
    edge_distance: Length = Field(10.0, description="least distance from the edges of the cell")
    gap: Length = Field(10.0, description="least gap between particles")
    attempts: int = Field(100, ge=1, le=100000, description="tries to place each particle")


class Substrate(Section):
    """An amorphous film under the particles, unique for every structure."""

    element: Element = "C"
    """What the film is made of."""
    density: Annotated[float, Quantity("number density", 1e-4, 0.3)] = Field(
        0.11, description="atoms per volume; 0.11 /A^3 of carbon is 2.2 g/cm3"
    )
    minimum_bond: Annotated[float, Quantity("length", 0.1, 10.0)] = 1.4
    """Shortest distance between two of its atoms."""
    thickness: Annotated[Distribution, Drawn("length", 1.0, 5000.0)]
    """Thickness of the film."""
    tile: str | None = Field(None, description="file of an amorphous film to cut from instead")


class Structure(Section):
    """What is imaged."""

    cell: tuple[
        Annotated[float, Quantity("length", 5.0, 10000.0)],
        Annotated[float, Quantity("length", 5.0, 10000.0)],
    ] = Field(description="width x and height y of the periodic cell")
    particles: Particles | None = None
    """Particles on the substrate, or in vacuum without one."""
    substrate: Substrate | None = None
    """The film under the particles."""

    @model_validator(mode="after")
    def _something(self) -> Structure:
        if self.particles is None and self.substrate is None:
            raise ValueError("nothing to image: give 'particles', 'substrate' or both")
        if self.particles is not None:
            radius = self.particles.radius.support[1]
            room = min(self.cell) / 2 - self.particles.edge_distance
            if radius > room:
                raise ValueError(
                    f"a particle of radius {radius:g} A with {self.particles.edge_distance:g} A to "
                    f"the edges does not fit the cell: at most {room:g} A; enlarge 'cell' or "
                    "narrow 'radius'"
                )
        return self


class Tilt(Section):
    """Tilt of the beam from the z axis of the cell, towards +x and towards +y.

    Tilting the specimen by the opposite angles gives the same images to first order.
    """

    x: Annotated[Distribution, Drawn("angle", -0.2, 0.2, finest="wave")] = constant(0.0)
    """Towards +x."""
    y: Annotated[Distribution, Drawn("angle", -0.2, 0.2, finest="wave")] = constant(0.0)
    """Towards +y."""


class Simulation(Section):
    """How the electron wave passes the structure."""

    energy: Annotated[float, Quantity("energy", 1e4, 2e6)]
    """Energy of the electrons."""
    accuracy: Literal["fast", "standard", "converged"] | None = Field(
        None,
        exclude=True,  # what it stands for is in the keys that it fills in
        description="fills in sampling, slices, phonons and focal planes that are not given",
    )
    sampling: Annotated[float, Quantity("length", 0.01, 1.0)] = Field(
        0.1, description="pixel of potential and wave; adjusted down to fit the cell"
    )
    slice_thickness: Annotated[float, Quantity("length", 0.05, 20.0)] = 2.0
    """Greatest thickness of a slice; the cell is cut into equal ones."""
    slice_plane: Literal["centroid", "centre", "edge"] = "centroid"
    """Where in its slice the potential acts."""
    parametrization: Literal["lobato", "kirkland", "peng"] = "lobato"
    """Table of the scattering factors."""
    projection: Literal["infinite", "finite"] = "infinite"
    """Each atom wholly in one slice, or divided over those it reaches into."""
    waves: int = Field(1, ge=1, le=1000, description="exit waves per structure")
    tilt: Tilt = Tilt()
    """Tilt of the beam."""
    phonons: Phonons | None = None
    """Frozen phonons; none without."""
    debye_waller: dict[Element, Annotated[float, Quantity("length", 0.0, 1.0)]] | None = Field(
        None, description="smear the potential by these rms displacements instead of phonons"
    )

    @model_validator(mode="after")
    def _one_thermal_model(self) -> Simulation:
        if self.phonons is not None and self.debye_waller is not None:
            raise ValueError(
                "'phonons' and 'debye_waller' both describe the thermal motion: give one"
            )
        return self


class Plasmon(Section):
    """Contrast lost to plasmon scattering: I' = (1 - w) I + w (I + b) mean(I) / mean(I + b)."""

    weight: Annotated[Distribution, Drawn(None, 0.0, 1.0, finest="focus")] = constant(0.5)
    """Share of the intensity that loses contrast."""
    background: Annotated[Distribution, Drawn(None, 0.0, 100.0, finest="focus")] = constant(1.0)
    """Background added to that share, in units of the incident beam."""


class Imaging(Section):
    """How images form from the exit wave, and how many."""

    sampling: Annotated[float, Quantity("length", 0.01, 10.0)] = Field(description="image pixel")
    crop: int | None = Field(None, ge=16, le=16384, description="random square crop in pixels")
    foci: int = Field(1, ge=1, le=10000, description="focal settings of each exit wave")
    images_per_focus: int = Field(1, ge=1, le=10000, description="images of each focal setting")
    defocus: Annotated[Distribution, Drawn("length", -1e6, 1e6, per="focus", finest="focus")]
    """Underfocus is positive: -C10."""
    defocus_reference: Literal["exit_plane", "cell_centre"] = "exit_plane"
    """Plane from which the defocus is measured."""
    focal_spread: Annotated[
        Distribution, Drawn("length", 0.0, 1e4, per="focus", finest="focus")
    ] = constant(0.0, per="focus")
    """Standard deviation of the defocus; tables and programs that give the 1/e half width (Larsen
    et al., abTEM) print sqrt(2) times it."""
    focal_planes: Annotated[
        Annotated[Literal["auto"], Tag("~word")]
        | Annotated[int, Field(ge=5, le=1001), Tag("~number")],
        Discriminator(by_form),
    ] = Field(
        "auto",
        description="planes averaged over the focal spread; auto takes as few as give 1e-3, a "
        "number takes that many, Gaussian-weighted to 3 standard deviations",
    )
    aberrations: Aberrations = Aberrations()
    """Aberrations beyond defocus."""
    objective_aperture: Annotated[float, Quantity("angle", 1e-3, 0.5)] | None = None
    """Semiangle of the objective aperture; none without."""
    convergence_semiangle: Annotated[
        Distribution, Drawn("angle", 0.0, 0.05, per="focus", finest="focus")
    ] = constant(0.0, per="focus")
    """Semiangle of the illumination, for the envelope of partial spatial coherence."""
    plasmon: Plasmon | None = None
    """Contrast lost to plasmons; none without."""
    dose: Annotated[Distribution, Drawn("dose", 1e-3, 1e7, per="image", finest="image")]
    """Incident electrons per area."""
    detector: Detector = Detector()
    """What the camera adds."""
    median: Literal["none", "view", "stored"] = Field(
        "none",
        description="3 x 3 median: none, a view recorded with the raw counts for whoever reads "
        "them, or stored instead of them",
    )


class Mask(Section):
    """Which pixels show a particle."""

    method: Literal["projected_potential", "phase", "intensity"] = "projected_potential"
    """What is thresholded."""
    threshold: Annotated[float, Quantity("angle", 1e-4, 10.0)] | None = Field(
        None, description="phase above which a pixel belongs to the particle; 0.1 rad by default"
    )
    contrast: Annotated[float, Quantity(None, 1e-4, 10.0)] | None = Field(
        None, description="for 'intensity': departure from the vacuum intensity; 0.1 by default"
    )
    smoothing: Annotated[float, Quantity("length", 0.0, 100.0)] = Field(
        1.0, description="standard deviation of the Gaussian"
    )

    @model_validator(mode="after")
    def _fits_method(self) -> Mask:
        if self.method == "intensity" and self.threshold is not None:
            raise ValueError("the intensity mask takes 'contrast', not 'threshold'")
        if self.method != "intensity" and self.contrast is not None:
            raise ValueError("'contrast' is for the intensity mask; this one takes 'threshold'")
        return self


class Labels(Section):
    """What is true of each image."""

    mask: Mask = Mask()
    """How the pixels of a particle are told."""


class Storage(Section):
    """What is kept besides images, labels and metadata."""

    exit_waves: bool = Field(False, description="keep every exit wave (complex64)")
    store_atoms: bool = Field(False, description="keep all atoms instead of rebuilding them")
