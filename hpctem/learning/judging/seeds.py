"""What the seeds of jobs/cyclegan_mos2 came to, side by side: realism, survival, scores.

    python -m hpctem.learning.judging.seeds FOLDER 1 2 3

prints a table and writes FOLDER/table.txt and FOLDER/table.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError, HpctemError
from hpctem.learning.judging.evaluate import format_score
from hpctem.learning.translation.outcome import survey

FORMAT = "hpctem-cyclegan-seeds-1"
SETS = ("clean", "manual", "translated")
TRANSLATED = SETS[-1]
ENOUGH = 0.7
"""Share of the gap that is to be closed."""


def gather_seeds(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """All figures of some seeds, as plain data.

    folder  has seed-N/realism.json, copies.json, translated.hdf5, SET-judged/evaluation.json

    Raises ConfigError for a file that is missing or damaged, DatabaseError as opening databases.
    """
    found = {seed: _read_seed(folder / f"seed-{seed}") for seed in seeds}
    first = next(iter(found.values()))["realism"]
    closed = {
        name: [one["realism"]["sets"][TRANSLATED]["gap_closed"][name] for one in found.values()]
        for name in first["floor"]["distances"]
    }
    return {
        "format": FORMAT,
        "seeds": list(seeds),
        "distances": {
            name: {
                "floor": floor,
                **{one: first["sets"][one]["distances"][name] for one in SETS[:-1]},
                "manual_gap_closed": first["sets"]["manual"]["gap_closed"][name],
                TRANSLATED: [
                    one["realism"]["sets"][TRANSLATED]["distances"][name] for one in found.values()
                ],
                "gap_closed": closed[name],
            }
            for name, floor in first["floor"]["distances"].items()
        },
        "short_of_70_percent": [
            name
            for name, values in closed.items()
            if any(value is not None and value < ENOUGH for value in values)
        ],
        "highest_correlation_with_training_rows": {
            seed: one["copies"]["highest_correlation"] for seed, one in found.items()
        },
        "translation": {seed: one["translation"] for seed, one in found.items()},
        "positions": {
            name: {seed: one["positions"][name] for seed, one in found.items()} for name in SETS
        },
    }


def _read_seed(folder: Path) -> dict[str, Any]:
    outcome = survey(folder / "translated.hdf5")
    return {
        "realism": _read_json(folder / "realism.json", "sets"),
        "copies": _read_json(folder / "copies.json", "highest_correlation"),
        "translation": {
            "tiles": outcome.tiles,
            "accepted": outcome.accepted,
            "largest_offset": outcome.largest_offset,
            "reasons": dict(outcome.reasons),
            "defects": {
                kind: {"all": count, "judged": judged, "kept": kept}
                for kind, (count, judged, kept) in outcome.defects.items()
            },
        },
        "positions": {
            name: _read_json(folder / f"{name}-judged/evaluation.json", "positions")["positions"]
            for name in SETS
        },
    }


def _read_json(path: Path, needed: str) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text())
        _ = said[needed]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{path} is missing or not whole ({error}): run the job again, without that file"
        ) from error
    return said


def format_seeds(report: Mapping[str, Any]) -> str:
    """The same as text for people."""
    seeds = [f"seed {seed}" for seed in report["seeds"]]
    rows = [["distance from rows 528 to 1023", "floor", "clean", "manual", *seeds]]
    for name, one in report["distances"].items():
        pairs = zip(one[TRANSLATED], one["gap_closed"], strict=True)
        rows.append(
            [
                name,
                _write(one["floor"]),
                _write(one["clean"]),
                _tell(one["manual"], one["manual_gap_closed"]),
                *(_tell(*pair) for pair in pairs),
            ]
        )
    lines = _align(rows)
    lines.append("In parentheses: share of the gap between clean and the floor that is closed.")
    rows = [["F1 on rows 528 to 1023", *seeds]]
    classes = next(iter(report["positions"]["clean"].values()))
    for kind in classes:
        for name, found in report["positions"].items():
            scores = (format_score(found[seed][kind]["f1"]) for seed in report["seeds"])
            rows.append([f"{kind}, learnt from {name}", *scores])
    lines += ["", *_align(rows)]
    rows = [["translation", *seeds]]
    each = [report["translation"][seed] for seed in report["seeds"]]
    rows.append(["tiles accepted", *(f"{one['accepted']} of {one['tiles']}" for one in each)])
    rows.append(["largest offset, px", *(f"{one['largest_offset']:.2f}" for one in each)])
    for kind in each[0]["defects"]:
        counts = (one["defects"].get(kind, {"judged": 0, "kept": 0}) for one in each)
        rows.append([f"{kind} kept", *(_tell_kept(count) for count in counts)])
    copies = [report["highest_correlation_with_training_rows"][s] for s in report["seeds"]]
    for name in copies[0]:
        told = (f"{one[name]['highest']:.3f} (median {one[name]['median']:.3f})" for one in copies)
        rows.append([f"highest correlation with rows 0 to 495, {name}", *told])
    return "\n".join([*lines, "", *_align(rows)])


def _tell(distance: float, closed: float | None) -> str:
    return f"{_write(distance)} ({'–' if closed is None else f'{100 * closed:.0f} %'})"


def _tell_kept(count: Mapping[str, int]) -> str:
    if not count["judged"]:
        return "none judged"
    return f"{count['kept']} of {count['judged']} ({count['kept'] / count['judged']:.1%})"


def _write(value: float) -> str:
    return f"{value:.3g}" if value >= 1e-4 else f"{value:.0e}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = np.max([[len(text) for text in row] for row in rows], axis=0)
    return [
        "  ".join(
            text.rjust(width) if k else text.ljust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def main(folder: Path, seeds: Sequence[int]) -> str:
    """Write table.txt and table.json of some seeds into a folder; the text."""
    report = gather_seeds(folder, seeds)
    text = format_seeds(report)
    write_durably(folder / "table.json", (json.dumps(report, indent=1) + "\n").encode())
    write_durably(folder / "table.txt", (text + "\n").encode())
    return text


if __name__ == "__main__":
    try:
        print(main(Path(sys.argv[1]), [int(text) for text in sys.argv[2:]]))
    except HpctemError as error:
        sys.exit(f"error: {error}")
