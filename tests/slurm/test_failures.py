"""Stages that fail, are cancelled or refused: what stops, what `status` says, what goes on."""

from __future__ import annotations

import json
from pathlib import Path

from chains import (
    SITE,
    SlowDisk,
    await_commits,
    await_done,
    await_state,
    hpctem,
    job_of,
    look,
    sha256,
    submit,
    write_site,
    write_tiny,
)
from cluster import Cluster, wait_for

FEW = ("structures: 84", "structures: 4")


def test_a_failing_stage_stops_what_depends_on_it_and_status_says_so(
    slurm: Cluster, tmp_path: Path
) -> None:
    campaign = write_tiny(tmp_path, FEW, simulate={}, verify={}, report={})
    chain = submit(slurm, campaign)
    database = chain / "tiny.hdf5"
    # Somebody damages an image after it was simulated and before it is verified.
    slurm.ask("scontrol", "hold", job_of(chain, "verify"))
    await_state(slurm, chain, "1-simulate", lambda state: state["state"] == "done")
    whole = database.read_bytes()
    database.write_bytes(bytes(byte ^ (at == len(whole) - 1000) for at, byte in enumerate(whole)))
    slurm.ask("scontrol", "release", job_of(chain, "verify"))
    await_state(slurm, chain, "2-verify", lambda state: state["state"] == "failed")
    slurm.await_job(job_of(chain, "report"), "CANCELLED")
    assert slurm.show(job_of(chain, "verify"))["JobState"] == "FAILED"
    assert not (chain / "tiny.report.html").exists()

    status = hpctem(slurm, "status", chain)
    assert status.returncode == 1
    assert "2-verify needs you" in status.stdout and "logs/2-verify.log" in status.stdout
    assert f"hpctem resubmit {chain}" in status.stdout
    told = {name: stage["state"] for name, stage in look(slurm, chain).items()}
    assert told["simulate"] == "done" and told["verify"] == "failed"
    assert told["report"] in ("blocked", "never started")
    assert "bad" in (chain / "logs" / "2-verify.log").read_text()

    before = job_of(chain, "simulate")
    mended = hpctem(slurm, "simulate", "campaign.yaml", "-o", database, "--repair", folder=chain)
    assert mended.returncode == 0, mended.stderr
    again = hpctem(slurm, "resubmit", chain)
    assert again.returncode == 0 and "2-verify" in again.stdout, again.stderr
    await_done(slurm, chain, "3-report")
    assert job_of(chain, "simulate") == before
    assert database.read_bytes() == whole


def test_starts_that_bring_nothing_end_and_a_mended_chain_goes_on(
    slurm: Cluster, tmp_path: Path
) -> None:
    # While there is a file `full`, a job can write no file of more than a few blocks.
    full = tmp_path / "full"
    full.touch()
    setup = [f"[ ! -e {full} ] || ulimit -f 64"]
    site = write_site(tmp_path, attempts=2, setup=setup)
    chain = submit(slurm, write_tiny(tmp_path, FEW, simulate={}, verify={}), site)
    failed = await_state(slurm, chain, "1-simulate", lambda state: state["state"] == "failed")
    assert failed["starts"] == 2 and "2 starts brought nothing" in failed["reason"]
    slurm.await_job(job_of(chain, "verify"), "CANCELLED")
    status = hpctem(slurm, "status", chain)
    assert status.returncode == 1 and "2 starts brought nothing" in status.stdout
    full.unlink()
    again = hpctem(slurm, "resubmit", chain)
    assert again.returncode == 0, again.stderr
    await_done(slurm, chain, "2-verify")


def test_a_cancelled_array_goes_on_with_the_tasks_that_are_missing(
    slurm: Cluster, tmp_path: Path, slow_disk: SlowDisk
) -> None:
    # The first volume is on a fast disk, the second on a slow one, where it would take minutes.
    slow_disk.begin(2)
    setup = ['if [ "${SLURM_ARRAY_TASK_ID:-}" = 2 ]; then', *slow_disk.setup, "fi"]
    campaign = write_tiny(tmp_path, simulate={"volumes": 2, "ranks_per_node": 1}, verify={})
    chain = submit(slurm, campaign, write_site(tmp_path, setup=setup))
    await_state(slurm, chain, "1-simulate.1", lambda state: state["state"] == "done")
    await_commits(slurm, chain, "tiny.v2of2.hdf5")
    first = sha256(chain / "tiny.v1of2.hdf5")
    cancelled = hpctem(slurm, "cancel", chain)
    assert cancelled.returncode == 0, cancelled.stderr
    wait_for(lambda: not slurm.ask("squeue", "-h"), 120, lambda: slurm.ask("squeue"))
    told = look(slurm, chain)["simulate"]
    assert [task["state"] for task in told["tasks"]] == ["done", "cancelled"]
    assert 0 < told["done"] - 42 < 42

    slow_disk.end()
    again = hpctem(slurm, "resubmit", chain)
    assert "tasks 2" in again.stdout, again.stdout + again.stderr
    await_done(slurm, chain, "2-verify")
    assert sha256(chain / "tiny.v1of2.hdf5") == first
    assert look(slurm, chain)["simulate"]["done"] == 84


def test_what_slurm_refuses_is_said_before_anything_is_in_the_queue(
    slurm: Cluster, tmp_path: Path
) -> None:
    campaign = write_tiny(tmp_path, FEW)
    words = ("submit", campaign.name, "--no-plan", "--test-only", "--site")
    taken = hpctem(slurm, *words, SITE, "--dry-run", folder=tmp_path)
    assert taken.returncode == 0 and taken.stdout.count("to start at") == 2, taken.stderr
    assert slurm.ask("squeue", "-h") == ""
    partitions = {name: {"walltime": "1h", "cores": 2, "nodes": 2} for name in ("cpu", "short")}
    partitions["cpu"]["name"] = "cpus"
    site = write_site(tmp_path, partitions=partitions, gpu_partition=None)
    refused = hpctem(slurm, *words, site, folder=tmp_path)
    assert refused.returncode == 1
    assert "1-simulate.sbatch" in refused.stderr and "invalid partition" in refused.stderr
    assert slurm.ask("squeue", "-h") == ""


def test_jobs_that_slurm_does_not_know_are_told_and_submitted_again(
    slurm: Cluster, tmp_path: Path
) -> None:
    chain = submit(slurm, write_tiny(tmp_path, FEW, simulate={}))
    await_done(slurm, chain, "1-simulate")
    # As if Slurm had lost the job before it had started.
    (chain / "state" / "1-simulate.json").unlink()
    submitted = json.loads((chain / "jobs.json").read_text())
    submitted["jobs"]["simulate"] = "999999"
    (chain / "jobs.json").write_text(json.dumps(submitted))
    status = hpctem(slurm, "status", chain)
    assert status.returncode == 1 and "never started" in status.stdout, status.stderr
    again = hpctem(slurm, "resubmit", chain)
    assert again.returncode == 0, again.stderr
    await_done(slurm, chain, "1-simulate")
