"""What is checked of a chain before anything is submitted: room, time, and into how many files."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctem.calibration.sites import calibrations_folder
from hpctem.campaign_file import CampaignFile
from hpctem.collection.collection import Collection, open_collection
from hpctem.collection.columns import Column
from hpctem.collection.condition import check_condition
from hpctem.database.create import gib, write_empty
from hpctem.database.plan import write_plan
from hpctem.errors import ConfigError, HpctemError, MachineError
from hpctem.marked_yaml import MarkedYaml
from hpctem.parallel import Communicator, describe_duration
from hpctem.planning.disk import count_journal_bytes, find_quota, free_bytes, measure_file
from hpctem.planning.plan import LARGEST_FILE, Limits, Plan
from hpctem.planning.prepare import Request, make_plan, open_on_host
from hpctem.sections.common import nearest
from hpctem.sections.stages import Evaluate, Resources, Subset
from hpctem.simulate import identify, lay_out
from hpctem.slurm.chain import LEARNING, Share
from hpctem.slurm.sites import Partition, Site, account_of, memory_bytes


@dataclass(frozen=True)
class Choice:
    """Into how many volumes a campaign is cut (0: one file), and why."""

    volumes: int
    reason: str


def check_room(campaign: CampaignFile, folder: Path, databases: int = 1) -> str:
    """Say what the database takes of the disk; raises ConfigError where that is not free.

    databases   of that size: two where its images are translated
    """
    experiment = open_on_host(campaign)
    layout = lay_out(campaign, experiment, range(campaign.config.campaign.structures))
    size = measure_file(layout, identify(campaign, experiment)).bytes + count_journal_bytes(layout)
    what = "the database needs" if databases == 1 else f"{databases} databases need"
    size *= databases
    free, quota = free_bytes(folder), find_quota(folder)
    for left, whose in ((free, "free"), (quota, "left of your quota")):
        if left is not None and size > left:
            raise ConfigError(
                f"{what} {gib(size)}, {folder} has {gib(int(left))} {whose}: give "
                "another --folder, or take fewer structures"
            )
    what = "the database takes" if databases == 1 else f"{databases} databases take"
    return f"disk: {what} {gib(size)} of {gib(int(free))} free"


def check_columns(
    campaign: CampaignFile, document: MarkedYaml, chosen: Mapping[str, Resources]
) -> None:
    """Look up what conditions and columns of the stages name in a database of this campaign.

    Raises ConfigError at the key that names what there will not be.
    """
    subset, evaluate = chosen.get("subset"), chosen.get("evaluate")
    asked: list[tuple[str, str, Callable[[Collection], Any]]] = []
    if isinstance(subset, Subset):
        if subset.where is not None:
            where = subset.where
            asked.append(("subset", "where", lambda c: check_condition(where, c.joined)))
        named = {
            "stratify": subset.stratify,
            "balance": subset.balance,
            "per": subset.per,
            "combinations": (subset.combinations or "",),
            "group": (subset.group or "",),
            "sample": tuple(text.partition(":")[2] for text in subset.sample),
        }
        for key, texts in named.items():
            asked += [("subset", key, _finder(text)) for text in texts if text]
    if isinstance(evaluate, Evaluate) and not evaluate.images:
        asked += [("evaluate", "by", _finder(text)) for text in evaluate.by]
    if not asked:
        return
    experiment = open_on_host(campaign)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{campaign.config.campaign.name}.hdf5")
        layout = lay_out(campaign, experiment, range(campaign.config.campaign.structures))
        write_empty(path, layout, write_plan(layout, identify(campaign, experiment)))
        with open_collection([path]) as collection:
            for stage, key, look in asked:
                try:
                    look(collection)
                except ConfigError as error:
                    raise ConfigError(document.error(("stages", stage, key), str(error))) from None


def _finder(text: str) -> Callable[[Collection], Column]:
    return lambda collection: collection.find(text.partition(":")[0])


def check_parts(chosen: Mapping[str, Resources], document: MarkedYaml) -> None:
    """Raises ConfigError where a stage names a part that `subset` does not split off."""
    subset, evaluate = chosen.get("subset"), chosen.get("evaluate")
    if not isinstance(subset, Subset) or not isinstance(evaluate, Evaluate) or evaluate.images:
        return
    if evaluate.part is not None and evaluate.part not in subset.split:
        raise ConfigError(
            document.error(
                ("stages", "evaluate", "part"),
                f"stages.subset.split has no part {evaluate.part!r}"
                f"{nearest(evaluate.part, tuple(subset.split))} (known: {', '.join(subset.split)})",
            )
        )


def check_learning(stages: Iterable[str]) -> None:
    """Raises MachineError where stages train or use a network and there is no TensorFlow here."""
    learning = [stage for stage in stages if stage in LEARNING]
    if learning and importlib.util.find_spec("tensorflow") is None:
        raise MachineError(
            f"{', '.join(learning)}: there is no TensorFlow in {sys.prefix}, where the jobs will "
            "run: pip install 'hpctem[train]' (train-cpu without GPUs), or name stages without a "
            "network by --stages"
        )


def estimate(
    campaign: CampaignFile,
    share: Share,
    site: Site,
    site_name: str,
    path: Path,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Plan | None, str]:
    """The plan of the simulation on its share of a cluster, or None and why there is none.

    The calibration that is kept for the site is taken; without one the campaign is timed here for
    some seconds, but for GPUs, which this machine need not have.
    """
    partition = site.partitions[share.partition]
    kept = (calibrations_folder() / f"{site_name}.json").exists()
    if share.gpus and not kept:
        return None, (
            f"no estimate of the time: no calibration of site {site_name} is kept; on a node with "
            f"GPUs run 'hpctem plan CONFIG --site {site_name} --calibrate'"
        )
    memory = share.memory or partition.memory
    request = Request(
        path,
        site_name if kept else "",
        nodes=(share.nodes,),
        ranks_per_node=share.ranks_per_node,
        limits=Limits(
            share.seconds,
            share.gpus or partition.cores,
            memory_bytes(memory) if memory else None,
            None,
            partition.nodes,
        ),
        device="cuda" if share.gpus else "cpu",
    )
    try:
        return make_plan(campaign, request, Communicator(), tell), ""
    except HpctemError as error:
        if not kept:
            raise
        return None, f"no estimate of the time: {error}"


def check_time(plan: Plan) -> str:
    """Say how long the simulation takes; raises ConfigError where no job of its time gets on."""
    one, limit = plan.schedules[0], plan.limits.walltime
    if one.jobs == 0:
        reason = next((text for text in plan.warnings if "gets done" in text), "")
        raise ConfigError(
            f"stages.simulate.walltime: {reason or 'no job of that time gets on'}; give more time "
            "or more nodes"
        )
    times = "one job" if one.jobs == 1 else f"{one.jobs} jobs, one after the other"
    return (
        f"time: {describe_duration(one.seconds)} on {one.nodes} node(s) of "
        f"{plan.ranks_per_node} rank(s), in {times} of {describe_duration(limit or 0)} "
        f"({one.node_hours:.3g} node hours, {100 * plan.cost.error:.0f} % more or less)"
    )


def choose_volumes(
    asked: int | str, structures: int, share: Share, site: Site, plan: Plan | None
) -> Choice:
    """One file filled by one job, or volumes filled by an array, and why.

    asked   what the file says: a number, or 'auto'

    Raises ConfigError for more volumes than structures or than the site's arrays have tasks.
    """
    partition = site.partitions[share.partition]
    if not isinstance(asked, str):
        if asked == 1:
            return Choice(0, "one file, as stages.simulate.volumes says")
        _check_volumes(asked, structures, site)
        return Choice(asked, f"an array of {asked} volumes, as stages.simulate.volumes says")
    if share.nodes > partition.nodes:
        volumes = share.nodes
        _check_volumes(volumes, structures, site)
        return Choice(
            volumes,
            f"an array of {volumes} volumes on one node each: a job in partition "
            f"{share.partition} has {partition.nodes} node(s) at most",
        )
    if plan is None:
        return Choice(0, "one file filled by one job: nothing is known that speaks against it")
    cut = -(-plan.file.bytes // LARGEST_FILE)
    if cut > 1:
        _check_volumes(cut, structures, site)
        return Choice(cut, f"an array of {cut} volumes: the file would have {gib(plan.file.bytes)}")
    one = plan.schedules[0]
    if one.jobs <= 1:
        return Choice(0, "one file filled by one job: it is done in its time")
    if not 1 < one.volumes <= min(site.array_tasks, structures):
        return Choice(
            0,
            f"one file filled by {one.jobs} jobs, one after the other: the {one.volumes or '?'} "
            f"volumes that fit one job each are more than the site's arrays have tasks "
            f"({site.array_tasks})",
        )
    return Choice(
        one.volumes,
        f"an array of {one.volumes} volumes, side by side as nodes come free, each done in its "
        f"time: one file would take {one.jobs} jobs, one after the other",
    )


def _check_volumes(volumes: int, structures: int, site: Site) -> None:
    if volumes > structures:
        raise ConfigError(
            f"stages.simulate.volumes: {volumes} volumes are more than the campaign's {structures} "
            "structure(s)"
        )
    if volumes > site.array_tasks:
        raise ConfigError(
            f"stages.simulate.volumes: {volumes} volumes are more than the site's arrays have "
            f"tasks, array_tasks: {site.array_tasks}"
        )


def check_nodes(share: Share, partition: Partition, stage: str) -> None:
    """Raises ConfigError for more nodes than a job may have."""
    if share.nodes > partition.nodes:
        raise ConfigError(
            f"stages.{stage}.nodes: {share.nodes} are more than the {partition.nodes} that a job "
            f"in partition {share.partition} may have"
        )


def check_account(account: str | None, site: Site, site_name: str, shares: list[Share]) -> None:
    """Raises ConfigError where jobs need an account and none is known."""
    if not site.account_needed or account or site.account or os.environ.get("SBATCH_ACCOUNT"):
        return
    partitions = [site.partitions[share.partition] for share in shares]
    lacking = [p for p in partitions if not account_of(p, site, account)]
    if lacking:
        raise ConfigError(
            f"site {site_name} takes no job without an account: give --account NAME, or write "
            "'account: NAME' into a copy of the profile and name that with --site PATH"
        )
