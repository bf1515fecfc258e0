"""The campaign file as a whole: read, checked, described.

`hpctem.sections` holds its keys; a mistake is shown with its line, the key and what is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError, model_validator
from pydantic.json_schema import models_json_schema

from hpctem.errors import ConfigError
from hpctem.marked_yaml import MarkedYaml
from hpctem.sections import hrtem, stem
from hpctem.sections.accuracy import apply_accuracy
from hpctem.sections.common import ELEMENT, Campaign, Section, nearest
from hpctem.sections.stages import Stages, StagesFile


class HrtemConfig(Section):
    """A campaign of high-resolution TEM."""

    campaign: Campaign
    structure: hrtem.Structure
    simulation: hrtem.Simulation
    imaging: hrtem.Imaging
    labels: hrtem.Labels = hrtem.Labels()
    storage: hrtem.Storage = hrtem.Storage()

    _accuracy = model_validator(mode="before")(apply_accuracy)

    @property
    def waves(self) -> int:
        """Exit waves of one structure."""
        return self.simulation.waves

    @property
    def foci(self) -> int:
        """Focal settings of one structure."""
        return self.waves * self.imaging.foci

    @property
    def images(self) -> int:
        """Images of one structure."""
        return self.foci * self.imaging.images_per_focus


class StemConfig(Section):
    """A campaign of scanning TEM."""

    campaign: Campaign
    structure: stem.Structure
    simulation: stem.Simulation
    imaging: stem.Imaging
    labels: stem.Labels = stem.Labels()
    storage: stem.Storage = stem.Storage()

    @property
    def foci(self) -> int:
        """Settings of the probe for one structure."""
        return self.imaging.foci

    @property
    def images(self) -> int:
        """Images of one structure."""
        return self.foci * self.imaging.images_per_focus


Config = HrtemConfig | StemConfig
Checked = TypeVar("Checked", bound=Section)
MODELS: dict[str, type[HrtemConfig] | type[StemConfig]] = {
    "hrtem": HrtemConfig,
    "stem": StemConfig,
}
STAGES = "stages"


def check_config(document: MarkedYaml) -> Config:
    """The config of a parsed document; raises ConfigError with every mistake and its line."""
    if not isinstance(document.data, dict):
        raise ConfigError(document.error((), "a campaign file is a mapping of sections"))
    # Where a campaign is computed is no part of it: see `check_stages`.
    document = replace(document, data={k: v for k, v in document.data.items() if k != STAGES})
    model = _choose_model(document)
    return check_sections(document, model, lambda found: _suggest_technique(document, found))


def check_stages(document: MarkedYaml) -> Stages:
    """The stages that a parsed campaign file names; raises ConfigError with every mistake."""
    named = document.data.get(STAGES) if isinstance(document.data, dict) else None
    part = replace(document, data={} if named is None else {STAGES: named})
    return check_sections(part, StagesFile).stages


def check_sections(
    document: MarkedYaml,
    model: type[Checked],
    suggest: Callable[[int], list[str]] = lambda mistakes: [],
) -> Checked:
    """The sections of a parsed document; raises ConfigError with every mistake and its line.

    suggest: what is said before the mistakes, by their number.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        messages = [_describe(e, document, model) for e in error.errors()]
        raise ConfigError("\n".join([*suggest(len(messages)), *messages])) from None


def _choose_model(document: MarkedYaml) -> type[HrtemConfig] | type[StemConfig]:
    """The model of the technique that the file names; HRTEM where it names none."""
    campaign = document.data.get("campaign")
    technique = campaign.get("technique", "hrtem") if isinstance(campaign, dict) else "hrtem"
    if not isinstance(technique, str) or technique not in MODELS:
        path = ("campaign", "technique")
        known = " or ".join(map(repr, MODELS))
        raise ConfigError(document.error(path, f"{technique!r} is no technique: {known}"))
    return MODELS[technique]


