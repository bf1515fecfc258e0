"""A campaign from `submit` to the judged network: across two nodes, as an array, with GPUs."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import yaml
from chains import (
    STRUCTURES,
    await_done,
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
from small_campaigns import write_campaign

ROOT = Path(__file__).parents[2]
ON_BOTH = {"nodes": 2, "ranks_per_node": 1}
STAGES = {
    "simulate": {**ON_BOTH, "walltime": "30min"},
    "verify": ON_BOTH,
    "report": {},
    "subset": {"split": {"train": 0.75, "validation": 0.25}},
    "train": {"file": "train.yaml", "nodes": 2, "gpus_per_node": 1, "transport": "horovod"},
    "evaluate": {},
}
WHOLE = tuple(STAGES)


def test_the_quickstart_goes_from_submit_to_evaluate_on_two_nodes(
    slurm: Cluster, tmp_path: Path
) -> None:
    campaign = write_campaign(
        tmp_path, of=ROOT / "configs" / "quickstart.yaml", name="quickstart.yaml"
    )
    campaign.write_text(campaign.read_text() + yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    training = (ROOT / "configs" / "train_cluster_small.yaml").read_text()
    training = training.replace("validation: 0.25", "validation: 0.25\n  patch: 128")
    (tmp_path / "train.yaml").write_text(training.replace("epochs: 2", "epochs: 3"))
    chain = submit(slurm, campaign)
    jobs = [job_of(chain, stage) for stage in WHOLE]
    for before, job in itertools.pairwise(jobs):
        assert f"afterok:{before}" in slurm.show(job)["Dependency"]
    # The time of the training is nearly over before it is done.
    steps = chain / "cluster_small_network" / "steps.csv"
    wait_for(lambda: steps.exists() and steps.read_text().count("\n") > 2, 400, slurm.tell_logs)
    slurm.ask("scancel", "--batch", "--signal=USR1", job_of(chain, "train"))
    await_done(slurm, chain, "8-evaluate", timeout=500)

    assert "back into the queue" in (chain / "logs" / "5-train.log").read_text()
    assert read_state(chain, "5-train")["starts"] == 2
    told = look(slurm, chain)
    assert tuple(told) == WHOLE and {stage["state"] for stage in told.values()} == {"done"}
    assert (told["simulate"]["done"], told["simulate"]["total"]) == (8, 8)
    for stage in ("simulate", "train"):
        assert slurm.show(job_of(chain, stage))["NodeList"] == "n[1-2]"
    assert len(list((chain / "logs" / "1-simulate.ranks").iterdir())) == 2
    assert (chain / "quickstart.report.html").stat().st_size > 10_000
    drawn = json.loads((chain / "subset.json").read_text())["draws"][0]["pieces"]
    assert {piece["name"]: piece["structures"] for piece in drawn} == {"train": 6, "validation": 2}
    with open(chain / "cluster_small_network" / "history.csv") as file:
        assert len(list(csv.reader(file))) == 4  # three epochs
    judged = json.loads((chain / "evaluation" / "evaluation.json").read_text())
    assert (judged["images"]["count"], judged["images"]["structures"]) == (8, 2)


def test_a_template_is_submitted_by_hand(slurm: Cluster, tmp_path: Path) -> None:
    """As it is in slurm/, with the options of a small machine."""
    campaign = write_tiny(tmp_path, ("structures: 84", "structures: 4"), simulate={})
    options = ("--ntasks-per-node=2", "--time=5", f"--export=ALL,HPCTEM_ROOT={ROOT}")
    job = ""
    for name, arguments in (("simulate", (campaign, "-o", "x.hdf5")), ("verify", ("x.hdf5",))):
        after = (f"--dependency=afterok:{job}",) if job else ()
        script = ROOT / "slurm" / f"{name}.sbatch"
        words = ("sbatch", "--parsable", "-D", tmp_path, *options, *after, script, *arguments)
        job = slurm.ask(*words)
        assert slurm.await_job(job)["JobState"] == "COMPLETED", tell_files(tmp_path)
    assert hpctem(slurm, "info", tmp_path / "x.hdf5").returncode == 0


def tell_files(folder: Path) -> str:
    """What the jobs of a folder have written."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.out")))


def test_volumes_are_an_array_of_jobs_under_mpirun_and_one_database(
    slurm: Cluster, tmp_path: Path
) -> None:
    campaign = write_tiny(tmp_path, simulate={"volumes": 3}, verify={})
    chain = submit(slurm, campaign, write_site(tmp_path, launcher="mpirun"))
    await_done(slurm, chain, "2-verify")
    assert look(slurm, chain)["simulate"]["done"] == STRUCTURES
    volumes = sorted(chain.glob("tiny.v*of3.hdf5"))
    assert len(volumes) == 3
    alone = hpctem(slurm, "simulate", campaign, "--volume", "2/3", folder=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert sha256(volumes[1]) == sha256(tmp_path / "tiny.v2of3.hdf5")
    found = hpctem(slurm, "query", *volumes, "--where", "dose = 400", "--count")
    assert found.stdout.strip() == str(STRUCTURES), found.stderr


def test_each_rank_sees_the_gpus_that_were_asked_for(slurm: Cluster, tmp_path: Path) -> None:
    # What Slurm runs before each rank notes what the rank is given.
    prolog, notes = tmp_path / "prolog", tmp_path / "notes"
    seen = "$SLURM_STEP_NUM_TASKS $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    prolog.write_text(f"#!/bin/bash\necho {seen} >>{notes}\n")
    prolog.chmod(0o755)
    site = write_site(tmp_path, setup=[f"export SLURM_TASK_PROLOG={prolog}"])
    few = ("structures: 84", "structures: 2")
    gpus = {"partition": "gpu", "nodes": 2, "ranks_per_node": 1, "gpus_per_node": 2}
    chain = submit(slurm, write_tiny(tmp_path, few, simulate={}, verify=gpus), site)
    await_done(slurm, chain, "2-verify")
    told = [line.split() for line in notes.read_text().splitlines()]
    ranks_of_simulate, ranks_of_verify = told[:2], told[2:]
    assert ranks_of_simulate == [["2", "n1"]] * 2
    assert sorted(ranks_of_verify) == [["2", "n1", "0,1"], ["2", "n2", "0,1"]]
    assert slurm.show(job_of(chain, "verify"))["TresPerNode"] == "gres:gpu:a40:2"


def test_a_chain_that_is_done_gets_more_stages_and_keeps_what_is_done(
    slurm: Cluster, tmp_path: Path
) -> None:
    few = ("structures: 84", "structures: 2")
    chain = submit(slurm, write_tiny(tmp_path, few, simulate={}))
    await_done(slurm, chain, "1-simulate")
    first = job_of(chain, "simulate")
    submit(slurm, write_tiny(tmp_path, few, simulate={"nodes": 2}, verify={}, report={}))
    await_done(slurm, chain, "3-report")
    assert job_of(chain, "simulate") == first
    assert (chain / "tiny.report.html").stat().st_size > 10_000
