"""One campaign from structure to stored image: the one place that knows the order.

Structure i: sample the atoms, displace them by frozen phonons, pass the electron wave through them,
label the particles, form the noise-free image of every focus and record every image of it. All of
it is a pure function of (config, seed, i); `hpctem.database` puts the rows where they belong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctem import labels, tables
from hpctem.backend import Backend
from hpctem.conditions import set_detector
from hpctem.database.schema import ATOMS_DIGEST
from hpctem.detection.detector import detect
from hpctem.detection.filters import crop, draw_crop, filter_median, integrate_pixels
from hpctem.errors import DatabaseError
from hpctem.hrtem.conditions import DrawConditions
from hpctem.hrtem.experiment import Experiment, set_optics
from hpctem.hrtem.grids import Grids
from hpctem.hrtem.tables import EXIT_WAVES, IMAGE_COLUMNS
from hpctem.optics.electron import interaction_constant, wavelength
from hpctem.optics.grid import Grid, copy_frequencies, nyquist_circle
from hpctem.optics.multislice import exit_waves, plan_slices
from hpctem.optics.potential import projected_potential
from hpctem.optics.transfer import Imaging, form_images
from hpctem.structures import phonons
from hpctem.structures.columns import (
    PARTICLE_COLUMNS,
    PLANAR_DEFECT_COLUMNS,
    STRUCTURE_COLUMNS,
    tabulate,
)
from hpctem.structures.scenes import Structure, digest

Rows = dict[str, np.ndarray]
DEFAULT_PHASE = 0.1  # rad
DEFAULT_CONTRAST = 0.1


@dataclass(frozen=True)
class StoredWaves:
    """The exit waves of one structure, kept by an earlier campaign with the same structures.

    waves   complex64 (waves of a structure, phonons, ny, nx)
    atoms   digest of the atoms that they passed
    """

    waves: np.ndarray
    atoms: bytes


def compute_structure(
    experiment: Experiment, index: int, stored: StoredWaves | None = None
) -> Rows:
    """All rows of structure `index`: dataset path -> array whose first axis counts its rows.

    With `stored` the images are formed from these waves and no wave passes the structure.

    Raises SampleError when the sample fails by its own nature, DatabaseError when the stored waves
    are those of other atoms.
    """
    config = experiment.config
    structure = experiment.structure(index)
    if stored is not None and digest(structure) != stored.atoms:
        raise DatabaseError(
            f"the stored exit waves of structure {index} passed other atoms than this code samples "
            "from the same seed: image them with the hpctem and numpy that simulated them"
        )
    rows = tabulate_structure(structure)
    images: list[Rows] = []
    stored_waves = []
    for wave in range(config.waves):
        each = config.imaging.foci * config.imaging.images_per_focus
        taken = range(wave * each, (wave + 1) * each)
        kept = stored.waves[wave] if stored is not None else None
        recorded, waves = compute_images(experiment, structure, index, taken, kept)
        images.extend(recorded)
        if waves is not None:
            stored_waves.append(waves)
    rows |= {path: np.stack([image[path] for image in images]) for path in images[0]}
    if stored_waves:
        rows[EXIT_WAVES] = np.stack(stored_waves)
    if config.storage.store_atoms:
        rows |= tables.atom_rows(structure)
    return rows


def compute_images(
    experiment: Experiment,
    structure: Structure,
    index: int,
    images: range,
    kept: np.ndarray | None = None,
) -> tuple[list[Rows], np.ndarray | None]:
    """Rows of some images of structure `index`, all of one exit wave.

    `kept`: that wave of every phonon configuration, (P, ny, nx) complex64, where it is known.
    Also returns the wave of every phonon configuration, (P, ny, nx) complex64, where it is stored.
    """
    draw = DrawConditions(experiment.config, experiment.streams, index)
    wave = draw.wave_of(images.start)
    tilt = draw.tilt(wave)
    displaced: np.ndarray | None = None
    if kept is None:
        waves, displaced = pass_wave(experiment, structure, index, wave, tilt)
    else:
        waves = coarsen_waves(kept, experiment.grids, experiment.backend)
        if experiment.config.labels.mask.method != "projected_potential":
            displaced = displace_atoms(experiment, structure, index, wave)
    stored = experiment.backend.copy_later(waves) if experiment.config.storage.exit_waves else None
    instances = label_particles(experiment, structure, displaced, tilt)
    recorded = list(image_wave(experiment, waves, structure.cell[2], instances, draw, images))
    return [tabulate_image(image) for image in recorded], stored() if stored else None


def tabulate_structure(structure: Structure) -> Rows:
    """The rows of a structure in the tables of structures, particles and planar defects."""
    rows: Rows = {}
    for group, columns, records in (
        ("structures", STRUCTURE_COLUMNS, [structure.values]),
        ("particles", PARTICLE_COLUMNS, structure.particles),
        ("planar_defects", PLANAR_DEFECT_COLUMNS, structure.planar_defects),
    ):
        if not records:  # a campaign without them has no such table
            continue
        table = tabulate(records, columns)
        rows |= {f"/entry/{group}/{name}": values for name, values in table.items()}
    return rows | {ATOMS_DIGEST: tables.digest_row(structure)}


def pass_wave(
    experiment: Experiment,
    structure: Structure,
    index: int,
    wave: int,
    tilt: tuple[float, float],
) -> tuple[Any, np.ndarray]:
    """The exit waves of all phonon configurations, and the displaced atoms that made them.

    Returns complex64 (P, ny, nx) at the exit plane on the image grid, and (P, n, 3) float64 A.
    """
    displaced = displace_atoms(experiment, structure, index, wave)
    return exit_waves_of(experiment, structure, displaced, structure.tags >= 0, tilt), displaced


def displace_atoms(
    experiment: Experiment, structure: Structure, index: int, wave: int
) -> np.ndarray:
    """The atoms in every phonon configuration of an exit wave: (P, n, 3) float64 A."""
    simulation = experiment.config.simulation
    if simulation.phonons is None:
        return structure.positions[None]
    return np.stack(
        [
            structure.positions
            + phonons.displacements(
                structure.numbers,
                experiment.rms,
                experiment.streams(f"phonon/{wave}/{configuration}", index),
            )
            for configuration in range(simulation.phonons.configurations)
        ]
    )


def coarsen_waves(waves: np.ndarray, grids: Grids, backend: Backend) -> Any:
    """Stored exit waves on the grid of an exit wave that is as fine or coarser.

    waves: complex64 (P, my, mx). Returns complex64 (P, ny, nx) on the backend: the same numbers
    on the same grid; on a coarser one cropped in Fourier space to the circle of its Nyquist
    frequency, as `exit_waves` does, the same to rounding.
    """
    waves = backend.asarray(waves)
    if waves.shape[-2:] == grids.exit:
        return waves
    circle = nyquist_circle(grids.exit, grids.extent)
    # The scale of the two transforms: they count the pixels of different grids.
    scale = grids.exit[0] * grids.exit[1] / (waves.shape[-2] * waves.shape[-1])
    spectrum = backend.xp.zeros((len(waves), *grids.exit), dtype=np.complex64)
    copy_frequencies(backend.fft2(waves), spectrum)
    spectrum *= backend.asarray((circle * scale).astype(np.float32))
    return backend.ifft2(spectrum)


def exit_waves_of(
    experiment: Experiment,
    structure: Structure,
    displaced: np.ndarray,
    chosen: np.ndarray,
    tilt: tuple[float, float],
) -> Any:
    """Exit waves of the chosen atoms alone, in the cell and slices of the whole structure."""
    grids = experiment.grids
    multislice = experiment.multislice(tilt)
    height = structure.cell[2]
    return exit_waves(
        displaced[:, chosen],
        structure.numbers[chosen],
        height,
        Grid(grids.wave, grids.extent),
        multislice,
        experiment.backend,
        output_shape=grids.exit,
        slices=plan_slices(structure.positions, structure.numbers, height, multislice),
    )


def label_particles(
    experiment: Experiment,
    structure: Structure,
    displaced: np.ndarray | None,
    tilt: tuple[float, float],
) -> Any:
    """Which image pixel shows which particle: (ny, nx) uint8, 0 none, k particle k.

    `displaced`: the atoms in every phonon configuration, (P, n, 3) float64 A, for the masks that
    take a wave through the particle alone; that of the projected potential needs none.
    """
    xp = experiment.backend.xp
    count = len(structure.particles)
    if count == 0:
        return xp.zeros(experiment.grids.image, dtype=xp.uint8)
    pairs = [
        mask_particle(experiment, structure, displaced, structure.tags == k, tilt)
        for k in range(1, count + 1)
    ]
    masks, phases = zip(*pairs, strict=True)
    # The sample at the centre of an image pixel decides for the pixel.
    every = slice(None, None, experiment.grids.binning)
    return labels.map_instances(masks, phases)[every, every]


def mask_particle(
    experiment: Experiment,
    structure: Structure,
    displaced: np.ndarray | None,
    chosen: np.ndarray,
    tilt: tuple[float, float],
) -> tuple[Any, Any]:
    """The mask of one particle on the exit wave's grid, and the phase shift that ranks it."""
    config, backend, grids = experiment.config, experiment.backend, experiment.grids
    mask, simulation = config.labels.mask, config.simulation
    pixels = mask.smoothing * grids.exit[0] / grids.extent[0]
    potential = projected_potential(
        project_along_beam(structure.positions[chosen], structure.cell[2], tilt),
        structure.numbers[chosen],
        Grid(grids.exit, grids.extent),
        backend,
        simulation.parametrization,
    )
    phase = labels.smooth_phase(
        potential, interaction_constant(simulation.energy), grids.extent, backend, mask.smoothing
    )
    if mask.method == "projected_potential":
        return labels.mask_by_phase_shift(phase, mask.threshold or DEFAULT_PHASE), phase
    assert displaced is not None
    waves = exit_waves_of(experiment, structure, displaced, chosen, tilt)
    if mask.method == "phase":
        measured = labels.measure_wave_phase(
            waves, wavelength(simulation.energy), grids.extent, structure.cell[2] / 2, backend
        )
        threshold = mask.threshold or DEFAULT_PHASE
        return labels.mask_by_wave_phase(measured, backend, threshold, pixels), phase
    centre = Imaging(simulation.energy, reference="cell_centre", height=structure.cell[2])
    intensity = form_images(waves, grids.extent, [centre], backend)[0]
    contrast = mask.contrast or DEFAULT_CONTRAST
    return labels.mask_by_intensity(intensity, backend, contrast, pixels), phase


