"""The sections about the job: bad samples, pace, checks, provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from hpctem.database.create import gib
from hpctem.page.charts import draw_ranks, draw_steps
from hpctem.page.markup import Html, colour_yaml, join, table, tag
from hpctem.page.survey import Survey, Volume
from hpctem.page.timeline import draw_up, list_runs
from hpctem.parallel import describe_duration

MOST_REASONS, MOST_NUMBERS = 100, 12


def write_quarantine(found: Survey) -> Html:
    """Bad structures by reason; reasons that differ in numbers only are one."""
    if not found.quarantined:
        return tag("p", "No structure is quarantined.")
    groups: dict[str, list[tuple[int, str]]] = {}
    for index, reason in found.quarantined:
        groups.setdefault(re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", reason), []).append(
            (index, reason)
        )
    ranked = sorted(groups.values(), key=len, reverse=True)
    rows = []
    for members in ranked[:MOST_REASONS]:
        numbers = ", ".join(str(index) for index, _ in members[:MOST_NUMBERS])
        more = f" and {len(members) - MOST_NUMBERS:,} more" if len(members) > MOST_NUMBERS else ""
        same = "" if len({reason for _, reason in members}) == 1 else "such as: "
        rows.append((f"{len(members):,}", f"{same}{members[0][1]}", f"{numbers}{more}"))
    share = len(found.quarantined) / max(found.counts["structures"], 1)
    limit = found.config.campaign.quarantine_limit
    count = len(found.quarantined)
    noun = "structure" if count == 1 else "structures"
    text = f"{count:,} {noun}, {share:.2%}; the campaign allows {limit:.2%}."
    rest = len(ranked) - MOST_REASONS
    return join(
        tag("p", text),
        table(("structures", "reason", "which"), rows, "Quarantined structures", (0,)),
        [tag("p", f"{rest} more reasons are left out here.")] if rest > 0 else [],
    )


def write_pace(found: Survey) -> Html:
    """Throughput over time and per rank, for each file that has a record of it."""
    parts = [part for volume in found.volumes for part in _write_volume_pace(volume, found)]
    if parts:
        return join(parts)
    return tag(
        "p",
        "There is no record of the job's pace beside the database (pace.jsonl in its folder of "
        "journals); the database itself holds no times, so that two runs give the same bytes.",
    )


def _write_volume_pace(volume: Volume, found: Survey) -> Iterator[Html]:
    timeline, runs = draw_up(volume.looks), list_runs(volume.looks)
    if timeline is None:
        return
    if len(found.volumes) > 1:
        yield tag("h3", volume.path.name)
    rates = timeline.rates * found.config.images
    title = f"Throughput of {volume.path.name}"
    charts = [draw_steps(timeline.edges, rates.sum(axis=0), timeline.begins, timeline.unit, title)]
    if len(rates) > 1:
        charts.append(draw_ranks(timeline.edges, rates, timeline.unit, f"{title} per rank"))
    # A job of a minute has been looked at once: its table says all.
    if len(timeline.edges) > 2:
        yield tag("div", (Html(chart) for chart in charts), class_="wide")
    rows = []
    for run in runs:
        pace = [count * found.config.images / run.seconds for count in run.computed]
        spread = f"{min(pace):.3g} … {max(pace):.3g}" if len(pace) > 1 else ""
        rows.append(
            (
                str(run.number),
                run.began,
                describe_duration(run.seconds),
                f"{len(pace):,}",
                f"{sum(run.computed):,}",
                f"{sum(pace):.3g}",
                spread,
            )
        )
    head = ("run", "began", "computed for", "ranks", "structures", "images/s", "images/s of a rank")
    yield table(head, rows, f"Runs that filled {volume.path.name}", (0, 3, 4, 5, 6))


def write_checks(found: Survey) -> Html:
    """What was checked, by whom, and what came out."""
    items = [item for volume in found.volumes for item in _check_volume(volume, found)]
    bad, tests = found.departing, found.tests
    names = ", ".join(item.setting.key for item in bad)
    checked = len(found.comparisons) + len(found.constants)
    items.append(
        (not bad, f"{len(bad)} of {checked} values were not drawn as asked: {names}")
        if bad
        else (
            True,
            f"{checked} values agree with the campaign: {tests} distributions tested, the others "
            "fixed, on a grid, or of too few draws",
        )
    )
    marks = {True: ("yes", "✓"), False: ("no", "✗"), None: ("open", "–")}
    return tag(
        "ul",
        (
            tag(
                "li",
                tag("span", marks[state][1], class_="sign", role="img", aria_label=marks[state][0]),
                text,
                class_=marks[state][0],
            )
            for state, text in items
        ),
        class_="checks",
    )


def _check_volume(volume: Volume, found: Survey) -> Iterator[tuple[bool | None, str]]:
    name = f"{volume.path.name}: " if len(found.volumes) > 1 else ""
    if volume.complete:
        count = len(volume.structures)
        every = "its one structure is" if count == 1 else f"all {count:,} structures are"
        yield True, f"{name}{every} committed"
        marked = "all rows were read back and agreed with their digests when the job ended"
        missing = "the marker COMPLETE is missing: nothing tells that all rows were read back"
        yield (True, f"{name}{marked}") if volume.marked else (None, f"{name}{missing}")
    else:
        yield None, f"{name}unfinished: only committed structures are in this report"
    check = volume.verification
    if check is None:
        yield None, f"{name}rows were not verified for this report (hpctem report --verify does)"
        return
    if check.rows == 0:
        yield None, f"{name}nothing is committed, so nothing could be verified"
        return
    verdict = f"{len(check.bad):,} are damaged" if check.bad else "none is damaged"
    yield not check.bad, f"{name}{check.rows:,} rows verified for this report, {verdict}"
    if check.outside is not None:
        state = "intact" if check.outside else "damaged"
        yield check.outside, f"{name}bytes outside the rows are {state}"


def write_provenance(found: Survey) -> Html:
    """Where the data come from: campaign, code, libraries, parent, files, the campaign file."""
    campaign, texts = found.config.campaign, found.texts
    facts = [
        ("campaign", campaign.name),
        ("seed", str(campaign.seed)),
        ("config hash", texts["config_hash"]),
        *((f"input {key}", text) for key, text in _list_inputs(texts)),
        *((name.replace("_", " "), text) for name, text in _list_parent(texts)),
        *(
            (name.replace("_", " "), value)
            for name, value in found.identity.items()
            if not name.startswith("config.")
        ),
    ]
    files = (
        (
            volume.path.name,
            f"{volume.structures.start:,} … {volume.structures.stop - 1:,}",
            gib(volume.size),
        )
        for volume in found.volumes
    )
    return join(
        table(("what", "value"), ((name, tag("code", text)) for name, text in facts), "Provenance"),
        table(("file", "structures", "size"), files, "Files of the campaign", (1, 2)),
        tag("h3", "Campaign file"),
        colour_yaml(texts["config"]),
    )


def _list_inputs(texts: dict[str, str]) -> Iterator[tuple[str, str]]:
    for key, file in json.loads(texts["inputs"]).items():
        yield key, f"{file['name']}, BLAKE2b {file['digest']}"


def _list_parent(texts: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The database that this one was made of, where there is one."""
    try:
        parent = json.loads(texts.get("parent", "{}"))
    except ValueError:
        parent = texts["parent"]
    if not isinstance(parent, dict):
        yield "parent", str(parent)
        return
    for name, value in parent.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"parent {name}", text
