"""A calibration: what the steps of a campaign cost here, in a form that other campaigns can use."""

from __future__ import annotations

import hashlib
import json
import resource
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.backend import Backend
from hpctem.calibration.machine import Machine, describe_machine
from hpctem.calibration.measure import (
    Storage,
    process_age,
    time_storage,
)
from hpctem.calibration.roofline import Roofs, measure_roofs, roof_seconds
from hpctem.calibration.transforms import (
    Shape,
    choose_ladder,
    floor_seconds,
    time_transforms,
)
from hpctem.calibration.workload import Timed, Work, average_work, choose_steps
from hpctem.campaign_file import CampaignFile
from hpctem.database.schema import Layout
from hpctem.errors import SampleError
from hpctem.parallel import Communicator
from hpctem.simulate import lay_out, require_memory
from hpctem.techniques import Experiment, choose_technique

# A rank is not asked for more than so many samples that fail, one after another.
MOST_FAILURES = 10


@dataclass(frozen=True)
class Calibration:
    """What the average structure of a campaign costs one rank of a machine.

    campaign    name of the campaign that was timed
    signature   `cost_signature` of it
    ranks       that computed at once on the node; `writers`: on all nodes
    work        of the structures that were timed, per structure
    seconds     step -> seconds per structure
    floors      step -> seconds that its transforms take alone
    rates       step -> seconds per unit of `Work.units`, or per second of `Work.transforms`
    transforms  seconds of one transform of each shape (see `hpctem.calibration.transforms`)
    storage     what keeping the rows costs
    spread      standard deviation over the structures of (seconds / what `rates` say)
    timed       number of structures
    startup     seconds from the start of the process to the first step
    warmup      seconds of a structure the first time, with compiling
    peak        bytes of memory of a rank at most
    made        when, UTC
    roofs       what arithmetic and copies take here at best; of older calibrations not known
    """

    campaign: str
    signature: str
    machine: Machine
    ranks: int
    writers: int
    work: Work
    seconds: dict[str, float]
    floors: dict[str, float]
    rates: dict[str, float]
    transforms: dict[Shape, float]
    storage: Storage
    spread: float
    timed: int
    startup: float
    warmup: float
    peak: float
    made: str
    roofs: Roofs = field(default_factory=Roofs)

    @property
    def roof_seconds(self) -> dict[str, float]:
        """Step -> the least seconds that its transforms could take on this machine."""
        counted = self.work.transforms(self.machine.by_lines)
        return {step: roof_seconds(counts, self.roofs) for step, counts in counted.items()}

    @property
    def structure_seconds(self) -> float:
        """Seconds in which a rank computes a structure and puts its rows into the file."""
        return sum(self.seconds.values())

    @property
    def bandwidth(self) -> float:
        """Bytes per second that all writers together brought to the disk."""
        return self.writers / (self.storage.writing + self.storage.syncing)


