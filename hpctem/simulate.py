"""The main job: from a campaign file to its database, at any number of ranks."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import hpctem
from hpctem.backend import select_backend
from hpctem.campaign_file import CampaignFile, reopen_campaign, require_campaign
from hpctem.config import Config
from hpctem.database.fill import Summary, fill
from hpctem.database.finish import outside_is_intact, recall
from hpctem.database.hdf5 import open_file, read_layout
from hpctem.database.journal import journal_folder
from hpctem.database.plan import identify_code
from hpctem.database.reader import Database
from hpctem.database.repair import find_marker
from hpctem.database.schema import ATOMS_DIGEST, Layout, volume_path, volume_range
from hpctem.database.segment import StructureRows, quarantine
from hpctem.errors import ConfigError, DatabaseError, MachineError, SampleError
from hpctem.hrtem.campaign import StoredWaves
from hpctem.memory import find_shortage
from hpctem.parallel import Communicator, Progress
from hpctem.structures.scenes import Structure, digest
from hpctem.techniques import Experiment, check_campaign, choose_technique

# What fails by the sample's own nature. A RuntimeError is not among it: MPI and CUDA raise those.
SAMPLE_ERRORS = (SampleError, ArithmeticError, LookupError, ValueError, TypeError)
# What decides the bytes of a result, beside the package of the campaign's technique.
DECIDING = (
    *("structures", "optics", "detection", "labels", "column_labels"),
    *("backend", "compiling", "conditions", "inputs", "sampling", "tables"),
)


@dataclass(frozen=True)
class Parent:
    """The database whose exit waves are imaged.

    structures   campaign indices of those that are imaged
    text         JSON that says which database it is
    digest       of the rows that are read from it, and of the plan that made them
    read_waves   campaign index -> exit waves; SampleError where it holds none; picklable
    """

    structures: range
    text: str
    digest: str
    read_waves: Callable[[int], StoredWaves]


@dataclass
class ComputeRows:
    """Structure index -> its rows; picklable, so that a child process can compute alone.

    With `read_waves` the images are formed from stored exit waves.
    """

    config: Config
    device: str
    local_rank: int
    fft: str
    read_waves: Callable[[int], StoredWaves] | None = None
    _experiment: Experiment | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_experiment": None}

    @property
    def experiment(self) -> Experiment:
        """The campaign on this rank's device, made when first needed."""
        if self._experiment is None:
            backend = select_backend(self.device, self.local_rank, self.fft)
            self._experiment = choose_technique(self.config).open_experiment(self.config, backend)
        return self._experiment

    def __call__(self, index: int) -> StructureRows:
        """Rows of one structure; one that fails by its own nature comes back quarantined."""
        try:
            stored = self.read_waves(index) if self.read_waves is not None else None
            compute = choose_technique(self.config).compute_structure
            return StructureRows(compute(self.experiment, index, stored))
        except SAMPLE_ERRORS as error:
            if isinstance(error, SampleError):
                return quarantine(str(error))
            return quarantine(f"{type(error).__name__}: {error}")


def lay_out(
    campaign: CampaignFile,
    experiment: Experiment,
    structures: range,
    parent: Mapping[str, str] | None = None,
) -> Layout:
    """The layout of the database that holds a range of the campaign's structures.

    `parent`: the text that names the database whose exit waves are imaged, by the name `parent`.
    """
    texts = {
        "config": campaign.text,
        "config_hash": campaign.hash,
        "resolved_config": json.dumps(campaign.description, sort_keys=True, indent=1),
        "inputs": json.dumps(dict(campaign.inputs)),
        "hpctem_version": hpctem.__version__,
        **(parent or {}),
    }
    return choose_technique(campaign.config).plan_layout(experiment, structures, texts)


def identify(campaign: CampaignFile, experiment: Experiment) -> dict[str, str]:
    """Everything that may change the bytes of a result, by name.

    The config key by key, the code, libraries and device.
    """
    config = {f"config.{key}": value for key, value in campaign.description.items()}
    code = _digest_code(campaign.config.campaign.technique)
    return {**config, "code": code, **experiment.backend.identity()}


def _digest_code(technique: str) -> str:
    """Version and digest of the modules that decide the bytes of a result."""
    folder = Path(hpctem.__file__).parent
    parts = [folder / name for name in (*DECIDING, technique)]
    files = [part.with_suffix(".py") for part in parts if not part.is_dir()]
    files += [f for part in parts for f in part.rglob("*") if f.suffix in (".py", ".csv")]
    return identify_code(files)


@dataclass(frozen=True)
class Options:
    """How a campaign runs; none of it changes a result but the kind of device and FFT.

    repair   first find what is damaged in the database that is there, then compute that again
    """

    device: str = "auto"
    fft: str = "auto"
    writer: str = "auto"
    volume: tuple[int, int] | None = None
    repair: bool = False


