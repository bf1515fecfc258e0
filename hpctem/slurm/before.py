"""What a campaign folder has from an earlier submission: what is kept, what is done anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpctem.database.schema import find_files
from hpctem.errors import ConfigError
from hpctem.inputs import list_files
from hpctem.marked_yaml import MarkedYaml, read_yaml
from hpctem.slurm.chain import CAMPAIGN, Inside, Job
from hpctem.slurm.files import CHAIN
from hpctem.slurm.render import quote
from hpctem.slurm.status import look


@dataclass(frozen=True)
class Before:
    """What a campaign folder has from an earlier submission.

    jobs   that were rendered
    done   stages that have ended well
    """

    jobs: tuple[Job, ...] = ()
    done: tuple[str, ...] = ()


def read_before(folder: Path) -> Before:
    """The earlier submission of a campaign folder.

    Raises ConfigError where a job of it is in the queue.
    """
    if not (folder / CHAIN).exists():
        return Before()
    standing = look(folder)
    queued = [stage for stage in standing.stages if any(task.queued for task in stage.tasks)]
    if queued:
        raise ConfigError(
            f"{folder} was submitted before, and {queued[0].job.name} is in the queue (job "
            f"{queued[0].number}): wait for it or 'hpctem cancel {quote(folder)}' first, then "
            "submit what has changed; --folder names another folder"
        )
    done = tuple(stage.job.stage for stage in standing.stages if stage.state == "done")
    return Before(tuple(stage.job for stage in standing.stages), done)


def find_volumes(folder: Path, name: str) -> int | None:
    """Into how many volumes the database in a folder is cut, 0 for one file; None without one."""
    whole = folder / f"{name}.hdf5"
    files = find_files(whole)
    if not files or files == [whole]:
        return 0 if files else None
    return int(files[0].stem.rpartition("of")[2])


def check_same_campaign(folder: Path, document: MarkedYaml) -> None:
    """Raises ConfigError where a folder with a database was submitted with another campaign."""
    path = folder / CAMPAIGN
    if not path.exists():
        return
    there, here = dict(read_yaml(path).data), dict(document.data)
    files = {place[0] for place, _, _ in list_files(document)}
    for data in (there, here):
        data.pop("stages", None)
    differing = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    # Files are named by absolute paths there; `simulate` compares what is in them.
    differing = [key for key in differing if key not in files]
    if differing:
        raise ConfigError(
            f"{folder} holds the database of another campaign, which differs in "
            f"{', '.join(sorted(differing))}: give another folder with --folder; only 'stages' may "
            "change"
        )


def find_changed(
    before: Before, folder: Path, jobs: Sequence[Job], texts: Mapping[str, str]
) -> tuple[str, ...]:
    """Stages that are done and are to be done anew: what they are given is another, or before it.

    Where nothing but time, nodes or memory is another, what is done stays done.
    """
    old = {job.stage: job for job in before.jobs}
    changed: list[str] = []
    for job in jobs:
        if job.stage not in before.done:
            continue
        was = replace(old[job.stage], share=job.share)
        files = [word.name for word in job.arguments if isinstance(word, Inside)]
        other = [
            name
            for name in files
            if name in texts and name != CAMPAIGN and _read(folder / name) != texts[name]
        ]
        if changed or was != job or other:
            changed.append(job.stage)
    return tuple(changed)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
