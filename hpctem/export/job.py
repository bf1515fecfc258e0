"""An export from beginning to end: plan, write at all ranks, describe, put it in its place.

Everything is written into TARGET.exporting, which becomes TARGET when it is whole. What an
interrupted export left there is removed by the next one, which begins anew. A file named lock marks
that folder as ours from its first moment to its last.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hpctem.database.create import gib, sync_folder
from hpctem.database.lock import hold_lock
from hpctem.errors import ConfigError
from hpctem.export.croissant import About
from hpctem.export.description import (
    CAMPAIGNS,
    FORMAT,
    REQUEST,
    describe_request,
    tell_campaigns,
    write_descriptions,
)
from hpctem.export.emd import write_emd
from hpctem.export.files import Written, check_room, name_failures, open_new, read_back
from hpctem.export.metadata import IMAGES, image_path, map_folder
from hpctem.export.nexus import write_nexus
from hpctem.export.plan import (
    FORMATS,
    Choice,
    Form,
    Part,
    Shard,
    count_cut,
    plan_form,
    plan_shards,
)
from hpctem.export.rasters import write_png, write_tiff
from hpctem.export.records import Record, read_records
from hpctem.export.tfrecord import write_tfrecord
from hpctem.export.webdataset import write_webdataset
from hpctem.parallel import Communicator, share_cyclically

# TIFF and PNG files are shared among the ranks in groups of so many.
FILES_AT_ONCE = 64
# What hold_lock makes in the folder, and what the first rank that fails leaves there.
LOCKS = ("lock", "lock.owner", "lock.failed")
STACKS = {"hdf5": write_nexus, "emd": write_emd}
STREAMS = {"tfrecord": write_tfrecord, "webdataset": write_webdataset}


@dataclass(frozen=True)
class Summary:
    """What an export holds.

    images   number of images of each part
    files    number of files, tables and descriptions included
    size     bytes of all files
    present  the same export was there already, nothing was written
    scale    (low, high) that became 0 and 65535, None where values are as stored
    labels   names of the labels that were exported
    left_out names of those that were not
    detectors       names of the further detectors that were exported
    left_detectors  names of those that were not
    cut      number of images with stored pixels outside of the scale, which were cut
    """

    images: Mapping[str, int]
    files: int
    size: int
    present: bool
    scale: tuple[float, float] | None
    labels: tuple[str, ...]
    left_out: tuple[str, ...]
    detectors: tuple[str, ...]
    left_detectors: tuple[str, ...]
    cut: int


@dataclass(frozen=True)
class _Plan:
    form: Form
    request: str
    present: bool


def export(
    parts: Sequence[Part],
    target: str | Path,
    choice: Choice,
    about: About | None = None,
    origin: Mapping[str, Any] | None = None,
    communicator: Communicator | None = None,
) -> Summary:
    """Write parts of databases as files of another format into the new folder `target`.

    All ranks call it with the same parts; the bytes of every file are the same at any number.
    `origin` is kept in export.json, it says how the rows were chosen. Where `target` is this very
    export already, nothing is done.

    Raises ConfigError when the target is something else, for an empty part and for what the format
    cannot hold, MachineError when the disk is full or fails; nothing stays under the target's name.
    """
    communicator = communicator or Communicator()
    target, about = Path(os.path.abspath(target)), about or About()
    shown = communicator.on_root(lambda: _plan(parts, target, choice, about, origin or {}))
    form = shown.form
    shards = plan_shards(parts, choice, form)
    if not shown.present:
        working = target.with_name(target.name + ".exporting")
        with ExitStack() as stack, name_failures(target):
            if communicator.rank == 0:
                stack.enter_context(_hold(working))
                _make_folders(working, shards, choice, form)
            communicator.barrier()
            stack.enter_context(_remove_on_failure(working, communicator))
            mine = _write_images(working, shards, choice, form, communicator)
            gathered = communicator.gather(mine)
            if gathered is not None:
                written = sorted((w for part in gathered for w in part), key=lambda w: w.path)
                write_descriptions(working, shards, choice, form, about, shown.request, written)
            if communicator.local_rank == 0:
                os.sync()
            communicator.barrier()
            if communicator.rank == 0:
                os.rename(working, target)
                for name in LOCKS:
                    (target / name).unlink(missing_ok=True)
                sync_folder(target.parent)
    return communicator.on_root(lambda: _summarize(parts, target, form, shown.present))


def _plan(
    parts: Sequence[Part], target: Path, choice: Choice, about: About, origin: Mapping[str, Any]
) -> _Plan:
    form = plan_form(parts, choice)
    request = describe_request(parts, choice, form, about, origin)
    empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if empty and target.samefile(Path()):
        raise ConfigError(f"{target} is the folder you are in: name a new one in it with -o")
    if empty or not (target.exists() or target.is_symlink()):
        with name_failures(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if choice.compress == "none" and form.shape is not None:
                total = sum(len(part.collection) for part in parts)
                check_room(target.parent, total * form.pixel_bytes * int(np.prod(form.shape)))
        return _Plan(form, request, False)
    try:
        found = (target / REQUEST).read_text()
    except (OSError, UnicodeDecodeError):
        found = ""
    if found == request:
        return _Plan(form, request, True)
    what = "holds another export" if FORMAT in found else "exists and is no export of hpctem"
    raise ConfigError(f"{target} {what}: name another folder with -o, or remove this one")


@contextmanager
def _hold(working: Path) -> Iterator[None]:
    """The folder to write in, empty but for the lock that keeps a second export out."""
    foreign = working.exists() and not (working / "lock").is_file()
    if foreign and not (working.is_dir() and not any(working.iterdir())):
        raise ConfigError(f"{working} is in the way, and hpctem did not make it: remove it")
    working.mkdir(exist_ok=True)
    with hold_lock(working):
        for path in working.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in LOCKS[:2]:
                path.unlink()
        yield


@contextmanager
def _remove_on_failure(working: Path, communicator: Communicator) -> Iterator[None]:
    """Remove what was written, once: the first rank that fails does it and tells why.

    The others fail because their files are gone; they wait for the abort instead of telling that.
    The lock goes last, so that what a kill leaves of it is known as ours.
    """
    try:
        yield
    except BaseException:
        if communicator.size > 1 and not _fails_first(working):
            time.sleep(60)
        for path in working.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in LOCKS:
                path.unlink(missing_ok=True)
        shutil.rmtree(working, ignore_errors=True)
        raise


def _fails_first(working: Path) -> bool:
    try:
        os.close(os.open(working / "lock.failed", os.O_CREAT | os.O_EXCL))
    except (FileExistsError, FileNotFoundError):
        return False
    except OSError:  # no room for the file: better told twice than not at all
        pass
    return True


def _make_folders(working: Path, shards: Sequence[Shard], choice: Choice, form: Form) -> None:
    """All folders, by one rank and before any file: no rank makes one that another has removed."""
    kinds = [IMAGES, *map(map_folder, form.maps)]
    folders = {image_path(shard, "", choice, kind).parent for shard in shards for kind in kinds}
    for folder in sorted({*folders, PurePosixPath(CAMPAIGNS)}):
        (working / folder).mkdir(parents=True, exist_ok=True)


def _write_images(
    folder: Path, shards: Sequence[Shard], choice: Choice, form: Form, communicator: Communicator
) -> list[Written]:
    """Write this rank's share of the images; returns the files it wrote."""
    kind = FORMATS[choice.format].kind
    if kind == "stack":
        return _write_stacks(folder, shards, choice, form, communicator)
    written: list[Written] = []
    if kind == "shard":
        for shard in share_cyclically(shards, communicator):
            records = read_records(shard.part, shard.start, shard.stop, form)
            with open_new(folder / shard.path, choice.compress == "gzip") as stream:
                STREAMS[choice.format](stream, records)
            written.append(read_back(folder, shard.path, image=True))
        return written
    for group in share_cyclically(list(_cut(shards, FILES_AT_ONCE)), communicator):
        for record in read_records(group.part, group.start, group.stop, form):
            written += _write_files(folder, group, record, choice, form)
    return written


