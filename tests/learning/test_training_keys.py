"""The keys of training files: every one is in the docs and in the schema that editors take."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpctem.cli import commands

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text()


def ask_schema(kind: str) -> dict[str, Any]:
    done = CliRunner().invoke(commands, ["schema", kind])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def list_keys(schema: dict[str, Any], node: dict[str, Any]) -> set[str]:
    """Names of all keys below a section, those of the sections in it too."""
    found = set()
    for name, key in node.get("properties", {}).items():
        kinds = [key, *key.get("anyOf", []), *key.get("allOf", [])]
        inner = [kind["$ref"].rpartition("/")[2] for kind in kinds if "$ref" in kind]
        found |= {name} | {k for ref in inner for k in list_keys(schema, schema["$defs"][ref])}
    return found


@pytest.mark.parametrize("kind", ["segmentation", "defects", "cyclegan"])
def test_every_key_of_a_training_file_is_in_the_docs_and_described(kind: str) -> None:
    schema = ask_schema(kind)
    assert schema["properties"]["training"]["properties"]["kind"] == {"const": kind}
    keys = list_keys(schema, schema)
    assert {"name", "epochs", "learning_rate", "warm_up", "patch", "noise"} <= keys
    tables = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    named = {word for text in re.findall("`([^`]+)`", tables) for word in re.split(r"\W", text)}
    assert keys - named == set()


def test_the_schema_tells_units_ranges_and_defaults() -> None:
    sections = ask_schema("cyclegan")["$defs"]
    assert sections["CycleOptimiser"]["properties"]["beta_1"]["default"] == 0.5
    assert "0.999" in json.dumps(sections["CycleOptimiser"]["properties"]["beta_1"])
    assert sections["Generator"]["additionalProperties"] is False
