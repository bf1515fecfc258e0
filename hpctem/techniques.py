"""The techniques that a campaign can simulate, and what the main job asks of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from hpctem.backend import Backend
from hpctem.config import Config
from hpctem.database.schema import Layout
from hpctem.structures.scenes import Structure

log = logging.getLogger("hpctem")

Rows = dict[str, np.ndarray]


class Experiment(Protocol):
    """A campaign on a device: everything that does not change from structure to structure."""

    @property
    def config(self) -> Any: ...

    @property
    def backend(self) -> Backend: ...

    def structure(self, index: int) -> Structure:
        """The atoms of structure `index` at rest."""


class Technique(Protocol):
    """What the main job asks of a technique: the modules `job` of their packages are such.

    check_campaign     check before any work what no sample could mend; ConfigError
    list_warnings      what a campaign may be doubted for although it can be computed
    open_experiment    the campaign on a device
    plan_layout        the layout of the database that holds a range of structures, with its texts
    compute_structure  all rows of a structure: dataset path -> array whose first axis counts its
                       rows; SampleError where the sample fails by its own nature
    compute_preview    the row of one image of a structure, and the values of the structure's row
    estimate_memory    bytes that a rank needs at its peak, on the host or on its GPU
    THRIFTY            what in its campaign file takes less memory
    """

    THRIFTY: str

    def check_campaign(self, config: Any) -> None: ...

    def list_warnings(self, config: Any) -> list[str]: ...

    def open_experiment(self, config: Any, backend: Backend) -> Any: ...

    def plan_layout(
        self, experiment: Any, structures: range, texts: Mapping[str, str]
    ) -> Layout: ...

    def compute_structure(self, experiment: Any, index: int, stored: Any = None) -> Rows: ...

    def compute_preview(
        self, experiment: Any, index: int, image: int
    ) -> tuple[Rows, dict[str, Any]]: ...

    def estimate_memory(
        self, experiment: Any, layout: Layout, on_device: bool = False
    ) -> float: ...


def choose_technique(config: Config) -> Technique:
    """The technique of a campaign, imported when asked for: a job needs the kernels of one."""
    return cast(Technique, import_module(f"hpctem.{config.campaign.technique}.job"))


def check_campaign(config: Config) -> None:
    """Raise ConfigError for what no sample could mend, before any work; log what is doubtful."""
    technique = choose_technique(config)
    technique.check_campaign(config)
    for doubt in technique.list_warnings(config):
        log.warning("warning: %s", doubt)
