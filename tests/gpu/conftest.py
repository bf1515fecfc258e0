"""Both backends, which every test on a GPU compares."""

from __future__ import annotations

import pytest

from hpctem.backend import Backend, select_backend


@pytest.fixture(scope="session")
def cpu() -> Backend:
    return select_backend("cpu")


@pytest.fixture(scope="session")
def gpu() -> Backend:
    return select_backend("cuda")
