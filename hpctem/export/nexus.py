"""A standalone HDF5 file laid out as the databases are, every column with one value per image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpctem.export.plan import Choice, Form, Shard, make_keys
from hpctem.export.stacks import (
    describe_map,
    list_axes,
    write_columns,
    write_stack,
    write_values,
)
from hpctem.parallel import Communicator
from hpctem.tables import IMAGES


def write_nexus(
    path: Path,
    shard: Shard,
    form: Form,
    choice: Choice,
    texts: Mapping[str, str],
    communicator: Communicator,
) -> None:
    """The file of one shard; all ranks call it. `texts` are stored under /entry/campaign.

    Images, labels, detectors and columns have the paths of a database; a structure's columns are
    repeated for each of its images, so all datasets have as many rows as there are images.
    """

    def describe(file: h5py.File) -> None:
        groups = {"images": "/entry/metadata", "structures": "/entry/structures"}
        write_columns(file, shard, groups)
        keys = np.array(make_keys(shard.part, form, shard.start, shard.stop))
        write_values(file, "/entry/metadata/key", keys, {"description": "name in the export"})
        for name, text in texts.items():
            write_values(file, f"/entry/campaign/{name}", np.array(text), {})
        write_values(file, "/entry/definition", np.array("NXem"), {})
        _describe_stack(file, IMAGES, shard, form, "images as exported")
        file[IMAGES].attrs["view"] = _tell_view(shard, form)
        for label in form.labels[:1]:
            _describe_stack(file, label.path, shard, form, label.description)
        for each in form.maps:
            for name, value in describe_map(each).items():
                file[each.path].attrs[name] = value
        _describe_groups(file)

    datasets = (IMAGES, *(each.path for each in form.maps))
    write_stack(path, shard, form, choice.compress, datasets, describe, communicator)


def _describe_stack(file: h5py.File, path: str, shard: Shard, form: Form, meaning: str) -> None:
    """NXdata: the signal and its axes, in angstrom where all pixels have the same size."""
    group, signal = path.rsplit("/", 1)
    file[path].attrs["description"] = meaning
    file[path].attrs["interpretation"] = "image"
    axes = list_axes(shard, form, file[path].shape)
    attributes: dict[str, Any] = {"NX_class": "NXdata", "signal": signal}
    attributes["axes"] = [name for name, *_ in axes]
    for place, (name, values, measured) in enumerate(axes):
        write_values(file, f"{group}/{name}", values, {"units": "angstrom" if measured else ""})
        attributes[f"{name}_indices"] = place
    for name, value in attributes.items():
        file[group].attrs[name] = value


def _tell_view(shard: Shard, form: Form) -> str:
    """How the images are to be looked at, as the attribute of a database says it."""
    databases = shard.part.collection.databases
    left = {form.left[str(d.path)] for d in databases if str(d.path) in form.left}
    return left.pop() if len(left) == 1 else "different: see the column 'campaign'"


def _describe_groups(file: h5py.File) -> None:
    classes = {"/": "NXroot", "/entry": "NXentry"}
    paths = ["/", "/entry", "/entry/metadata", "/entry/structures", "/entry/campaign"]
    if "/entry/detectors" in file:
        paths.append("/entry/detectors")
    for path in paths:
        group = file.require_group(path)
        group.attrs["NX_class"] = classes.get(path, "NXcollection")
    file.attrs["default"] = "entry"
    file["/entry"].attrs["default"] = "images"
