"""From a campaign file to a chain of jobs in the queue; what is missing again; none of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpctem.campaign_file import CampaignFile, read_campaign
from hpctem.config import check_stages
from hpctem.errors import ConfigError, MachineError
from hpctem.marked_yaml import MarkedYaml, read_yaml
from hpctem.sections.stages import Evaluate, Resources, Simulate, Train
from hpctem.slurm.before import (
    check_same_campaign,
    find_changed,
    find_volumes,
    read_before,
)
from hpctem.slurm.chain import (
    CAMPAIGN,
    SUBSET,
    TRANSLATED_SUBSET,
    Argument,
    Inside,
    Job,
    Network,
    Share,
    build_jobs,
    choose_stages,
    name_databases,
    share_of,
)
from hpctem.slurm.chain import TRANSLATED as TRANSLATED_NAME
from hpctem.slurm.checks import (
    Choice,
    check_account,
    check_columns,
    check_learning,
    check_nodes,
    check_parts,
    check_room,
    check_time,
    choose_volumes,
    estimate,
)
from hpctem.slurm.files import (
    CHAIN,
    JOBS,
    LOGS,
    SCRIPTS,
    STATE,
    describe_job,
    move_campaign,
    read_network,
    write_chain,
    write_json,
)
from hpctem.slurm.queue import has_slurm, submit_script
from hpctem.slurm.render import Places, quote, render
from hpctem.slurm.sites import Site, find_templates
from hpctem.techniques import check_campaign


@dataclass(frozen=True)
class Order:
    """What is to be submitted.

    stages    names asked for; those of the file without any
    account   that pays, instead of the profile's
    planned   whether the time is estimated, which may time the campaign here for some seconds
    """

    campaign: Path
    site_name: str
    site: Site
    folder: Path | None = None
    stages: tuple[str, ...] = ()
    account: str | None = None
    planned: bool = True


@dataclass(frozen=True)
class Prepared:
    """A chain that is checked and rendered, and not yet written.

    structures   of the campaign
    texts        of the files of the campaign folder, by their names there
    notes        what was found out on the way
    changed      stages that were done before and are to be done anew
    """

    name: str
    site_name: str
    site: Site
    folder: Path
    structures: int
    jobs: tuple[Job, ...]
    texts: dict[str, str]
    notes: tuple[str, ...]
    changed: tuple[str, ...] = ()


def prepare(order: Order, tell: Callable[[str], None] = lambda line: None) -> Prepared:
    """Check everything that can be before anything is submitted, and render the scripts.

    A folder that was submitted before keeps what is done; what its campaign file or the command
    line asks for now is added, and what asks for something else is done anew.

    Raises ConfigError for what is wrong with file, site or arguments, MachineError where the
    templates are not installed.
    """
    document = read_yaml(order.campaign)
    campaign = read_campaign(order.campaign)
    check_campaign(campaign.config)
    name = campaign.config.campaign.name
    folder = choose_folder(order, name)
    before = read_before(folder)
    chosen = choose_stages(check_stages(document), order.stages, before.done)
    check_learning(set(chosen) - set(before.done))
    check_parts(chosen, document)
    check_columns(campaign, document, chosen)
    shares = {
        stage: share_of(stage, wanted, order.site, document) for stage, wanted in chosen.items()
    }
    check_account(order.account, order.site, order.site_name, list(shares.values()))
    notes: list[str] = []
    volumes = find_volumes(folder, name)
    if volumes is not None:
        check_same_campaign(folder, document)
    elif "simulate" in chosen:
        wanted = chosen["simulate"]
        assert isinstance(wanted, Simulate)
        databases = 2 if "translate" in chosen else 1
        choice, notes = _weigh(order, campaign, wanted, shares["simulate"], folder, databases, tell)
        volumes = choice.volumes
    # Of volumes each has a job of its own, whether they are cut now or lie there.
    if volumes and "simulate" in chosen:
        simulate = shares["simulate"]
        if simulate.nodes > _most_nodes(order.site, simulate):
            shares["simulate"] = replace(simulate, nodes=1)
    for stage, share in shares.items():
        check_nodes(share, order.site.partitions[share.partition], stage)
    networks, texts = read_networks(chosen, document, name, volumes or 0)
    judged = _judged(chosen, order.campaign)
    if volumes is None and "simulate" not in chosen:
        raise ConfigError(
            f"stages: {next(iter(chosen))} needs the stage simulate, or a folder that has its "
            f"database: {folder / name}.hdf5 is not there"
        )
    last = networks.get("train_translated") or networks.get("train")
    if "evaluate" in chosen and not judged and last is not None and not last.holds_out:
        raise ConfigError(
            document.error(
                ("stages", "evaluate"),
                "the network learns from all images of the chain, so that there is none to judge "
                "it on: add the stage subset, name others in stages.evaluate.images, or let the "
                "training file hold some out (data.validation)",
            )
        )
    jobs = build_jobs(name, chosen, shares, networks, volumes or 0, judged)
    texts[CAMPAIGN] = move_campaign(order.campaign)
    # Not resolved: python of an environment is a link out of it.
    programs = Path(sys.executable).absolute().parent
    places = Places(find_templates(), programs, folder)
    for job in jobs:
        text = render(job, name, order.site, order.account, places)
        texts[f"{SCRIPTS}/{job.name}.sbatch"] = text
    changed = find_changed(before, folder, jobs, texts)
    structures = campaign.config.campaign.structures
    return Prepared(
        *(name, order.site_name, order.site, folder, structures, jobs),
        *(texts, tuple(notes), changed),
    )


def choose_folder(order: Order, name: str) -> Path:
    """The campaign folder, absolute; raises ConfigError where it is something else."""
    folder = order.folder
    if folder is None:
        scratch = order.site.scratch
        expanded = os.path.expanduser(os.path.expandvars(scratch)) if scratch else ""
        if "$" in expanded:
            raise ConfigError(
                f"the site's scratch folder {scratch} names a variable that is not set here: give "
                "--folder"
            )
        folder = Path(expanded) / name
    folder = folder.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give another folder with --folder")
    if folder.is_dir() and not (folder / CHAIN).exists():
        own = re.compile(rf"{re.escape(name)}(\.v\d+of\d+)?\.hdf5(\..+)?")
        if not all(own.fullmatch(path.name) for path in folder.iterdir()):
            raise ConfigError(f"{folder} holds other files: give another folder with --folder")
    return folder


def _most_nodes(site: Site, share: Share) -> int:
    return site.partitions[share.partition].nodes


def _weigh(
    order: Order,
    campaign: CampaignFile,
    wanted: Simulate,
    share: Share,
    folder: Path,
    databases: int,
    tell: Callable[[str], None],
) -> tuple[Choice, list[str]]:
    """Into how many files, and what disk and time say."""
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    notes = [check_room(campaign, there, databases)]
    plan = None
    if order.planned:
        path = there / f"{campaign.config.campaign.name}.hdf5"
        one = replace(share, nodes=min(share.nodes, _most_nodes(order.site, share)))
        plan, missing = estimate(campaign, one, order.site, order.site_name, path, tell)
        notes.append(check_time(plan) if plan else missing)
        notes += [f"warning: {text}" for text in (plan.warnings if plan else ())]
    structures = campaign.config.campaign.structures
    choice = choose_volumes(wanted.volumes, structures, share, order.site, plan)
    return choice, [*notes, f"simulate: {choice.reason}"]


def read_networks(
    chosen: dict[str, Resources], document: MarkedYaml, name: str, volumes: int
) -> tuple[dict[str, Network], dict[str, str]]:
    """What the stages train, and their training files by name."""
    networks: dict[str, Network] = {}
    texts: dict[str, str] = {}
    for stage, wanted in chosen.items():
        if not isinstance(wanted, Train):
            continue
        first = stage == "train"
        databases = name_databases(name if first else TRANSLATED_NAME, volumes)
        drawn = SUBSET if "subset" in chosen else None
        subset = drawn if first else TRANSLATED_SUBSET
        network, text = read_network(stage, wanted, document, databases, subset)
        needed = first and "translate" in chosen
        if (network.kind == "cyclegan") != needed:
            what = "a CycleGAN, which translates" if needed else "a network that can be judged"
            place = ("stages", stage, "file")
            raise ConfigError(
                document.error(place, f"{wanted.file} trains {network.kind}, but here is {what}")
            )
        if network.folder in [n.folder for n in networks.values()]:
            raise ConfigError(
                document.error(
                    ("stages", stage, "file"),
                    f"both networks are called {network.folder}: their folder would be one",
                )
            )
        networks[stage] = network
        texts[network.file] = text
    return networks, texts


def _judged(chosen: dict[str, Resources], campaign: Path) -> tuple[Argument, ...]:
    wanted = chosen.get("evaluate")
    if not isinstance(wanted, Evaluate):
        return ()
    paths = [(campaign.parent / name).resolve() for name in wanted.images]
    for path in paths:
        if not path.exists():
            raise ConfigError(f"stages.evaluate.images: there is no {path}")
    return tuple(str(path) for path in paths)


def write_folder(prepared: Prepared) -> None:
    """Write the campaign folder: scripts, files, what status and resubmit need."""
    folder = prepared.folder
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if new and prepared.site.stripes and shutil.which("lfs"):
            # Better without stripes than not at all: the folder may not be on Lustre.
            stripe = ["lfs", "setstripe", "-c", str(prepared.site.stripes), str(folder)]
            subprocess.run(stripe, capture_output=True, check=False)
        for name in (SCRIPTS, LOGS, STATE):
            (folder / name).mkdir(exist_ok=True)
        for old in (folder / SCRIPTS).glob("*.sbatch"):
            old.unlink()
        for name, text in prepared.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for job in prepared.jobs:
            for task in job.tasks if job.stage in prepared.changed else ():
                (folder / STATE / f"{task}.json").unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"{error.filename or folder}: {error.strerror}") from error
    write_chain(
        folder,
        {
            "campaign": prepared.name,
            "site": prepared.site_name,
            "attempts": prepared.site.attempts,
            "structures": prepared.structures,
            "notes": list(prepared.notes),
            "jobs": [describe_job(job) for job in prepared.jobs],
        },
    )


def submit_chain(
    folder: Path,
    jobs: Sequence[Job],
    known: dict[str, str],
    previous: str | None = None,
    tasks: dict[str, str] | None = None,
) -> dict[str, str]:
    """Submit jobs, each after the one before; the number of each stage's job.

    known      numbers of earlier submissions, kept in jobs.json with those of this one
    previous   dependency of the first
    tasks      by stage: the tasks of its array that are missing

    What is in the queue is on record before the next one is submitted. Raises MachineError that
    says how to go on when one is refused.
    """
    numbers = dict(known)
    after = previous
    for job in jobs:
        script = Path(SCRIPTS, f"{job.name}.sbatch")
        try:
            numbers[job.stage] = submit_script(
                script, folder, after, tasks=(tasks or {}).get(job.stage)
            )
        except MachineError as error:
            submitted = [name for name in numbers if numbers[name] != known.get(name)]
            raise MachineError(
                f"{error}\nsubmitted before it: {', '.join(submitted) or 'nothing'}; "
                f"'hpctem resubmit {quote(folder)}' goes on, 'hpctem cancel {quote(folder)}' ends "
                "what is submitted"
            ) from error
        after = f"afterok:{numbers[job.stage]}"
        write_json(
            folder / JOBS,
            {"submitted": time.strftime("%Y-%m-%d %H:%M:%S"), "jobs": numbers},
        )
    return numbers


def try_chain(folder: Path, jobs: Sequence[Job]) -> dict[str, str]:
    """What Slurm would say to each job, nothing being submitted; MachineError when it refuses."""
    return {
        job.stage: submit_script(Path(SCRIPTS, f"{job.name}.sbatch"), folder, None, test=True)
        for job in jobs
    }


def require_slurm(prepared: Prepared) -> None:
    """Raise MachineError, with the commands that do it without Slurm, where there is no sbatch."""
    if has_slurm():
        return
    lines = [f"  {line}" for line in commands_by_hand(prepared.folder, prepared.jobs)]
    raise MachineError(
        "there is no sbatch on this machine; the scripts are written, nothing is submitted. Run "
        "jobs/... directly, here or in an allocation:\n" + "\n".join(lines)
    )


def commands_by_hand(folder: Path, jobs: Sequence[Job]) -> list[str]:
    """The command of each job, as it is typed without Slurm."""
    root = find_templates()
    lines = []
    for job in jobs:
        for task in range(1, job.volumes + 1) if job.volumes else (None,):
            width = len(str(job.volumes))
            number = "" if task is None else f"{task:0{width}d}"
            commands = [("subset", job.drawn)] if job.drawn else []
            for program, arguments in [*commands, (job.program, job.arguments)]:
                given = [_fill_in(word, folder, number) for word in arguments]
                lines.append(" ".join(map(quote, [str(root / "jobs" / program), *given])))
    return lines


def _fill_in(word: Argument, folder: Path, number: str) -> str:
    """An argument as it is typed: a file by its path, with the number of its volume."""
    if not isinstance(word, Inside):
        return word
    text = word.name.replace("*", number)
    return text if word.name.startswith("*/") else str(folder / text)
