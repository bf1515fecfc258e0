"""The docs name every key, default, range, unit and name that campaign files have."""

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

from hpctem.campaign_file import read_campaign
from hpctem.cli import commands
from hpctem.conditions import translate_aberrations
from hpctem.config import HrtemConfig, StemConfig, schema
from hpctem.distributions import Drawn, Quantity
from hpctem.marked_yaml import parse_yaml
from hpctem.sampling import LEVELS, Distribution
from hpctem.sections.common import NOTATIONS, Section
from hpctem.structures.amorphous import amorphous
from hpctem.techniques import check_campaign
from hpctem.units import UNITS, parse_quantity

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "campaigns.md").read_text()
# The pages that hold the keys of each technique; what they share stands in the first.
PAGES = {"campaigns.md": HrtemConfig, "stem.md": StemConfig}
SHARED = "hpctem.sections.common"
# What completes an example that shows some sections only.
COMPLETED_BY = {"campaigns.md": "quickstart.yaml", "stem.md": "mos2_se_implanted.yaml"}
CODE = re.compile(r"`([^`]+)`")


def read_blocks(page: str) -> list[str]:
    """The YAML of a page, block by block."""
    return re.findall(r"^```yaml\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


BLOCKS = [(page, block) for page in PAGES for block in read_blocks(page)]

Row = dict[str, str]
Place = tuple[str, str, str]


def read_tables() -> dict[Place, Row]:
    """(page, path of the section, key) -> cells by the title of their column."""
    rows: dict[Place, Row] = {}
    for page in PAGES:
        section = ""
        titles: list[str] = []
        for line in (DOCS / page).read_text().splitlines():
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
                    place = page, section, cells[0].strip("`")
                    assert place not in rows, f"{place} stands twice in docs/{page}"
                    rows[place] = dict(zip(titles, cells, strict=True))
    return rows


def parts_of(annotation: Any) -> Iterator[Any]:
    """An annotation and everything that stands in it, metadata included."""
    yield annotation
    for part in (*get_args(annotation), *getattr(annotation, "metadata", ())):
        yield from parts_of(part)


def find_keys(page: str, model: type[Section], path: str = "") -> Iterator[tuple[Place, FieldInfo]]:
    """Every key of the sections in a model, with what it takes."""
    for key, field in model.model_fields.items():
        if path:
            yield (page, path, key), field
        for part in parts_of(field.annotation):
            if isinstance(part, type) and issubclass(part, Section):
                if part.__module__ == SHARED and page != "campaigns.md":
                    continue
                yield from find_keys(page, part, f"{path}.{key}" if path else key)


KEYS = {place: field for page, model in PAGES.items() for place, field in find_keys(page, model)}
CASES = sorted(KEYS)
TABLES = read_tables()
# What is completed in an example; a crystal and the detectors by name are given as a whole.
WHOLES = {"structure.particles.crystal", "structure.material", "imaging.detectors"}
SECTIONS = {path for _, path, _ in KEYS} - WHOLES


def marks_of(field: FieldInfo, kind: type) -> list[Any]:
    found = [*parts_of(field.annotation), *field.metadata]
    return [part for part in found if isinstance(part, kind)]


def codes(row: Row, title: str) -> list[str]:
    return CODE.findall(row.get(title, ""))


def number(text: str, dimension: str | None) -> float:
    return parse_quantity(text, dimension if dimension in UNITS else None)


def name_of(case: Place) -> str:
    return ".".join(case[1:])


def test_the_page_has_the_keys_of_the_schema_and_no_others() -> None:
    assert len(KEYS) > 70
    assert set(TABLES) == set(KEYS)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_each_key_stands_with_its_default(case: Place) -> None:
    field, row = KEYS[case], TABLES[case]
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
            assert drawn.parameters == pytest.approx(default.parameters)
        elif quantities := marks_of(field, Quantity):
            assert value == default or quantities[0].parse(value) == pytest.approx(default)
        else:
            assert value == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_each_range_is_the_one_that_is_checked(case: Place) -> None:
    field, row = KEYS[case], TABLES[case]
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


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_each_name_that_a_key_takes_is_given(case: Place) -> None:
    row = TABLES[case]
    shown = {*codes(row, "allowed"), *codes(row, "kind")}
    for part in parts_of(KEYS[case].annotation):
        if str(get_origin(part)) == "typing.Literal":
            assert set(get_args(part)) <= shown


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_each_level_of_drawing_is_given(case: Place) -> None:
    shown = codes(TABLES[case], "drawn per")
    drawn = marks_of(KEYS[case], Drawn)
    levels = list(LEVELS[: LEVELS.index(drawn[0].finest) + 1]) if drawn else []
    assert sorted(shown) == sorted(levels)
    assert shown[:1] == [mark.per for mark in drawn[:1]], "the default level comes first"


def test_distributions_units_and_levels_are_named() -> None:
    words = set(CODE.findall(re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)))
    shapes = schema()["$defs"]["hpctem__sections__hrtem__Imaging"]["properties"]["dose"]["anyOf"]
    kinds = {shape["required"][0] for shape in shapes if "required" in shape}
    assert len(kinds) == 5
    assert {"mean", "std", "min", "max", "clip: true", "weights"} <= words
    assert {unit for units in UNITS.values() for unit in units} <= words
    assert {f"per: {level}" for level in LEVELS} <= words
    for kind in kinds:
        assert f"**`{kind}`**" in PAGE
        assert any(f"{{{kind}:" in text for _, text in BLOCKS), f"no example of {kind}"


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
    from ase.build import bulk, mx2
    from ase.db import connect
    from ase.io import write

    side = 20.0
    film = amorphous((side, side, side), 0.1, 1.4, np.random.default_rng(1))
    with connect(tmp_path / "materials.json") as materials:
        materials.write(mx2("MoS2", a=3.16, thickness=3.13, vacuum=8.0))
    write(tmp_path / "gold.cif", bulk("Au", cubic=True))
    write(tmp_path / "carbon.xyz", Atoms(["C"] * len(film), film, cell=[side] * 3, pbc=True))
    return tmp_path


@pytest.mark.parametrize(("page", "example"), BLOCKS, ids=range(len(BLOCKS)))
def test_each_example_is_a_campaign_that_could_start(page: str, example: str, folder: Path) -> None:
    shown = parse_yaml(example).data
    if "campaign" not in shown:
        base = DOCS.parent / "configs" / COMPLETED_BY[page]
        example = yaml.safe_dump(merge(parse_yaml(base.read_text()).data, shown), sort_keys=False)
    file = folder / "campaign.yaml"
    file.write_text(example)
    check_campaign(read_campaign(file).config)


def test_commands_and_their_options_are_shown() -> None:
    shown = "".join(page.read_text() for page in DOCS.glob("*.md"))
    with click.Context(commands) as context:
        names = commands.list_commands(context)
        assert len(names) >= 7
        for name in names:
            assert f"**`hpctem {name}`**" in shown
            command = commands.get_command(context, name)
            assert command is not None
            for option in command.params:
                if isinstance(option, click.Option):
                    assert any(f"`{spelling}" in shown for spelling in option.opts), option.opts
