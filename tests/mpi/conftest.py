"""Fixtures of the tests that launch mpirun."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import launching
from launching import JOB


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of the job JOB, computed without MPI and without any disturbance."""
    path = tmp_path_factory.mktemp("reference") / "reference.hdf5"
    code, summary, messages = launching.run(path, 0, **JOB)
    assert code == 0, messages
    assert summary == {
        "good": 22,
        "quarantined": 2,
        "remaining": 0,
        "complete": True,
        "progress": 1,
    }
    return path
