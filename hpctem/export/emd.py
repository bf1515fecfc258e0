"""EMD 0.2, the Berkeley (NCEM) layout: a group of data with one calibrated dim for each axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py

from hpctem.export.plan import Choice, Form, Shard
from hpctem.export.stacks import (
    describe_map,
    list_axes,
    write_columns,
    write_stack,
    write_values,
)
from hpctem.parallel import Communicator

IMAGES = "/data/images/data"


def write_emd(
    path: Path,
    shard: Shard,
    form: Form,
    choice: Choice,
    texts: Mapping[str, str],
    communicator: Communicator,
) -> None:
    """The file of one shard; all ranks call it. `texts` become attributes of /comments.

    dim1 counts the images, the last two are y and x, in nm where all pixels have the same size; of
    a detector with segments dim2 counts these. The only label is /data/labels, else each is
    /data/labels_NAME, a further detector /data/detectors_NAME. Columns are datasets of /metadata,
    one value for each image.
    """

    places = {each: f"/data/{each.spell('_', many=True)}/data" for each in form.maps}
    datasets = (IMAGES, *places.values())

    def describe(file: h5py.File) -> None:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        for name in datasets:
            group = file[name].parent
            group.attrs["emd_group_type"] = 1
            axes = list_axes(shard, form, file[name].shape)
            for number, (axis, values, measured) in enumerate(axes, 1):
                values = values / 10 if measured else values
                attributes = {"name": axis, "units": "[n_m]" if measured else ""}
                write_values(file, f"{group.name}/dim{number}", values, attributes)
        for each, path in places.items():
            for name, value in describe_map(each).items():
                file[path].attrs[name] = value
        write_columns(file, shard, {"images": "/metadata", "structures": "/metadata/structures"})
        for group_name in ("microscope", "sample", "user", "comments"):
            file.require_group(group_name)
        for name, text in texts.items():
            _attach(file["comments"], name, text)

    write_stack(path, shard, form, choice.compress, datasets, describe, communicator)


def _attach(group: h5py.Group, name: str, text: str) -> None:
    """A text attribute; what is too long for one (64 KiB) is cut at a line."""
    raw = text.encode()
    if len(raw) > 60_000:
        text = raw[:60_000].decode("utf-8", "ignore").rpartition("\n")[0]
    group.attrs[name] = text
