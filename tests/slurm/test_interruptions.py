"""What a cluster does to jobs: their time ends, they are put back, killed, lose a node.

In each case the chain goes on by itself and the database has the bytes of an undisturbed run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from chains import (
    SlowDisk,
    await_commits,
    await_done,
    await_state,
    hpctem,
    job_of,
    look,
    read_state,
    sha256,
    submit,
    write_site,
    write_tiny,
)
from cluster import Cluster, wait_for

NAME = "1-simulate"


def begin(slurm: Cluster, folder: Path, disk: SlowDisk, **keys: object) -> Path:
    """A chain of simulate and verify on two nodes, at work on a slow disk; its folder.

    On any machine it would take 84 s: a structure needs two seconds of one of two ranks. The folder
    has a name of letters that a shell reads.
    """
    disk.begin(1)
    odd = folder / 'it\'s "odd", $HOME & `so`'
    odd.mkdir()
    chain = submit(slurm, write_tiny(odd), write_site(folder, setup=disk.setup, **keys))
    await_commits(slurm, chain)
    return chain


def finish(slurm: Cluster, chain: Path, disk: SlowDisk) -> str:
    """The sha256 of the database once the chain, on a fast disk again, is done."""
    disk.end()
    await_done(slurm, chain, "2-verify")
    return sha256(chain / "tiny.hdf5")


def test_a_job_whose_time_ends_three_times_completes_unattended(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk, undisturbed: str
) -> None:
    # Slurm looks for jobs whose time ends every 30 s, and sends the signal when it looks first. The
    # job is away for 6 s each time, so what it has of the first 90 s is not enough on any machine.
    slow_disk.begin(1)
    partitions = {
        "cpu": {"walltime": "1min", "cores": 2, "nodes": 2},
        "short": {"walltime": "2min", "cores": 2, "nodes": 2},
    }
    site = write_site(tmp_path, setup=slow_disk.setup, partitions=partitions, gpu_partition=None)
    chain = submit(slurm, write_tiny(tmp_path), site)
    await_state(slurm, chain, NAME, lambda state: state["starts"] > 3, timeout=200)
    assert finish(slurm, chain, slow_disk) == undisturbed
    log = (chain / "logs" / f"{NAME}.log").read_text()
    assert log.count("the time is nearly over") >= 3
    assert log.count("back into the queue") >= 3
    assert int(slurm.show(job_of(chain, "simulate"))["Restarts"]) >= 3


def test_a_requeued_job_goes_on_where_it_was(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk, undisturbed: str
) -> None:
    chain = begin(slurm, tmp_path, slow_disk)
    job = job_of(chain, "simulate")
    slurm.ask("scontrol", "requeue", job)
    await_state(slurm, chain, NAME, lambda state: state["starts"] == 2)
    await_commits(slurm, chain)
    assert finish(slurm, chain, slow_disk) == undisturbed
    assert slurm.show(job)["Restarts"] == "1"


def test_a_preempted_job_goes_on_when_the_nodes_are_free_again(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk, undisturbed: str
) -> None:
    chain = begin(slurm, tmp_path, slow_disk)
    more = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
    urgent = slurm.submit("sleep 2", *more, folder=tmp_path)
    slurm.await_job(urgent, "COMPLETED")
    await_state(slurm, chain, NAME, lambda state: state["starts"] == 2)
    assert finish(slurm, chain, slow_disk) == undisturbed
    assert slurm.show(job_of(chain, "simulate"))["Restarts"] == "1"


@pytest.mark.parametrize("requeue", [True, False], ids=["requeue", "successor"])
def test_tasks_of_an_array_go_on_each_by_itself(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk, requeue: bool
) -> None:
    """The time of both ends; before that, that of the second alone, whose number is the array's."""
    slow_disk.begin(1)
    campaign = write_tiny(tmp_path, simulate={"volumes": 2, "ranks_per_node": 1}, verify={})
    site = write_site(tmp_path, setup=slow_disk.setup, requeue=requeue)
    chain = submit(slurm, campaign, site)
    for volume in (1, 2):
        await_commits(slurm, chain, f"tiny.v{volume}of2.hdf5")
    array = job_of(chain, "simulate")
    assert slurm.show(f"{array}_2")["JobId"] == array
    if requeue:
        slurm.ask("scancel", "--batch", "--signal=USR1", f"{array}_2")
        await_state(slurm, chain, f"{NAME}.2", lambda state: state["starts"] == 2)
        assert read_state(chain, f"{NAME}.1")["starts"] == 1
    for volume in (1, 2):
        slurm.ask("scancel", "--batch", "--signal=USR1", f"{array}_{volume}")
    for volume in (1, 2):
        await_state(slurm, chain, f"{NAME}.{volume}", lambda state: state["starts"] > 1)
    slow_disk.end()
    await_done(slurm, chain, "2-verify")
    assert (job_of(chain, "simulate") == array) == requeue
    alone = hpctem(slurm, "simulate", campaign, "--volume", "2/2", folder=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert sha256(chain / "tiny.v2of2.hdf5") == sha256(tmp_path / "tiny.v2of2.hdf5")


def test_a_killed_step_is_started_again(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk, undisturbed: str
) -> None:
    chain = begin(slurm, tmp_path, slow_disk)
    job = job_of(chain, "simulate")
    slurm.ask("scancel", "--signal=KILL", f"{job}.0")
    await_state(slurm, chain, NAME, lambda state: state["state"] == "requeued")
    assert "ended with code 137" in read_state(chain, NAME)["reason"]
    await_state(slurm, chain, NAME, lambda state: state["starts"] == 2)
    assert finish(slurm, chain, slow_disk) == undisturbed


def test_a_node_whose_daemon_comes_back_soon_disturbs_nothing(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk, undisturbed: str
) -> None:
    chain = begin(slurm, tmp_path, slow_disk)
    slurm.kill_daemon("n2")
    slurm.start_daemon("n2")
    await_commits(slurm, chain)
    assert finish(slurm, chain, slow_disk) == undisturbed
    assert slurm.show(job_of(chain, "simulate"))["Restarts"] == "0"


def test_a_lost_node_is_waited_for(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk, undisturbed: str
) -> None:
    chain = begin(slurm, tmp_path, slow_disk)
    job = job_of(chain, "simulate")
    slurm.kill_daemon("n2")
    try:
        slurm.await_nodes("down", "n2", timeout=60)
        waiting = slurm.await_job(job, "PENDING")
        assert waiting["Restarts"] == "1"
        assert look(slurm, chain)["simulate"]["state"] == "requeued"
        # As in the minutes that a real cluster waits, the node gets rid of its old rank first.
        slurm.ask("scontrol", "hold", job)
    finally:
        slurm.start_daemon("n2")
    old = slurm.folder / "spool-n2"
    wait_for(lambda: not list(old.glob("n2_*")), 60, slurm.tell_logs)
    slurm.await_nodes("idle")
    slurm.ask("scontrol", "release", job)
    await_state(slurm, chain, NAME, lambda state: state["starts"] >= 2)
    assert finish(slurm, chain, slow_disk) == undisturbed


def test_where_jobs_may_not_requeue_a_successor_goes_on(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk, undisturbed: str
) -> None:
    chain = begin(slurm, tmp_path, slow_disk, requeue=False)
    first = job_of(chain, "simulate")
    # The signal that Slurm sends before the end of a job's time, to the script alone as Slurm does.
    slurm.ask("scancel", "--batch", "--signal=USR1", first)
    await_state(slurm, chain, NAME, lambda state: state["starts"] == 2)
    assert finish(slurm, chain, slow_disk) == undisturbed
    assert job_of(chain, "simulate") != first
    ended = slurm.show(first)
    assert (ended["Restarts"], ended["ExitCode"]) == ("0", "1:0")
