"""Plans and benchmarks as tables for a terminal, and as plain data for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hpctem.aligned import align_columns
from hpctem.calibration.calibrate import Calibration, average_calibrations
from hpctem.database.create import gib
from hpctem.parallel import describe_duration
from hpctem.planning.plan import Plan
from hpctem.planning.schedule import Schedule

MOST_RANKS = 16


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned, the first to the left, numbers to the right."""
    return "\n".join(align_columns([head, *rows], left=(0,)))


def format_plan(plan: Plan) -> str:
    """The plan as it is read on a terminal."""
    layout, machine = plan.layout, plan.calibration.machine
    cost, first = plan.cost, plan.schedules[0]
    share = 100 * cost.error
    facts = [
        ("campaign", f"{plan.name}: {layout.structures} structures, {plan.images} images"),
        (
            "machine",
            f"{machine.host}, {machine.processor}, {machine.device}, {machine.fft}",
        ),
        (
            "calibration",
            f"{plan.calibration.campaign}, {plan.calibration.timed} structure(s), "
            f"{plan.calibration.ranks} rank(s) at once on a node, {plan.calibration.made}",
        ),
        (
            "a structure",
            f"{format_seconds(cost.seconds)} on one rank, {share:.0f} % more or less"
            + ("" if cost.measured else " (scaled from another campaign)"),
        ),
        (
            "a rank",
            f"{format_rate(1 / cost.seconds)} structures/s, "
            f"{format_rate(plan.images / layout.structures / cost.seconds)} images/s",
        ),
        (
            "segments",
            f"{layout.segments} of {layout.structures_per_segment} structure(s), "
            f"{gib(layout.structures_per_segment * layout.structure_bytes)} and "
            f"{format_seconds(first.segment)} each",
        ),
        (
            "file",
            f"{plan.file.bytes} bytes ({gib(plan.file.bytes)})"
            + ("" if plan.file.exact else ", a megabyte more or less")
            + f"; journals {plan.journals} bytes",
        ),
        (
            "disk",
            f"{gib(int(plan.space.free))} free in {plan.space.folder}"
            + (f", {gib(int(plan.space.quota))} of quota" if plan.space.quota is not None else ""),
        ),
        ("memory", _describe_memory(plan)),
    ]
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:{width}}  {text}" for name, text in facts]
    lines += ["", format_schedules(plan)]
    if plan.limits.walltime is not None:
        lines += ["", *_advise_jobs(plan, plan.limits.walltime)]
    if plan.warnings:
        lines += ["", *(f"warning: {warning}" for warning in plan.warnings)]
    return "\n".join(lines)


def _describe_memory(plan: Plan) -> str:
    text = f"{gib(int(plan.rank_memory))} a rank, {plan.ranks_per_node} rank(s) a node"
    if plan.limits.memory:
        text += f" of {gib(int(plan.limits.memory))}"
    if plan.device_memory:
        text += f"; {gib(int(plan.device_memory))} on its GPU"
    return text


def format_schedules(plan: Plan) -> str:
    """A line for each number of nodes."""
    walltime = plan.limits.walltime is not None
    head = ["nodes", "ranks", "structures/s", "images/s", "written/s", "segments/rank", "idle"]
    head += ["time", "node hours", *(["jobs"] if walltime else [])]
    rows = []
    for one in plan.schedules:
        row = [
            str(one.nodes),
            str(one.ranks),
            format_rate(one.structures),
            format_rate(one.images),
            f"{gib(int(one.bytes))}{' (disk)' if one.limit == 'disk' else ''}",
            str(one.most) if one.most == one.fewest else f"{one.fewest}-{one.most}",
            f"{max(one.idle, 0):.0%}",
            describe_duration(one.seconds),
            f"{one.node_hours:.3g}",
        ]
        rows.append(row + ([str(one.jobs) if one.jobs else "-"] if walltime else []))
    return format_table(head, rows)


