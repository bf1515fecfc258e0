"""The import file as read, and the files of a downloaded set that its names and patterns mean."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpctem.campaign_file import flatten_keys
from hpctem.config import check_sections
from hpctem.errors import ConfigError
from hpctem.marked_yaml import read_yaml
from hpctem.sections.importing import ImportConfig

PIECE = 2**24
MOST_NAMED = 8


@dataclass(frozen=True)
class ImportFile:
    """An import file: its text and its sections."""

    text: str
    config: ImportConfig

    @cached_property
    def description(self) -> dict[str, str]:
        """Every key with its value as JSON, in the units of the internals."""
        return dict(flatten_keys(json.loads(self.config.model_dump_json())))

    @cached_property
    def hash(self) -> str:
        """BLAKE2b-128 of all keys, in hexadecimal."""
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_import_file(path: str | Path) -> ImportFile:
    """Read an import file.

    Raises ConfigError that points at the line, also for a file of another kind.
    """
    document = read_yaml(Path(path))
    if not isinstance(document.data, dict) or "set" not in document.data:
        what = "is no import file, which has the section 'set'"
        for section, command in (("campaign", "simulate"), ("training", "train")):
            if isinstance(document.data, dict) and section in document.data:
                what = f"is no import file; for this one there is 'hpctem {command}'"
        raise ConfigError(f"{path} {what}")
    return ImportFile(document.text, check_sections(document, ImportConfig))


def find_file(folder: Path, pattern: str, key: str) -> Path:
    """The one file of a folder that a name or pattern means.

    key   of the import file, for messages

    Raises ConfigError that names what is there when none fits or several do.
    """
    found = find_files(folder, pattern, key)
    if len(found) > 1:
        raise ConfigError(
            f"{key}: {pattern!r} means {len(found)} files of {folder}, {_list(folder, found)}: "
            "write the name of one"
        )
    return found[0]


def find_files(folder: Path, pattern: str, key: str) -> list[Path]:
    """All files of a folder that a name or pattern means, by name.

    Raises ConfigError that names what is there when there is none.
    """
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ConfigError(
            f"{key}: {pattern!r} leads out of the folder of the set: write it relative to it"
        )
    try:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
    except ValueError as error:
        raise ConfigError(f"{key}: {pattern!r} is no pattern of file names: {error}") from None
    if found:
        return found
    held = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [str(path.relative_to(folder)) for path in held]
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
    files = [folder / name for name in near] or held
    there = f"it holds {_list(folder, files)}" if files else "it holds no file"
    more = f" and {len(held) - len(near)} more" if near and len(held) > len(near) else ""
    raise ConfigError(f"{key}: {folder} has no file {pattern!r}; {there}{more}")


def digest_file(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, in hexadecimal."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            state.update(piece)
    return state.hexdigest()


def _list(folder: Path, files: list[Path]) -> str:
    names = [str(path.relative_to(folder)) for path in files[:MOST_NAMED]]
    rest = len(files) - len(names)
    return ", ".join(names) + (f" and {rest} more" if rest else "")
