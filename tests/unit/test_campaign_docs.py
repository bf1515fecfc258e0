"""docs/campaigns.md names every key, default, range, unit and name that campaign files have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import numpy as np
import pytest
import yaml
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from hpctem import sections
from hpctem.campaign_file import read_campaign
from hpctem.cli import commands
from hpctem.config import schema
from hpctem.distributions import Drawn, Quantity
from hpctem.hrtem.conditions import translate_aberrations
from hpctem.marked_yaml import parse_yaml
from hpctem.sampling import LEVELS, Distribution
from hpctem.sections.common import NOTATIONS, Section
from hpctem.simulate import check_campaign
from hpctem.structures.amorphous import amorphous
from hpctem.units import UNITS, parse_quantity

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "campaigns.md").read_text()
CODE = re.compile(r"`([^`]+)`")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

Row = dict[str, str]


def read_tables() -> dict[tuple[str, str], Row]:
    """(path of the section, key) -> cells by the title of their column."""
    rows: dict[tuple[str, str], Row] = {}
    section = ""
    titles: list[str] = []
    for line in PAGE.splitlines():
        if line.startswith("#"):
            heading = re.fullmatch(r"### `([\w.]+)`", line)
            section, titles = heading[1] if heading else "", []
        if not line.startswith("|"):
            titles = []
        elif section:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not titles:
                titles = cells
            elif titles[0] == "key" and not set(cells[0]) <= {"-"}:
                place = section, cells[0].strip("`")
                assert place not in rows, f"{place} stands twice in docs/campaigns.md"
                rows[place] = dict(zip(titles, cells, strict=True))
    return rows


def find_keys() -> Iterator[tuple[str, str, str]]:
    """(path of the section, name of its model, key) for every key of the JSON schema."""
    root = schema()

    def walk(path: str, model: str, node: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
        for key, value in node["properties"].items():
            inner = f"{path}.{key}" if path else key
            if path:
                yield path, model, key
            for name in re.findall(r"'#/\$defs/(\w+)'", repr(value)):
                yield from walk(inner, name, root["$defs"][name])

    yield from walk("", "Config", root)


KEYS = sorted(set(find_keys()))
TABLES = read_tables()
# What is completed in an example; a crystal is given as a whole.
SECTIONS = {path for path, _, _ in KEYS} - {"structure.particles.crystal"}


def field_of(model: str, key: str) -> FieldInfo:
    return getattr(sections, model).model_fields[key]


def parts_of(annotation: Any) -> Iterator[Any]:
    """An annotation and everything that stands in it, metadata included."""
    yield annotation
    for part in (*get_args(annotation), *getattr(annotation, "metadata", ())):
        yield from parts_of(part)


def marks_of(field: FieldInfo, kind: type) -> list[Any]:
    found = [*parts_of(field.annotation), *field.metadata]
    return [part for part in found if isinstance(part, kind)]


def codes(row: Row, title: str) -> list[str]:
    return CODE.findall(row.get(title, ""))


def number(text: str, dimension: str | None) -> float:
    return parse_quantity(text, dimension if dimension in UNITS else None)


def name_of(case: tuple[str, str, str]) -> str:
    return f"{case[0]}.{case[2]}"


def test_the_page_has_the_keys_of_the_schema_and_no_others() -> None:
    known = {(path, key) for path, _, key in KEYS}
    assert len(known) > 70
    assert set(TABLES) == known


@pytest.mark.parametrize("case", KEYS, ids=name_of)
def test_each_key_stands_with_its_default(case: tuple[str, str, str]) -> None:
    path, model, key = case
    field, row = field_of(model, key), TABLES[path, key]
    assert row["meaning"]
    default = field.get_default(call_default_factory=True)
    if field.is_required():
        assert row["default"] == "required"
    elif default is None:
        assert row["default"] == "none"
    elif isinstance(default, Section):
        assert row["default"] == "its defaults"
    else:
        shown = codes(row, "default")
        assert len(shown) == 1, row["default"]
        value = parse_yaml(shown[0]).data
        if isinstance(default, Distribution):
            drawn = marks_of(field, Drawn)[0].parse(value)
            assert (drawn.kind, drawn.per) == (default.kind, default.per)
            assert drawn.values == pytest.approx(default.values)
        elif quantities := marks_of(field, Quantity):
            assert value == default or quantities[0].parse(value) == pytest.approx(default)
        else:
            assert value == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("case", KEYS, ids=name_of)
def test_each_range_is_the_one_that_is_checked(case: tuple[str, str, str]) -> None:
    path, model, key = case
    field, row = field_of(model, key), TABLES[path, key]
    shown = codes(row, "allowed")
    for mark in [*marks_of(field, Quantity), *marks_of(field, Drawn)]:
        if getattr(mark, "categories", ()):
            assert shown == list(mark.categories)
        else:
            limits = [number(text, mark.dimension) for text in shown]
            assert limits == pytest.approx([mark.minimum, mark.maximum], rel=1e-9)
        if mark.dimension in UNITS:
            assert mark.dimension in row["kind"]
    whole = marks_of(field, Ge) + marks_of(field, Le)
    if whole:
        whole_limits = [getattr(mark, "ge" if isinstance(mark, Ge) else "le") for mark in whole]
        assert [int(text) for text in shown if text.isdigit()] == whole_limits


@pytest.mark.parametrize("case", KEYS, ids=name_of)
def test_each_name_that_a_key_takes_is_given(case: tuple[str, str, str]) -> None:
    path, model, key = case
    row = TABLES[path, key]
    shown = {*codes(row, "allowed"), *codes(row, "kind")}
    for part in parts_of(field_of(model, key).annotation):
        if str(get_origin(part)) == "typing.Literal":
            assert set(get_args(part)) <= shown


@pytest.mark.parametrize("case", KEYS, ids=name_of)
def test_each_level_of_drawing_is_given(case: tuple[str, str, str]) -> None:
    path, model, key = case
    shown = codes(TABLES[path, key], "drawn per")
    drawn = marks_of(field_of(model, key), Drawn)
    levels = list(LEVELS[: LEVELS.index(drawn[0].finest) + 1]) if drawn else []
    assert sorted(shown) == sorted(levels)
    assert shown[:1] == [mark.per for mark in drawn[:1]], "the default level comes first"


def test_distributions_units_and_levels_are_named() -> None:
    words = set(CODE.findall(re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)))
    shapes = schema()["$defs"]["Imaging"]["properties"]["dose"]["anyOf"]
    kinds = {shape["required"][0] for shape in shapes if "required" in shape}
    assert len(kinds) == 5
    assert {"mean", "std", "min", "max", "clip: true", "weights"} <= words
    assert {unit for units in UNITS.values() for unit in units} <= words
    assert {f"per: {level}" for level in LEVELS} <= words
    for kind in kinds:
        assert f"**`{kind}`**" in PAGE
        assert any(f"{{{kind}:" in text for text in BLOCKS), f"no example of {kind}"


def test_the_table_of_aberrations_is_what_is_computed() -> None:
    pattern = r"^\| [^|]+ \| `(C\d\d)` \| `(C\d\d)` \| (\d) \| `(\w\d)` \| (\d) \|$"
    rows = re.findall(pattern, PAGE, re.MULTILINE)
    columns = list(zip(*rows, strict=True))
    assert [columns[i] for i in (0, 1, 3)] == [NOTATIONS[n] for n in NOTATIONS]
    for krivanek, power, power_factor, haider, haider_factor in rows:
        for notation, name, factor in (
            ("krivanek", krivanek, "1"),
            ("power_of_angle", power, power_factor),
            ("haider", haider, haider_factor),
        ):
            translated = translate_aberrations(notation, {name: (10.0, 0.1)})
            assert getattr(translated, krivanek) == pytest.approx(10.0 * int(factor)), name


def merge(base: dict[str, Any], changes: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Sections are completed; values, distributions and crystals are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        inner = f"{path}.{key}".strip(".")
        if inner in SECTIONS and isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = merge(base[key], value, inner)
        else:
            merged[key] = value
    return merged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the examples name."""
    from ase import Atoms
    from ase.build import bulk
    from ase.io import write

    side = 20.0
    film = amorphous((side, side, side), 0.1, 1.4, np.random.default_rng(1))
    write(tmp_path / "gold.cif", bulk("Au", cubic=True))
    write(tmp_path / "carbon.xyz", Atoms(["C"] * len(film), film, cell=[side] * 3, pbc=True))
    return tmp_path


@pytest.mark.parametrize("example", BLOCKS, ids=range(len(BLOCKS)))
def test_each_example_is_a_campaign_that_could_start(example: str, folder: Path) -> None:
    shown = parse_yaml(example).data
    if "campaign" not in shown:
        quickstart = parse_yaml((ROOT / "configs" / "quickstart.yaml").read_text()).data
        example = yaml.safe_dump(merge(quickstart, shown), sort_keys=False)
    file = folder / "campaign.yaml"
    file.write_text(example)
    check_campaign(read_campaign(file).config)


def test_commands_and_their_options_are_shown() -> None:
    with click.Context(commands) as context:
        names = commands.list_commands(context)
        assert len(names) >= 7
        for name in names:
            assert f"**`hpctem {name}`**" in PAGE
            command = commands.get_command(context, name)
            assert command is not None
            for option in command.params:
                if isinstance(option, click.Option):
                    assert any(f"`{spelling}" in PAGE for spelling in option.opts), option.opts
