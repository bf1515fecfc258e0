"""From a campaign file and a site to its plan: which calibration, which limits, which range."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hpctem.backend import select_backend
from hpctem.calibration.calibrate import (
    Calibration,
    average_calibrations,
    calibrate,
    cost_signature,
)
from hpctem.calibration.estimate import estimate
from hpctem.calibration.sites import (
    choose_calibration,
    keep_calibration,
    read_calibrations,
    site_path,
)
from hpctem.calibration.workload import describe_work
from hpctem.campaign_file import CampaignFile
from hpctem.database.schema import volume_range
from hpctem.errors import ConfigError
from hpctem.parallel import Communicator
from hpctem.planning.plan import Limits, Plan, plan_campaign
from hpctem.simulate import identify, lay_out
from hpctem.techniques import Experiment, check_campaign, choose_technique

# A plan is to be had within a minute, whatever a structure costs.
STRUCTURES, BUDGET = 2, 20.0
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2})(?::(\d{1,2}))?")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Request:
    """What a plan is asked for.

    path        where the database is to lie
    site        whose calibration to take; '' for this machine
    calibrate   time the campaign here and keep the calibration, under the site's name or the host's
    nodes       to plan for; `ranks_per_node` None for as many as cores and memory hold
    limits      of the machine; what is None is taken from the calibration
    volume      (k, n) to plan volume k of n
    """

    path: Path
    site: str = ""
    calibrate: bool = False
    nodes: tuple[int, ...] = (1, 2, 4, 8)
    ranks_per_node: int | None = None
    limits: Limits = field(default_factory=Limits)
    volume: tuple[int, int] | None = None
    device: str = "auto"


def make_plan(
    campaign: CampaignFile,
    request: Request,
    communicator: Communicator,
    tell: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plan a campaign; all ranks call it, and time it at once where there is no calibration.

    Without a site, a calibration kept for this host is taken if it is of a campaign of the same
    cost, else the campaign is timed, which takes seconds to a minute; `tell` is called with what
    is being done. Raises ConfigError for what is wrong with campaign or site, SampleError when no
    structure of the campaign is good.
    """
    communicator.on_root(lambda: _check(campaign, request))
    kept = (
        None if request.calibrate else communicator.on_root(lambda: _find_kept(campaign, request))
    )
    calibration = kept or _calibrate_here(campaign, request, communicator, tell)
    return communicator.on_root(lambda: _plan(campaign, request, calibration))


def _check(campaign: CampaignFile, request: Request) -> None:
    """What is wrong with campaign or request is told before anything is timed."""
    check_campaign(campaign.config)
    writable_folder(request.path)
    _choose_range(campaign, request)
    if request.site:
        site_path(request.site)


def _choose_range(campaign: CampaignFile, request: Request) -> range:
    structures = range(campaign.config.campaign.structures)
    return structures if request.volume is None else volume_range(len(structures), *request.volume)


def _find_kept(campaign: CampaignFile, request: Request) -> Calibration | None:
    signature = cost_signature(campaign)
    if not request.site:
        try:
            kept = read_calibrations(host_site())
        except ConfigError:
            return None
        backend = select_backend(request.device)
        fitting = [
            c for c in kept if c.signature == signature and c.machine.device == backend.device
        ]
        return max(fitting, key=lambda c: c.ranks, default=None)
    experiment = open_on_host(campaign)
    structures = range(campaign.config.campaign.structures)
    work = describe_work(experiment, lay_out(campaign, experiment, structures), structures)
    kept = choose_device(read_calibrations(request.site), request.device, request.site)
    return choose_calibration(kept, work, signature)


def open_on_host(campaign: CampaignFile) -> Experiment:
    """The campaign as it is looked at for a plan: nothing is computed."""
    return choose_technique(campaign.config).open_experiment(campaign.config, select_backend("cpu"))


def choose_device(kept: list[Calibration], device: str, site: str) -> list[Calibration]:
    """Those of a site's calibrations that were made on the device asked for: cpu, cuda or auto.

    Raises ConfigError when there is none.
    """
    if device == "auto":
        return kept
    fitting = [c for c in kept if c.machine.by_lines == (device == "cpu")]
    if not fitting:
        other = "cuda" if device == "cpu" else "cpu"
        raise ConfigError(
            f"site {site!r} has no calibration with --device {device}, only with --device {other}; "
            f"run 'hpctem plan CONFIG --site {site} --calibrate --device {device}' there"
        )
    return fitting


def host_site() -> str:
    """The name under which this machine's own calibrations are kept."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64].lstrip("_.-") or "localhost"


def _calibrate_here(
    campaign: CampaignFile,
    request: Request,
    communicator: Communicator,
    tell: Callable[[str], None],
) -> Calibration:
    backend = select_backend(request.device, communicator.local_rank)
    folder = writable_folder(request.path)
    own = calibrate(campaign, backend, folder, communicator, STRUCTURES, BUDGET, tell)
    calibration = average_calibrations(communicator.allgather(own))
    if request.calibrate:
        site = request.site or host_site()
        path = communicator.on_root(lambda: keep_calibration(site, calibration))
        tell(f"the calibration is kept as site {site}: {path}")
    return calibration


def writable_folder(path: Path) -> Path:
    """The folder that a database is to lie in; raises ConfigError when there is none."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"the folder {folder} does not exist; make it, or choose another with -o")
    return folder


def _plan(campaign: CampaignFile, request: Request, calibration: Calibration) -> Plan:
    experiment = open_on_host(campaign)
    structures = _choose_range(campaign, request)
    layout = lay_out(campaign, experiment, structures)
    work = describe_work(experiment, layout, structures)
    machine, given = calibration.machine, request.limits
    limits = Limits(
        walltime=given.walltime,
        cores=given.cores or machine.devices or machine.cores,
        memory=given.memory or machine.memory,
        bandwidth=given.bandwidth,
        nodes=given.nodes,
    )
    return plan_campaign(
        experiment,
        layout,
        identify(campaign, experiment),
        calibration,
        estimate(calibration, work, cost_signature(campaign)),
        writable_folder(request.path),
        limits,
        request.nodes,
        request.ranks_per_node,
    )


def parse_walltime(text: str) -> float:
    """Seconds of '24h', '30 min', '1.5 d', '02:30:00' or Slurm's '1-12:00:00'; ValueError else.

    '30:00' is refused: minutes to Slurm, hours to many people.
    """
    clock, span = _CLOCK.fullmatch(text.strip()), _SPAN.fullmatch(text.strip())
    if span:
        seconds = float(span[1]) * _SECONDS[span[2]]
    elif clock and clock[1] is None and clock[4] is None:
        raise ValueError(
            f"{text!r} is no duration that all read alike: write {int(clock[2])}h or "
            f"{int(clock[2])}min, or all of hours, minutes and seconds"
        )
    elif clock:
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        seconds = 86400.0 * days + 3600 * hours + 60 * minutes + rest
    else:
        raise ValueError(f"{text!r} is no duration: write 24h, 90min, 2d or 1-12:00:00")
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time at all")
    return seconds
