"""A chain as it is read on a terminal, and as plain data for programs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from hpctem.aligned import align_columns
from hpctem.parallel import describe_duration
from hpctem.slurm.chain import Job
from hpctem.slurm.render import format_time, quote
from hpctem.slurm.status import BEFORE, Stage, Standing, seconds_left
from hpctem.slurm.submit import Prepared

_START = re.compile(r"== .*: start \d+, job ")
_OTHERS = re.compile(r"==|srun:|slurmstepd|mpirun|mpiexec|-{20}")
_TELLING = re.compile(r"\berror\b|DAMAGED")


def format_prepared(prepared: Prepared) -> str:
    """What is about to be submitted: notes, then a line for each job."""
    head = ["stage", "partition", "nodes", "ranks", "cores", "GPUs", "time", "jobs"]
    rows = [[job.name, *_describe_share(job)] for job in prepared.jobs]
    lines = [*prepared.notes, "", *align_columns([head, *rows], left=(0, 1))]
    return "\n".join([*lines, "", f"campaign folder: {prepared.folder}"])


def _describe_share(job: Job) -> list[str]:
    share = job.share
    numbers = (share.nodes, share.nodes * share.ranks_per_node, share.threads, share.gpus)
    return [
        share.partition,
        *map(str, numbers),
        format_time(share.seconds),
        f"array of {job.volumes}" if job.volumes else "1",
    ]


def format_standing(standing: Standing) -> str:
    """A line for each stage, what runs and how long it will, what failed and what to do."""
    head = ["stage", "job", "state", "done", "log"]
    rows = [
        [s.job.name, s.number or "-", s.state, _describe_done(s), s.log] for s in standing.stages
    ]
    lines = [f"{standing.campaign} on {standing.site}, {standing.folder}", ""]
    lines += align_columns([head, *rows], left=(0, 1, 2, 3, 4))
    notes = [note for stage in standing.stages for note in _describe(stage, standing.folder)]
    if not standing.asked:
        notes.append("Slurm cannot be asked here: the states are those that the jobs wrote last")
    return "\n".join([*lines, *([""] if notes else []), *notes, "", _advise(standing)])


def _describe_done(stage: Stage) -> str:
    done = stage.done
    if done is None or not (done.done or done.total):
        return "-"
    total = f"/{done.total}" if done.total else ""
    share = f" ({done.done / done.total:.0%})" if done.total else ""
    text = f"{done.done}{total} {done.unit}{share}"
    if done.unit == "steps":
        text += f", {done.note}"
    if done.quarantined:
        text += f", {done.quarantined} quarantined"
    return text


def _describe(stage: Stage, folder: Path) -> list[str]:
    """What is to be said of a stage beside its line."""
    name, notes = stage.job.name, []
    starts = max(task.starts for task in stage.tasks)
    if stage.state == "running":
        text = f"{name}: running" + (f", start {starts}" if starts > 1 else "")
        if stage.reason:
            text += f" ({stage.reason})"
        done, time_left = stage.done, seconds_left(stage, folder)
        if done is not None and done.rate:
            text += f", {done.rate:.3g} {done.unit}/s"
        if done is not None and done.left is not None:
            text += f", {describe_duration(done.left)} left"
            if time_left is not None:
                text += f"; its job has {describe_duration(max(time_left, 0))}"
                if done.left > max(time_left, 0) and not stage.job.volumes:
                    more = math.ceil((done.left - max(time_left, 0)) / stage.job.share.seconds)
                    text += f", about {more} more will follow"
        elif time_left is not None:
            text += f", its job has {describe_duration(max(time_left, 0))}"
        notes.append(text)
    elif stage.state == "waiting" and BEFORE in stage.reason:
        pass  # what the table says already
    elif stage.state != "done" and stage.reason:
        start = f", after {starts} start(s)" if starts else ""
        notes.append(f"{name}: {stage.state}{start}: {stage.reason}")
        if stage.state == "failed":
            notes += [f"  {line}" for line in find_words(folder / stage.log)]
    elif stage.state == "done" and stage.reason:
        notes.append(f"{name}: {stage.reason}")
    return notes


def find_words(log: Path) -> list[str]:
    """What a log says of the error that ended its last start: the last message of hpctem and what
    follows it, but not what those say who started the ranks."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, log.stat().st_size - 65536))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    starts = [n for n, line in enumerate(lines) if _START.match(line)]
    own = [line for line in lines[(starts or [0])[-1] :] if not _OTHERS.match(line)]
    places = [n for n, line in enumerate(own) if _TELLING.search(line)]
    found = own[places[-1] : places[-1] + 4] if places else []
    return [line[:200] for line in found if line.strip()]


def _advise(standing: Standing) -> str:
    folder = quote(standing.folder)
    wrong = standing.wrong
    if standing.complete:
        first = standing.stages[0]
        made = first.job.outputs[0] if first.job.outputs else ""
        what = f"hpctem info {quote(standing.folder / made)}" if made else f"ls {folder}"
        return f"everything is done: {what}"
    if wrong and wrong[0].state == "held":
        return (
            f"{wrong[0].job.name} needs you: {wrong[0].reason}\nor cancel it, change what it asks "
            f"for and submit it again: hpctem cancel {folder}"
        )
    if wrong:
        log = quote(standing.folder / wrong[0].log)
        return (
            f"{wrong[0].job.name} needs you: tail {log}\n"
            f"then mend it, and: hpctem resubmit {folder}"
        )
    states = {stage.state for stage in standing.stages}
    if "cancelled" in states:
        return f"it was cancelled; to go on: hpctem resubmit {folder}"
    if states <= {"done", "not submitted"}:
        return f"to submit it: hpctem resubmit {folder}"
    return f"it goes on by itself; to end it: hpctem cancel {folder}"


def describe_standing(standing: Standing) -> dict[str, Any]:
    """The standing as plain data for JSON."""
    return {
        "campaign": standing.campaign,
        "site": standing.site,
        "folder": str(standing.folder),
        "complete": standing.complete,
        "slurm_asked": standing.asked,
        "stages": [_describe_stage(stage, standing.folder) for stage in standing.stages],
        "next": _advise(standing),
    }


def _describe_stage(stage: Stage, folder: Path) -> dict[str, Any]:
    done = stage.done
    return {
        "number": stage.job.number,
        "stage": stage.job.stage,
        "job": stage.number,
        "state": stage.state,
        "reason": stage.reason,
        "tasks": [
            {"name": t.name, "state": t.state, "reason": t.reason, "starts": t.starts}
            for t in stage.tasks
        ],
        "done": done.done if done else None,
        "total": done.total if done else None,
        "unit": done.unit if done else None,
        "images": done.images if done else None,
        "quarantined": done.quarantined if done else None,
        "per_second": done.rate if done else None,
        "seconds_left": done.left if done else None,
        "job_seconds_left": seconds_left(stage, folder),
        "log": str(folder / stage.log),
        "outputs": [str(folder / name) for name in stage.job.outputs],
    }