def calibrate(
    campaign: CampaignFile,
    backend: Backend,
    folder: Path,
    communicator: Communicator,
    structures: int = 2,
    budget: float = 600.0,
    tell: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """Time the steps of a campaign on this rank; rows are written in a folder of `folder`.

    `structures` are timed after one that is not (its kernels compile), fewer when `budget` seconds
    are over. With a communicator of several ranks all of them compute at once, each its own
    structures; the result is this rank's. `tell` is called with what is being done.

    Raises SampleError when no structure of the campaign is good, MachineError when the rows cannot
    be written.
    """
    startup = process_age()
    experiment = choose_technique(campaign.config).open_experiment(campaign.config, backend)
    total = campaign.config.campaign.structures
    layout = lay_out(campaign, experiment, range(total))
    require_memory(communicator, experiment, layout)
    order = np.random.default_rng(communicator.rank).permutation(min(total, 4096)).tolist()
    tell(f"timing {campaign.config.campaign.name}: first structure, compiling")
    begin = time.perf_counter()
    _time_good(experiment, order, 1, 0.0, layout)
    warmup = time.perf_counter() - begin
    communicator.barrier()
    tell(f"timing {structures} structure(s), the first took {warmup:.1f} s")
    timed = _time_good(experiment, order, structures, budget, layout)
    communicator.barrier()
    storage = time_storage(timed[0].rows, layout, folder)
    machine = describe_machine(backend)
    counted = timed[0].work.transforms(machine.by_lines).values()
    tell("timing transforms")
    roofs = measure_roofs(backend, timed[0].work.pixels)
    shapes = [shape for counts in counted for shape in counts]
    transforms = time_transforms([*shapes, *choose_ladder(backend, shapes)], backend)
    hosts = communicator.allgather(socket.gethostname())
    return summarise(
        timed,
        transforms,
        storage,
        campaign,
        machine,
        (hosts.count(socket.gethostname()), len(hosts)),
        startup,
        warmup,
        roofs,
    )


def _time_good(
    experiment: Experiment,
    order: list[int],
    wanted: int,
    budget: float,
    layout: Layout,
) -> list[Timed]:
    """Time `wanted` structures of the order, going round; those that fail are left out."""
    steps = choose_steps(experiment.config.campaign.technique)
    begin = time.monotonic()
    good: list[Timed] = []
    failures = 0
    while len(good) < wanted and (not good or time.monotonic() - begin < budget):
        index = order.pop(0)
        order.append(index)
        try:
            one = steps.time_structure(experiment, index, layout)
        except SampleError as error:
            failures += 1
            if failures == MOST_FAILURES:
                raise SampleError(f"{failures} structures in a row fail: {error}") from error
            continue
        failures = 0
        good.append(one)
    return good


def summarise(
    timed: Sequence[Timed],
    transforms: Mapping[Shape, float],
    storage: Storage,
    campaign: CampaignFile,
    machine: Machine,
    ranks: tuple[int, int],
    startup: float,
    warmup: float,
    roofs: Roofs,
) -> Calibration:
    """Seconds, floors and rates of the structures that were timed."""
    work = average_work([one.work for one in timed])
    steps = dict.fromkeys(step for one in timed for step in one.seconds)
    seconds = {
        step: float(np.mean([one.seconds.get(step, 0.0) for one in timed])) for step in steps
    }
    seconds["digests"] = storage.digests * work.stored_bytes
    seconds["writing"] = storage.writing * work.stored_bytes
    units = scale_units(work, transforms, machine)
    floors = {step: units[step] for step in work.transforms(machine.by_lines)}
    rates = {step: seconds[step] / unit for step, unit in units.items() if unit and step in seconds}
    ratios = []
    for one in timed:
        own = scale_units(one.work, transforms, machine)
        predicted = sum(rates.get(step, 0.0) * own[step] for step in one.seconds)
        ratios.append(sum(one.seconds.values()) / predicted)
    return Calibration(
        campaign=campaign.config.campaign.name,
        signature=cost_signature(campaign),
        machine=machine,
        ranks=ranks[0],
        writers=ranks[1],
        work=work,
        seconds=seconds,
        floors=floors,
        rates=rates,
        transforms=dict(transforms),
        storage=storage,
        spread=float(np.std(ratios)),
        timed=len(timed),
        startup=startup,
        warmup=warmup,
        peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        roofs=roofs,
    )


def cost_signature(campaign: CampaignFile) -> str:
    """What campaigns share whose structures cost the same: all but name, seed and number of them.

    BLAKE2b-64 in hexadecimal of every key outside the section `campaign`, files by their content.
    """
    keys = {k: v for k, v in campaign.description.items() if not k.startswith("campaign.")}
    text = json.dumps(keys, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def scale_units(
    work: Work, transforms: Mapping[Shape, float], machine: Machine
) -> dict[str, float]:
    """Step -> what its time is proportional to: units of work, or seconds of transforms."""
    counted = work.transforms(machine.by_lines)
    floors = {step: floor_seconds(counts, transforms) for step, counts in counted.items()}
    return work.units() | floors


def calibrate_beside_alone(
    campaign: CampaignFile,
    backend: Backend,
    folder: Path,
    communicator: Communicator,
    structures: int = 2,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[list[Calibration], Calibration | None]:
    """Calibrations of all ranks at work at once, and before of rank 0 with the others idle.

    The second is None on a single rank. Errors are those of `calibrate`.
    """
    alone = None
    if communicator.size > 1:
        tell("rank 0 alone")
        alone = communicator.on_root(
            lambda: calibrate(campaign, backend, folder, Communicator(), structures, tell=tell)
        )
        tell(f"all {communicator.size} ranks at once")
    own = calibrate(campaign, backend, folder, communicator, structures, tell=tell)
    return communicator.allgather(own), alone


def average_calibrations(calibrations: Sequence[Calibration]) -> Calibration:
    """The mean over the ranks of a job that timed the same campaign at once."""
    first = calibrations[0]

    def mean(dicts: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
        return {name: float(np.mean([d.get(name, 0.0) for d in dicts])) for name in dicts[0]}

    return replace(
        first,
        work=average_work([c.work for c in calibrations]),
        seconds=mean([c.seconds for c in calibrations]),
        floors=mean([c.floors for c in calibrations]),
        rates=mean([c.rates for c in calibrations]),
        transforms=mean([c.transforms for c in calibrations]),
        storage=Storage(**mean([asdict(c.storage) for c in calibrations])),
        roofs=Roofs(**mean([asdict(c.roofs) for c in calibrations])),
        spread=max(c.spread for c in calibrations),
        timed=sum(c.timed for c in calibrations),
        startup=max(c.startup for c in calibrations),
        peak=max(c.peak for c in calibrations),
    )
