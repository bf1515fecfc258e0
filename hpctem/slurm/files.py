"""The campaign folder: its files as submitted, with paths that lead to the same files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError
from hpctem.inputs import list_files
from hpctem.marked_yaml import MarkedYaml, parse_yaml, read_yaml
from hpctem.sections.common import nearest
from hpctem.sections.stages import Train
from hpctem.slurm.chain import Argument, Inside, Job, Network, Share

SCRIPTS, LOGS, STATE = "scripts", "logs", "state"
CHAIN, JOBS = "chain.json", "jobs.json"
# There while jobs are submitted.
CLAIM = "submitting"
FORMAT = "hpctem-chain-1"
KINDS = ("segmentation", "defects", "cyclegan")


def replace_scalars(document: MarkedYaml, values: Mapping[tuple[str | int, ...], str]) -> str:
    """The text of a document with other texts at some places; all else stays as it was written."""
    spans = []
    node: Any
    for path, value in values.items():
        node = yaml.compose(document.text, Loader=yaml.SafeLoader)
        for part in path:
            if isinstance(part, int):
                node = node.value[part]
            else:
                node = next(below for key, below in node.value if key.value == part)
        spans.append((node.start_mark.index, node.end_mark.index, value))
    text = document.text
    for start, end, value in sorted(spans, reverse=True):
        text = text[:start] + json.dumps(value, ensure_ascii=False) + text[end:]
    return text


def move_campaign(path: Path) -> str:
    """The text of a campaign file whose files are named by absolute paths."""
    document = read_yaml(path)
    folder = path.parent.resolve()
    return replace_scalars(
        document, {place: str(folder / name) for place, name, _ in list_files(document)}
    )


def read_network(
    stage: str, wanted: Train, document: MarkedYaml, databases: tuple[str, ...], subset: str | None
) -> tuple[Network, str]:
    """What a stage trains, and the text of its training file with the images of the chain.

    databases   of the chain that it learns from
    subset      subset file of the chain, instead of a condition of the training file

    Raises ConfigError where there is no training file, or it has mistakes.
    """
    from hpctem.learning.training_file import read_training

    if wanted.file is None:
        raise ConfigError(
            document.error(("stages", stage), f"'file' is needed: the training file of {stage}")
        )
    path = Path(document.name).parent / wanted.file
    if not path.is_file():
        there = [other.name for other in path.parent.glob("*.yaml")]
        hint = nearest(path.name, there)
        place = ("stages", stage, "file")
        raise ConfigError(document.error(place, f"there is no training file {path}{hint}"))
    training = read_yaml(path)
    section = training.data.get("training") if isinstance(training.data, dict) else None
    kind = section.get("kind") if isinstance(section, dict) else None
    file = read_training(path, kind if kind in KINDS else "segmentation")
    data = dict(training.data)
    source = "simulation" if kind == "cyclegan" else "data"
    images = {k: v for k, v in data.get(source, {}).items() if k not in ("databases", "subset")}
    if subset is not None:
        images.pop("where", None)
        images["subset"] = subset
    else:
        images["databases"] = list(databases)
    data[source] = images
    if kind == "cyclegan":
        names = data["experiment"]["images"]
        absolute = [str(file.locate(name).resolve()) for name in names]
        data["experiment"] = {**data["experiment"], "images": absolute}
    head = f"# {path.resolve()}\n# for this chain: the images are those that it makes.\n"
    holds_out = subset is not None or bool(getattr(file.config, source).validation)
    name = file.config.training.name
    network = Network(f"{stage}.yaml", file.config.training.kind, name, holds_out)
    text = head + yaml.dump(data, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=10**6)
    read_again(text, network)
    return network, text


def read_again(text: str, network: Network) -> None:
    """Check the training file as written: what is wrong with it must not cost a night's queue."""
    from hpctem.config import check_sections
    from hpctem.learning.training_file import MODELS

    check_sections(parse_yaml(text, network.file), MODELS[network.kind])


class _Plain(yaml.SafeDumper):
    """Writes YAML that `parse_yaml` reads as the same data."""


def _write_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    read = parse_yaml(f"- {value}") if value and "\n" not in value and value.isprintable() else None
    same = read is not None and read.data == [value]
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, None if same else '"')


def write_chain(folder: Path, content: Mapping[str, Any]) -> None:
    """Write chain.json: what was rendered, for status and resubmit."""
    write_json(folder / CHAIN, {"format": FORMAT, **content})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small file of JSON whole."""
    write_durably(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_chain(folder: Path) -> dict[str, Any]:
    """What `write_chain` wrote, its jobs rebuilt; ConfigError for a folder without."""
    path = folder / CHAIN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        content["jobs"] = tuple(_rebuild(job) for job in content["jobs"])
        return content
    except FileNotFoundError:
        what = "is no folder" if not folder.is_dir() else f"holds no {CHAIN}"
        raise ConfigError(
            f"{folder} {what}: name the folder that 'hpctem submit' has made"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path} is damaged, or of another version: submit again") from error


def describe_job(job: Job) -> dict[str, Any]:
    """A job as plain data."""

    def plain(words: Sequence[Argument]) -> list[Any]:
        return [{"inside": w.name} if isinstance(w, Inside) else w for w in words]

    return asdict(job) | {"arguments": plain(job.arguments), "drawn": plain(job.drawn)}


def _rebuild(plain: Mapping[str, Any]) -> Job:
    def words(key: str) -> tuple[Argument, ...]:
        return tuple(Inside(w["inside"]) if isinstance(w, dict) else str(w) for w in plain[key])

    return Job(
        int(plain["number"]),
        str(plain["stage"]),
        Share(**plain["share"]),
        int(plain["volumes"]),
        words("arguments"),
        str(plain["watch"]),
        tuple(plain["outputs"]),
        words("drawn"),
    )


_Plain.add_representer(str, _write_text)
