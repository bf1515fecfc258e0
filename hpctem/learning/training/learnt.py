"""What a model has learnt from and what was held out: images by their rows, structures by atoms.

learnt.json of a model folder holds, of both, the databases with their digests, the rows of the
images and the names of the structures that they show. Images of a structure that was learnt from
are known by it in any database: one simulated again, with other doses, or translated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError
from hpctem.learning.data.samples import Samples
from hpctem.subsets.file import describe_source, write_runs
from hpctem.subsets.pool import name_structures

FORMAT = "hpctem-learnt-1"
LEARNT = "learnt.json"
TRAINING, VALIDATION = "training", "validation"


@dataclass(frozen=True)
class Learnt:
    """The structures that were learnt from, by name: (n,) S16."""

    structures: np.ndarray

    def find(self, images: Collection) -> np.ndarray:
        """Which images show structures that were learnt from: (n,) bool."""
        return np.isin(name_shown(images), self.structures)


def take_parts(training: Samples, validation: Samples | None) -> dict[str, Collection]:
    """The images that are learnt from and, if there are any, those held out, by name."""
    parts = {TRAINING: training, VALIDATION: validation}
    return {name: samples.collection for name, samples in parts.items() if samples is not None}


def name_shown(images: Collection) -> np.ndarray:
    """The structure that each image shows, by name: (n,) S16."""
    names = np.empty(len(images), "S16")
    for number, database in enumerate(images.databases):
        own = images.sources == number
        if own.any():
            shown = database.structure_of("images", images.rows[own])
            names[own] = name_structures(database)[shown]
    return names


def write_learnt(folder: Path, images: Mapping[str, Collection]) -> Path:
    """Write learnt.json into the folder of a model; its path.

    images   'training' and, where any are held out, 'validation'

    Raises MachineError when it cannot be written.
    """
    content = {"format": FORMAT} | {name: _describe(of, folder) for name, of in images.items()}
    path = folder / LEARNT
    write_durably(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def _describe(images: Collection, folder: Path) -> dict[str, Any]:
    databases = []
    for number, database in enumerate(images.databases):
        rows = np.sort(images.rows[images.sources == number])
        if len(rows):
            source = asdict(describe_source(database, rows, folder))
            databases.append(source | {"images": write_runs(rows)})
    names = np.unique(name_shown(images)).tolist()
    structures = [name.ljust(16, b"\0").hex() for name in names]
    return {"images": len(images), "databases": databases, "structures": structures}


def read_learnt(path: Path) -> Learnt:
    """What a learnt.json says; raises ConfigError for a damaged one."""
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, not {FORMAT!r}")
        names = [bytes.fromhex(name) for name in content[TRAINING]["structures"]]
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}); copy the model again") from error
    return Learnt(np.array(names, "S16"))
