"""What is missing of a chain, submitted again; or everything of it ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctem.errors import ConfigError, MachineError
from hpctem.slurm.chain import Job
from hpctem.slurm.files import JOBS, STATE, read_chain, write_json
from hpctem.slurm.queue import cancel_jobs, has_slurm
from hpctem.slurm.render import quote
from hpctem.slurm.status import ACTIVE, Stage, Standing, look, read_jobs, this_job
from hpctem.slurm.submit import commands_by_hand, submit_chain


@dataclass(frozen=True)
class Missing:
    """What a chain lacks.

    jobs       to be submitted, in their order
    tasks      by stage: those of an array that are missing, as '2,5'
    previous   stage in the queue that the first of them waits for
    ended      numbers of waiting jobs that are ended first: what they wait for will not come
    """

    jobs: tuple[Job, ...]
    tasks: dict[str, str]
    previous: Stage | None
    ended: tuple[str, ...]


def find_missing(standing: Standing) -> Missing:
    """Which stages are neither done nor on their way.

    Raises MachineError where tasks of an array are missing while others of it still run.
    """
    previous: Stage | None = None
    missing: list[Stage] = []
    ended: list[str] = []
    for stage in standing.stages:
        if stage.state == "done":
            continue
        active = [task.name for task in stage.tasks if task.state in ACTIVE]
        others = [task for task in stage.tasks if task.state not in (*ACTIVE, "done")]
        if active and others:
            raise MachineError(
                f"{stage.job.stage}: {', '.join(active)} are still on their way; resubmit once "
                f"they have ended, or end them by 'hpctem cancel {quote(standing.folder)}'"
            )
        if active and not missing:
            previous = stage
            continue
        if active:
            if any(task.state == "running" for task in stage.tasks):
                raise MachineError(
                    f"{stage.job.stage} runs (job {stage.number}) although "
                    f"{missing[0].job.stage} before it is missing; end it by 'hpctem cancel "
                    f"{quote(standing.folder)}' first"
                )
            ended.append(stage.number)
        elif stage.state == "blocked":
            ended.append(stage.number)
        missing.append(stage)
    tasks = {
        stage.job.stage: ",".join(
            str(n) for n, task in enumerate(stage.tasks, 1) if task.state != "done"
        )
        for stage in missing
        if stage.job.volumes
    }
    return Missing(tuple(stage.job for stage in missing), tasks, previous, tuple(ended))


def resubmit(folder: Path) -> list[str]:
    """Submit what is missing of a chain; lines that tell what was done.

    Within a job of the chain, which may not put itself back into the queue, its successor.

    Raises ConfigError for a folder without a chain, MachineError where there is no Slurm, where it
    cannot be asked what is in the queue, or where it refuses.
    """
    folder = folder.absolute()
    jobs = read_chain(folder)["jobs"]
    if not has_slurm():
        commands = "\n".join(f"  {line}" for line in commands_by_hand(folder, jobs))
        raise MachineError(
            f"there is no sbatch on this machine. Run jobs/... directly; all of them go on where "
            f"they stopped:\n{commands}"
        )
    known = read_jobs(folder)["jobs"]
    own = [job for job in this_job() if job.split("_")[0] in known.values()]
    standing = look(folder, without=own)
    if not standing.asked:
        raise MachineError(
            "squeue does not say what is in the queue, so that jobs could be there twice; try again"
        )
    missing = find_missing(standing)
    if not missing.jobs:
        state = "everything is done" if standing.complete else "all that is left is on its way"
        return [f"nothing to submit: {state}"]
    lines = [f"ended: job {job}, which waited in vain" for job in missing.ended]
    cancel_jobs(missing.ended)
    if not own:
        _forget(folder, missing, standing)
    after = f"afterok:{missing.previous.number}" if missing.previous else None
    if own:
        after = f"afterany:{own[0]}" + (f",{after}" if after else "")
    numbers = submit_chain(folder, missing.jobs, known, after, missing.tasks)
    for job in missing.jobs:
        tasks = f", tasks {missing.tasks[job.stage]}" if job.stage in missing.tasks else ""
        lines.append(f"submitted: {job.name}, job {numbers[job.stage]}{tasks}")
    return lines


def _forget(folder: Path, missing: Missing, standing: Standing) -> None:
    """Starts without progress are counted anew, and states of old jobs go."""
    names = {job.stage for job in missing.jobs}
    for stage in standing.stages:
        for task in stage.tasks:
            if stage.job.stage in names and task.state != "done":
                for kind in ("json", "attempts"):
                    (folder / STATE / f"{task.name}.{kind}").unlink(missing_ok=True)


def cancel(folder: Path) -> list[str]:
    """End every job of a chain that is in the queue; lines that tell what was done.

    What is committed stays. Raises as `resubmit` does.
    """
    folder = folder.absolute()
    read_chain(folder)
    submitted = read_jobs(folder)
    if not submitted["jobs"]:
        raise ConfigError(f"{folder} was not submitted: there is nothing to cancel")
    if not has_slurm():
        raise MachineError("there is no Slurm on this machine; cancel where it was submitted")
    standing = look(folder)
    if not standing.asked:
        raise MachineError("squeue does not say what is in the queue; try again")
    queued = [
        stage
        for stage in standing.stages
        if any(task.state in ("running", "requeued", "waiting", "blocked") for task in stage.tasks)
    ]
    if not queued:
        return ["nothing of this chain is in the queue"]
    write_json(folder / JOBS, {**submitted, "cancelled": time.strftime("%Y-%m-%d %H:%M:%S")})
    # Those that wait first, so that none of them starts meanwhile.
    words: Sequence[str] = cancel_jobs([stage.number for stage in reversed(queued)])
    return [
        *(f"cancelled: {stage.job.name}, job {stage.number}" for stage in queued),
        *(f"Slurm says: {line}" for line in words),
        f"what is committed stays; 'hpctem resubmit {quote(folder)}' goes on",
    ]
