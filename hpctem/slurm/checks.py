"""What is checked of a chain before anything is submitted: room, time, and into how many files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpctem.calibration.sites import calibrations_folder
from hpctem.campaign_file import CampaignFile
from hpctem.database.create import gib
from hpctem.errors import ConfigError, HpctemError
from hpctem.parallel import Communicator, describe_duration
from hpctem.planning.disk import count_journal_bytes, find_quota, free_bytes, measure_file
from hpctem.planning.plan import LARGEST_FILE, Limits, Plan
from hpctem.planning.prepare import Request, make_plan, open_on_host
from hpctem.simulate import identify, lay_out
from hpctem.slurm.chain import Share
from hpctem.slurm.sites import Partition, Site, memory_bytes


@dataclass(frozen=True)
class Choice:
    """Into how many volumes a campaign is cut (0: one file), and why."""

    volumes: int
    reason: str


def check_room(campaign: CampaignFile, folder: Path) -> str:
    """Say what the database takes of the disk; raises ConfigError where that is not free."""
    experiment = open_on_host(campaign)
    layout = lay_out(campaign, experiment, range(campaign.config.campaign.structures))
    size = measure_file(layout, identify(campaign, experiment)).bytes + count_journal_bytes(layout)
    free, quota = free_bytes(folder), find_quota(folder)
    for left, whose in ((free, "free"), (quota, "left of your quota")):
        if left is not None and size > left:
            raise ConfigError(
                f"the database needs {gib(size)}, {folder} has {gib(int(left))} {whose}: give "
                "another --folder, or take fewer structures"
            )
    return f"disk: the database takes {gib(size)} of {gib(int(free))} free"


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
    lacking = [s.partition for s in shares if not site.partitions[s.partition].account]
    if lacking:
        raise ConfigError(
            f"site {site_name} takes no job without an account: give --account NAME, or write "
            "'account: NAME' into a copy of the profile and name that with --site PATH"
        )
