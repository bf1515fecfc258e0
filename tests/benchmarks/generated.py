"""Databases as large as one likes in minutes: real tables and files, drawn rather than simulated.

The campaign file, the layout and the file's machinery (segments, journals, digests, marker) are
those of `hpctem simulate`; only the rows come from random numbers in place of multislice. The file
passes `hpctem verify`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hpctem.backend import select_backend
from hpctem.campaign_file import read_campaign
from hpctem.database.fill import Summary, fill
from hpctem.database.schema import Field, Layout
from hpctem.database.segment import StructureRows, quarantine
from hpctem.hrtem.experiment import Experiment
from hpctem.simulate import identify, lay_out

CAMPAIGN = """\
campaign:
  name: {name}
  seed: {seed}
  structures: {structures}
  description: gold on carbon, columns as drawn and images as noise, to measure curation
structure:
  cell: [9.6 nm, 9.6 nm]
  particles:
    count: {{choice: [1, 1, 2]}}
    crystal: {{lattice: fcc, elements: [Au], a: 4.08265 A}}
    radius: {{normal: {{mean: 2.5 nm, std: 0.5 nm, min: 1.5 nm, max: 3.5 nm}}}}
    planar_defects: {{count: {{choice: [0, 1, 2, 3]}}, kind: {{choice: [twin, stacking_fault]}}}}
    edge_distance: 1 nm
  substrate: {{element: C, thickness: {{uniform: [2 nm, 8 nm]}}}}
simulation:
  energy: 300 keV
  sampling: 0.2 A
imaging:
  sampling: 0.2 A
  crop: 16
  foci: {foci}
  images_per_focus: 5
  defocus: {{normal: {{mean: 0 nm, std: 20 nm}}, per: focus}}
  focal_spread: {{uniform: [10 A, 25 A], per: structure}}
  aberrations:
    magnitudes:
      C30: {{normal: {{mean: 0 um, std: 2 um}}, per: structure}}
      C12: {{uniform: [0 A, 25 A], per: focus}}
    angles: {{C12: {{uniform: [0 rad, 6.283 rad], per: focus}}}}
  dose: {{grid: [100 e/A^2, 300 e/A^2, 600 e/A^2, 900 e/A^2, 1200 e/A^2], per: image}}
