"""A model described for people: what it is for, what it learnt from, how good it is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

PURPOSES = {
    "segmentation": "says of every pixel of an image which class it is of",
    "defects": "says of every pixel of an image whether it shows a defect, and which kind",
    "cyclegan": "changes simulated images into what the microscope would record, and back",
}
FIND = (
    "hpctem predict {model} image.tif -o found",
    "hpctem evaluate {model} images.hdf5 -o judged",
)
USES = {
    "segmentation": FIND,
    "defects": FIND,
    "cyclegan": (
        "hpctem translate {model} simulated.hdf5 -o realistic.hdf5",
        "hpctem denoise {model} image.tif -o clean.tif",
    ),
}


def write_card(
    facts: Mapping[str, Any], history: Sequence[Mapping[str, float]], folder: str
) -> str:
    """The card of a model, Markdown, from model.json, history.csv and the name of its folder."""
    kind = facts["kind"]
    lines = [f"# {facts['name']}", "", f"A model that {PURPOSES[kind]}."]
    if facts["description"]:
        lines += ["", facts["description"]]
    uses = [use.format(model=shlex.quote(folder)) for use in USES[kind]]
    lines += ["", "## Use", "", "Where the folder of the model lies:"]
    lines += ["", "```bash", *uses, "```"]
    lines += ["", *_list_facts(facts, history)]
    lines += ["", "## Scores", "", "Of the weights that are kept.", ""]
    lines += ["| metric | value |", "| --- | --- |"]
    lines += [f"| {key} | {value:.4g} |" for key, value in facts["metrics"].items()]
    lines += [
        "",
        "Columns that begin with `val_` are of images that were held out; they come from the same "
        "simulations as those learnt from, and say nothing yet of images of a microscope: judge "
        "the model on labelled images of yours with `hpctem evaluate`.",
        "",
        "The training can be run again with `training.yaml`; `history.csv` tells its epochs.",
        "",
    ]
    return "\n".join(lines)


def _list_facts(facts: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> list[str]:
    sizes = facts["pixel_sizes"]
    prepares = {
        what: ", ".join(f"{key} {value}" for key, value in said.items())
        for what, said in facts["prepares"].items()
    }
    return [
        "## Facts",
        "",
        f"- kind: {facts['kind']}",
        f"- classes: {', '.join(facts['classes']) or 'none'}",
        "- networks: "
        + ", ".join(f"{name} ({count:,} parameters)" for name, count in facts["networks"].items()),
        f"- images seen at once: {facts['shape'][1]} x {facts['shape'][0]} pixels"
        + (f" of {sizes[0]:.4g} to {sizes[1]:.4g} Å" if sizes else ""),
        *(f"- preparation ({what}): {said}" for what, said in prepares.items()),
        *(f"- {key}: {value}" for key, value in facts["trained"].items()),
        f"- epochs: {len(history)}",
        *(f"- digest of {what}: {digest}" for what, digest in facts["rows"].items()),
        f"- digest of the weights: {facts['weights']['digest']}",
        f"- licence: {facts['licence']}",
        "- made with: " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
    ]
