"""The cluster of the Slurm tests, and what its jobs are compared with.

Needs Debian's slurm-wlm and munge, which `jobs/test` installs as root. Without them these tests are
skipped, which under CI=true is a failure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chains import SlowDisk, compile_slow_disk, sha256, simulate_alone
from cluster import Cluster, cluster, find_missing

MakeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """The cluster of this process's tests."""
    if missing := find_missing():
        pytest.skip(f"no Slurm here, {missing} not found: apt-get install slurm-wlm munge")
    with cluster() as made:
        yield made


@pytest.fixture
def slurm(shared_cluster: Cluster) -> Iterator[Cluster]:
    """A Slurm of two nodes, n1 and n2; what a test leaves in the queue is cancelled."""
    yield shared_cluster
    shared_cluster.run("scancel", "--me")


@pytest.fixture
def slow_disk(make_once: MakeOnce, tmp_path: Path) -> SlowDisk:
    """A disk for the jobs of one test; as fast as any until `begin` is called."""
    library = make_once("slow_disk", compile_slow_disk) / "slow_disk.so"
    return SlowDisk(library, tmp_path / "slow")


@pytest.fixture(scope="session")
def undisturbed(make_once: MakeOnce) -> str:
    """The sha256 of the campaign's database where nothing disturbs its one process."""
    return sha256(make_once("undisturbed", simulate_alone) / "tiny.hdf5")
