"""What a campaign file means for the physics: grids, random streams, settings of every step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hpctem.backend import Backend
from hpctem.conditions import COEFFICIENTS, noisiest_detector
from hpctem.config import HrtemConfig
from hpctem.detection.detector import Detector
from hpctem.hrtem.grids import Grids, choose_grids
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.multislice import Multislice
from hpctem.optics.transfer import Imaging
from hpctem.sampling import Streams
from hpctem.structures import phonons, recipes
from hpctem.structures.scenes import Structure


@dataclass(frozen=True)
class Experiment:
    """A campaign on a device: everything that does not change from structure to structure."""

    config: HrtemConfig
    backend: Backend

    @cached_property
    def grids(self) -> Grids:
        """Pixel grids of waves and images."""
        return choose_grids(self.config)

    @cached_property
    def streams(self) -> Streams:
        """The random streams of the campaign."""
        return Streams(self.config.campaign.seed)

    @cached_property
    def rms(self) -> dict[int, float]:
        """Rms displacement in A per atomic number, of frozen phonons or of the smearing."""
        simulation = self.config.simulation
        given = simulation.phonons.rms if simulation.phonons else simulation.debye_waller or {}
        known = {} if simulation.debye_waller is not None else dict(phonons.RMS_300K)
        return known | {recipes.atomic_number(symbol): u for symbol, u in given.items()}

    @cached_property
    def image_dtype(self) -> np.dtype:
        """Type of a stored image: uint16 of a counting or digitising camera, else float32."""
        return self._camera.dtype

    @cached_property
    def image_units(self) -> str:
        """Unit of a stored image."""
        return self._camera.units

    @cached_property
    def _camera(self) -> Detector:
        """The detector with all the noise that it can have."""
        return noisiest_detector(self.config.imaging.detector)

    def check_displacements(self, numbers: np.ndarray) -> None:
        """Raise ConfigError when an element lacks the displacement that the campaign asks for."""
        simulation = self.config.simulation
        if simulation.phonons is not None:
            phonons.check_displacements(numbers, self.rms, "simulation.phonons.rms")
        if simulation.debye_waller is not None:
            phonons.check_displacements(numbers, self.rms, "simulation.debye_waller")

    def structure(self, index: int) -> Structure:
        """The atoms of structure `index` at rest."""
        return recipes.sample_structure(self.config.structure, self.streams, index)

    def multislice(self, tilt: tuple[float, float]) -> Multislice:
        """How waves pass a structure; `tilt` of the beam towards x and y in rad."""
        simulation = self.config.simulation
        return Multislice(
            energy=simulation.energy,
            slice_thickness=simulation.slice_thickness,
            parametrization=simulation.parametrization,
            projection=simulation.projection,
            slice_plane=simulation.slice_plane,
            tilt=tilt,
            debye_waller=self.rms if simulation.debye_waller is not None else None,
        )


def set_optics(config: HrtemConfig, values: dict[str, float], height: float) -> Imaging:
    """The optical settings of one focus, from its row of conditions; height of the cell in A."""
    imaging = config.imaging
    return Imaging(
        energy=config.simulation.energy,
        defocus=values["defocus"],
        reference=imaging.defocus_reference,
        height=height,
        aberrations=Aberrations(**{name: values[name] for name in COEFFICIENTS}),
        focal_spread=values["focal_spread"],
        spread_nodes=imaging.focal_planes,
        objective_aperture=imaging.objective_aperture,
        convergence=values["convergence_semiangle"],
        plasmon=(values["plasmon_weight"], values["plasmon_background"])
        if imaging.plasmon
        else None,
    )
