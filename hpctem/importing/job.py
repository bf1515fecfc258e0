"""Bring a downloaded set into a database: looked at, laid out, filled by the machinery of simulate.

The database does not depend on the number of ranks, resumes after any death, and holds the import
file and the digests of all files that it was made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hpctem
from hpctem.database.plan import identify_code
from hpctem.database.schema import Layout
from hpctem.database.segment import StructureRows, quarantine
from hpctem.errors import ConfigError, SampleError
from hpctem.importing.folders import open_folders
from hpctem.importing.import_file import ImportFile, digest_file
from hpctem.importing.pictures import Pictures
from hpctem.importing.stacks import open_stack
from hpctem.importing.tables import Form, list_defects, make_rows, plan_layout

# The modules that decide the rows, beside those of this package.
DECIDING = ("learning/prediction/positions", "micrographs/read", "tables")


@dataclass(frozen=True)
class Looked:
    """What all labels of a set hold.

    marked  for each map the share of all pixels that it marks
    most    defects of the image with the most of them; 0 where none are listed
    """

    marked: tuple[float, ...]
    most: int


@dataclass(frozen=True)
class Job:
    """An import as planned: what is filled, what must not change, what fills it."""

    layout: Layout
    identity: Mapping[str, str]
    compute: ComputeRows


@dataclass(frozen=True)
class ComputeRows:
    """Number of an image of the set -> its rows; picklable."""

    pictures: Pictures
    form: Form

    def __call__(self, index: int) -> StructureRows:
        """Read an image and its labels; one that holds no finite numbers comes back quarantined."""
        name = self.pictures.name(index)
        try:
            return StructureRows(make_rows(self.form, name, self.pictures.read(index)))
        except SampleError as error:
            return quarantine(f"{name}: {error}", {"/entry/structures/source_file": [name]})


def plan_import(file: ImportFile, folder: Path) -> Job:
    """What makes a database of the set that an import file describes, in the folder with its files.

    Every file is read once, for its digest and for what labels mark.

    Raises ConfigError for files, datasets and labels that are missing or do not fit, for an unknown
    pixel size, for tiles larger than the images, and for a label map that marks nothing anywhere.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} {what}: name the folder that the set was downloaded to")
    config = file.config
    pictures: Pictures
    if config.stack is not None:
        pictures = open_stack(folder, config.stack)
    else:
        assert config.folders is not None  # of an import file one of the two is there
        pictures = open_folders(folder, config.folders)
        _require_pixel_size(file, pictures)
    positions = config.folders is not None and config.folders.positions
    section = config.set
    form = Form(
        pictures.shape, section.tile, pictures.maps, positions, pictures.counts, section.pixel_size
    )
    if not form.tiles:
        ny, nx = pictures.shape
        raise ConfigError(f"set.tile: {section.tile} px do not fit in images of {ny} x {nx} px")
    looked = look_through(pictures, form)
    empty = [name for name, share in zip(form.maps, looked.marked, strict=True) if share == 0]
    if empty:
        raise ConfigError(
            f"the labels of {empty[0]!r} mark no pixel in any of the {len(pictures)} images: the "
            "value, channel or threshold that the import file names is not that of the files"
        )
    digests = {str(path.relative_to(folder)): digest_file(path) for path in pictures.files}
    layout = plan_layout(
        form, config, len(pictures), looked.most, write_texts(file, pictures, digests)
    )
    return Job(layout, identify(file, digests), ComputeRows(pictures, form))


def look_through(pictures: Pictures, form: Form) -> Looked:
    """Read the labels of all images: what they mark, and how many defects an image has at most."""
    marked = np.zeros(len(form.maps))
    most = 0
    for index in range(len(pictures) if form.maps else 0):
        labels = pictures.read_labels(index)
        marked += labels.mean(axis=(1, 2), dtype=np.float64)
        if form.positions:
            size = form.pixel_size or pictures.find_size(index)
            most = max(most, len(list_defects(form, labels, size)))
    return Looked(tuple((marked / max(1, len(pictures))).tolist()), most)


def _require_pixel_size(file: ImportFile, pictures: Pictures) -> None:
    if file.config.set.pixel_size is not None:
        return
    unknown = [k for k in range(len(pictures)) if pictures.find_size(k) is None]
    if unknown:
        raise ConfigError(
            f"{pictures.files[unknown[0]]} does not say how large its pixels are: write "
            "set.pixel_size in the import file, as 'pixel_size: 20.7 pm'"
        )


def write_texts(file: ImportFile, pictures: Pictures, digests: Mapping[str, str]) -> dict[str, str]:
    """What the database keeps of where it is from: the import file, the digests of its files."""
    section = file.config.set
    resolved = file.description | {
        "campaign.name": json.dumps(section.name),
        "campaign.technique": json.dumps(section.technique),
        "campaign.structures": json.dumps(len(pictures)),
        "imaging.median": json.dumps(section.median),
    }
    imported = {
        "source": section.source,
        "licence": section.licence,
        "cite": section.cite,
        "files": dict(digests),
    }
    return {
        "config": file.text,
        "config_hash": file.hash,
        "resolved_config": json.dumps(resolved, sort_keys=True, indent=1),
        "inputs": "{}",
        "hpctem_version": hpctem.__version__,
        "import": json.dumps(imported, sort_keys=True, indent=1),
    }


def identify(file: ImportFile, digests: Mapping[str, str]) -> dict[str, str]:
    """Everything that may change the bytes of the rows: the import file, the files, the code."""
    config = {f"config.{key}": value for key, value in file.description.items()}
    root = Path(hpctem.__file__).parent
    modules = (root / f"{name}.py" for name in DECIDING)
    return {
        **config,
        **{f"config.files.{name}": digest for name, digest in digests.items()},
        "code": identify_code([*(root / "importing").glob("*.py"), *modules]),
        "numpy": np.__version__,
    }
