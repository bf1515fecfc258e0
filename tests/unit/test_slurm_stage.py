"""What a job script does around its work: states, starts that bring nothing, signals, logs.

The scripts are run by bash itself, as on a machine without Slurm; tests/slurm runs them in jobs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = """\
root={root}
folder={folder}
stage=simulate number=1 attempts={attempts} requeue={requeue}
signal_seconds={lead} threads=2
launcher={launcher}
watched=({watched})
source "$root/slurm/stage.sh"
run_stage "$@"
"""
Stage = Callable[..., subprocess.CompletedProcess[str]]


def write_script(folder: Path, **settings: Any) -> Path:
    given = {
        **{"root": ROOT, "folder": folder / "made", "attempts": 3, "requeue": "yes"},
        **{"lead": 60, "launcher": "none", "watched": ""},
    } | settings
    script = folder / "script.sh"
    script.write_text(SETTINGS.format(**given))
    return script


def environment(**more: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SLURM")}
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"PATH": programs} | more


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Run a command as a stage: `stage("exit 3", attempts=1)`."""

    def run(command: str, env: dict[str, str] | None = None, **settings: Any) -> Any:
        script = write_script(tmp_path, **settings)
        words = ["bash", script, "bash", "-c", command]
        env = env or environment()
        return subprocess.run(words, capture_output=True, text=True, env=env, timeout=60)

    return run


def state_of(folder: Path, name: str = "1-simulate") -> dict[str, Any]:
    return json.loads((folder / "made" / "state" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("code", "ended", "state", "reason"),
    [
        (0, 0, "done", ""),
        (3, 0, "done", "complete, with quarantined samples"),
        (2, 2, "failed", "wrong command or file"),
        (1, 1, "failed", "it ended with an error"),
    ],
)
def test_the_end_of_a_stage_is_its_state(
    stage: Stage, tmp_path: Path, code: int, ended: int, state: str, reason: str
) -> None:
    """What follows starts after 0: quarantined samples stop no chain, mistakes do."""
    done = stage(f"exit {code}")
    assert done.returncode == ended
    said = state_of(tmp_path)
    assert (said["state"], said["reason"], said["code"]) == (state, reason, code)
    assert said["stage"] == "simulate" and said["starts"] == 1
    assert 0 <= said["time"] - said["began"] < 60


def test_while_it_works_the_state_says_so_and_the_threads_are_set(
    stage: Stage, tmp_path: Path
) -> None:
    done = stage(f"cat {tmp_path}/made/state/1-simulate.json; echo $OMP_NUM_THREADS")
    assert json.loads(done.stdout.splitlines()[1])["state"] == "running"
    assert done.stdout.splitlines()[2] == "2"


def test_an_array_has_a_state_for_each_task(stage: Stage, tmp_path: Path) -> None:
    tasks = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    assert stage("exit 0", env=environment(**tasks)).returncode == 0
    assert state_of(tmp_path, "1-simulate.3")["job"] == "12_3"


def test_starts_without_progress_are_limited(stage: Stage, tmp_path: Path, small: Path) -> None:
    """What is watched is complete and never grows: each death counts, the third is the last."""
    for start in (1, 2):
        done = stage("exit 137", watched=small)
        assert done.returncode == 1
        said = state_of(tmp_path)
        assert (said["state"], said["starts"], said["idle"]) == ("requeued", start, start)
    assert stage("exit 137", watched=small).returncode == 137
    said = state_of(tmp_path)
    assert (said["state"], said["idle"]) == ("failed", 3)
    assert said["reason"] == "3 starts brought nothing; the last one ended with code 137"
    # A job that Slurm starts once more all the same does no work.
    done = stage("touch worked", watched=small)
    assert state_of(tmp_path)["reason"] == "3 starts brought nothing"


def test_progress_begins_the_count_anew(stage: Stage, tmp_path: Path, small: Path) -> None:
    """A start that commits something may die; the count is of those in a row that bring nothing."""
    database = tmp_path / "grows.hdf5"
    stage("exit 137", watched=database)
    assert state_of(tmp_path)["idle"] == 1
    copy = f"cp {small} {database}; cp -r {small}.journal {database}.journal; exit 137"
    stage(copy, watched=database)
    assert state_of(tmp_path)["idle"] == 2
    stage("exit 137", watched=database)
    said = state_of(tmp_path)
    assert (said["state"], said["starts"], said["idle"]) == ("requeued", 3, 1)


def start(tmp_path: Path, command: str, **settings: Any) -> subprocess.Popen[str]:
    script = write_script(tmp_path, **settings)
    words = ["bash", str(script), "bash", "-c", command]
    made = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment())
    wait_for(lambda: (tmp_path / "ready").exists())
    return made


def wait_for(look: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not look():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_signal_before_the_end_is_passed_on_and_the_stage_goes_on_later(
    tmp_path: Path,
) -> None:
    work = f"trap 'echo asked; exit 1' USR1; touch {tmp_path}/ready; while :; do sleep 0.1; done"
    job = start(tmp_path, work, watched=f"{tmp_path}/none.hdf5")
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=30)
    assert job.returncode == 1
    assert "asked" in out.splitlines()
    said = state_of(tmp_path)
    assert (said["state"], said["reason"]) == ("requeued", "stopped in time")