def _advise_jobs(plan: Plan, walltime: float) -> list[str]:
    job = f"job of {describe_duration(walltime)}"
    if all(one.jobs == 1 for one in plan.schedules):
        return [f"at any of these numbers of nodes one {job} does it all"]
    return [
        f"{one.nodes} node(s): {one.jobs} times a {job}, each going on where the one before "
        f"stopped{_advise_volumes(one)}"
        for one in plan.schedules
        if one.jobs > 1
    ]


def _advise_volumes(one: Schedule) -> str:
    if not one.volumes:
        return ""
    return (
        f"; or {one.volumes} jobs, also side by side, each a volume of its own: "
        f"--volume 1/{one.volumes} to {one.volumes}/{one.volumes}"
    )


def describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan as plain data for JSON; seconds and bytes."""
    layout = plan.layout
    return {
        "campaign": plan.name,
        "structures": layout.structures,
        "images": plan.images,
        "first_structure": layout.first_structure,
        "structure_seconds": plan.cost.seconds,
        "relative_error": plan.cost.error,
        "measured": plan.cost.measured,
        "steps": plan.cost.steps,
        "structures_per_second": 1 / plan.cost.seconds,
        "images_per_second": plan.images / layout.structures / plan.cost.seconds,
        "structures_per_segment": layout.structures_per_segment,
        "segments": layout.segments,
        "structure_bytes": layout.structure_bytes,
        "file_bytes": plan.file.bytes,
        "file_bytes_exact": plan.file.exact,
        "journal_bytes": plan.journals,
        "free_bytes": plan.space.free,
        "quota_bytes": plan.space.quota,
        "folder": str(plan.space.folder),
        "rank_memory_bytes": plan.rank_memory,
        "device_memory_bytes": plan.device_memory,
        "ranks_per_node": plan.ranks_per_node,
        "limits": asdict(plan.limits),
        "schedules": [asdict(one) for one in plan.schedules],
        "machine": asdict(plan.calibration.machine),
        "calibration": {
            "campaign": plan.calibration.campaign,
            "made": plan.calibration.made,
            "ranks": plan.calibration.ranks,
        },
        "warnings": list(plan.warnings),
    }


def format_seconds(seconds: float) -> str:
    """'3.1 ms', '1.25 s', '12 min'."""
    if seconds < 0.1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 90 else describe_duration(seconds)


def format_rate(rate: float) -> str:
    """Three digits, no exponent: '0.0123', '4.56', '789', '12346'."""
    return f"{rate:.3g}" if rate < 1000 else f"{rate:.0f}"


def format_benchmark(ranks: Sequence[Calibration], alone: Calibration | None) -> str:
    """What each step costs, and each rank beside the others; `alone`: rank 0 with the rest idle."""
    mean = average_calibrations(ranks)
    images = mean.work.images
    total, floor = mean.structure_seconds, sum(mean.floors.values())
    machine, roofs = mean.machine, mean.roof_seconds
    lines = [
        f"{mean.campaign}: {mean.timed} structure(s) timed, {images} images each, "
        f"{len(ranks)} rank(s) at once",
        f"{machine.host}, {machine.processor}, {machine.device}, {machine.fft}",
        "",
    ]
    rows = []
    for step, seconds in mean.seconds.items():
        least = (mean.floors.get(step, 0.0), roofs.get(step, 0.0))
        rows.append([step, *_format_step(seconds, total, least)])
    rows.append(["a structure", *_format_step(total, total, (floor, sum(roofs.values())))])
    head = ("step", "time", "share", "FFTs alone", "of the time", "roof", "of the roof")
    lines.append(format_table(head, rows))
    rates = [1 / one.structure_seconds for one in ranks]
    size = mean.work.stored_bytes
    lines += [
        "",
        f"{format_rate(sum(rates))} structures/s, {format_rate(images * sum(rates))} images/s, "
        f"{gib(int(size * sum(rates)))}/s written, {size * sum(rates) / mean.bandwidth:.1%} of the "
        f"{gib(int(mean.bandwidth))}/s that the disk took",
        f"arithmetic {mean.roofs.operations / 1e9:.3g} GFLOP/s, copies "
        f"{mean.roofs.bytes / 1e9:.3g} GB/s of a rank",
        f"memory of a rank at its peak: {gib(int(mean.peak))}; "
        f"start {mean.startup:.1f} s, first structure with compiling {mean.warmup:.1f} s",
    ]
    if len(ranks) > 1:
        lines += ["", _format_ranks(ranks, rates, alone)]
    return "\n".join(lines)


def _format_step(seconds: float, total: float, least: tuple[float, float]) -> list[str]:
    """Time, share of the structure, and beside it what its transforms take alone and at best."""
    told = [format_seconds(seconds), "100%" if seconds == total else f"{seconds / total:.1%}"]
    for bound in least:
        told += [format_seconds(bound) if bound else ""]
        told += [f"{bound / seconds:.0%}" if bound and seconds else ""]
    return told


def _format_ranks(
    ranks: Sequence[Calibration], rates: Sequence[float], alone: Calibration | None
) -> str:
    single = 1 / alone.structure_seconds if alone is not None else rates[0]
    rows = []
    for number, (one, rate) in enumerate(zip(ranks, rates, strict=True)):
        images = format_rate(rate * one.work.images)
        row = [str(number), one.machine.host, format_rate(rate), images, f"{rate / single:.0%}"]
        rows.append(row)
    shown = sorted(range(len(rows)), key=lambda n: rates[n])[:MOST_RANKS]
    table = format_table(
        ("rank", "host", "structures/s", "images/s", "of one alone"),
        [rows[n] for n in sorted(shown)],
    )
    efficiency = sum(rates) / (len(rates) * single)
    hidden = f" (the slowest {MOST_RANKS} are shown)" if len(rows) > MOST_RANKS else ""
    return (
        f"{table}\nscaling{hidden}: {len(rates)} ranks do {sum(rates) / single:.2f} times the work "
        f"of one alone, {efficiency:.0%} each"
    )


def describe_benchmark(ranks: Sequence[Calibration], alone: Calibration | None) -> dict[str, Any]:
    """The benchmark as plain data for JSON; seconds and bytes, per structure and rank."""
    mean = average_calibrations(ranks)
    rates = [1 / one.structure_seconds for one in ranks]
    total, floor = mean.structure_seconds, sum(mean.floors.values())
    return {
        "campaign": mean.campaign,
        "machine": asdict(mean.machine),
        "ranks": len(ranks),
        "timed": mean.timed,
        "seconds": mean.seconds,
        "shares": {step: seconds / total for step, seconds in mean.seconds.items()},
        "transform_seconds": mean.floors,
        "structure_seconds": total,
        "floor_share": floor / total,
        "roof_seconds": mean.roof_seconds,
        "roof_share": sum(mean.roof_seconds.values()) / total,
        "operations_per_second": mean.roofs.operations,
        "copied_bytes_per_second": mean.roofs.bytes,
        "structures_per_second": sum(rates),
        "images_per_second": sum(rates) * mean.work.images,
        "bytes_per_second": sum(rates) * mean.work.stored_bytes,
        "bytes_per_structure": mean.work.stored_bytes,
        "disk_bytes_per_second": mean.bandwidth,
        "disk_share": sum(rates) * mean.work.stored_bytes / mean.bandwidth,
        "peak_bytes": mean.peak,
        "startup_seconds": mean.startup,
        "first_structure_seconds": mean.warmup,
        "rank_structures_per_second": rates,
        "alone_structures_per_second": 1 / alone.structure_seconds if alone else None,
        "efficiency": sum(rates) * alone.structure_seconds / len(rates) if alone else None,
    }
