"""A plan: what a campaign will take on a machine, and what will not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpctem.backend import Backend
from hpctem.calibration.calibrate import Calibration
from hpctem.calibration.estimate import Estimate
from hpctem.database.create import gib
from hpctem.database.schema import Layout
from hpctem.parallel import describe_duration
from hpctem.planning.disk import (
    FileSize,
    count_journal_bytes,
    find_quota,
    free_bytes,
    measure_file,
)
from hpctem.planning.schedule import STOP_SECONDS, Pace, Schedule, schedules
from hpctem.techniques import Experiment, choose_technique

# Where 32 bits count, and the largest file of ext4 with its usual blocks.
COUNTED, LARGEST_FILE = 2**31 - 1, 16 * 2**40
# Resuming reads every record of the journals on one rank, some seconds for so many segments.
MANY_SEGMENTS = 10**6
IDLE_SHARE = 0.1
# Steps that a GPU's rank does while the next segment is computed.
BESIDE = ("digests", "writing")


@dataclass(frozen=True)
class Limits:
    """What a machine allows; None where it is not known.

    walltime   seconds of a job
    cores      of a node, or its GPUs: ranks that it can hold
    memory     bytes of a node
    bandwidth  bytes per second of the filesystem for all nodes together
    nodes      that a job may have
    """

    walltime: float | None = None
    cores: int | None = None
    memory: float | None = None
    bandwidth: float | None = None
    nodes: int | None = None


@dataclass(frozen=True)
class Space:
    """The filesystem that the database is to lie on: bytes free, and left of the user's quota."""

    folder: Path
    free: float
    quota: float | None


@dataclass(frozen=True)
class Plan:
    """What a campaign, or a volume of it, will take.

    images              of the whole campaign or volume
    file, journals      bytes of the database, and of the journals beside it
    rank_memory         bytes that a rank takes on its node; `device_memory` on its GPU
    ranks_per_node      that the schedules have; `fitting`: that the node's memory holds
    schedules           one for each number of nodes
    warnings            what will not fit, or not well
    """

    name: str
    layout: Layout
    images: int
    cost: Estimate
    calibration: Calibration
    file: FileSize
    journals: int
    rank_memory: float
    device_memory: float
    ranks_per_node: int
    fitting: int | None
    space: Space
    limits: Limits
    schedules: tuple[Schedule, ...]
    warnings: tuple[str, ...]


