"""How a chain stands, by its files and by what a queue says; what is missing of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_campaigns import write_campaign

from hpctem.database.journal import journal_folder
from hpctem.errors import ConfigError, MachineError
from hpctem.marked_yaml import parse_yaml
from hpctem.parallel import describe_duration
from hpctem.slurm import queue as queue_of
from hpctem.slurm import status as standing_of
from hpctem.slurm.again import claim, find_missing, resubmit
from hpctem.slurm.files import write_json
from hpctem.slurm.progress import Done, fingerprint, look_at_databases, look_at_model
from hpctem.slurm.queue import Queued
from hpctem.slurm.show import describe_standing, find_words, format_standing
from hpctem.slurm.sites import check_site
from hpctem.slurm.status import Standing, look
from hpctem.slurm.submit import Order, prepare, write_folder

SITE = check_site(parse_yaml("partitions: {cpu: {walltime: 1h, cores: 4}}\ncpu_partition: cpu\n"))
NUMBERS = {"simulate": "11", "verify": "12", "report": "13"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The campaign folder of the usual stages, submitted as jobs 11 to 13."""
    return submitted(tmp_path, "")


def submitted(tmp_path: Path, stages: str, numbers: dict[str, str] = NUMBERS) -> Path:
    campaign = write_campaign(tmp_path)
    campaign.write_text(campaign.read_text() + stages)
    made = prepare(Order(campaign, "here", SITE, tmp_path / "made", planned=False))
    write_folder(made)
    write_json(made.folder / "jobs.json", {"jobs": numbers})
    return made.folder


def note(folder: Path, task: str, state: str, **more: Any) -> None:
    content = {"stage": task, "state": state, "starts": 1, "reason": "", "job": "11"} | more
    (folder / "state" / f"{task}.json").write_text(json.dumps(content))


def stand(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str | None) -> Standing:
    """How it stands when squeue says these lines; None: it cannot be asked."""
    queue = None if lines == (None,) else [Queued(*str(line).split("|")) for line in lines]
    monkeypatch.setattr(standing_of, "look_up", lambda folder: queue)
    monkeypatch.setattr(standing_of, "tell_ends", lambda jobs: {})
    return look(folder)


def states(standing: Standing) -> dict[str, str]:
    return {stage.job.stage: stage.state for stage in standing.stages}


WAITING = (
    "12|small.2-verify|PENDING|Dependency|1:00:00",
    "13|small.3-report|PENDING|Dependency|1:00:00",
)
RUNNING = "11|small.1-simulate|RUNNING|None|50:00"


def test_a_chain_that_runs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    note(folder, "1-simulate", "running")
    found = stand(monkeypatch, folder, RUNNING, *WAITING)
    assert states(found) == {"simulate": "running", "verify": "waiting", "report": "waiting"}
    assert not found.wrong and not found.complete
    text = format_standing(found)
    assert "it goes on by itself" in text
    assert found.stages[1].reason == "for the stage before it"
    assert "for the stage before it" not in text
    busy = stand(monkeypatch, folder, RUNNING.replace("RUNNING|None", "PENDING|Priority"), *WAITING)
    assert "1-simulate: requeued" in format_standing(busy)
    assert not find_missing(found).jobs


def test_a_stage_that_failed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Its log's last error and the commands that go on are shown; what follows never starts."""
    note(folder, "1-simulate", "failed", reason="3 starts brought nothing")
    (folder / "logs" / "1-simulate.log").write_text(
        "start\nhpctem: error: the disk is full\n  advice\n== 2026  1-simulate: failed: 3 starts\n"
    )
    found = stand(monkeypatch, folder)
    assert states(found)["verify"] == "never started"
    assert [stage.job.stage for stage in found.wrong] == ["simulate", "verify", "report"]
    text = format_standing(found)
    assert "1-simulate: failed, after 1 start(s): 3 starts brought nothing" in text
    assert "  hpctem: error: the disk is full\n    advice\n" in text
    assert f"tail {folder}/logs/1-simulate.log" in text
    assert f"hpctem resubmit {folder}" in text
    assert [job.stage for job in find_missing(found).jobs] == ["simulate", "verify", "report"]