def _suggest_technique(document: MarkedYaml, mistakes: int) -> list[str]:
    """A hint where the file reads as one of another technique."""
    for technique, model in MODELS.items():
        try:
            model.model_validate(document.data)
            found = 0
        except ValidationError as error:
            found = error.error_count()
        if 2 * found < mistakes:
            named = f"campaign: {{technique: {technique}}}"
            return [f"these are keys of another technique: did you mean '{named}'?"]
    return []


def _describe(error: Any, document: MarkedYaml, top: type[Section]) -> str:
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    # Pydantic puts the members of unions into the path; only keys of the file can be shown.
    path = tuple(p for p in error["loc"] if not str(p).startswith(("~", "[")) and p != "literal")
    if kind == "extra_forbidden":
        known = _keys(top, path[:-1])
        hint = nearest(str(path[-1]), known) or (f"; known are {', '.join(known)}" if known else "")
        return document.error(path, f"unknown key{hint}")
    if kind == "missing" and isinstance(path[-1], int):
        return document.error(path[:-1], f"{path[-1] + 1} or more values are needed here")
    if kind == "missing":
        return document.error(path[:-1], f"the key {path[-1]!r} is missing")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return document.error(path, f"is a section: write keys below it, not {_got(error)}")
    if kind in ("tuple_type", "list_type"):
        return document.error(path, f"is a list in brackets, [...], not {_got(error)}")
    if kind == "string_pattern_mismatch":
        pattern = error["ctx"]["pattern"]
        what = "the symbol of an element, as Au" if pattern == ELEMENT else f"of the form {pattern}"
        return document.error(path, f"{_got(error)} is not {what}")
    return document.error(
        path, message[:1].lower() + message[1:] if message[1:2].islower() else message
    )


def _got(error: Any) -> str:
    return repr(error["input"])[:60]


def _keys(top: type[Section], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the section at a path knows."""
    model: Any = top
    for part in path:
        if part not in model.model_fields:  # the place in a list of sections, or a section's name
            continue
        found = list(_sections_in(model.model_fields[part].annotation))
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def _sections_in(annotation: Any) -> Iterator[Any]:
    """The sections that a type allows, also within unions."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _sections_in(part)


def resolved(config: Config) -> dict[str, Any]:
    """The config with every default filled in, as plain data in the units of the internals."""
    return json.loads(config.model_dump_json())


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of the campaign file, for editors that check while one types."""
    sections = (*MODELS.values(), Stages)
    references, described = models_json_schema([(m, "validation") for m in sections])
    for model in MODELS.values():
        described["$defs"][model.__name__]["properties"][STAGES] = references[Stages, "validation"]
    finish_keys(described)
    named = {"properties": {"technique": {"const": "stem"}}, "required": ["technique"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "if": {"properties": {"campaign": named}},
        "then": references[StemConfig, "validation"],
        "else": references[HrtemConfig, "validation"],
        **described,
    }


def finish_keys(node: Any) -> None:
    """Say units, ranges and defaults of all keys in a JSON schema as a person writes them."""
    if isinstance(node, dict):
        if any("x-hint" in kind for kind in (node, *node.get("anyOf", []))) or "default" in node:
            _finish_key(node)
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            finish_keys(part)


def _finish_key(key: dict[str, Any]) -> None:
    """Say units and range beside the meaning, and the default as a person writes it."""
    kinds = [key, *key.get("anyOf", [])]
    notes = dict.fromkeys(kind.pop("x-hint") for kind in kinds if "x-hint" in kind)
    unit = next((kind.pop("x-unit") for kind in kinds if "x-unit" in kind), "")
    if notes:
        key["description"] = f"{key.get('description', '')} ({'; '.join(notes)})".strip()
    default = key.get("default")
    if isinstance(default, dict) and default.get("kind") == "choice":
        key["default"] = {"choice": list(default["values"])}
    elif isinstance(default, dict) and default.get("kind") == "uniform":
        limits = [f"{value:g} {unit}".strip() for value in default["parameters"]]
        key["default"] = {"uniform": limits}
    elif isinstance(default, dict) and "kind" in default:
        default = default["values"][0]
    if isinstance(default, int | float) and not isinstance(default, bool):
        key["default"] = f"{default:g} {unit}" if unit else default
