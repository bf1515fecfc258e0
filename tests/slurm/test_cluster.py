"""The cluster that the other tests stand on: what Slurm itself does there, without hpctem."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster import NODES, Cluster, cluster, find_processes, wait_for
from cluster import __file__ as cluster_file

MEET = """
import os
from mpi4py import MPI
ranks = MPI.COMM_WORLD
print(ranks.rank, ranks.size, ranks.allreduce(ranks.rank + 1), os.environ["SLURMD_NODENAME"])
"""
SHOW_GPUS = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"


def test_ranks_on_two_nodes_meet_through_pmix(slurm: Cluster) -> None:
    lines = slurm.ask("srun", "-N2", "-n4", "--mpi=pmix", sys.executable, "-c", MEET).splitlines()
    assert sorted(lines) == ["0 4 10 n1", "1 4 10 n1", "2 4 10 n2", "3 4 10 n2"]


def test_gpus_that_are_none_are_handed_out_as_real_ones(slurm: Cluster) -> None:
    lines = slurm.ask("srun", "-N2", "--gpus-per-node=2", "bash", "-c", SHOW_GPUS).splitlines()
    assert sorted(lines) == ["n1 0,1", "n2 0,1"]
    refused = slurm.run("srun", "--gres=gpu:a40:3", "true")
    assert refused.returncode != 0 and "not available" in refused.stderr


def test_a_requeued_job_runs_again_in_seconds(slurm: Cluster, tmp_path: Path) -> None:
    script = """
    echo start ${SLURM_RESTART_COUNT:-0}
    [ -n "${SLURM_RESTART_COUNT:-}" ] || { scontrol requeue $SLURM_JOB_ID; sleep 60; }
    """
    options = ("--requeue", "--open-mode=append", "--output=log")
    job = slurm.submit(script, *options, folder=tmp_path)
    ended = slurm.await_job(job, timeout=40)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "start" in line]
    assert told == ["start 0", "start 1"]


def test_nothing_of_a_cluster_is_left_when_it_ends(tmp_path: Path) -> None:
    with cluster() as made:
        job = made.submit("trap '' TERM\nsleep 300 & sleep 300", folder=tmp_path)
        made.await_job(job, "RUNNING")
        assert len(find_processes(made.folder)) > len(NODES) + 2
    assert find_processes(made.folder) == []
    assert not made.folder.exists()


def test_nothing_of_a_cluster_is_left_when_its_maker_is_killed() -> None:
    command = "echo $SLURM_CONF; exec srun sleep 300"
    words = [sys.executable, cluster_file, "bash", "-c", command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        folder = Path(maker.stdout.readline().strip()).parent
        assert folder.name.startswith("slurm-")
        wait_for(lambda: len(find_processes(folder)) > 8, 30, lambda: str(find_processes(folder)))
        maker.kill()
        maker.stdout.close()
    wait_for(lambda: not folder.exists(), 30, lambda: str(find_processes(folder)))
    assert find_processes(folder) == []
