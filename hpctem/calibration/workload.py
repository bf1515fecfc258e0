"""What the average structure of a campaign asks of a machine, in the units that cost grows with.

Every technique has its own units, in a module `<technique>_work`, and its own steps to be timed, in
`<technique>_steps`. Only distributions and grids are looked at, and a few structures are sampled:
nothing is computed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from hpctem.calibration.transforms import Shape
from hpctem.database.schema import Layout
from hpctem.errors import SampleError
from hpctem.structures.scenes import Structure
from hpctem.techniques import Experiment, Rows

SAMPLED, SAMPLING_SECONDS = 24, 3.0


class Work(Protocol):
    """The work of one structure, or of the average of several: a frozen dataclass."""

    @property
    def technique(self) -> str:
        """That of its campaign."""

    @property
    def images(self) -> int:
        """Images of a structure."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of a structure in the file."""

    @property
    def family(self) -> str:
        """What campaigns share that have the same steps; others tell nothing of their time."""

    @property
    def pixels(self) -> float:
        """Of the fields whose size decides how well caches serve."""

    def transforms(self, by_lines: bool) -> dict[str, dict[Shape, float]]:
        """Transforms of each step: step -> shape -> number; `by_lines` as on a CPU."""

    def units(self) -> dict[str, float]:
        """Step -> how much of what its time is proportional to; transforms are not among them."""

    def manner(self) -> dict[str, tuple[Any, str]]:
        """How it is done: name -> (value, what is to be said where another has another value)."""

    def amounts(self) -> tuple[float, ...]:
        """What likeness is told by, beside pixels and manner."""


@dataclass(frozen=True)
class Timed:
    """One structure, timed.

    seconds  step -> seconds that the whole structure takes in it
    work     the structure's work
    rows     its rows; images beyond the first two dozen repeat those
    """

    seconds: dict[str, float]
    work: Work
    rows: Rows


class Steps(Protocol):
    """What is asked of a technique: the modules `<technique>_steps` are such.

    time_structure      compute structure `index` and time each step; SampleError where it fails
    describe_structure  the work of structure `index`
    average_work        the mean of several structures of one campaign
    rebuild_work        the work that `dataclasses.asdict` and JSON made plain data of
    """

    def time_structure(self, experiment: Any, index: int, layout: Layout) -> Timed: ...

    def describe_structure(
        self, experiment: Any, index: int, structure: Structure, layout: Layout
    ) -> Work: ...

    def average_work(self, works: Sequence[Any]) -> Work: ...

    def rebuild_work(self, described: Mapping[str, Any]) -> Work: ...


def choose_steps(technique: str) -> Steps:
    """The steps of a technique, imported when asked for, as its kernels are."""
    return cast(Steps, import_module(f"hpctem.calibration.{technique}_steps"))


def average_work(works: Sequence[Work]) -> Work:
    """The mean of several structures of one campaign."""
    return choose_steps(works[0].technique).average_work(works)


def describe_work(experiment: Experiment, layout: Layout, structures: range) -> Work:
    """The work of the campaign's average structure, from structures spread over `structures`.

    Two dozen of them, fewer where sampling takes more than three seconds. Raises SampleError when
    none of them can be built.
    """
    begin = time.monotonic()
    steps = choose_steps(experiment.config.campaign.technique)
    works, failure = [], SampleError("no structure")
    order = np.linspace(0, len(structures) - 1, min(SAMPLED, len(structures))).astype(int)
    for place in np.random.default_rng(0).permutation(np.unique(order)).tolist():
        index = structures[place]
        try:
            structure = experiment.structure(index)
            works.append(steps.describe_structure(experiment, index, structure, layout))
        except SampleError as error:
            failure = error
            continue
        if time.monotonic() - begin > SAMPLING_SECONDS:
            break
    if not works:
        raise SampleError(f"none of the sampled structures can be built: {failure}")
    return average_work(works)
