"""`hpctem realism`: how far sets of images are from an experiment, which gap is closed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import hpctem
from hpctem.database.journal import write_durably
from hpctem.errors import ConfigError
from hpctem.learning.realism.bands import Shells, compare_bands, list_shells, measure_bands
from hpctem.learning.realism.image_sets import (
    Choice,
    Cutting,
    ImageSet,
    Rows,
    cut_regions,
    halve,
    parse_set,
    read_regions,
    read_set,
)
from hpctem.learning.realism.measures import (
    count_intensities,
    measure_closing,
    measure_divergence,
    measure_frechet,
    measure_texture,
    split_scales,
)
from hpctem.learning.realism.memorising import Learnt, find_highest_correlation
from hpctem.micrographs.known import parse_lattice
from hpctem.micrographs.lattice import find_lattice

FORMAT = "hpctem-realism-1"
PARTS = ("low frequencies", "Bragg spots", "between them")
FAR = 1.02  # ratio of pixel sizes that is told
MEMORISED = 32  # patches of each set whose correlation with the experiment is looked for


@dataclass(frozen=True)
class Request:
    """What is compared with what.

    sets         'NAME=FILES' or 'FILE'; the first is the raw one whose gap the others close
    experiment   image files; rows: of them, those that the sets are compared with
    floor        other rows of the same images, whose distance from `rows` is the floor; None: the
                 floor is the distance between the two halves of `rows`
    pixel_size   A, instead of what the experiment's files say
    lattice      crystal or constants; None: the lattice is found in the experiment
    bands        the power of bands is compared
    inception    weights of Inception v3 for the FID, None for none
    choice       of the sets' images
    """

    sets: tuple[str, ...]
    experiment: tuple[str, ...]
    cutting: Cutting
    rows: Rows = None
    floor: Rows = None
    frame: int | str | None = None
    pixel_size: float | None = None
    lattice: str | None = None
    bands: bool = True
    inception: Path | None = None
    median: bool = False
    choice: Choice = field(default_factory=Choice)


@dataclass(frozen=True)
class Measures:
    """What is measured of a set (patches), to be compared.

    intensities   (256,) shares of grey
    levels        of `split_scales`
    bands         (3 + shells,) shares of power; None without a lattice
    features      (n, 2048) of Inception v3; None without its weights
    """

    intensities: np.ndarray
    levels: list[np.ndarray]
    bands: np.ndarray | None
    features: np.ndarray | None


Features = Callable[[np.ndarray], np.ndarray]


def compare(request: Request, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Compare sets of images with an experiment; plain data, see docs.

    tell: called with what is being done. Raises ConfigError for files, rows or patches that do not
    fit, for two sets of one name, an experiment without a lattice where none is given, and weights
    that are no Inception v3.
    """
    chosen = Choice(rows=request.rows, frame=request.frame)
    regions, pixel_size = read_regions(request.experiment, chosen, request.pixel_size)
    experiment = cut_regions("experiment", regions, pixel_size, request.cutting, request.median)
    halves = _cut_halves(request, regions, pixel_size)
    names = [parse_set(text)[0] for text in request.sets]
    taken = ["experiment", *(half.name for half in halves), *names]
    for name in names:
        if taken.count(name) > 1:
            raise ConfigError(f"two sets are called {name!r}: write NAME=FILE to tell them apart")
    sets = []
    for text in request.sets:
        tell(f"reading {text}")
        sets.append(read_set(text, request.choice, request.cutting, request.median))
    shells = _find_shells(request, experiment) if request.bands else None
    features = None
    if request.inception is not None:
        from hpctem.learning.realism.inception import open_inception

        features = open_inception(request.inception)
    measured = {}
    for one in (experiment, *halves, *sets):
        tell(f"measuring {one.name}")
        measured[one.name] = _measure(one, shells, features)
    reference = measured["experiment"]
    floor = _measure_floor(request, halves, measured, shells)
    distances = {
        one.name: _measure_distances(reference, measured[one.name], shells, request.cutting.seed)
        for one in sets
    }
    tell("looking for copies")
    return {
        "format": FORMAT,
        "hpctem": hpctem.__version__,
        "settings": _plain(asdict(request)),
        "experiment": {
            "images": experiment.images,
            "pixel_size": experiment.pixel_size,
            "lattice": None if shells is None else shells.reciprocal.tolist(),
            "shells": None if shells is None else list(shells.radii),
            "shares": _tell_shares(reference, shells),
        },
        "floor": {"of": [half.name for half in halves], "distances": floor},
        "sets": {
            one.name: {
                "images": one.images,
                "pixel_size": one.pixel_size,
                "shares": _tell_shares(measured[one.name], shells),
                "distances": distances[one.name],
                "gap_closed": {
                    name: measure_closing(distances[names[0]][name], value, floor[name])
                    for name, value in distances[one.name].items()
                },
            }
            for one in sets
        },
        "raw": names[0],
        "highest_correlation": _find_copies(experiment, halves, sets, request),
        "notes": _list_notes(experiment, sets),
    }