def test_work_that_does_not_stop_is_left_in_time(tmp_path: Path) -> None:
    """A third of a short lead after the signal; the work itself ends with the job."""
    work = f"trap '' USR1; touch {tmp_path}/ready; exec sleep 4"
    job = start(tmp_path, work, lead=3)
    begin = time.monotonic()
    job.send_signal(signal.SIGUSR1)
    job.wait(timeout=15)
    assert 0.5 < time.monotonic() - begin < 10
    assert "a segment took longer" in state_of(tmp_path)["reason"]
    job.communicate(timeout=30)


def test_a_job_that_is_cancelled_is_interrupted(tmp_path: Path) -> None:
    job = start(tmp_path, f"touch {tmp_path}/ready; exec sleep 2")
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 143
    assert state_of(tmp_path)["state"] == "interrupted"
    job.communicate(timeout=30)


def test_a_signal_before_the_work_has_begun_begins_none(tmp_path: Path) -> None:
    """While the script looks how far it is, which takes a second of Python."""
    script = write_script(tmp_path)
    looking = "find_progress() { kill -USR1 $$; echo none; }"
    script.write_text(script.read_text().replace('run_stage "$@"', f'{looking}\nrun_stage "$@"'))
    done = subprocess.run(
        ["bash", script, "touch", tmp_path / "worked"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
    )
    assert done.returncode == 1
    assert not (tmp_path / "worked").exists()
    assert state_of(tmp_path)["reason"] == "its time was over before it began"


def test_every_rank_has_a_log_and_the_first_is_heard(tmp_path: Path) -> None:
    """Appended over starts; what the job says itself is what rank 0 says."""
    job = ROOT / "jobs" / "rank"
    for _ in range(2):
        for rank in (0, 1):
            env = environment(PMIX_RANK=str(rank), SLURM_PROCID="0")
            command = [
                job,
                tmp_path / "logs",
                "bash",
                "-c",
                f"echo out {rank}; echo err >&2; exit 4",
            ]
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            assert done.returncode == 4
            assert done.stdout == ("" if rank else "out 0\nerr\n")
    assert (tmp_path / "logs" / "0000.log").read_text() == "out 0\nerr\n" * 2
    assert (tmp_path / "logs" / "0001.log").read_text() == "out 1\nerr\n" * 2


def test_a_rank_is_over_when_its_words_are_written(tmp_path: Path) -> None:
    """Slurm ends whatever is left of a rank when that is over; here writing takes a second."""
    tee = tmp_path / "tee"
    tee.write_text('#!/bin/bash\nsleep 1\nPATH=/usr/bin:/bin exec tee "$@"\n')
    tee.chmod(0o755)
    env = environment(PMIX_RANK="0") | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    with open(tmp_path / "heard", "w") as heard:
        command = [ROOT / "jobs" / "rank", tmp_path / "logs", "echo", "last words"]
        subprocess.run(command, env=env, stdout=heard, check=True)
    assert (tmp_path / "heard").read_text() == "last words\n"
    assert (tmp_path / "logs" / "0000.log").read_text() == "last words\n"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_hears_the_signal_and_its_last_words_are_kept(tmp_path: Path, rank: str) -> None:
    work = f"trap 'echo asked; exit 1' USR1; touch {tmp_path}/ready; while :; do sleep 0.1; done"
    command = [ROOT / "jobs" / "rank", tmp_path / "logs", "bash", "-c", work]
    with subprocess.Popen(
        command, env=environment(PMI_RANK=rank), stdout=subprocess.PIPE, text=True
    ) as job:
        wait_for((tmp_path / "ready").exists)
        job.send_signal(signal.SIGUSR1)
        out, _ = job.communicate(timeout=30)
    assert job.returncode == 1
    assert (tmp_path / "logs" / f"000{rank}.log").read_text() == "asked\n"
    assert out == ("" if rank == "1" else "asked\n")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"HPCTEM_LAUNCHER": "none"}, ["hpctem", "simulate", "a b"]),
        ({"HPCTEM_LAUNCHER": "srun --mpi=pmix"}, ["srun", "--mpi=pmix", "hpctem"]),
        ({"HPCTEM_LAUNCHER": "mpirun", "HPCTEM_RANKS": "3"}, ["mpirun", "-n", "3", "hpctem"]),
        ({"HPCTEM_LAUNCHER": "mpirun", "SLURM_NTASKS": "5"}, ["mpirun", "-n", "5", "hpctem"]),
        ({"SLURM_JOB_ID": "7"}, ["srun", "--mpi=pmix", "hpctem"]),
        ({"HPCTEM_RANKS": "2"}, ["mpirun", "-n", "2", "hpctem"]),
        ({"HPCTEM_RANKS": "1"}, ["hpctem", "simulate", "a b"]),
    ],
)
def test_a_job_starts_its_ranks_as_it_is_told_or_as_the_place_asks_for(
    tmp_path: Path, given: dict[str, str], wanted: list[str]
) -> None:
    """The launchers here only say how they were called."""
    for name in ("srun", "mpirun", "hpctem"):
        program = tmp_path / name
        program.write_text('#!/bin/bash\nprintf "%s\\n" "${0##*/}" "$@"\n')
        program.chmod(0o755)
    env = environment(**given) | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        [ROOT / "jobs" / "simulate", "a b"], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[: len(wanted)] == wanted
    assert done.stdout.splitlines()[-2:] == ["simulate", "a b"]


def test_a_job_without_hpctem_says_where_it_was_looked_for(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    shutil.copytree(ROOT / "jobs", jobs)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([jobs / "verify"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"there is no hpctem on the PATH, nor in {tmp_path}/.venv" in done.stderr
