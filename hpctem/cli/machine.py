"""Commands about the program and this machine: doctor, schema, benchmark, plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import CONFIG, DATABASE, DEVICES, Volume, commands, under_mpi


@commands.command()
def doctor() -> None:
    """Say what this machine has and lacks for hpctem, and whether it works.

    \b
    Example:
      hpctem doctor
    """
    from hpctem.doctor import can_simulate, diagnose, format_report

    checks = diagnose()
    click.echo(format_report(checks))
    if not can_simulate(checks):
        sys.exit(1)


@commands.command()
@click.argument(
    "file",
    type=click.Choice(["campaign", "segmentation", "defects", "cyclegan"]),
    default="campaign",
    metavar="[campaign|segmentation|defects|cyclegan]",
)
def schema(file: str) -> None:
    """Print the JSON schema of the campaign file, for editors that check while one types.

    With the kind of a training: that of its training file.

    \b
    Examples:
      hpctem schema > campaign.schema.json
      hpctem schema cyclegan > cyclegan.schema.json
    """
    if file == "campaign":
        from hpctem.config import schema

        found = schema()
    else:
        from hpctem.learning.training_file import training_schema

        found = training_schema(file)
    click.echo(json.dumps(found, indent=1))


class Walltime(click.ParamType):
    """A duration: 24h, 90min, 1-12:00:00."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        from hpctem.planning.prepare import parse_walltime

        try:
            return value if isinstance(value, float) else parse_walltime(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Counts(click.ParamType):
    """Whole numbers with commas: 1,2,4."""

    name = "n,n,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and 0 < int(part) <= 10**6 for part in parts):
            self.fail(f"{value!r}: write whole numbers from 1 on, such as 1,2,4", param, ctx)
        return tuple(sorted({int(part) for part in parts}))


def tell_progress(communicator: Any) -> Any:
    """Rank 0 says on stderr what is being done."""
    return lambda line: click.echo(f"{line} ...", err=True) if communicator.rank == 0 else None


@commands.command()
@click.argument("config", type=CONFIG)
@click.option(
    "--structures", type=click.IntRange(1, 1000), default=2, show_default=True, help="To time."
)
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=".",
    help="Where rows are written to time the disk; '.' by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def benchmark(config: Path, structures: int, device: str, folder: Path, as_json: bool) -> None:
    """Time every step of a campaign on this machine, on one process or on all ranks at once.

    The table tells seconds and share of each step for a structure, and what its Fourier transforms
    take alone, which is the least that the step can take. Under mpirun rank 0 is timed alone first,
    then all ranks together.

    \b
    Examples:
      hpctem benchmark configs/quickstart.yaml
      mpirun -n 2 hpctem benchmark configs/quickstart.yaml --structures 4
      srun --mpi=pmix hpctem benchmark campaign.yaml --folder $SCRATCH --json
    """

    def job(communicator: Any) -> None:
        from hpctem.backend import select_backend
        from hpctem.calibration.calibrate import calibrate_beside_alone
        from hpctem.campaign_file import read_campaign
        from hpctem.planning.show import describe_benchmark, format_benchmark
        from hpctem.techniques import check_campaign

        campaign = communicator.on_root(lambda: read_campaign(config))
        communicator.on_root(lambda: check_campaign(campaign.config))
        ranks, alone = calibrate_beside_alone(
            campaign,
            select_backend(device, communicator.local_rank),
            folder,
            communicator,
            structures,
            tell_progress(communicator),
        )
        if communicator.rank == 0 and as_json:
            click.echo(json.dumps(describe_benchmark(ranks, alone), indent=1))
        elif communicator.rank == 0:
            click.echo(format_benchmark(ranks, alone))

    under_mpi(job)


@commands.command()
@click.argument("config", type=CONFIG)
@click.option("-o", "--output", type=DATABASE, help="Where the database is to lie.")
@click.option("--site", default="", help="Take the calibration kept under that name.")
@click.option("--calibrate", is_flag=True, help="Time the campaign here and keep that.")
@click.option(
    "--nodes", type=Counts(), default="1,2,4,8", show_default=True, help="Numbers of nodes."
)
@click.option(
    "--ranks-per-node",
    type=click.IntRange(1, 10**5),
    help="By default one for each core (GPU), as far as memory goes.",
)
@click.option("--walltime", type=Walltime(), help="Time that a job may take: 24h, 1-12:00:00.")
@click.option("--volume", type=Volume(), help="Plan volume k of n alone.")
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    config: Path,
    output: Path | None,
    site: str,
    calibrate: bool,
    nodes: tuple[int, ...],
    ranks_per_node: int | None,
    walltime: float | None,
    volume: tuple[int, int] | None,
    device: str,
    as_json: bool,
) -> None:
    """Say what a campaign will take: time, nodes, memory and disk, and what will not fit.

    Without a kept calibration the campaign's steps are timed here first, which takes seconds to a
    minute. Calibrate on a node of the machine that is to compute, under mpirun with as many ranks
    as a node is to have; the plan can then be made anywhere with --site.

    \b
    Examples:
      hpctem plan configs/quickstart.yaml
      mpirun -n 2 hpctem plan configs/quickstart.yaml --site laptop --calibrate
      hpctem plan campaign.yaml --site cluster --nodes 8,16,32 --walltime 24h
    """

    def job(communicator: Any) -> None:
        from hpctem.campaign_file import read_campaign
        from hpctem.planning.plan import Limits
        from hpctem.planning.prepare import Request, make_plan
        from hpctem.planning.show import describe_plan, format_plan

        campaign = communicator.on_root(lambda: read_campaign(config))
        request = Request(
            output or Path(f"{campaign.config.campaign.name}.hdf5"),
            site,
            calibrate,
            nodes,
            ranks_per_node,
            Limits(walltime=walltime),
            volume,
            device,
        )
        made = make_plan(campaign, request, communicator, tell_progress(communicator))
        if communicator.rank == 0 and as_json:
            click.echo(json.dumps(describe_plan(made), indent=1))
        elif communicator.rank == 0:
            click.echo(format_plan(made))

    under_mpi(job)
