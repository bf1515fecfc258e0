"""How a submitted chain stands: what its files say first, then what Slurm says of its jobs."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctem.errors import ConfigError, HpctemError
from hpctem.slurm.chain import Job
from hpctem.slurm.files import JOBS, STATE, read_chain
from hpctem.slurm.progress import Done, look_at_databases, look_at_model
from hpctem.slurm.queue import Queued, look_up, tell_ends
from hpctem.slurm.render import log_of

# From what needs somebody to what is over; a stage is what the first of its tasks is.
STATES = (
    *("failed", "lost", "interrupted", "held", "blocked", "never started", "cancelled"),
    *("running", "leaving", "requeued", "waiting", "unknown", "not submitted", "done"),
)
WRONG = ("failed", "lost", "interrupted", "held", "blocked", "never started")
BEFORE = "for the stage before it"
ACTIVE = ("running", "requeued", "waiting", "unknown", "held")
# Reasons with which a job waits for ever: it is held, or asks for what it will not be given.
_HELD = re.compile(r"JobHeld|\bheld\b")
_NEVER = re.compile(
    r"BadConstraints|Partition(Time|Node)Limit|Invalid(Account|QOS)|AccountNotAllowed|"
    r"QOSNotAllowed|(Assoc|QOS)(Max|Grp)\w*(Minutes|MinutesLimit|WallDuration\w*|PerJob\w*)$"
)


@dataclass(frozen=True)
class Task:
    """A job, or a task of an array: what its own state says, seen against the queue.

    left    of its time, as Slurm tells it; '' where it does not run
    queued  whether Slurm has not ended its job
    job     that wrote its state, as squeue names it; '' before one has
    """

    name: str
    state: str
    reason: str = ""
    starts: int = 0
    left: str = ""
    queued: bool = False
    job: str = ""


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

    @property
    def goes_on(self) -> bool:
        """Whether a job of it is in the queue, or one of its tasks is yet to submit another."""
        return any(task.state in (*ACTIVE, "leaving") for task in self.tasks)


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
        wrong = []
        for n, stage in enumerate(self.stages):
            # Who waits for what still goes on is submitted again with it.
            expected = stage.state in ("blocked", "never started") and any(
                before.goes_on for before in self.stages[:n]
            )
            if stage.state in WRONG and not expected:
                wrong.append(stage)
        return wrong

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


def look(folder: Path) -> Standing:
    """How the chain of a campaign folder stands.

    Jobs of the folder's scripts count whoever has submitted them. Raises ConfigError for a folder
    that no chain was submitted from.
    """
    chain = read_chain(folder)
    submitted = read_jobs(folder)
    queue = look_up(folder)
    if queue is None and not submitted["jobs"]:
        queue = []
    stages: list[Stage] = []
    for job in chain["jobs"]:
        name = f"{chain['campaign'][:80]}.{job.name}"
        said = [_read_state(folder / STATE / f"{task}.json") for task in job.tasks]
        mine = None if queue is None else [one for one in queue if one.name == name]
        known = [submitted["jobs"].get(job.stage, ""), *(str(s.get("job", "")) for s in said)]
        known += [one.job for one in mine or ()]
        number = str(max((_number(text) for text in known), default=0) or "")
        here = [_find_job(job, n, mine or (), said[n]) for n in range(len(said))]
        at_work = None
        if mine is not None:
            at_work = [one is not None and not one.waiting for one in here]
        done = _count(folder, job, int(chain.get("structures", 0)), at_work)
        tasks = tuple(
            _judge(folder, job, n, number, said[n], here[n], mine is not None, done)
            for n in range(len(said))
        )
        stages.append(Stage(job, number, "", "", tasks, done, ""))
    told = _tell_ends(stages, "cancelled" in submitted)
    return Standing(folder, chain["campaign"], chain["site"], told, queue is not None)


def _number(job: str) -> int:
    first = job.split("_")[0]
    return int(first) if first.isdigit() else 0


def _find_job(job: Job, n: int, queue: Sequence[Queued], said: Mapping[str, Any]) -> Queued | None:
    """The job in the queue that does a task: one that runs and stays, else the latest."""
    task = str(n + 1) if job.volumes else ""
    left = said.get("job") if said.get("state") == "leaving" else None
    fitting = [one for one in queue if one.job.partition("_")[2] == task]
    return min(fitting, key=lambda q: (q.job == left, q.waiting, -q.number), default=None)


def _count(folder: Path, job: Job, structures: int, at_work: Sequence[bool] | None) -> Done | None:
    try:
        if job.watch == "database":
            paths = [folder / name for name in job.outputs]
            return look_at_databases(paths, structures if job.volumes else 0, at_work)
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
    n: int,
    number: str,
    said: dict[str, Any],
    here: Queued | None,
    asked: bool,
    done: Done | None,
) -> Task:
    name = job.tasks[n]
    state, reason = str(said.get("state", "")), str(said.get("reason", ""))
    starts = int(said.get("starts", 0))
    if state == "done":
        lacking = _find_lacking(folder, job, n, done)
        return Task(name, "lost", lacking) if lacking else Task(name, "done", reason, starts)
    if not number:
        return Task(name, "not submitted", "", starts)
    if not asked:
        return Task(name, state if state in STATES else "unknown", reason, starts)
    if state == "leaving" and (here is None or here.job == said.get("job")):
        return Task(name, "leaving", reason, starts, queued=here is not None)
    if here is None:
        # What has no state yet is told by `_tell_ends`.
        shown = state if state in ("failed", "interrupted") else ""
        return Task(name, shown, reason, starts, job=str(said.get("job", "")))
    if not here.waiting:
        return Task(name, "running", reason, starts, here.left, queued=True)
    if here.reason == "DependencyNeverSatisfied":
        return Task(name, "blocked", "a stage before it has failed", starts, queued=True)
    if _HELD.search(here.reason) or here.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
        why = f"Slurm holds it ({here.reason}): scontrol release {here.job}"
        return Task(name, "held", why, starts, queued=True)
    if _NEVER.search(here.reason):
        return Task(name, "held", f"Slurm will not start it: {here.reason}", starts, queued=True)
    # A state of an earlier job says nothing of one that waits for its first start.
    again = state in ("requeued", "running", "interrupted", "leaving") and starts > 0
    why = "; ".join(filter(None, (reason if again else "", _explain(here.reason))))
    return Task(name, "requeued" if again else "waiting", why, starts, queued=True)


def _find_lacking(folder: Path, job: Job, n: int, done: Done | None) -> str:
    """What is missing of what a task has made; '' where nothing is."""
    if job.watch != "database" or done is None:
        return ""
    if job.volumes:
        lost = not (folder / job.outputs[n]).exists()
        return f"was done, but {job.outputs[n]} is gone" if lost else ""
    if done.note or done.done < done.total:
        return f"was done, but {done.note or 'structures are missing'}"
    return ""


def _tell_ends(stages: list[Stage], cancelled: bool) -> tuple[Stage, ...]:
    """The stages, where the queue no longer knows a task with what accounting says of its end."""
    gone = {
        task.name: task.job or stage.number + (f"_{n}" if stage.job.volumes else "")
        for stage in stages
        for n, task in enumerate(stage.tasks, 1)
        if task.state == ""
    }
    ends = tell_ends(gone.values()) if gone else {}

    def tell(task: Task) -> Task:
        if task.state == "interrupted" and cancelled:
            return replace(task, state="cancelled")
        if task.state:
            return task
        end = ends.get(gone[task.name], "")
        if cancelled:
            return replace(task, state="cancelled", reason=end if task.starts else "")
        if task.starts:
            return replace(task, state="lost", reason=end or "Slurm no longer knows its job")
        return replace(task, state="never started", reason=end)

    told = []
    for stage in stages:
        tasks = tuple(map(tell, stage.tasks))
        if not any(task.queued for task in tasks):
            tasks = tuple(
                replace(t, state="lost", reason="it was to submit its successor and did not")
                if t.state == "leaving"
                else t
                for t in tasks
            )
        told.append(_sum_up(stage.job, stage.number, tasks, stage.done))
    return tuple(told)


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
