"""The command line: one thin command for each verb; what is heavy is imported inside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import hpctem
from hpctem.errors import HpctemError

DEVICES = click.Choice(["auto", "cpu", "cuda"])
CONFIG = click.Path(dir_okay=False, path_type=Path)
DATABASE = click.Path(dir_okay=False, path_type=Path)
QUARANTINED = 3


class Volume(click.ParamType):
    """k/n: volume k of n."""

    name = "k/n"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        number, _, volumes = str(value).partition("/")
        if not (number.isdigit() and volumes.isdigit() and 1 <= int(number) <= int(volumes)):
            self.fail(
                f"{value!r} is no volume: write k/n with 1 <= k <= n, such as 3/8", param, ctx
            )
        return int(number), int(volumes)


def main() -> None:
    """Run the command line; errors written for the user are shown without a traceback."""
    try:
        commands.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("hpctem: stopped; the same command goes on where it was", err=True)
        sys.exit(130)
    except HpctemError as error:
        click.echo(f"hpctem: error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        click.echo(f"hpctem: error: {name}{error.strerror or error}", err=True)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(hpctem.__version__)
def commands() -> None:
    """Databases of simulated, labelled HRTEM images for training neural networks.

    \b
    Examples:
      hpctem preview configs/quickstart.yaml
      mpirun -n 4 hpctem simulate configs/quickstart.yaml
      hpctem info quickstart.hdf5

    Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 ended with quarantined samples.
    """


def under_mpi(job: Callable[[Any], None]) -> None:
    """Run a job on all ranks; an error on one ends them all with one message."""
    from hpctem.parallel import abort_on_error, world

    communicator = world()
    with abort_on_error(communicator):
        job(communicator)


@commands.command()
@click.argument("config", type=CONFIG)
@click.option("-o", "--output", type=DATABASE, help="Database to fill; NAME.hdf5 by default.")
@click.option("--limit", type=click.IntRange(min=1), help="Take the first N structures only.")
@click.option("--volume", type=Volume(), help="Fill volume k of n, a complete file of its own.")
@click.option("--device", type=DEVICES, default="auto", help="Where to compute.", show_default=True)
@click.option(
    "--fft",
    type=click.Choice(["auto", "mkl_fft", "pyfftw", "scipy"]),
    default="auto",
    help="FFT on CPUs; auto takes the fastest installed.",
)
@click.option(
    "--writer",
    type=click.Choice(["auto", "mpio", "pwrite"]),
    default="auto",
    help="Parallel HDF5 or plain writes; both give the same bytes.",
)
def simulate(
    config: Path,
    output: Path | None,
    limit: int | None,
    volume: tuple[int, int] | None,
    device: str,
    fft: str,
    writer: str,
) -> None:
    """Fill the database of a campaign, on one process or under mpirun or srun.

    Run the same command again after any interruption: what was committed stays, the rest is
    computed, and the finished file is the same at any number of ranks. A contact sheet is left
    beside the database.

    \b
    Examples:
      hpctem simulate configs/quickstart.yaml
      mpirun -n 2 hpctem simulate configs/au_on_carbon_thermal.yaml --limit 8 -o gold.hdf5
      srun --mpi=pmix hpctem simulate campaign.yaml --device cuda
      hpctem simulate campaign.yaml --volume 3/8
    """

    def job(communicator: Any) -> None:
        # Also what is needed after the last structure, so that its absence is known now.
        from hpctem.parallel import ProgressDisplay, listen_for_stop
        from hpctem.pictures import draw_database
        from hpctem.simulate import Options, read_campaign, simulate

        stop = listen_for_stop()
        campaign = communicator.on_root(lambda: read_campaign(config, limit))
        display = ProgressDisplay(campaign.config.images)
        path, summary = simulate(
            campaign,
            output or Path(f"{campaign.config.campaign.name}.hdf5"),
            Options(device, fft, writer, volume),
            communicator,
            stop,
            display,
            display.interval,
        )
        if communicator.rank == 0:
            _tell_end(path, summary)
            if summary.complete and summary.good:
                _leave_picture(draw_database, path)
        if not summary.complete:
            sys.exit(1)
        if summary.quarantined:
            sys.exit(QUARANTINED)

    under_mpi(job)


def _leave_picture(draw: Callable[[Path, Path], Path], path: Path) -> None:
    """Draw the contact sheet; that it cannot be written does not make the database incomplete."""
    try:
        click.echo(f"contact sheet: {draw(path, path.with_name(path.name + '.png'))}")
    except OSError as error:
        click.echo(f"no contact sheet: {error}", err=True)


def _tell_end(path: Path, summary: Any) -> None:
    total = summary.good + summary.quarantined
    if not summary.complete:
        click.echo(
            f"stopped as asked: {total} structures are committed in {path}, {summary.remaining} "
            "remain; run the same command to go on",
            err=True,
        )
        return
    click.echo(f"{path}: complete and verified, good structures: {summary.good}")
    if summary.quarantined:
        click.echo(
            f"quarantined structures: {summary.quarantined}; 'hpctem info {path}' says why",
            err=True,
        )


@commands.command()
@click.argument("config", type=CONFIG)
@click.option("-n", "--count", type=click.IntRange(1, 64), default=16, show_default=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="NAME.preview.png by default."
)
@click.option(
    "--phonons",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Phonon configurations at most; the campaign averages over its own number.",
)
@click.option("--device", type=DEVICES, default="auto", show_default=True)
def preview(config: Path, count: int, output: Path | None, phonons: int, device: str) -> None:
    """Draw a contact sheet of what a campaign will hold, before any node hour is spent.

    The first structures, each at another focus and dose, with few phonons.

    \b
    Examples:
      hpctem preview configs/au_on_carbon_thermal.yaml -n 4
      mpirun -n 4 hpctem preview campaign.yaml -n 16 -o campaign.png
    """

    def job(communicator: Any) -> None:
        from hpctem.pictures import draw_preview
        from hpctem.simulate import check_campaign, read_campaign

        campaign = communicator.on_root(lambda: read_campaign(config))
        communicator.on_root(lambda: check_campaign(campaign.config))
        name = campaign.config.campaign.name
        target = output or Path(f"{name}.preview.png")
        draw_preview(campaign.config, count, phonons, target, device, communicator)
        if communicator.rank == 0:
            click.echo(f"contact sheet: {target}")

    under_mpi(job)


@commands.command()
@click.argument("database", type=DATABASE)
@click.option("--columns", is_flag=True, help="Describe every column: unit, range, meaning.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def info(database: Path, columns: bool, as_json: bool) -> None:
    """Say what a database holds: counts, conditions, quarantined samples, campaign.

    \b
    Examples:
      hpctem info quickstart.hdf5
      hpctem info quickstart.hdf5 --columns
    """
    from hpctem.database.information import inform
    from hpctem.summaries import describe, format_information

    found = inform(database)
    click.echo(
        json.dumps(describe(found), indent=1) if as_json else format_information(found, columns)
    )


@commands.command()
@click.argument("database", type=DATABASE)
def verify(database: Path) -> None:
    """Check every row, and every byte outside the rows, against the stored digests.

    \b
    Examples:
      hpctem verify quickstart.hdf5
      mpirun -n 4 hpctem verify gold.hdf5
    """

    def job(communicator: Any) -> None:
        from hpctem.database.verify import verify
        from hpctem.summaries import format_verification

        found = verify(database, communicator)
        if communicator.rank == 0:
            click.echo(format_verification(database, found))
        if not found.intact:
            sys.exit(1)

    under_mpi(job)


@commands.command()
@click.argument("database", type=DATABASE)
@click.argument("row", type=click.IntRange(min=0))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="XYZ file.")
def atoms(database: Path, row: int, output: Path) -> None:
    """Rebuild the atoms that an image shows, bit for bit, and write them as extended XYZ.

    \b
    Example:
      hpctem atoms quickstart.hdf5 0 -o particle.xyz
    """
    from hpctem.database.reader import open_database
    from hpctem.simulate import rebuild_structure
    from hpctem.structures.scenes import write_atoms

    with open_database(database) as opened:
        structure = rebuild_structure(opened, row)
    write_atoms(structure, output)
    click.echo(f"{output}: {len(structure.numbers)} atoms, as digested in {database}")


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
def schema() -> None:
    """Print the JSON schema of the campaign file, for editors that check while one types.

    \b
    Example:
      hpctem schema > campaign.schema.json
    """
    from hpctem.config import schema

    click.echo(json.dumps(schema(), indent=1))
