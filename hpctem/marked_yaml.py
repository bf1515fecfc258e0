"""YAML in which every value remembers its line, so that an error can point at it.

Scalars follow YAML 1.2's core schema: only true and false are booleans, so that the elements No and
Y stay text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import yaml

from hpctem.errors import ConfigError

Path = tuple[str | int, ...]
MOST_CHARACTERS = 10**7
_INTEGER = re.compile(r"[-+]?\d+")
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")
_CONSTANTS: dict[str, Any] = {"": None, "null": None, "~": None, "true": True, "false": False}


@dataclass
class MarkedYaml:
    """A parsed document: plain data, the text, and the (line, column) of every key and value."""

    name: str
    text: str
    data: Any = None
    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def error(self, path: Sequence[str | int], message: str) -> str:
        """The message behind file, line and key, with the line itself and a caret under it."""
        known = tuple(path)
        while known and known not in self.marks:
            known = known[:-1]
        line, column = self.marks.get(known, (0, 0))
        key = ".".join(str(part) for part in path)
        lines = self.text.splitlines()
        source = lines[line] if line < len(lines) else ""
        number = f"{line + 1:5d} | "
        return (
            f"{self.name}:{line + 1}:{column + 1}: {key + ': ' if key else ''}{message}\n"
            f"{number}{source}\n{' ' * (len(number) + column)}^"
        )


def read_yaml(path: FilePath) -> MarkedYaml:
    """Read a YAML file; raises ConfigError when it is missing, unreadable or not YAML."""
    try:
        # A database named in its place may be larger than the memory.
        with path.open(encoding="utf-8") as stream:
            text = stream.read(MOST_CHARACTERS + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"{path}: is no text in UTF-8, so it is no campaign file; name the YAML file here"
        ) from None
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"{path}: is longer than {MOST_CHARACTERS} characters, so it is no campaign file"
        )
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str = "<config>") -> MarkedYaml:
    """Parse a YAML text; raises ConfigError with the line for bad syntax or a repeated key."""
    document = MarkedYaml(name, text)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise ConfigError(document.error((), "the file is nested too deeply")) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            document.marks[()] = (mark.line, mark.column)
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(document.error((), f"not valid YAML: {problem}")) from None
    try:
        document.data = None if node is None else _construct(node, (), document)
    except RecursionError:
        raise ConfigError(
            document.error((), "the file is nested too deeply, or in itself")
        ) from None
    return document


def _construct(node: yaml.Node, path: Path, document: MarkedYaml) -> Any:
    document.marks.setdefault(path, (node.start_mark.line, node.start_mark.column))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*path, key)
            document.marks[here] = (key_node.start_mark.line, key_node.start_mark.column)
            if key in mapping:
                raise ConfigError(document.error(here, "this key is given twice"))
            mapping[key] = _construct(value_node, here, document)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, (*path, i), document) for i, child in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    if getattr(node, "style", None) is not None:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