def _cut_halves(
    request: Request, regions: Sequence[np.ndarray], pixel_size: float | None
) -> list[ImageSet]:
    """The other rows, or the two halves of the rows: what the floor is measured between."""
    if request.floor is not None:
        other, _ = read_regions(request.experiment, Choice(rows=request.floor, frame=request.frame))
        return [cut_regions("other rows", other, pixel_size, request.cutting, request.median)]
    pairs = [halve(region) for region in regions]
    names = ("first half", "second half")
    return [
        cut_regions(name, [pair[k] for pair in pairs], pixel_size, request.cutting, request.median)
        for k, name in enumerate(names)
    ]


def _find_shells(request: Request, experiment: ImageSet) -> Shells:
    if request.lattice is not None:
        if experiment.pixel_size is None:
            raise ConfigError(
                "the experiment does not say its pixel size, which a given lattice needs: give "
                "--pixel-size"
            )
        vectors = parse_lattice(request.lattice).vectors / experiment.pixel_size
        return list_shells(np.linalg.inv(vectors).T)
    largest = max(experiment.regions, key=lambda region: region.size)
    lattice = find_lattice(largest)
    if lattice is None:
        raise ConfigError(
            "the experiment shows no lattice: name the crystal with --lattice, or leave the power "
            "of bands out with --no-bands"
        )
    return list_shells(lattice.reciprocal)


def _measure(one: ImageSet, shells: Shells | None, features: Features | None) -> Measures:
    return Measures(
        count_intensities(one.patches),
        split_scales(one.patches),
        None if shells is None else measure_bands(one.patches, shells),
        None if features is None else features(one.patches),
    )


def _measure_distances(
    reference: Measures, other: Measures, shells: Shells | None, seed: int
) -> dict[str, float]:
    """Every distance by its name; all are 0 for the same images."""
    found = {"KL divergence": measure_divergence(reference.intensities, other.intensities)}
    scales = measure_texture(reference.levels, other.levels, seed)
    found["sliced Wasserstein"] = float(np.mean(scales))
    for number, value in enumerate(scales):
        found[f"sliced Wasserstein, {2**number} px"] = value
    if shells is not None:
        assert reference.bands is not None and other.bands is not None
        values = compare_bands(reference.bands, other.bands)
        found |= dict(zip(_name_bands(shells), values.tolist(), strict=True))
    if reference.features is not None and other.features is not None:
        found["FID"] = measure_frechet(reference.features, other.features)
    return found


def _name_bands(shells: Shells) -> list[str]:
    shown = [f"Bragg shell {k + 1}" for k in range(len(shells.indices))]
    return [f"power, {name}" for name in (*PARTS, *shown)]