def test_a_follower_that_waits_in_vain_is_blocked_and_ended_first(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    note(folder, "1-simulate", "failed")
    lines = [line.replace("Dependency", "DependencyNeverSatisfied") for line in WAITING]
    found = stand(monkeypatch, folder, *lines)
    assert states(found) == {"simulate": "failed", "verify": "blocked", "report": "blocked"}
    assert find_missing(found).ended == ("12", "13")
    # Slurm may not have noticed yet.
    assert find_missing(stand(monkeypatch, folder, *WAITING)).ended == ("12", "13")


@pytest.mark.parametrize("said", ["running", "requeued"])
def test_a_job_that_slurm_no_longer_knows_is_lost(
    monkeypatch: pytest.MonkeyPatch, folder: Path, said: str
) -> None:
    """Whatever it wrote last: a node may have died under it."""
    note(folder, "1-simulate", said)
    found = stand(monkeypatch, folder)
    assert states(found)["simulate"] == "lost"
    assert "Slurm no longer knows its job" in format_standing(found)


def test_a_number_that_is_another_job_by_now_is_not_taken_for_ours(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    note(folder, "1-simulate", "running")
    found = stand(monkeypatch, folder, "11|somebody|RUNNING|None|1:00")
    assert states(found)["simulate"] == "lost"


def test_without_slurm_the_states_are_those_that_were_written(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    note(folder, "1-simulate", "running")
    found = stand(monkeypatch, folder, None)
    assert states(found) == {"simulate": "running", "verify": "unknown", "report": "unknown"}
    assert "Slurm cannot be asked here" in format_standing(found)


@pytest.mark.parametrize(("walltime", "more"), [(3600, 3), (36000, 0)])
def test_how_many_more_jobs_will_follow_is_told(
    monkeypatch: pytest.MonkeyPatch, folder: Path, walltime: int, more: int
) -> None:
    """Of four hours of work three are beyond the one of the first job."""
    note(folder, "1-simulate", "running", began=time.time() + 60)
    made = json.loads((folder / "chain.json").read_text())
    made["jobs"][0]["share"]["seconds"] = walltime
    (folder / "chain.json").write_text(json.dumps(made))
    work = Done(10, 10 + 4 * 3600, "structures", rate=1.0)
    monkeypatch.setattr(standing_of, "look_at_databases", lambda *words: work)
    text = format_standing(stand(monkeypatch, folder, RUNNING, *WAITING))
    assert f"1 structures/s, {describe_duration(4 * 3600)} left; its job has" in text
    assert ("more will follow" in text) == bool(more)
    assert not more or f"about {more} more will follow" in text


def test_a_requeued_job_waits_for_another_start(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    note(folder, "1-simulate", "requeued", reason="stopped in time", starts=4)
    found = stand(monkeypatch, folder, RUNNING.replace("RUNNING|None", "PENDING|BeginTime"))
    assert states(found)["simulate"] == "requeued"
    assert "1-simulate: requeued, after 4 start(s): stopped in time" in format_standing(found)


def test_done_is_believed_only_with_its_database(
    monkeypatch: pytest.MonkeyPatch, folder: Path, small: Path
) -> None:
    note(folder, "1-simulate", "done")
    found = stand(monkeypatch, folder)
    assert states(found)["simulate"] == "lost"
    assert "small.hdf5 is not begun" in found.stages[0].reason
    (folder / "small.hdf5").symlink_to(small)
    journal_folder(folder / "small.hdf5").symlink_to(journal_folder(small))
    for task in ("2-verify", "3-report"):
        note(folder, task, "done")
    found = stand(monkeypatch, folder)
    assert found.complete and not find_missing(found).jobs
    done = found.stages[0].done
    assert done is not None
    assert (done.done, done.total, done.images, done.unit) == (6, 6, 24, "structures")
    assert f"everything is done: hpctem info {folder}/small.hdf5" in format_standing(found)
    told = describe_standing(found)
    assert told["complete"] and told["stages"][0]["done"] == 6
    assert json.loads(json.dumps(told)) == told


def test_tasks_of_an_array_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stages = "stages: {simulate: {volumes: 6}, verify: {}}\n"
    folder = submitted(tmp_path, stages, {"simulate": "11", "verify": "12"})
    note(folder, "1-simulate.1", "done")
    (folder / "small.v1of6.hdf5").touch()
    note(folder, "1-simulate.2", "failed", reason="wrong")
    note(folder, "1-simulate.3", "running")
    lines = [f"11_{n}|small.1-simulate|PENDING|Resources|1:00" for n in (4, 5, 6)]
    lines.append("11_3|small.1-simulate|RUNNING|None|1:00")
    found = stand(monkeypatch, folder, *lines)
    tasks = [task.state for task in found.stages[0].tasks]
    assert tasks == ["done", "failed", "running", "waiting", "waiting", "waiting"]
    assert found.stages[0].state == "failed"
    assert found.stages[0].log == "logs/1-simulate.2.log"
    assert "1 failed, 1 running, 3 waiting, 1 done of 6; wrong" in found.stages[0].reason
    with pytest.raises(MachineError, match="still on their way"):
        find_missing(found)
    missing = find_missing(stand(monkeypatch, folder))
    assert missing.tasks == {"simulate": "2,3,4,5,6"}
    (folder / "small.v1of6.hdf5").unlink()
    missing = find_missing(stand(monkeypatch, folder))
    assert missing.tasks == {"simulate": "1,2,3,4,5,6"}


def test_the_last_task_that_leaves_an_array_submits_for_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where jobs may not requeue; what waits for the array is expected to be submitted again."""
    stages = "stages: {simulate: {volumes: 2}, verify: {}}\n"
    folder = submitted(tmp_path, stages, {"simulate": "11", "verify": "12"})
    array = [f"11_{n}|small.1-simulate|RUNNING|None|1:00" for n in (1, 2)]
    note(folder, "1-simulate.1", "leaving", job="11_1")
    note(folder, "1-simulate.2", "running", job="11_2")
    found = stand(monkeypatch, folder, *array)
    assert [task.state for task in found.stages[0].tasks] == ["leaving", "running"]
    assert states(found) == {"simulate": "running", "verify": "never started"}
    assert not found.wrong and "it goes on by itself" in format_standing(found)
    assert not find_missing(found, leaving=True).jobs
    with pytest.raises(MachineError, match="still on their way"):
        find_missing(found)
    note(folder, "1-simulate.2", "leaving", job="11_2")
    # The first one has left Slurm by now.
    found = stand(monkeypatch, folder, array[1])
    assert states(found)["simulate"] == "leaving"
    assert find_missing(found, leaving=True).tasks == {"simulate": "1,2"}
    # The successor is in the queue, the last one still ends.
    after = [f"21_{n}|small.1-simulate|PENDING|Dependency|1:00" for n in (1, 2)]
    found = stand(monkeypatch, folder, array[1], *after)
    assert found.stages[0].number == "21" and states(found)["simulate"] == "requeued"
    gone = stand(monkeypatch, folder)
    assert states(gone)["simulate"] == "lost"
    assert "it was to submit its successor" in format_standing(gone)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("JobHeldUser", "Slurm holds it (JobHeldUser): scontrol release 11"),
        ("launch failed requeued held", "scontrol release 11"),
        ("PartitionTimeLimit", "Slurm will not start it: PartitionTimeLimit"),
        ("AssocGrpCPUMinutesLimit", "Slurm will not start it"),
        ("BadConstraints", "Slurm will not start it"),
    ],
)
def test_a_job_that_does_not_start_by_itself_needs_somebody(
    monkeypatch: pytest.MonkeyPatch, folder: Path, reason: str, said: str
) -> None:
    line = f"11|small.1-simulate|PENDING|{reason}|1:00:00"
    for state in (None, "requeued"):
        if state:
            note(folder, "1-simulate", state, reason="stopped in time")
        found = stand(monkeypatch, folder, line, *WAITING)
        assert states(found) == {"simulate": "held", "verify": "waiting", "report": "waiting"}
        assert [stage.job.stage for stage in found.wrong] == ["simulate"]
        text = format_standing(found)
        assert said in text and "1-simulate needs you" in text
        # It is in the queue: another would be there twice.
        assert not find_missing(found).jobs


@pytest.mark.parametrize("reason", ["Resources", "Priority", "ReqNodeNotAvail", "QOSMaxJobsLimit"])
def test_a_job_that_waits_for_its_turn_needs_nobody(
    monkeypatch: pytest.MonkeyPatch, folder: Path, reason: str
) -> None:
    found = stand(monkeypatch, folder, f"11|small.1-simulate|PENDING|{reason}|1:00:00", *WAITING)
    assert states(found)["simulate"] == "waiting" and not found.wrong


def test_a_script_that_somebody_has_submitted_by_hand_is_one_of_the_chain(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """In the queue, and after it by its own words; what Slurm gave us before is forgotten."""
    note(folder, "1-simulate", "running", job="77")
    mine = "77|small.1-simulate|RUNNING|None|1:00:00"
    found = stand(monkeypatch, folder, mine)
    assert (found.stages[0].number, found.stages[0].state) == ("77", "running")
    gone = stand(monkeypatch, folder)
    assert (gone.stages[0].number, gone.stages[0].state) == ("77", "lost")


def test_one_task_that_never_starts_is_told_while_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = submitted(tmp_path, "stages: {simulate: {volumes: 2}}\n", {"simulate": "11"})
    note(folder, "1-simulate.1", "running", job="11_1")
    found = stand(monkeypatch, folder, "11_1|small.1-simulate|RUNNING|None|1:00")
    assert states(found)["simulate"] == "never started" and found.wrong


def test_an_array_has_a_total_before_all_of_it_has_begun(small: Path, tmp_path: Path) -> None:
    """The rate is that of the volumes at work."""
    paths = [small, tmp_path / "none.hdf5"]
    done = look_at_databases(paths, 12, (False, False))
    assert (done.done, done.total, done.left) == (6, 12, None)
    assert done.note == "none.hdf5 is not begun"


def test_jobs_are_submitted_by_one_process_at_a_time(tmp_path: Path) -> None:
    with claim(tmp_path):
        with pytest.raises(MachineError, match="another process submits jobs"):
            with claim(tmp_path, patience=0.1):
                pass
        # Of a process that died while it submitted.
        with claim(tmp_path, patience=1, stale=-1):
            pass
    with claim(tmp_path, patience=0):
        pass


def test_accounting_is_asked_once_and_may_be_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sacct that knows two jobs of three; then one that fails, one that hangs, none."""
    program, calls = tmp_path / "sacct", tmp_path / "calls"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def answers(text: str) -> None:
        program.write_text(f"#!/bin/sh\necho call >>{calls}\n{text}\n")
        program.chmod(0o755)

    answers("printf '11|TIMEOUT|0:0\\n12_3|CANCELLED by 0|0:15\\n'")
    assert queue_of.tell_ends(["12_3", "11", "", "13"]) == {
        "11": "TIMEOUT, exit code 0:0",
        "12_3": "CANCELLED by 0, exit code 0:15",
    }
    assert calls.read_text() == "call\n"
    answers("exit 1")
    assert queue_of.tell_ends(["11"]) == {}
    monkeypatch.setattr(queue_of, "SECONDS", 0.2)
    answers("exec sleep 5")
    assert queue_of.tell_ends(["11"]) == {}
    program.rename(tmp_path / "squeue")
    assert queue_of.look_up(tmp_path) is None
    assert queue_of.tell_ends(["11"]) == {}


def test_the_queue_is_asked_for_the_jobs_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a | b"
    folder.mkdir()
    program = tmp_path / "squeue"
    lines = [f"1|x.1-simulate|RUNNING|None|1:00|{folder}", "2|x.1-simulate|RUNNING|None|1:00|/else"]
    text = "\n".join(lines)
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = queue_of.look_up(folder)
    assert found is not None and [one.job for one in found] == ["1"]


def test_what_was_cancelled_is_no_failure(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    note(folder, "1-simulate", "interrupted")
    write_json(folder / "jobs.json", {"jobs": NUMBERS, "cancelled": "now"})
    found = stand(monkeypatch, folder)
    assert set(states(found).values()) == {"cancelled"}
    assert not found.wrong
    assert f"to go on: hpctem resubmit {folder}" in format_standing(found)
    assert len(find_missing(found).jobs) == 3


def test_what_follows_waits_for_what_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    note(folder, "1-simulate", "running")
    missing = find_missing(stand(monkeypatch, folder, RUNNING))
    assert [job.stage for job in missing.jobs] == ["verify", "report"]
    assert missing.previous is not None and missing.previous.number == "11"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("chain.json", "{", "chain.json is damaged"),
        ("chain.json", None, "holds no chain.json: name the folder that 'hpctem submit' has made"),
        ("jobs.json", '{"jobs": 3}', "jobs.json is damaged"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, text: str | None, words: str) -> None:
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        look(folder)


def test_a_damaged_state_counts_as_none(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "state" / "1-simulate.json").write_text("[torn")
    assert states(stand(monkeypatch, folder))["simulate"] == "never started"


def test_what_is_done_of_an_unfinished_database_is_counted(small: Path, tmp_path: Path) -> None:
    """And told by a text that changes with every commit, which the job scripts compare."""
    database = Path(shutil.copy(small, tmp_path))
    shutil.copytree(journal_folder(small), journal_folder(database))
    assert fingerprint(str(database)) == "6"
    # A job that has committed two thirds of its structures: the last journal records are gone.
    (journal_folder(database) / "COMPLETE").unlink()
    for journal in journal_folder(database).glob("*.00000.journal"):
        raw = journal.read_bytes()
        records = [raw[n : n + 64] for n in range(0, len(raw), 64)]
        journal.write_bytes(b"".join(records[: -2 * 3]))
    done = look_at_databases([database])
    assert 0 < done.done < 6 and done.total == 6
    assert fingerprint(str(database)) == str(done.done)
    assert done.images == 4 * done.done
    assert done.left == pytest.approx((6 - done.done) / done.rate)
    assert fingerprint(f"{database}.gone") == fingerprint("--device") == ""


def test_what_is_done_of_a_training_is_read_from_its_history(tmp_path: Path) -> None:
    header = "epoch,steps,rate,seconds\n"
    (tmp_path / "history.csv").write_text(header + "1,20,0.1,10.0\n2,20,0.1,30.0\n")
    (tmp_path / "steps.csv").write_text("epoch,step,loss\n2,20,1.0\n3,7,0.5\n3,8,0.")
    done = look_at_model(tmp_path, 5)
    assert (done.done, done.total, done.rate) == (47, 100, 1.0)
    assert done.left == pytest.approx(53)
    assert done.note == "epoch 2 of 5"
    # Between epochs the last step is one of an epoch that is counted.
    (tmp_path / "steps.csv").write_text("epoch,step,loss\n2,20,1.0\n")
    assert look_at_model(tmp_path, 5).done == 40
    assert look_at_model(tmp_path / "none").done == 0


def test_the_place_of_a_training_is_that_of_its_last_checkpoint(tmp_path: Path) -> None:
    import numpy as np

    from hpctem.learning.training.checkpoints import Place, save_checkpoint

    assert fingerprint(str(tmp_path)) == ""
    for place in (Place(1, 3), Place(2, 0)):
        save_checkpoint(tmp_path, place, {"w": np.zeros(3)})
    assert fingerprint(str(tmp_path)) == "2.0"
    (tmp_path / "checkpoints" / "00000003.npz").write_bytes(b"torn")
    assert fingerprint(str(tmp_path)) == "2.0"


def test_the_scripts_can_ask_how_far_something_is(small: Path, tmp_path: Path) -> None:
    campaign = write_campaign(tmp_path)
    (tmp_path / "small.hdf5").symlink_to(small)
    journal_folder(tmp_path / "small.hdf5").symlink_to(journal_folder(small))
    command = [sys.executable, "-m", "hpctem.slurm.progress", small, campaign.name, "--limit", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "6,6,,\n"


def test_the_words_of_an_error_are_found_in_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x\n" * 100_000 + "hpctem: error: no\nmore\n\n== end\n")
    assert find_words(log) == ["hpctem: error: no", "more"]
    assert find_words(tmp_path / "none") == []
    log.write_text(
        "== 1  2-verify: start 1, job 2 on n1\nhpctem: error: of the start before\n"
        "== 2  2-verify: start 2, job 2 on n1\nx.hdf5: 80 rows checked, 0 bad\n"
        "bytes outside the rows: DAMAGED\nto put it right: hpctem simulate\n"
        "srun: error: n1: tasks 0-1: Exited with exit code 1\n== 3  2-verify: failed: it ended\n"
    )
    assert find_words(log) == [
        "bytes outside the rows: DAMAGED",
        "to put it right: hpctem simulate",
    ]


def test_resubmit_without_slurm_says_what_to_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MachineError, match=rf"no sbatch(?s:.*)jobs/simulate {folder}/campaign.yaml"
    ):
        resubmit(folder)