def plan_campaign(
    experiment: Experiment,
    layout: Layout,
    identity: Mapping[str, str],
    calibration: Calibration,
    cost: Estimate,
    folder: Path,
    limits: Limits,
    nodes: Sequence[int] = (1, 2, 4, 8),
    ranks_per_node: int | None = None,
) -> Plan:
    """Put together what is known of a campaign's layout, a machine and the cost of a structure.

    `folder` is where the database is to lie. Without `ranks_per_node` a node has as many as it has
    cores (GPUs) and memory for.
    """
    on_device = not calibration.machine.by_lines
    target = experiment.backend
    if on_device:
        target = Backend("cupy", np, "cufft", "", calibration.machine.cache)
    technique = choose_technique(experiment.config)
    there = technique.open_experiment(experiment.config, target)
    memory = technique.estimate_memory(there, layout)
    fitting = max(int(limits.memory // memory), 0) if limits.memory else None
    if ranks_per_node is None:
        ranks_per_node = max(1, min(limits.cores or 1, fitting if fitting is not None else 10**9))
    bandwidth = limits.bandwidth or calibration.bandwidth
    beside = sum(cost.steps.get(step, 0.0) for step in BESIDE) if on_device else 0.0
    seconds = cost.seconds - beside
    pace = Pace(seconds, calibration.storage, bandwidth, calibration.startup, on_device)
    plan = Plan(
        name=experiment.config.campaign.name,
        layout=layout,
        images=layout.rows("images"),
        cost=cost,
        calibration=calibration,
        file=measure_file(layout, identity),
        journals=count_journal_bytes(layout),
        rank_memory=memory,
        device_memory=technique.estimate_memory(there, layout, True) if on_device else 0.0,
        ranks_per_node=ranks_per_node,
        fitting=fitting,
        space=Space(folder, free_bytes(folder), find_quota(folder)),
        limits=limits,
        schedules=schedules(layout, pace, nodes, ranks_per_node, limits.walltime),
        warnings=(),
    )
    return _warn(plan)


def _warn(plan: Plan) -> Plan:
    found = [
        *warn_of_disk(plan),
        *warn_of_ranks(plan),
        *warn_of_time(plan),
        *warn_of_numbers(plan),
        *plan.cost.notes,
    ]
    return replace(plan, warnings=tuple(found))


def warn_of_disk(plan: Plan) -> list[str]:
    """Of a disk or quota that is too small."""
    needed = plan.file.bytes + plan.journals
    found = []
    for left, whose in ((plan.space.free, "free"), (plan.space.quota, "left of your quota")):
        if left is not None and needed > left:
            found.append(
                f"disk: the database needs {gib(needed)}, {plan.space.folder} has {gib(int(left))} "
                f"{whose}: choose another folder with -o, or fewer structures"
            )
    return found


def warn_of_ranks(plan: Plan) -> list[str]:
    """Of memory that is too small, ranks beyond the cores, too many nodes, ranks without work."""
    found = []
    ranks, machine = plan.ranks_per_node, plan.calibration.machine
    if plan.fitting is not None and ranks > plan.fitting:
        found.append(
            f"memory: {ranks} rank(s) a node need {gib(int(ranks * plan.rank_memory))}, "
            f"{gib(int(plan.rank_memory))} each, of {gib(int(plan.limits.memory or 0))}: at most "
            f"{plan.fitting} fit; choose --ranks-per-node {max(plan.fitting, 1)}"
            + (
                ""
                if plan.fitting
                else ", a coarser simulation.sampling, or a smaller cell or image"
            )
        )
    if plan.limits.cores is not None and ranks > plan.limits.cores:
        unit = "GPU(s)" if machine.devices else "core(s)"
        found.append(
            f"ranks: {ranks} a node share {plan.limits.cores} {unit}; the times assume one for each"
        )
    if ranks > plan.calibration.ranks:
        found.append(
            f"ranks: timed with {plan.calibration.ranks} at once on a node, planned with {ranks}, "
            "which share its memory bandwidth: the node may be slower; calibrate under "
            f"'mpirun -n {ranks}'"
        )
    most = plan.limits.nodes
    if most is not None and (beyond := [s.nodes for s in plan.schedules if s.nodes > most]):
        found.append(f"nodes: a job may have {most}, not {', '.join(map(str, beyond))}")
    starved = [s for s in plan.schedules if s.ranks > plan.layout.segments]
    if starved:
        least = starved[0]
        each = max(plan.layout.structures // least.ranks, 1)
        advice = (
            f"campaign.structures_per_segment: {each} gives each work"
            if each < plan.layout.structures_per_segment and least.ranks <= plan.layout.structures
            else f"there are {plan.layout.structures} structure(s)"
        )
        found.append(
            f"ranks: at {least.nodes} node(s) {least.ranks - plan.layout.segments} of "
            f"{least.ranks} ranks have nothing to do, for there are {plan.layout.segments} "
            f"segment(s); {advice}"
        )
    for one in plan.schedules:
        uneven = one.most > one.fewest and one.limit == "compute"
        if uneven and one.idle > IDLE_SHARE and one not in starved:
            found.append(
                f"ranks: at {one.nodes} node(s) ranks wait {one.idle:.0%} of the time for those "
                f"with {one.most} segments (others have {one.fewest}); fewer nodes or a smaller "
                "campaign.structures_per_segment waste less"
            )
            break
    return found


def warn_of_time(plan: Plan) -> list[str]:
    """Of a walltime too short, segments too long, a disk that is slower than the ranks."""
    found = []
    walltime = plan.limits.walltime
    segment = plan.schedules[0].segment
    if segment > STOP_SECONDS and plan.layout.structures_per_segment > 1:
        each = max(1, int(STOP_SECONDS / plan.cost.seconds))
        found.append(
            f"time: a segment takes a rank {describe_duration(segment)}, which a kill loses and "
            f"which a job needs that is asked to stop; campaign.structures_per_segment: {each} "
            f"keeps it within {STOP_SECONDS:.0f} s"
        )
    for one in plan.schedules:
        if walltime is not None and one.jobs == 0:
            found.append(
                f"time: at {one.nodes} node(s) no job of {describe_duration(walltime)} gets done "
                f"what it must: starting and scanning take {describe_duration(one.overhead)}, a "
                f"segment {describe_duration(segment)}, reading back at the end "
                f"{describe_duration(one.reading)}"
            )
    slow = [one for one in plan.schedules if one.limit == "disk"]
    if slow:
        found.append(
            f"time: from {slow[0].nodes} node(s) on the disk is the limit, at "
            f"{gib(int(slow[0].bytes))}/s as {plan.calibration.writers} rank(s) measured it; "
            "calibrate with more ranks to know what it gives more of them"
        )
    return found


def warn_of_numbers(plan: Plan) -> list[str]:
    """Of numbers beyond what programs and filesystems count."""
    found = []
    if plan.images > COUNTED:
        found.append(
            f"size: {plan.images} images are more than 2^31 - 1, which some readers count to: cut "
            f"the campaign into {-(-plan.images // COUNTED)} volumes or more (--volume k/n)"
        )
    if plan.file.bytes > LARGEST_FILE:
        found.append(
            f"size: the file has {gib(plan.file.bytes)}, many filesystems hold files of 16 TiB at "
            f"most: cut the campaign into {-(-plan.file.bytes // LARGEST_FILE)} volumes or more "
            "(--volume k/n)"
        )
    if plan.layout.segments > MANY_SEGMENTS:
        found.append(
            f"size: {plan.layout.segments} segments: a resumed job scans their journals for "
            f"{describe_duration(plan.schedules[0].overhead)} first; a larger "
            "campaign.structures_per_segment, or volumes, scan faster"
        )
    return found
