"""Lets the physics tests import their helpers, `direct_sums` and `crystals`; shared structures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import hpctem.backend

sys.path.insert(0, str(Path(__file__).parent))

from crystals import Cell, make_disulfide, make_gold, make_titanate


@pytest.fixture
def gold() -> Cell:
    return make_gold()


@pytest.fixture
def titanate() -> Cell:
    return make_titanate()


@pytest.fixture
def disulfide() -> Cell:
    return make_disulfide()


@pytest.fixture
def mixture() -> Cell:
    """Sixty atoms of C, Si and Au at random in a box, on pixels and between, some at its edges."""
    generator = np.random.default_rng(11)
    positions = generator.uniform(0, 1, (60, 3)) * [15.0, 16.0, 10.0] + [0, 0, 2]
    positions[0, :2], positions[1, :2] = (0.0, 0.0), (15.0 - 1e-9, 16.0 - 1e-9)
    positions[2, :2] = -3.3, 20.1  # outside the cell, to be wrapped
    return Cell(positions, generator.choice([6, 14, 79], 60), (16.0, 15.0), 14.0, (160, 144))


@pytest.fixture(scope="session")
def cpu():
    return hpctem.backend.select_backend("cpu")
