"""The files that a campaign names, as the texts that its database keeps.

A structure must be made again from the database alone, so every file goes into it: small ones as
they are, of a database of materials the selected rows, of a micrograph what is taken from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hpctem.config import Config, StemConfig
from hpctem.detection.film_images import extract_contamination, read_contamination
from hpctem.errors import ConfigError
from hpctem.marked_yaml import MarkedYaml
from hpctem.structures.materials import extract_materials
from hpctem.units import parse_quantity

Keep = Callable[[Path, Config], str]


def _keep_text(file: Path, config: Config) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(
            f"{file} is no text file, as the database keeps it; convert it to CIF or XYZ"
        ) from None


def _keep_materials(file: Path, config: Config) -> str:
    assert isinstance(config, StemConfig)
    return extract_materials(file, config.structure.material.filter)


def _keep_film(file: Path, config: Config) -> str:
    assert isinstance(config, StemConfig)
    contamination = config.imaging.contamination
    assert contamination is not None
    return read_film(file, contamination.shortest.support[0], contamination.pixel_size)


# Keys of the campaign file that name a file, or a list of files, and how each is kept.
INPUT_KEYS: dict[str, Keep] = {
    "structure.particles.crystal.file": _keep_text,
    "structure.substrate.tile": _keep_text,
    "structure.material.file": _keep_text,
    "structure.material.database": _keep_materials,
    "simulation.convolution.psf": _keep_text,
    "imaging.contamination.images": _keep_film,
}


def list_files(document: MarkedYaml) -> Iterator[tuple[tuple[str | int, ...], str, Keep]]:
    """The files that a campaign names: path of the key, the name as written, how it is kept."""
    for key, keep in INPUT_KEYS.items():
        value = document.data
        path = tuple(key.split("."))
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str):
            yield path, value, keep
        elif isinstance(value, list):
            for place, name in enumerate(value):
                yield (*path, place), name, keep


@functools.lru_cache(maxsize=64)
def read_film(file: Path, shortest: float, pixel_size: float | None = None) -> str:
    """The low frequencies of a micrograph, or the text of them that a database kept.

    shortest: A, the wavelength below which nothing is kept; pixel_size: A, where the file does not
    say it. Raises ConfigError for a file that cannot be read or has no pixel size.
    """
    try:
        text = file.read_text("utf-8")
        read_contamination(text)
        return text
    except (OSError, UnicodeDecodeError, ConfigError):
        pass
    from hpctem.micrographs.read import read_micrograph

    micrograph = read_micrograph(file)
    sizes = pixel_size or micrograph.pixel_size
    if sizes is None:
        raise ConfigError(
            f"{file} does not say its pixel size; give imaging.contamination.pixel_size"
        )
    return extract_contamination(micrograph.image, sizes, shortest)


def read_point_spread(file: Path) -> tuple[np.ndarray, float]:
    """A point spread function, float64 (ny, nx), and its sampling in A, from a text file.

    A first line 'sampling 0.1 A', then a row of numbers a line. Raises ConfigError for another.
    """
    lines = file.read_text("utf-8").splitlines()
    try:
        word, _, quantity = lines[0].strip().partition(" ")
        if word != "sampling":
            raise ValueError(f"it begins with {lines[0][:40]!r}")
        sampling = parse_quantity(quantity, "length")
        rows = [[float(value) for value in line.split()] for line in lines[1:] if line.strip()]
        return np.array(rows, dtype=np.float64), sampling
    except (ValueError, IndexError) as error:
        raise ConfigError(
            f"{file} is no point spread function: {error}; it needs a first line 'sampling 0.1 A', "
            "then a row of numbers a line, all of one length"
        ) from None
