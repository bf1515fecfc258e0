"""What an export says of itself: tables, campaign files, digests, Croissant, its request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import hpctem
from hpctem.collection.collection import Collection
from hpctem.export.croissant import SUMS, About, describe_dataset
from hpctem.export.files import Written, open_new, read_back
from hpctem.export.maps import Map
from hpctem.export.metadata import write_metadata
from hpctem.export.plan import Choice, Form, Part, Shard, describe_scale
from hpctem.export.stacks import describe_map

REQUEST, CROISSANT, CAMPAIGNS = "export.json", "croissant.json", "campaigns"
FORMAT = "hpctem export 1"
TECHNIQUES = {"hrtem": "high-resolution TEM", "stem": "scanning TEM"}


def write_descriptions(
    folder: Path,
    shards: Sequence[Shard],
    choice: Choice,
    form: Form,
    about: About,
    request: str,
    written: list[Written],
) -> None:
    """Tables, campaign files, export.json, SHA256SUMS and croissant.json; rank 0 only."""
    names = [*write_metadata(folder, shards, choice, form), REQUEST]
    (folder / REQUEST).write_text(request)
    for part in {shard.part.name: shard.part for shard in shards}.values():
        for name, text in _tell_configs(part, form).items():
            path = f"{CAMPAIGNS}/{name}.yaml"
            with open_new(folder / path) as stream:
                stream.write(text.encode())
            names += [path] if path not in names else []
    written = [*written, *(read_back(folder, PurePosixPath(name)) for name in names)]
    sums = "".join(f"{item.sha256}  {item.path}\n" for item in written)
    (folder / SUMS).write_text(sums)
    written.append(read_back(folder, PurePosixPath(SUMS)))
    collection = shards[0].part.collection
    total = sum(len(shard) for shard in shards)
    used = [form.names[path] for path in form.views]
    maps = ", ".join(label.name for label in form.labels)
    labels = f"labels ({maps})" if len(form.labels) > 1 else "labels"
    detectors = ", ".join(each.name for each in form.detectors)
    held = [labels] * bool(form.labels) + [f"detectors ({detectors})"] * bool(detectors)
    beside = " and ".join([*held, "metadata"])
    dataset = describe_dataset(
        name=f"hpctem-{'-'.join(used)}",
        description=(
            f"{total} simulated {_name_technique(collection)} images of the campaigns "
            f"{', '.join(used)} with {beside}, exported as {choice.format} "
            f"by hpctem {hpctem.__version__}"
        ),
        about=replace(about, published=about.published or _date_of(shards)),
        choice=choice,
        form=form,
        collection=collection,
        written=written,
    )
    (folder / CROISSANT).write_text(json.dumps(dataset, indent=1, ensure_ascii=False) + "\n")


def describe_request(
    parts: Sequence[Part], choice: Choice, form: Form, about: About, origin: Mapping[str, Any]
) -> str:
    """JSON of what fixes every byte of the export: the options, the databases and the rows."""
    databases = {str(d.path): d for part in parts for d in part.collection.databases}
    request = {
        "format": FORMAT,
        "hpctem_version": hpctem.__version__,
        "choice": asdict(choice),
        "about": asdict(about),
        "origin": dict(origin),
        "pixels": {
            "dtype": form.dtype.name,
            "shape": form.shape,
            "scale": describe_scale(form),
            "labels": [_tell_map(label) for label in form.labels],
            "detectors": [_tell_map(each) for each in form.detectors],
        },
        "databases": [
            {
                "name": form.names[path],
                "file": database.path.name,
                "campaign": database.name,
                "config_hash": database.campaign.get("config_hash", ""),
                "plan": database.key.hex(),
                "view_applied": form.views[path],
                "view_left": form.left[path],
            }
            for path, database in databases.items()
            if path in form.views
        ],
        "parts": [
            {
                "name": part.name,
                "images": len(part.collection),
                "digest": _digest_rows(part, form),
            }
            for part in parts
        ],
    }
    return json.dumps(request, indent=1, sort_keys=True)


def _tell_map(each: Map) -> dict[str, Any]:
    """Name, type and meaning of a label or detector."""
    segments = {"segments": each.segments[0]} if each.segments else {}
    return {"name": each.name, "dtype": each.dtype.name, **segments, **describe_map(each)}


def _name_technique(collection: Collection) -> str:
    """What took the images, in words."""
    told = {"campaign.technique": '"hrtem"'}  # where a database does not say
    found = []
    for database in collection.databases:
        texts = told | json.loads(database.campaign.get("resolved_config", "{}"))
        found.append(TECHNIQUES[json.loads(texts["campaign.technique"])])
    return " and ".join(dict.fromkeys(found))


def _digest_rows(part: Part, form: Form) -> str:
    """BLAKE2b-128 of the plans and rows of a part, in their order."""
    collection = part.collection
    digest = hashlib.blake2b(digest_size=16)
    for database in collection.databases:
        digest.update(database.key)
    digest.update(collection.sources.astype("<u2").tobytes())
    digest.update(collection.rows.astype("<i8").tobytes())
    return digest.hexdigest()


def _tell_configs(part: Part, form: Form) -> dict[str, str]:
    """Name of a database -> its campaign file."""
    found = {str(database.path): database for database in part.collection.databases}
    return {
        name: found[path].campaign["config"]
        for path, name in form.names.items()
        if path in found and path in form.views and "config" in found[path].campaign
    }


def tell_campaigns(part: Part, form: Form) -> dict[str, str]:
    """The texts that a file of many images carries: each campaign file, and the hpctem version."""
    return {"hpctem_version": hpctem.__version__} | _tell_configs(part, form)


def _date_of(shards: Sequence[Shard]) -> str:
    """The day on which the newest of the databases was last written, so that it is reproducible."""
    times = [d.path.stat().st_mtime for s in shards for d in s.part.collection.databases]
    return datetime.fromtimestamp(max(times), UTC).date().isoformat()