def simulate(
    campaign: CampaignFile,
    path: Path,
    options: Options,
    communicator: Communicator,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Progress], None] | None = None,
    interval: float = 30.0,
    parent: Parent | None = None,
) -> tuple[Path, Summary]:
    """Fill the database of a campaign, or of one volume of it; all ranks call it.

    With `parent` the images are formed from its exit waves (see `hpctem.reimaging`). Resumes what
    is there. Returns the path of the database and what it holds. Raises ConfigError before any work
    for what can be known, DatabaseError when the database belongs to another campaign or job,
    MachineError when too many samples fail or the machine does.
    """
    config = campaign.config
    communicator.on_root(lambda: check_campaign(config))
    structures = choose_structures(config, options.volume)
    if parent is not None:
        structures = parent.structures
    if options.volume is not None:
        path = volume_path(path, *options.volume)
    read_waves = parent.read_waves if parent is not None else None
    compute = ComputeRows(config, options.device, communicator.local_rank, options.fft, read_waves)
    experiment = compute.experiment
    identity = identify(campaign, experiment)
    if parent is not None:
        identity["parent"] = parent.digest
    _require_same_machines(communicator, identity)
    kept, texts = communicator.on_root(lambda: _keep_stored_text(campaign, path, parent, options))
    layout = lay_out(kept, experiment, structures, texts)
    require_memory(communicator, experiment, layout)
    limit = config.campaign.quarantine_limit * len(structures)

    def watch(state: Progress) -> None:
        if progress is not None:
            progress(state)
        # A single bad sample is no ground to stop a small campaign, unless none is allowed.
        if state.quarantined > (max(limit, 1) if limit else 0):
            raise MachineError(
                f"{state.quarantined} of {len(structures)} structures are quarantined, more than "
                f"campaign.quarantine_limit, {config.campaign.quarantine_limit:.2%}, allows; "
                f"'hpctem info {path}' shows the reasons"
            )

    summary = fill(
        path,
        layout,
        identity,
        compute,
        communicator,
        writer=options.writer,
        stop=stop,
        progress=watch,
        interval=interval,
        repair=options.repair,
    )
    return path, summary


def choose_structures(config: Config, volume: tuple[int, int] | None) -> range:
    """The campaign's structures, or those of one volume (k, n) of it."""
    if volume is None:
        return range(config.campaign.structures)
    return volume_range(config.campaign.structures, *volume)


def _keep_stored_text(
    campaign: CampaignFile, path: Path, parent: Parent | None, options: Options
) -> tuple[CampaignFile, dict[str, str]]:
    """The texts that an earlier run stored, where only comments or the parent's name differ."""
    texts = {"parent": parent.text} if parent is not None else {}
    if not path.exists():
        return campaign, texts
    try:
        stored = _read_texts(path)
    except DatabaseError:
        if not options.repair:
            raise
        return campaign, texts
    if stored.get("config_hash") == campaign.hash:
        inputs = json.loads(stored["inputs"])
        campaign = CampaignFile(stored["config"], campaign.config, inputs)
    if parent is not None and "parent" in stored:
        one, other = (json.loads(text) | {"file": ""} for text in (stored["parent"], parent.text))
        if one == other:
            texts = {"parent": stored["parent"]}
    return campaign, texts


def _read_texts(path: Path) -> dict[str, str]:
    """The campaign texts of a database; of one damaged outside its rows from its marker."""
    marker = find_marker(journal_folder(path))
    if marker is not None and not outside_is_intact(path, marker):
        remembered = recall(marker)
        return dict(remembered.layout.campaign) if remembered is not None else {}
    with open_file(path) as file:
        return dict(read_layout(file).campaign)


def _require_same_machines(communicator: Communicator, identity: Mapping[str, str]) -> None:
    """Raise MachineError when ranks have other libraries or devices than rank 0."""
    everyone = communicator.allgather(dict(identity))
    for rank, other in enumerate(everyone):
        for name, value in everyone[0].items():
            if other.get(name) != value:
                error = MachineError(
                    f"rank {rank} has {name} {other.get(name)}, rank 0 has {value}: all ranks need "
                    "the same libraries and devices"
                )
                error.shared = True
                raise error


def require_memory(communicator: Communicator, experiment: Experiment, layout: Layout) -> None:
    """Raise ConfigError when the ranks of a node or a GPU need more memory than it has."""
    backend = experiment.backend
    places = communicator.allgather((socket.gethostname(), backend.bus))
    here = places[communicator.rank]
    on_node, on_gpu = sum(node == here[0] for node, _ in places), places.count(here)
    technique = choose_technique(experiment.config)
    shortages = communicator.allgather(
        find_shortage(
            lambda on: technique.estimate_memory(experiment, layout, on), backend, on_node, on_gpu
        )
    )
    shortage = next(filter(None, shortages), None)
    if shortage is not None:
        error = ConfigError(
            f"{shortage}; start fewer ranks a node, or choose "
            f"{technique.THRIFTY} or campaign.structures_per_segment"
        )
        error.shared = True
        raise error


def rebuild_structure(database: Database, row: int) -> Structure:
    """The atoms of the structure that the file's image row `row` shows, bit for bit, from the seed.

    Raises DatabaseError when the row does not exist, is not committed or is quarantined (with the
    reason), or when the atoms' digest is not the stored one.
    """
    require_campaign(database)
    database.require("images", np.array([row]))
    place = int(database.structure_of("images", np.array(row)))
    stored = database.stored(ATOMS_DIGEST, np.array([place]))[0].tobytes()
    with reopen_campaign(database) as campaign:
        technique = choose_technique(campaign.config)
        experiment = technique.open_experiment(campaign.config, select_backend("cpu"))
        structure = experiment.structure(database.layout.first_structure + place)
    if digest(structure) != stored:
        raise DatabaseError(
            f"the atoms of row {row} do not agree with their digest: the database was written with "
            f"code {database.identity.get('code')}, numpy {database.identity.get('numpy')}; use "
            "those"
        )
    return structure
