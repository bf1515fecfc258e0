"""What a STEM campaign file means for the physics: the field of view, probe, scan and detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hpctem.backend import Backend
from hpctem.conditions import noisiest_detector
from hpctem.config import StemConfig
from hpctem.detection.detector import Detector as Camera
from hpctem.detection.scan import scan_reach
from hpctem.inputs import read_film, read_point_spread
from hpctem.optics.annuli import Annulus
from hpctem.optics.columns import correct_pairs
from hpctem.optics.cross_sections import annular_cross_section
from hpctem.optics.electron import wavelength
from hpctem.optics.grid import fast_size
from hpctem.optics.incident import choose_window
from hpctem.optics.object_functions import object_transfer
from hpctem.optics.point_spread import Transfer, gaussian_transfer, tabulated_transfer
from hpctem.optics.probe import Probe, probe_reach
from hpctem.optics.scan_grid import ScanGrid, plan_scan
from hpctem.optics.stem import StemMultislice
from hpctem.sampling import Streams
from hpctem.sections.stem import Collection
from hpctem.stem.conditions import greatest_scan, set_probe, widest_probe
from hpctem.structures import phonons, recipes, sheets
from hpctem.structures.scenes import Structure
from hpctem.tables import IMAGES

CARBON = 6
# Beyond so many standard deviations a Gaussian point spread function is nothing.
GAUSSIAN_REACH = 6.0
# Between the scan and the border of the specimen there is at least so much (A) for the columns that
# the border cuts, and for displaced atoms.
LEAST_MARGIN = 5.0


@dataclass(frozen=True)
class Experiment:
    """A campaign on a device: everything that does not change from structure to structure."""

    config: StemConfig
    backend: Backend

    @cached_property
    def streams(self) -> Streams:
        """The random streams of the campaign."""
        return Streams(self.config.campaign.seed)

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (ny, nx) of an image."""
        return self.config.imaging.pixels, self.config.imaging.pixels

    @cached_property
    def pixel_size(self) -> float | None:
        """Side of a pixel in A where all images have the same."""
        low, high = self.config.imaging.sampling.support
        return high if low == high else None

    @cached_property
    def field(self) -> tuple[float, float]:
        """Width and height (lx, ly) in A of the specimen: no scan nor probe meets its border."""
        return self.config.structure.field or self.least_field

    @cached_property
    def least_field(self) -> tuple[float, float]:
        """The smallest field (lx, ly) in A that the scans and probes of the campaign allow."""
        ny, nx = self.shape
        pixel = self.config.imaging.sampling.support[1]
        reach = scan_reach(self.shape, pixel, greatest_scan(self.config.imaging))
        margin = LEAST_MARGIN + self.reach
        return nx * pixel + 2 * (reach[0] + margin), ny * pixel + 2 * (reach[1] + margin)

    @property
    def view(self) -> tuple[float, float]:
        """Width and height in A of what the smallest image of the campaign shows."""
        ny, nx = self.shape
        pixel = self.config.imaging.sampling.support[0]
        return nx * pixel, ny * pixel

    @property
    def extent(self) -> tuple[float, float]:
        """The same as (ly, lx), in the order of arrays."""
        return self.field[1], self.field[0]

    @property
    def centre(self) -> tuple[float, float]:
        """Middle (x, y) in A of the field and of every scan."""
        return self.field[0] / 2, self.field[1] / 2

    @cached_property
    def reach(self) -> float:
        """How far in A the widest probe or point spread function of the campaign reaches."""
        simulation, probe = self.config.simulation, self.config.imaging.probe
        if self.point_spread is not None:
            psf, sampling = self.point_spread
            return max(psf.shape) / 2 * sampling
        if simulation.convolution is not None:
            return GAUSSIAN_REACH * simulation.convolution.width.support[1]
        assert probe is not None  # check_campaign
        widest = widest_probe(self.config)
        reach = probe_reach(widest)
        if simulation.method != "multislice":
            return reach
        # A thick crystal spreads the probe, and with it the window that holds it.
        thickness = self.config.structure.thickness
        height = 0.0 if thickness is None else thickness.support[1]
        window = self.multislice(widest, height).window[0] * simulation.sampling
        points = self.plan_scan((0.0, 0.0, 0.0, 0.0), widest)
        return max(reach, window / 2 + points.shape[0] / 2 * points.spacing[0])

    @cached_property
    def band(self) -> float:
        """Largest frequency in 1/A that a picture can hold."""
        simulation, probe = self.config.simulation, self.config.imaging.probe
        if probe is not None:
            return 2 * probe.semiangle_cutoff.support[1] / wavelength(simulation.energy)
        if self.point_spread is not None:
            return tabulated_transfer(*self.point_spread).band
        assert simulation.convolution is not None
        return gaussian_transfer(simulation.convolution.width.support[0]).band

    @cached_property
    def detectors(self) -> dict[str, Collection]:
        """The detectors by the datasets of their images; the first one gives the images."""
        return {
            f"/entry/detectors/{name}" if k else IMAGES: detector
            for k, (name, detector) in enumerate(self.config.imaging.detectors.items())
        }

    @cached_property
    def detector(self) -> Collection | None:
        """The detector that gives the images; none where the convolution method has none."""
        return self.detectors.get(IMAGES)

    @cached_property
    def annuli(self) -> tuple[Annulus, ...]:
        """What each detector collects."""
        return tuple(
            Annulus(d.inner, d.outer, d.segments, d.rotation) for d in self.detectors.values()
        )

    def multislice(self, probe: Probe, height: float) -> StemMultislice:
        """How probes pass a specimen whose cell is `height` A high."""
        simulation = self.config.simulation
        pixel = simulation.sampling, simulation.sampling
        window = (
            choose_window(probe, height, max(a.outer for a in self.annuli), pixel)
            if simulation.window is None
            else (fast_size(simulation.window / pixel[0]),) * 2
        )
        return StemMultislice(window, simulation.slice_thickness, simulation.parametrization)

    def plan_scan(self, area: tuple[float, float, float, float], probe: Probe) -> ScanGrid:
        """The points of a probe's scan over an area (x0, y0, x1, y1) in A."""
        return plan_scan(
            area,
            probe.energy,
            probe.semiangle_cutoff,
            self.config.simulation.sampling,
            probe.source_size,
        )

    @cached_property
    def scan_area(self) -> tuple[float, float, float, float]:
        """The rectangle (x0, y0, x1, y1) in A that no scan of the campaign leaves."""
        lx, ly = self.field
        margin = LEAST_MARGIN + self.reach
        return margin, margin, lx - margin, ly - margin

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of sites: class k is the (k - 1)-th."""
        return sheets.site_classes(self.config.structure)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds of point defects."""
        return sheets.defect_kinds(self.config.structure)

    @cached_property
    def image_dtype(self) -> np.dtype:
        """Type of a stored image: uint16 of counted electrons, else float32."""
        noise_free = self.config.imaging.beam is None
        return np.dtype(np.float32) if noise_free else self._camera.dtype

    @cached_property
    def image_units(self) -> str:
        """Unit of a stored image; none for the collected share of the beam."""
        return "" if self.config.imaging.beam is None else self._camera.units

    @cached_property
    def _camera(self) -> Camera:
        """The detector with all the noise that it can have."""
        return noisiest_detector(self.config.imaging.detector)

    @cached_property
    def films(self) -> tuple[str, ...]:
        """The micrographs from which contamination is taken, as texts."""
        carbon = self.config.imaging.contamination
        if carbon is None:
            return ()
        shortest = carbon.shortest.support[0]
        return tuple(read_film(Path(p), shortest, carbon.pixel_size) for p in carbon.images)

    @cached_property
    def point_spread(self) -> tuple[np.ndarray, float] | None:
        """The point spread function of the convolution method where a file gives it, and its A."""
        convolution = self.config.simulation.convolution
        if convolution is None or convolution.psf is None:
            return None
        return read_point_spread(Path(convolution.psf))

    @cached_property
    def rms(self) -> dict[int, float]:
        """Rms displacement in A per atomic number, of frozen phonons or of the blur."""
        simulation = self.config.simulation
        given = simulation.phonons.rms if simulation.phonons else simulation.debye_waller or {}
        known = {} if simulation.debye_waller is not None else dict(phonons.RMS_300K)
        return known | {recipes.atomic_number(symbol): u for symbol, u in given.items()}

    def blur(self, numbers: np.ndarray) -> np.ndarray | None:
        """Rms displacement in A that blurs each atom in an incoherent picture; none without."""
        if not self.config.simulation.debye_waller:
            return None
        elements, which = tell_elements(numbers)
        return np.array([self.rms[int(number)] for number in elements])[which]

    def carbon(self, dataset: str, values: Mapping[str, float]) -> float:
        """Cross section in A^2 of carbon for a detector, by the dataset of its images."""
        return self._cross_section(CARBON, self.detectors[dataset], values)

    def structure(self, index: int) -> Structure:
        """The atoms of structure `index` at rest."""
        # Holes and islands lie in what is scanned, but in the whole of a field that was asked for,
        # which must not depend on the scan.
        ny, nx = self.shape
        pixel = self.config.imaging.sampling.support[1]
        view = None if self.config.structure.field else (nx * pixel, ny * pixel)
        return sheets.sample_sheet(self.config.structure, self.field, self.streams, index, view)

    def scatter(self, structure: Structure, values: Mapping[str, float]) -> np.ndarray:
        """What each atom scatters into the detector: float64 (n,), cross sections in A^2.

        `values`: the conditions of the focus. By the convolution method Z^exponent, on the scale on
        which carbon scatters as it does where a detector is given. By the incoherent method with
        what atoms behind each other gain in a two-dimensional crystal.
        """
        simulation, detector = self.config.simulation, self.detector
        if simulation.method == "convolution":
            power = values["exponent"]
            carbon = CARBON**power
            if detector is not None:
                carbon = self._cross_section(CARBON, detector, values)
            return (carbon * (np.arange(256) / CARBON) ** power)[structure.numbers]
        elements, which = tell_elements(structure.numbers)
        assert detector is not None  # check_campaign
        alone = np.array([self._cross_section(int(z), detector, values) for z in elements])[which]
        if self.config.structure.thickness is not None:
            return alone
        return correct_pairs(
            structure.positions,
            structure.numbers,
            alone,
            set_probe(self.config, values),
            detector.inner,
            detector.outer,
            self.backend,
            simulation.parametrization,
            self.blur(structure.numbers),
        )

    def shapes(
        self, numbers: np.ndarray, values: Mapping[str, float]
    ) -> tuple[np.ndarray, list[Transfer]] | None:
        """The element of each atom and the object function of each element; none for points."""
        simulation, detector = self.config.simulation, self.detector
        if simulation.method != "incoherent" or detector is None:
            return None
        elements, which = tell_elements(numbers)
        angles = values["semiangle_cutoff"], detector.inner, detector.outer
        table = simulation.parametrization
        return which, [
            object_transfer(z, simulation.energy, *angles, table) for z in elements.tolist()
        ]

    def _cross_section(
        self, number: int, detector: Collection, values: Mapping[str, float]
    ) -> float:
        simulation, cone = self.config.simulation, 0.0
        if self.config.imaging.probe is not None:
            cone = values["semiangle_cutoff"]
        return annular_cross_section(
            number, simulation.energy, detector.inner, detector.outer, simulation.parametrization,
            cone,
        )  # fmt: skip


def tell_elements(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The atomic numbers, ascending, that occur among those of atoms, (n,); and which each has."""
    present = np.bincount(numbers) > 0
    return np.flatnonzero(present), (np.cumsum(present) - 1)[numbers]
