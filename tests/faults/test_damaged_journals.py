"""No damage to journals or marker makes a job call wrong bytes done, or fail without a word."""

from __future__ import annotations

import pytest
from damaged_journals import damage_everywhere
from small_job import run_job, sha256


@pytest.mark.parametrize("finished", [False, True])
def test_damage_anywhere_is_survived_or_named(memory, finished):
    expected = memory / "expected.hdf5"
    run_job(expected)
    found = damage_everywhere(memory, finished, every=7, expected=sha256(expected))
    assert found.problems == []
    assert found.survived > 100
    assert (found.refused > 50) == finished
