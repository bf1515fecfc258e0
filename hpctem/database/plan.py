"""The plan of a database as text: its layout, and what must not change between two runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

import hpctem
from hpctem.database.schema import Axis, Field, Layout, Stack

FORMAT = "hpctem-1"


def describe(layout: Layout) -> dict[str, Any]:
    """The layout without its campaign texts, as lists, dicts, numbers and texts for JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.dtype):
            return value.str
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if isinstance(value, Field | Axis | Stack):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return value

    names = [f.name for f in fields(layout) if f.name != "campaign"]
    return {name: plain(getattr(layout, name)) for name in names}


def rebuild(described: Mapping[str, Any], campaign: Mapping[str, str]) -> Layout:
    """The layout that `describe` described, with the campaign texts read from the file."""
    rest = dict(described)
    rest["fields"] = tuple(
        Field(**{**f, "dtype": np.dtype(f["dtype"]), "shape": tuple(f["shape"])})
        for f in rest["fields"]
    )
    rest["stacks"] = tuple(
        Stack(**{**s, "axes": tuple(Axis(**a) for a in s["axes"])}) for s in rest["stacks"]
    )
    return Layout(campaign=dict(campaign), **rest)


def identify_code(files: Iterable[Path]) -> str:
    """The version of hpctem and a digest of the modules that decide the bytes of the rows."""
    state = hashlib.blake2b(digest_size=8)
    for file in sorted(files):
        state.update(file.read_bytes())
    return f"{hpctem.__version__} {state.hexdigest()}"


def write_plan(layout: Layout, identity: Mapping[str, str]) -> str:
    """The plan as JSON text: format, layout, and what must not change between two runs (identity).

    The campaign texts enter as digests, so that a database begun with another config differs.
    """
    plan = {
        "format": FORMAT,
        "identity": {str(key): str(value) for key, value in identity.items()},
        "texts": {name: digest_text(text) for name, text in layout.campaign.items()},
        "layout": describe(layout),
    }
    return json.dumps(plan, sort_keys=True, ensure_ascii=False)


def digest_text(text: str) -> str:
    """BLAKE2b-128 of a text of the campaign, in hexadecimal."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def plan_key(plan: str) -> bytes:
    """32 bytes that identify a plan; journal records are checksummed with it as key."""
    return hashlib.blake2b(plan.encode(), digest_size=32).digest()


def compare_plans(stored: str, wanted: str, most: int = 20) -> list[str]:
    """Lines 'name: old value then, new value now' for everything in which two plans differ."""

    def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from flat(item, f"{name}.{key}" if name else key)
        elif name == "layout.fields":
            for item in value:
                yield from flat({k: str(v) for k, v in item.items()}, item["path"])
        else:
            yield name, value

    old, new = dict(flat(json.loads(stored), "")), dict(flat(json.loads(wanted), ""))
    # Digests of texts tell people nothing where a key of the config tells them all.
    if any(old.get(n) != new.get(n) for n in set(old) | set(new) if not n.startswith("texts.")):
        old, new = ({n: v for n, v in d.items() if not n.startswith("texts.")} for d in (old, new))
    lines = []
    for name in sorted(set(old) | set(new), key=lambda n: (not n.startswith("identity"), n)):
        if old.get(name) != new.get(name):
            then, now = old.get(name, "absent"), new.get(name, "absent")
            lines.append(f"{name.removeprefix('identity.')}: {then!s:.120} then, {now!s:.120} now")
    return [*lines[:most], f"... and {len(lines) - most} more"] if len(lines) > most else lines
