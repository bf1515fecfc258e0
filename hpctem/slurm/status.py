"""How a submitted chain stands: what its files say first, then what Slurm says of its jobs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctem.errors import ConfigError, HpctemError
from hpctem.slurm.chain import Job
from hpctem.slurm.files import JOBS, STATE, read_chain
from hpctem.slurm.progress import Done, look_at_databases, look_at_model
from hpctem.slurm.queue import Queued, look_up, tell_end
from hpctem.slurm.render import log_of

# From what needs somebody to what is over; a stage is what the first of its tasks is.
STATES = (
    *("failed", "lost", "interrupted", "blocked", "cancelled", "running", "requeued", "waiting"),
    *("unknown", "never started", "not submitted", "done"),
)
WRONG = ("failed", "lost", "interrupted", "blocked", "never started")
BEFORE = "for the stage before it"
ACTIVE = ("running", "requeued", "waiting", "unknown")


@dataclass(frozen=True)
class Task:
    """A job, or a task of an array: what its own state says, seen against the queue.

    left   of its time, as Slurm tells it; '' where it does not run
    """

    name: str
    state: str
    reason: str = ""
    starts: int = 0
    left: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage of the chain.

    job     number of its job; '' before it is submitted
    state   of STATES
    reason  why it failed or waits
    tasks   of an array; one otherwise
    done    what its files hold; None where nothing is counted
    log     to be looked into: that of a task that failed, where there is one
    """

    job: Job
    number: str
    state: str
    reason: str
    tasks: tuple[Task, ...]
    done: Done | None
    log: str


@dataclass(frozen=True)
class Standing:
    """A whole chain; asked: whether Slurm could be asked."""

    folder: Path
    campaign: str
    site: str
    stages: tuple[Stage, ...]
    asked: bool

    @property
    def wrong(self) -> list[Stage]:
        """Stages that need somebody."""
        return [stage for stage in self.stages if stage.state in WRONG]

    @property
    def complete(self) -> bool:
        """Whether everything is done."""
        return all(stage.state == "done" for stage in self.stages)


def read_jobs(folder: Path) -> dict[str, Any]:
    """What jobs.json says: the numbers of the jobs by stage, whether they were cancelled."""
    try:
        content = json.loads((folder / JOBS).read_text(encoding="utf-8"))
        content["jobs"] = {str(k): str(v) for k, v in content["jobs"].items()}
        return content
    except FileNotFoundError:
        return {"jobs": {}}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{folder / JOBS} is damaged ({error}); remove it once no job of this chain is in the "
            "queue, then 'hpctem resubmit' submits what is missing"
        ) from error


def look(folder: Path, without: Sequence[str] = ()) -> Standing:
    """How the chain of a campaign folder stands.

    without   jobs that count as ended although they are in the queue

    Raises ConfigError for a folder that no chain was submitted from.
    """
    chain = read_chain(folder)
    submitted = read_jobs(folder)
    numbers = submitted["jobs"]
    queue = look_up(numbers.values()) if numbers else []
    if queue is not None:
        queue = [one for one in queue if one.job not in without]
    stages: list[Stage] = []
    for job in chain["jobs"]:
        number = numbers.get(job.stage, "")
        name = f"{chain['campaign'][:80]}.{job.name}"
        mine = None
        if queue is not None:
            mine = [q for q in queue if q.job.split("_")[0] == number and q.name == name]
        done = _count(folder, job)
        tasks = tuple(
            _judge(folder, job, task, number, mine, done, "cancelled" in submitted)
            for task in job.tasks
        )
        stages.append(_sum_up(job, number, tasks, done))
    return Standing(folder, chain["campaign"], chain["site"], tuple(stages), queue is not None)


def _count(folder: Path, job: Job) -> Done | None:
    try:
        if job.watch == "database":
            return look_at_databases([folder / name for name in job.outputs])
        if job.watch == "model":
            return look_at_model(folder / job.outputs[0], _read_epochs(folder, job))
    except (HpctemError, OSError, ValueError):
        pass
    return None


def _read_epochs(folder: Path, job: Job) -> int:
    from hpctem.learning.training_file import read_training

    kind, file = str(job.arguments[0]), job.arguments[1]
    name = file if isinstance(file, str) else file.name
    return int(read_training(folder / name, kind).config.schedule.epochs)


def _judge(
    folder: Path,
    job: Job,
    name: str,
    number: str,
    queue: list[Queued] | None,
    done: Done | None,
    cancelled: bool,
) -> Task:
    said = _read_state(folder / STATE / f"{name}.json")
    state, reason = str(said.get("state", "")), str(said.get("reason", ""))
    starts = int(said.get("starts", 0))
    if state == "done":
        if done is not None and job.watch == "database" and not job.volumes:
            if done.note or done.done < done.total:
                return Task(name, "lost", f"was done, but {done.note or 'structures are missing'}")
        return Task(name, "done", reason, starts)
    if not number:
        return Task(name, "not submitted", "", starts)
    if queue is None:
        return Task(name, state if state in STATES else "unknown", reason, starts)
    task = name.partition(".")[2]
    here = next((one for one in queue if one.job.partition("_")[2] == task), None)
    if here is None:
        if state in ("failed", "interrupted"):
            shown = "cancelled" if cancelled and state == "interrupted" else state
            return Task(name, shown, reason, starts)
        if state:
            end = tell_end(str(said.get("job", ""))) or "Slurm no longer knows its job"
            return Task(name, "cancelled" if cancelled else "lost", end, starts)
        if cancelled:
            return Task(name, "cancelled", "", starts)
        return Task(name, "never started", tell_end(number), starts)
    if not here.waiting:
        return Task(name, "running", reason, starts, here.left)
    if here.reason == "DependencyNeverSatisfied":
        return Task(name, "blocked", "a stage before it has failed", starts)
    # A state of an earlier job says nothing of one that waits for its first start.
    again = state in ("requeued", "running", "interrupted") and starts > 0
    why = reason if again and reason else _explain(here.reason)
    return Task(name, "requeued" if again else "waiting", why, starts)


def _explain(reason: str) -> str:
    known = {
        "Dependency": BEFORE,
        "Resources": "for nodes",
        "Priority": "for nodes, others come first",
        "BeginTime": "for the time at which Slurm starts it again",
    }
    return known.get(reason, "" if reason == "None" else reason)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _sum_up(job: Job, number: str, tasks: tuple[Task, ...], done: Done | None) -> Stage:
    first = min(tasks, key=lambda task: STATES.index(task.state))
    reason = first.reason
    if len(tasks) > 1:
        counts = {s: sum(task.state == s for task in tasks) for s in STATES}
        told = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
        reason = f"{told} of {len(tasks)}" + (f"; {reason}" if reason else "")
    return Stage(
        job, number, first.state, reason, tasks, done, log_of(job, first.name.split(".")[-1])
    )


def this_job() -> list[str]:
    """The job that this process runs in, as squeue writes it; nothing outside of jobs."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return [f"{array}_{task}"]
    return [os.environ["SLURM_JOB_ID"]] if os.environ.get("SLURM_JOB_ID") else []


def seconds_left(stage: Stage, folder: Path) -> float | None:
    """Seconds of its job's time that are left, by its own state; None where it does not run."""
    began = [
        float(_read_state(folder / STATE / f"{task.name}.json").get("began", 0))
        for task in stage.tasks
        if task.state == "running"
    ]
    if not began or not min(began):
        return None
    return min(began) + stage.job.share.seconds - time.time()