"""
DOSES = (100.0, 300.0, 600.0, 900.0, 1200.0)
BLOCK_BYTES = 16 * 2**20
REASONS = (
    "none of 200 places is free for particle 1: make the cell larger or the gap smaller",
    "3 of 64 pixels fall outside 0..65535: lower the dose or the gain",
)


@dataclass
class DrawRows:
    """Structure index -> its rows, from blocks of structures drawn together."""

    layout: Layout
    seed: int
    _drawn: tuple[int, dict[str, np.ndarray]] = field(default=(-1, {}), repr=False)

    @property
    def structures(self) -> int:
        """How many are drawn together."""
        return max(1, min(250, BLOCK_BYTES // self.layout.structure_bytes))

    def __call__(self, index: int) -> StructureRows:
        number, place = divmod(index, self.structures)
        if self._drawn[0] != number:
            self._drawn = number, self._draw(number)
        block = self._drawn[1]
        if block["bad"][place]:
            return quarantine(REASONS[int(block["bad"][place]) - 1])
        rows = {}
        for item in self.layout.fields[:-2]:
            each = self.layout.rows_per_structure[item.table]
            values = block[item.path][place * each : (place + 1) * each]
            if item.table in self.layout.counts:
                values = values[: block[self.layout.counts[item.table]][place]]
            rows[item.path] = values
        return StructureRows(rows)

    def _draw(self, number: int) -> dict[str, np.ndarray]:
        """Every column of a block: path -> array; 'bad' numbers the reason, 0 is good."""
        layout, count = self.layout, self.structures
        random = np.random.Generator(
            np.random.Philox(key=[self.seed, 0], counter=[0, 0, 0, number])
        )
        structures = number * count + np.arange(count)
        named = _draw_structures(random, structures)
        block = {"bad": np.where(random.random(count) < 1e-3, random.integers(1, 3, count), 0)}
        for table in layout.tables:
            each = layout.rows_per_structure[table]
            if table == "images":
                columns = _draw_images(random, structures, named, each)
            elif table == "structures":
                columns = named
            elif table == "particles":
                columns = _draw_particles(random, named, each)
            else:
                columns = {}
            for item in layout.fields_of(table):
                values = columns.get(item.name)
                if values is None:
                    values = _draw_any(random, item, count * each)
                block[item.path] = values.astype(item.dtype).reshape(count * each, *item.shape)
        return block


def _draw_structures(random: np.random.Generator, structures: np.ndarray) -> dict[str, np.ndarray]:
    count = len(structures)
    thickness = random.uniform(20, 80, count)
    radius = np.clip(random.normal(25, 5, count), 15, 35)
    particles, defects = random.integers(1, 3, count), random.integers(0, 4, count)
    substrate = np.round(0.11 * 96 * 96 * thickness).astype(int)
    atoms = np.round(0.0588 * 4.19 * radius**3).astype(int) * particles
    digests = [hashlib.blake2b(b"%d" % i, digest_size=16).digest() for i in structures]
    return {
        "cell_x": np.full(count, 96.0),
        "cell_y": np.full(count, 96.0),
        "height": thickness + 1.8 * radius + 4,
        "n_atoms": substrate + atoms,
        "n_substrate_atoms": substrate,
        "n_particle_atoms": atoms,
        "n_displaced_atoms": random.poisson(40, count),
        "substrate_thickness": thickness,
        "surface_z": thickness + 2,
        "particles_requested": particles,
        "particles_placed": particles,
        "mean_radius": radius,
        "planar_defects_requested": defects,
        "planar_defects_placed": np.minimum(defects, random.integers(1, 4, count)),
        "elements": np.full(count, b"Au C"),
        "atoms_digest": np.frombuffer(b"".join(digests), np.uint8).reshape(count, 16),
    }


def _draw_images(
    random: np.random.Generator,
    structures: np.ndarray,
    named: Mapping[str, np.ndarray],
    each: int,
) -> dict[str, np.ndarray]:
    doses, foci, count = len(DOSES), each // len(DOSES), len(structures) * each

    def repeated(values: np.ndarray, times: int) -> np.ndarray:
        return np.repeat(values, times)

    image = np.tile(np.arange(each), len(structures))
    defocus = repeated(random.normal(0, 200, len(structures) * foci), doses)
    dose = np.array(DOSES)[image % doses]
    mean = 0.04 * dose * random.normal(1, 0.01, count)
    zero = np.zeros(count)
    return {
        "structure_id": repeated(structures, each),
        "wave_index": zero,
        "focus_index": image // doses,
        "dose_index": image % doses,
        "energy": np.full(count, 3e5),
        "pixel_size": np.full(count, 0.2),
        "defocus": defocus,
        "defocus_exit": defocus + repeated(named["height"] / 2, each),
        "focal_spread": repeated(random.uniform(10, 25, len(structures)), each),
        "C30": repeated(random.normal(0, 2e4, len(structures)), each),
        "C12": repeated(random.uniform(0, 25, len(structures) * foci), doses),
        "phi12": repeated(random.uniform(0, 2 * np.pi, len(structures) * foci), doses),
        "dose": dose,
        "quantum_efficiency": np.ones(count),
        "gain": np.ones(count),
        "crop_x": random.integers(0, 470, count),
        "crop_y": random.integers(0, 470, count),
        "mean": mean,
        "standard_deviation": np.sqrt(mean) * random.uniform(1, 1.3, count),
        "minimum": np.floor(np.maximum(mean - 3.2 * np.sqrt(mean), 0)),
        "maximum": np.ceil(mean + 3.2 * np.sqrt(mean)),
        "particle_fraction": random.uniform(0.1, 0.5, count),
    }


def _draw_particles(
    random: np.random.Generator, named: Mapping[str, np.ndarray], each: int
) -> dict[str, np.ndarray]:
    number = np.tile(np.arange(1, each + 1), len(named["mean_radius"]))
    radius = np.repeat(named["mean_radius"], each)
    turn = random.normal(size=(len(number), 4))
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    return {
        "particle": number,
        "draw": number,
        "radius": radius,
        "x": random.uniform(45, 51, len(number)),
        "y": random.uniform(45, 51, len(number)),
        "z": np.repeat(named["surface_z"], each) + 0.8 * radius,
        **{f"quaternion_{name}": turn[:, k] for k, name in enumerate("wxyz")},
        "embedding": np.full(len(number), 0.2),
        "n_atoms": np.round(0.0588 * 4.19 * radius**3),
        "attempts": random.geometric(0.5, len(number)),
    }


def _draw_any(random: np.random.Generator, item: Field, count: int) -> np.ndarray:
    """Columns without a distribution of their own: pixels, categories, places; else zero."""
    shape = (count, *item.shape)
    if item.path == "/entry/images/intensity":
        return random.integers(0, 64, shape, np.uint16)
    if item.table == "images" and not item.path.startswith("/entry/labels/"):
        return np.zeros(shape, item.dtype)
    if item.categories:
        return random.integers(0, len(item.categories), shape, item.dtype)
    if item.dtype.kind in "iu":
        return random.integers(0, 3, shape, item.dtype)
    return random.normal(size=shape) if item.dtype.kind == "f" else np.zeros(shape, item.dtype)


def generate(
    path: Path, rows: int = 1_000_000, structures: int = 50_000, pixels: int = 8, seed: int = 1
) -> Summary:
    """A finished database of `rows` images, drawn; about one structure in a thousand quarantined.

    The rows of a structure are `rows / structures` images: foci of five doses each.
    """
    foci = rows // structures // len(DOSES)
    text = CAMPAIGN.format(name=f"drawn_{rows}", seed=seed, structures=structures, foci=foci)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".yaml")
    written.write_text(text)
    campaign = read_campaign(written)
    experiment = Experiment(campaign.config, select_backend("cpu"))
    # Smaller than any campaign may be: here the columns matter.
    vars(experiment)["grids"] = replace(experiment.grids, stored=(pixels, pixels))
    layout = lay_out(campaign, experiment, range(structures))
    return fill(path, layout, identify(campaign, experiment), DrawRows(layout, seed))
