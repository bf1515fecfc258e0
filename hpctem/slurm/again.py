"""What is missing of a chain, submitted again; or everything of it ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpctem.errors import ConfigError, MachineError
from hpctem.slurm.chain import Job
from hpctem.slurm.files import CLAIM, JOBS, STATE, read_chain, write_json
from hpctem.slurm.queue import cancel_jobs, has_slurm, look_up
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


def find_missing(standing: Standing, leaving: bool = False) -> Missing:
    """Which stages are neither done nor on their way.

    leaving   asked by a task of an array that ends: while others of it are still on their way
              nothing is missing, for the last of them submits what all have left

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
        if active and others and leaving:
            return Missing((), {}, None, ())
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
    with claim(folder):
        return _submit_missing(folder)


def _submit_missing(folder: Path) -> list[str]:
    standing = look(folder)
    if not standing.asked:
        raise MachineError(
            "squeue does not say what is in the queue, so that jobs could be there twice; try again"
        )
    numbers = {stage.number for stage in standing.stages}
    own = [job.split("_")[0] for job in this_job() if job.split("_")[0] in numbers]
    missing = find_missing(standing, leaving=bool(own))
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
    known = {stage.job.stage: stage.number for stage in standing.stages if stage.number}
    given = submit_chain(folder, missing.jobs, known, after, missing.tasks)
    for job in missing.jobs:
        tasks = f", tasks {missing.tasks[job.stage]}" if job.stage in missing.tasks else ""
        lines.append(f"submitted: {job.name}, job {given[job.stage]}{tasks}")
    return lines


@contextlib.contextmanager
def claim(folder: Path, patience: float = 120, stale: float = 600) -> Iterator[None]:
    """Keep others from submitting jobs of a campaign folder meanwhile.

    By a folder, which every file system makes only once. One that has been there for `stale`
    seconds is of a process that died. Raises MachineError where `patience` seconds do not do.
    """
    mark = folder / CLAIM
    limit = time.monotonic() + patience
    while True:
        try:
            mark.mkdir()
            break
        except FileExistsError:
            with contextlib.suppress(OSError):
                if time.time() - mark.stat().st_mtime > stale:
                    mark.rmdir()
                    continue
        except OSError as error:
            raise MachineError(f"{folder}: {error.strerror}") from error
        if time.monotonic() > limit:
            raise MachineError(
                f"another process submits jobs of {folder} at this moment; if there is none, "
                f"remove {mark}"
            )
        time.sleep(0.5)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            mark.rmdir()


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
    if not has_slurm():
        if not submitted["jobs"]:
            raise ConfigError(f"{folder} was not submitted: there is nothing to cancel")
        raise MachineError("there is no Slurm on this machine; cancel where it was submitted")
    standing = look(folder)
    if not standing.asked:
        raise MachineError("squeue does not say what is in the queue; try again")
    queued = [s for s in standing.stages if any(task.queued for task in s.tasks)]
    if not queued:
        return ["nothing of this chain is in the queue"]
    # Those that wait first, so that none of them starts meanwhile.
    words = cancel_jobs([stage.number for stage in reversed(queued)])
    left = [one for one in look_up(folder) or () if one.state != "COMPLETING"]
    if words and left:
        raise MachineError(
            "scancel did not end all jobs: " + "; ".join(words) + "; 'hpctem status "
            f"{quote(folder)}' tells what is left, try again"
        )
    write_json(folder / JOBS, {**submitted, "cancelled": time.strftime("%Y-%m-%d %H:%M:%S")})
    return [
        *(f"cancelled: {stage.job.name}, job {stage.number}" for stage in queued),
        *(f"Slurm says: {line}" for line in words),
        f"what is committed stays; 'hpctem resubmit {quote(folder)}' goes on",
    ]