def _write_stacks(
    folder: Path, shards: Sequence[Shard], choice: Choice, form: Form, communicator: Communicator
) -> list[Written]:
    written = []
    for shard in shards:
        texts = tell_campaigns(shard.part, form)
        STACKS[choice.format](folder / shard.path, shard, form, choice, texts, communicator)
        if communicator.rank == 0:
            written.append(read_back(folder, shard.path, image=True))
    return written


def _cut(shards: Sequence[Shard], length: int) -> Iterator[Shard]:
    for shard in shards:
        for start in range(shard.start, shard.stop, length):
            yield replace(shard, start=start, stop=min(start + length, shard.stop))


def _write_files(
    folder: Path, shard: Shard, record: Record, choice: Choice, form: Form
) -> list[Written]:
    """The image and what goes with it as files of the same name in folders of their own."""
    height, width = record.steps
    notes = {"key": record.key, "pixel_size": f"{width:.10g} x {height:.10g} angstrom"}
    scaled = {} if form.scale is None else {"stored_range": "{:.10g} {:.10g}".format(*form.scale)}
    pixels = {IMAGES: (record.image, notes | scaled)}
    pixels |= {map_folder(each): (values, notes) for each, values in record.maps.items()}
    written = []
    for inner, (image, told) in pixels.items():
        path = image_path(shard, record.key, choice, inner)
        with open_new(folder / path) as stream:
            if choice.format == "png":
                write_png(stream, image, told)
            else:
                write_tiff(stream, image, record.steps, told, choice.compress == "gzip")
        written.append(read_back(folder, path, image=True))
    return written


def _summarize(parts: Sequence[Part], target: Path, form: Form, present: bool) -> Summary:
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    images = {part.name: len(part.collection) for part in parts}
    return Summary(
        images=images,
        files=len(sizes),
        size=sum(sizes),
        present=present,
        scale=form.scale,
        labels=tuple(label.name for label in form.labels),
        left_out=form.left_out,
        detectors=tuple(each.name for each in form.detectors),
        left_detectors=form.left_detectors,
        cut=count_cut(parts, form),
    )


def format_summary(target: Path, kind: str, found: Summary) -> str:
    """What was exported, for people."""
    if found.present:
        return f"{target}: the same export is there already, nothing was written"
    images = ", ".join(f"{count} {name or 'images'}" for name, count in found.images.items())
    lines = [f"{target}: {images} as {kind}, {found.files} files, {gib(found.size)}"]
    if found.scale is not None:
        low, high = found.scale
        lines.append(f"{low:.10g} became 0 and {high:.10g} became 65535, in all images")
    if found.cut:
        lines.append(f"{found.cut} images have pixels outside of this range, which were cut")
    if len(found.labels) > 1:
        lines.append(f"labels: {', '.join(found.labels)}")
    if not found.labels:
        why = f"left out: {', '.join(found.left_out)}" if found.left_out else "there are none"
        lines.append(f"without labels; {why}")
    elif found.left_out:
        lines.append(f"left out: the labels {', '.join(found.left_out)}")
    if found.detectors:
        lines.append(f"further detectors: {', '.join(found.detectors)}")
    if found.left_detectors:
        lines.append(f"left out: the further detectors {', '.join(found.left_detectors)}")
    return "\n".join(lines)