def _measure_floor(
    request: Request,
    halves: Sequence[ImageSet],
    measured: Mapping[str, Measures],
    shells: Shells | None,
) -> dict[str, float]:
    """Distances within the experiment: of the other rows, or the mean both ways of the halves."""
    seed = request.cutting.seed
    if len(halves) == 1:
        other = measured[halves[0].name]
        return _measure_distances(measured["experiment"], other, shells, seed)
    first, second = (measured[half.name] for half in halves)
    there = _measure_distances(first, second, shells, seed)
    back = _measure_distances(second, first, shells, seed)
    return {name: (there[name] + back[name]) / 2 for name in there}


def _tell_shares(one: Measures, shells: Shells | None) -> dict[str, float] | None:
    if shells is None or one.bands is None:
        return None
    return dict(zip(_name_bands(shells), one.bands.tolist(), strict=True))


def _find_copies(
    experiment: ImageSet,
    halves: Sequence[ImageSet],
    sets: Sequence[ImageSet],
    request: Request,
) -> dict[str, dict[str, float]]:
    """Highest correlation of patches of each set with any patch of the experiment's rows.

    Beside them what patches of the experiment reach that are not among these: of the other rows,
    or of one half with the other.
    """
    learnt = [Learnt(region) for region in experiment.regions]
    found = {one.name: _correlate(one.patches, learnt) for one in sets}
    if len(halves) == 1:
        found["other rows of the experiment"] = _correlate(halves[0].patches, learnt)
    else:
        against = [Learnt(region) for region in halves[0].regions]
        found["second half with first half"] = _correlate(halves[1].patches, against)
    return found


def _correlate(patches: np.ndarray, learnt: Sequence[Learnt]) -> dict[str, float]:
    highest = [
        max(find_highest_correlation(patch, one) for one in learnt) for patch in patches[:MEMORISED]
    ]
    return {
        "highest": float(np.max(highest)),
        "median": float(np.median(highest)),
        "patches": len(highest),
    }


def _list_notes(experiment: ImageSet, sets: Sequence[ImageSet]) -> list[str]:
    notes = []
    for one in sets:
        sizes = one.pixel_size, experiment.pixel_size
        if sizes[0] and sizes[1] and abs(math.log(sizes[0] / sizes[1])) > math.log(FAR):
            notes.append(
                f"pixels of {one.name} are {sizes[0]:.4g} A, those of the experiment "
                f"{sizes[1]:.4g} A: patches are compared pixel by pixel"
            )
    return notes


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def write_comparison(report: Mapping[str, Any], path: Path) -> None:
    """Write the comparison as JSON; raises MachineError when it cannot be."""
    write_durably(path, (json.dumps(report, indent=1) + "\n").encode())


def format_comparison(report: Mapping[str, Any]) -> str:
    """Distances of all sets as a table for people, with what of the gap is closed."""
    sets = report["sets"]
    head = ["distance from the experiment", "floor", *sets]
    rows = [head]
    for name, floor in report["floor"]["distances"].items():
        row = [name, _write(floor)]
        for other, one in sets.items():
            closed = one["gap_closed"][name]
            told = "" if other == report["raw"] else f" ({_percent(closed)})"
            row.append(f"{_write(one['distances'][name])}{told}")
        rows.append(row)
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = [
        "  ".join(
            text.ljust(width) if k == 0 else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.append(
        f"In parentheses: share of the gap between {report['raw']} and the floor that is closed; "
        "a dash where there is none."
    )
    lines.append("Highest correlation of a patch with any patch of the experiment:")
    lines += [
        f"  {name}: {one['highest']:.3f}, median {one['median']:.3f} of {one['patches']}"
        for name, one in report["highest_correlation"].items()
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def _write(value: float) -> str:
    return f"{value:.4g}" if value >= 1e-4 else f"{value:.1e}"


def _percent(closed: float | None) -> str:
    return "–" if closed is None else f"{100 * closed:.0f} %"
