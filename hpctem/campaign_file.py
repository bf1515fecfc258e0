"""The campaign file as read: its text, its checked config, and the files that it names."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpctem.config import Config, check_config, check_stages, resolved
from hpctem.database.reader import Database
from hpctem.errors import ConfigError, DatabaseError
from hpctem.inputs import list_files
from hpctem.marked_yaml import MarkedYaml, parse_yaml, read_yaml


@dataclass(frozen=True)
class CampaignFile:
    """A campaign as read: its text, its config, and the files it names.

    `inputs` maps each key that names a file to the file's name, BLAKE2b-128 and text; in `config`
    that key holds the file's path on this machine.
    """

    text: str
    config: Config
    inputs: Mapping[str, Mapping[str, str]]

    @cached_property
    def description(self) -> dict[str, str]:
        """Every key of the resolved config with its value; files by their content."""
        values = dict(flatten_keys(resolved(self.config)))
        for key in self.inputs:  # of a list of files its places stand for themselves
            values.pop(key.rpartition(".")[0], None)
        return values | {key: f"{f['name']} {f['digest']}" for key, f in self.inputs.items()}

    @cached_property
    def hash(self) -> str:
        """BLAKE2b-128 of the description, in hexadecimal."""
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def flatten_keys(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every key of nested sections, as 'section.key', with its value as JSON."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten_keys(item, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value)


def read_campaign(path: str | Path, limit: int | None = None) -> CampaignFile:
    """Read a campaign file and the files it names; `limit` keeps its first structures only.

    Raises ConfigError that points at the line, or names the file that cannot be read.
    """
    path = Path(path)
    document = read_yaml(path)
    config = check_config(document)
    check_stages(document)
    inputs, located = {}, {}
    for place, name, keep in list_files(document):
        file = path.parent / name
        key = ".".join(map(str, place))
        try:
            file.open("rb").close()
            text = keep(file, config)
        except OSError as error:
            reason = f"{file} cannot be read: {error.strerror}"
            raise ConfigError(document.error(place, reason)) from None
        except ConfigError as error:
            raise ConfigError(document.error(place, str(error))) from None
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        inputs[key] = {"name": file.name, "digest": digest, "text": text}
        located[key] = str(file.resolve())
    return CampaignFile(document.text, _locate(document, located, limit), inputs)


def require_campaign(database: Database) -> None:
    """Raise DatabaseError where the images are an imported set, of which no campaign is known."""
    if "import" in database.campaign:
        raise DatabaseError(
            f"{database.path} was imported: no campaign tells how its images were made, so that "
            "there is nothing to report and there are no atoms; 'hpctem info' and 'hpctem show' "
            "say what it holds"
        )


@contextmanager
def reopen_campaign(database: Database) -> Iterator[CampaignFile]:
    """The campaign of a database, its input files put into a temporary folder while in use.

    Raises DatabaseError as `require_campaign` does.
    """
    require_campaign(database)
    texts = database.campaign
    document = parse_yaml(texts["config"], f"{database.path}:/entry/campaign/config")
    inputs = json.loads(texts["inputs"])
    with tempfile.TemporaryDirectory(prefix="hpctem-") as folder:
        located = {}
        for number, (key, file) in enumerate(inputs.items()):
            copy = Path(folder, str(number), file["name"])
            copy.parent.mkdir()
            copy.write_text(file["text"], encoding="utf-8")
            located[key] = str(copy)
        yield CampaignFile(texts["config"], _locate(document, located, None), inputs)


def _locate(document: MarkedYaml, located: Mapping[str, str], limit: int | None) -> Config:
    for key, path in located.items():
        *parents, last = key.split(".")
        section = document.data
        for part in parents:
            section = section[part]
        if isinstance(section, list):
            section[int(last)] = path
        else:
            section[last] = path
    config = check_config(document)
    return config if limit is None else limit_structures(config, limit)


def limit_structures(config: Config, most: int) -> Config:
    """The config with at most so many structures."""
    structures = min(most, config.campaign.structures)
    campaign = config.campaign.model_copy(update={"structures": structures})
    return config.model_copy(update={"campaign": campaign})
