"""docs/campaigns.md names every key, default, range, unit and name that campaign files have."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import pytest
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from hpctem import config as configs
from hpctem.cli import commands
from hpctem.conditions import translate_aberrations
from hpctem.config import NOTATIONS, Section, check_config, schema
from hpctem.distributions import Drawn, Quantity
from hpctem.marked_yaml import parse_yaml
from hpctem.sampling import LEVELS, Distribution
from hpctem.simulate import check_campaign
from hpctem.units import UNITS, parse_quantity

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "campaigns.md").read_text()
QUICKSTART = parse_yaml((ROOT / "configs" / "quickstart.yaml").read_text()).data
CODE = re.compile(r"`([^`]+)`")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

Row = dict[str, str]


def read_tables() -> dict[tuple[str, str], Row]:
    """(path of the section, key) -> cells by the title of their column."""
    rows: dict[tuple[str, str], Row] = {}
    section, titles = "", []
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


def field_of(model: str, key: str) -> FieldInfo:
    return getattr(configs, model).model_fields[key]


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
        numbers = [int(text) for text in shown if text.isdigit()]
        assert numbers == [getattr(mark, "ge", None) or getattr(mark, "le", 0) for mark in whole]


@pytest.mark.parametrize("case", KEYS, ids=name_of)
def test_each_name_that_a_key_takes_is_given(case: tuple[str, str, str]) -> None:
    path, model, key = case
    row = " ".join(TABLES[path, key].values())
    for part in parts_of(field_of(model, key).annotation):
        if str(get_origin(part)) == "typing.Literal":
            for name in get_args(part):
                assert f"`{name}`" in row


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
    kinds = {"uniform", "log_uniform", "normal", "choice", "grid"}
    given = {name for name in kinds if f"**`{name}`**" in PAGE}
    assert given == set(re.findall(r"'(\w+)'", repr(configs_kinds()))) == kinds
    assert {"mean", "std", "min", "max", "clip: true", "weights"} <= words
    assert {unit for units in UNITS.values() for unit in units} <= words
    assert {f"per: {level}" for level in LEVELS} <= words
    for kind in kinds:
        assert any(re.search(rf"\{{{kind}:", text) for text in BLOCKS), f"no example of {kind}"


def configs_kinds() -> tuple[str, ...]:
    """The distributions that the JSON schema knows."""
    shapes = schema()["$defs"]["Imaging"]["properties"]["dose"]["anyOf"]
    return tuple(shape["required"][0] for shape in shapes if "required" in shape)


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


@cache
def merged(number_of_block: int) -> str:
    """A block as it stands if it is a whole campaign, else the quickstart with its keys changed."""
    import yaml

    shown = parse_yaml(BLOCKS[number_of_block]).data
    if "campaign" in shown:
        return BLOCKS[number_of_block]
    sections = {path for path, _, _ in KEYS}

    def merge(base: dict[str, Any], changes: dict[str, Any], path: str) -> None:
        for key, value in changes.items():
            inner = f"{path}.{key}" if path else key
            both = isinstance(value, dict) and isinstance(base.get(key), dict)
            if both and inner in sections and inner != "structure.particles.crystal":
                merge(base[key], value, inner)
            else:
                base[key] = value

    whole = copy.deepcopy(QUICKSTART)
    merge(whole, shown, "")
    return yaml.safe_dump(whole, sort_keys=False)


@pytest.mark.parametrize("number_of_block", range(len(BLOCKS)))
def test_each_example_is_a_campaign_that_could_start(number_of_block: int) -> None:
    text = merged(number_of_block)
    config = check_config(parse_yaml(text, f"example {number_of_block}"))
    if "gold.cif" not in text and "carbon.xyz" not in text:
        check_campaign(config)


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
                    spellings = [re.escape(o) for o in (*option.opts, *option.secondary_opts)]
                    assert re.search(rf"`[^`]*({'|'.join(spellings)})\b", PAGE) or any(
                        o in PAGE for o in option.opts
                    ), f"{name}: {option.opts}"