def project_along_beam(
    positions: np.ndarray, height: float, tilt: tuple[float, float]
) -> np.ndarray:
    """Where a tilted beam shows atoms: moved by their depth under the exit plane times tan(tilt).

    positions: (n, 3) float64 A; height of the cell in A; tilt (towards x, towards y) in rad.
    """
    depth = height - positions[:, 2]
    shift = np.stack([math.tan(angle) * depth for angle in tilt] + [0 * depth], axis=1)
    return positions + shift


def image_wave(
    experiment: Experiment,
    waves: Any,
    height: float,
    instances: Any,
    draw: DrawConditions,
    images: range,
) -> Iterator[Recorded]:
    """Images that one exit wave gives, focus by focus.

    `images` are running numbers within the structure, all of one wave.
    """
    each = experiment.config.imaging.images_per_focus
    foci = list(dict.fromkeys(image // each for image in images))
    optics = {focus: draw.optics(focus) for focus in foci}
    settings = [set_optics(experiment.config, optics[focus], height) for focus in foci]
    intensities = form_images(waves, experiment.grids.extent, settings, experiment.backend)
    of_focus = {}
    for focus, setting, intensity in zip(foci, settings, intensities, strict=True):
        optics[focus]["defocus_exit"] = setting.exit_defocus
        of_focus[focus] = integrate_pixels(intensity, experiment.grids.binning)
    for image in images:
        focus = image // each
        conditions = draw.identify(image) | optics[focus] | draw.detection(image)
        yield record_image(experiment, of_focus[focus], instances, conditions, draw, image)


@dataclass(frozen=True)
class Recorded:
    """An image and its labels on their way to the host, and the conditions they have."""

    image: Callable[[], np.ndarray]
    instances: Callable[[], np.ndarray]
    conditions: dict[str, float]


def record_image(
    experiment: Experiment,
    intensity: Any,
    instances: Any,
    conditions: dict[str, float],
    draw: DrawConditions,
    image: int,
) -> Recorded:
    """One image as the detector records it, cropped together with its labels.

    `intensity` is the noise-free image (ny, nx), 1 for the incident beam.
    """
    backend, grids = experiment.backend, experiment.grids
    recorded, saturated = detect(
        intensity,
        conditions["dose"],
        grids.pixel_area,
        set_detector(experiment.config.imaging.detector, conditions),
        draw.generator(image, "counts"),
        draw.generator(image, "readout"),
        backend,
    )
    if experiment.config.imaging.median == "stored":
        recorded = filter_median(recorded)
    row, column = 0, 0
    if grids.stored != grids.image:
        row, column = draw_crop(grids.image, grids.stored, draw.generator(image, "crop"))
    return Recorded(
        backend.copy_later(crop(recorded, (row, column), grids.stored)),
        backend.copy_later(crop(instances, (row, column), grids.stored)),
        conditions | {"crop_x": column, "crop_y": row, "saturated": saturated},
    )


def tabulate_image(recorded: Recorded) -> Rows:
    """The row of an image in the image table: its pixels, labels, conditions and statistics."""
    image, instances = recorded.image(), recorded.instances()
    values = recorded.conditions | tables.measure_image(image)
    values["particle_fraction"] = float(np.count_nonzero(instances) / instances.size)
    row = {path: one[0] for path, one in tables.metadata_rows([values], IMAGE_COLUMNS).items()}
    return {tables.IMAGES: image, tables.INSTANCES: instances, **row}
