"""docs/clusters.md names every key of stages and of site profiles, and every profile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpctem.marked_yaml import parse_yaml
from hpctem.sections.common import Section
from hpctem.sections.stages import ORDER, Evaluate, Resources, Simulate, Subset, Train
from hpctem.slurm.chain import HOURS
from hpctem.slurm.sites import Partition, Site, check_site

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text()


def keys_of(heading: str) -> set[str]:
    """What stands in backquotes in the first column of the table under a heading."""
    part = PAGE.partition(f"\n### {heading}\n")[2]
    rows = [line for line in part.split("\n#")[0].splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.mark.parametrize(
    ("heading", "model"), [("keys of a profile", Site), ("keys of a partition", Partition)]
)
def test_the_keys_of_profiles_are_those_of_the_page(heading: str, model: type[Section]) -> None:
    assert keys_of(heading) == set(model.model_fields)


def test_the_keys_of_stages_are_those_of_the_page() -> None:
    named = {key.rpartition(".")[2] for key in keys_of("`stages.*`")}
    models = (Resources, Simulate, Subset, Train, Evaluate)
    assert named == {key for model in models for key in model.model_fields}
    assert re.findall(r"^\| `(\w+)` \| [a-z]", PAGE, re.MULTILINE)[: len(ORDER)] == list(ORDER)


def test_the_usual_times_are_those_of_the_page() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `walltime` | `simulate`"))
    for stage, hours in HOURS.items():
        time = f"{hours:g}h" if hours >= 1 else f"{60 * hours:g}min"
        assert re.search(rf"`{stage}`[^0-9]* {time}", row), stage


def test_the_profile_that_is_shown_can_be_read() -> None:
    text = re.search(r"^```text\n(description.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert text is not None
    site = check_site(parse_yaml(text[1]))
    assert site.partitions["gpu"].gpus == 4


def test_every_profile_is_named() -> None:
    for path in (ROOT / "slurm" / "sites").glob("*.yaml"):
        assert f"`{path.name}`" in PAGE or f"`slurm/sites/{path.name}`" in PAGE
