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


def as_job(folder: Path, number: str = "12", **more: str) -> dict[str, str]:
    """The environment of a job, with a scontrol and an hpctem that write down their arguments;
    it may not go back into the queue."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    later = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3600))
    for name, answer in (("scontrol", f"EndTime=${{ENDS:-{later}}} x"), ("hpctem", "")):
        program = programs / name
        program.write_text(
            f'#!/bin/bash\necho "{name} $*" >>{folder}/called\necho "{answer}"\n'
            '[ "$1" != requeue ]\n'
        )
        program.chmod(0o755)
    made = environment(SLURM_JOB_ID=number, **more)
    return made | {"PATH": f"{programs}:{made['PATH']}"}


def called(folder: Path) -> list[str]:
    return [
        line
        for line in (folder / "called").read_text().splitlines()
        if not line.startswith("scontrol show")
    ]


def test_a_task_goes_back_into_the_queue_by_its_own_number(stage: Stage, tmp_path: Path) -> None:
    """The number of a job may be that of its whole array, which Slurm would start again."""
    array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    stage("exit 137", env=as_job(tmp_path, **array), watched="none.hdf5")
    assert called(tmp_path) == ["scontrol requeue 12_3", f"hpctem resubmit {tmp_path}/made"]
    assert state_of(tmp_path, "1-simulate.3")["state"] == "leaving"


def test_a_job_that_has_ended_well_is_not_done_again(stage: Stage, tmp_path: Path) -> None:
    """When Slurm starts a whole array again; another job of the same stage does work."""
    assert stage("exit 0", env=as_job(tmp_path)).returncode == 0
    again = stage(f"touch {tmp_path}/worked", env=as_job(tmp_path))
    assert again.returncode == 0 and "has done it before" in again.stdout
    assert not (tmp_path / "worked").exists()
    assert state_of(tmp_path)["state"] == "done"
    stage(f"touch {tmp_path}/worked", env=as_job(tmp_path, "13"))
    assert (tmp_path / "worked").exists()


def test_where_jobs_may_not_requeue_they_leave_to_a_successor(stage: Stage, tmp_path: Path) -> None:
    """And the task of an array that ends well last submits what others have left."""
    stage("exit 137", env=as_job(tmp_path), watched="none.hdf5", requeue="no")
    assert called(tmp_path) == [f"hpctem resubmit {tmp_path}/made"]
    assert state_of(tmp_path)["state"] == "leaving"
    array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    stage("exit 0", env=as_job(tmp_path, **array), requeue="no")
    assert called(tmp_path)[1:] == [f"hpctem resubmit {tmp_path}/made"]
    assert state_of(tmp_path, "1-simulate.3")["state"] == "done"


def test_the_end_of_the_time_without_a_signal_puts_a_job_back(tmp_path: Path) -> None:
    """SIGTERM at the end of its time is Slurm's; earlier it is somebody's or a preemption."""
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 2))
    script = write_script(tmp_path, watched=f"{tmp_path}/none.hdf5", requeue="no")
    words = ["bash", str(script), "bash", "-c", f"touch {tmp_path}/ready; exec sleep 20"]
    env = as_job(tmp_path, ENDS=soon)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env=env) as job:
        wait_for(lambda: (tmp_path / "ready").exists())
        wait_for(lambda: time.strftime("%Y-%m-%dT%H:%M:%S") >= soon)
        job.send_signal(signal.SIGTERM)
    said = state_of(tmp_path)
    assert (said["state"], said["reason"]) == ("leaving", "its time was over")


def test_who_is_preempted_before_anything_is_committed_has_not_failed(tmp_path: Path) -> None:
    for _ in range(4):
        (tmp_path / "ready").unlink(missing_ok=True)
        job = start(
            tmp_path, f"touch {tmp_path}/ready; exec sleep 2", attempts=1, watched="no.hdf5"
        )
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=30) == 143
        job.communicate(timeout=30)
    said = state_of(tmp_path)
    assert (said["state"], said["starts"], said["idle"]) == ("interrupted", 4, 1)


def test_a_module_that_is_not_there_fails_the_stage(stage: Stage, tmp_path: Path) -> None:
    script = write_script(tmp_path)
    text = "unprepared='the module x cannot be loaded'\n" + script.read_text()
    script.write_text(text)
    done = subprocess.run(["bash", script, "true"], capture_output=True, env=environment())
    assert done.returncode == 2
    assert state_of(tmp_path)["reason"] == "the module x cannot be loaded"


@pytest.mark.parametrize(("code", "worked"), [(0, True), (1, False)])
def test_what_is_run_beforehand_decides(tmp_path: Path, code: int, worked: bool) -> None:
    script = write_script(tmp_path)
    text = f"beforehand=(bash -c 'exit {code}')\n" + script.read_text()
    script.write_text(text)
    words = ["bash", script, "touch", tmp_path / "worked"]
    done = subprocess.run(words, capture_output=True, env=environment())
    assert (done.returncode, (tmp_path / "worked").exists()) == (code, worked)
    assert state_of(tmp_path)["state"] == ("done" if worked else "failed")


def test_signals_are_heard_while_something_is_run_beforehand(tmp_path: Path) -> None:
    script = write_script(tmp_path)
    before = f"touch {tmp_path}/ready; exec sleep 20"
    script.write_text(f"beforehand=(bash -c '{before}')\n" + script.read_text())
    words = ["bash", str(script), "touch", f"{tmp_path}/worked"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment()) as job:
        wait_for(lambda: (tmp_path / "ready").exists())
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=10) == 143
    assert state_of(tmp_path)["state"] == "interrupted"


def test_ranks_of_mpirun_are_not_bound_to_one_core_each_when_they_have_several(
    stage: Stage, tmp_path: Path
) -> None:
    variable = "OMPI_MCA_hwloc_base_binding_policy"
    for launcher, wanted in (("mpirun", "none"), ("none", "")):
        done = stage(f"echo policy=${variable}", launcher=launcher)
        assert f"policy={wanted}" in done.stdout.splitlines()


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
