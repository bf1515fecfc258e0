"""Databases of thousands of materials: ASE's (.db, .json) and JSON lists as JARVIS gives them out.

A row that cannot be imaged (no atoms, a molecule, no cell) stays in its place and fails when it is
sampled. `extract_materials` writes the selected rows as a short canonical text, from which
`read_materials` reads the very same materials.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpctem.errors import SampleError
from hpctem.structures.material_rows import HEADER, Row, read_rows
from hpctem.structures.unit_cells import (
    CLOSEST,
    Material,
    describe_fault,
    shortest_distance,
    stand_up,
)

CLASS_NAME = "atom"  # the one class of sites that thousands of materials have in common


@dataclass(frozen=True)
class Materials:
    """The selected materials of a database, in its order; `materials[i]` gives one.

    identifiers, names: of each. cells: (n, 3, 3) float64 A. starts: (n + 1,) int64, where the atoms
    of each begin in positions, (m, 3) float64 A, and numbers, (m,) uint8. periodic: (n,) uint8, 2
    for layers, 3 for bulk crystals, 0 for rows that cannot be imaged; faults says why. source:
    name of the file.
    """

    identifiers: tuple[str, ...]
    names: tuple[str, ...]
    cells: np.ndarray
    starts: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    periodic: np.ndarray
    faults: Mapping[int, str]
    source: str

    def __len__(self) -> int:
        return len(self.identifiers)

    def __getitem__(self, index: int) -> Material:
        """Material `index`, from 0; raises SampleError for a row that cannot be imaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"material {index} of {len(self)}")
        if index in self.faults:
            raise SampleError(f"{self.describe(index)} {self.faults[index]}")
        atoms = slice(self.starts[index], self.starts[index + 1])
        numbers, positions = self.numbers[atoms], self.positions[atoms]
        cell, periodic = self.cells[index], int(self.periodic[index])
        if shortest_distance(cell, positions, periodic) < CLOSEST:
            raise SampleError(f"{self.describe(index)} has atoms closer than {CLOSEST:g} A")
        return Material(
            cell,
            positions,
            numbers,
            np.zeros(len(numbers), dtype=np.uint8),
            (CLASS_NAME,),
            self.names[index],
            periodic,
            self.identifiers[index],
        )

    def describe(self, index: int) -> str:
        """How messages call a row: 'material 17 (MoS2) of c2db.db'."""
        name = f" ({self.names[index]})" if self.names[index] else ""
        return f"material {self.identifiers[index]}{name} of {self.source}"


def read_materials(path: str | Path, filter: str = "") -> Materials:
    """Read the materials of a database that a filter selects, once in a process.

    path: an ASE database (.db, .json), a JSON list of materials as JARVIS's, or what
    `extract_materials` wrote (whose rows are taken as they are: the filter has been applied).
    filter: ASE selection, 'natoms<=12,Mo'; of a JSON list on natoms, elements, formula and the
    single values of its entries. Raises ConfigError when there is no such file, it is no database,
    the filter cannot be understood, or nothing is selected.
    """
    return _read_once(Path(path), filter)


def extract_materials(path: str | Path, filter: str = "") -> str:
    """The selected rows as JSON: id, formula, cell, numbers, positions to 1e-6 A, a row a line.

    The same rows give the same text. Errors as of `read_materials`.
    """
    lines = []
    for row in read_rows(Path(path), filter):
        entry = {
            "id": row.identifier,
            "formula": row.formula,
            "cell": row.cell.tolist(),
            "numbers": row.numbers.tolist(),
            "positions": row.positions.tolist(),
        }
        lines.append(json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False))
    return f'{{"{HEADER}":1,"rows":[\n' + ",\n".join(lines) + "\n]}\n"


@functools.lru_cache(maxsize=4)
def _read_once(path: Path, filter: str) -> Materials:
    return _gather(read_rows(path, filter), path.name)


def _gather(rows: Sequence[Row], source: str) -> Materials:
    """Put rows into compact arrays, layers standing."""
    count = len(rows)
    cells, kinds = np.zeros((count, 3, 3)), np.zeros(count, dtype=np.uint8)
    starts = np.zeros(count + 1, dtype=np.int64)
    positions, numbers, faults = [np.zeros((0, 3))], [np.zeros(0, dtype=np.uint8)], {}
    for index, row in enumerate(rows):
        starts[index + 1] = starts[index]
        fault = describe_fault(row.cell, row.positions, row.numbers)
        stood = fault or stand_up(row.cell, row.positions)
        if isinstance(stood, str):
            faults[index] = stood
            continue
        cells[index], atoms, kinds[index] = stood
        positions.append(atoms)
        numbers.append(row.numbers.astype(np.uint8))
        starts[index + 1] += len(atoms)
    return Materials(
        tuple(row.identifier for row in rows),
        tuple(row.formula for row in rows),
        cells,
        starts,
        np.concatenate(positions),
        np.concatenate(numbers),
        kinds,
        faults,
        source,
    )
