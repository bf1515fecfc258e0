"""Commands that compute: simulate, image, preview."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import (
    CONFIG,
    DATABASE,
    DEVICES,
    QUARANTINED,
    REPAIR,
    Volume,
    commands,
    under_mpi,
    with_options,
)

# The options of every command that simulates.
campaign_options = with_options(
    click.option("-o", "--output", type=DATABASE, help="Database to fill; NAME.hdf5 by default."),
    click.option("--limit", type=click.IntRange(min=1), help="Take the first N structures only."),
    click.option("--volume", type=Volume(), help="Fill volume k of n, a complete file of its own."),
    click.option(
        "--device", type=DEVICES, default="auto", help="Where to compute.", show_default=True
    ),
    click.option(
        "--fft",
        type=click.Choice(["auto", "mkl_fft", "pyfftw", "scipy"]),
        default="auto",
        help="FFT on CPUs; auto takes the fastest installed.",
    ),
    click.option(
        "--writer",
        type=click.Choice(["auto", "mpio", "pwrite"]),
        default="auto",
        help="Parallel HDF5 or plain writes; both give the same bytes.",
    ),
    REPAIR,
)


@commands.command()
@click.argument("config", type=CONFIG)
@campaign_options
def simulate(config: Path, **options: Any) -> None:
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
      hpctem simulate campaign.yaml -o gold.hdf5 --repair
    """
    _fill(None, config, **options)


@commands.command()
@click.argument("parent", type=DATABASE)
@click.argument("config", type=CONFIG)
@campaign_options
def image(parent: Path, config: Path, **options: Any) -> None:
    """Form new images from the exit waves that a database holds, without simulating again.

    PARENT was simulated with 'storage: {exit_waves: true}'. CONFIG is a campaign file with the same
    structures, simulation and seed; imaging, labels and storage may differ. It runs, resumes
    and shares its work as simulate does.

    \b
    Examples:
      hpctem image au_on_carbon_thermal.hdf5 configs/au_on_carbon_dose_variation.yaml
      mpirun -n 2 hpctem image gold.hdf5 aberrated.yaml -o aberrated.hdf5 --limit 8
      hpctem image gold.v3of8.hdf5 aberrated.yaml --volume 3/8
    """
    _fill(parent, config, **options)


def _fill(
    parent: Path | None, config: Path, output: Path | None, limit: int | None, **options: Any
) -> None:
    """Fill a database from a campaign file, with the waves of `parent` where there is one."""

    def job(communicator: Any) -> None:
        # Also what is needed after the last structure, so that its absence is known now.
        from functools import partial

        from hpctem.campaign_file import read_campaign
        from hpctem.parallel import ProgressDisplay, listen_for_stop
        from hpctem.pictures import draw_database
        from hpctem.reimaging import image
        from hpctem.simulate import Options, simulate

        stop = listen_for_stop()
        campaign = communicator.on_root(lambda: read_campaign(config, limit))
        display = ProgressDisplay(campaign.config.images)
        fill = partial(simulate, campaign) if parent is None else partial(image, campaign, parent)
        path, summary = fill(
            output or Path(f"{campaign.config.campaign.name}.hdf5"),
            Options(**options),
            communicator,
            stop,
            display,
            display.interval,
        )
        end_filling(communicator, path, summary, partial(_leave_picture, draw_database, path))

    under_mpi(job)


def _leave_picture(draw: Callable[[Path, Path], Path], path: Path) -> None:
    """Draw the contact sheet; that it cannot be made does not make the database incomplete."""
    from hpctem.errors import HpctemError

    try:
        click.echo(f"contact sheet: {draw(path, path.with_name(path.name + '.png'))}")
    except (OSError, HpctemError) as error:
        click.echo(f"no contact sheet: {error}", err=True)


def end_filling(
    communicator: Any, path: Path, summary: Any, crown: Callable[[], None] = lambda: None
) -> None:
    """Say how filling a database has ended and leave with the exit code that tells it.

    crown   what rank 0 does beside a complete database
    """
    if communicator.rank == 0:
        _tell_end(path, summary)
        if summary.complete and summary.good:
            crown()
    if not summary.complete:
        sys.exit(1)
    if summary.quarantined:
        sys.exit(QUARANTINED)


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
        from hpctem.campaign_file import read_campaign
        from hpctem.pictures import draw_preview
        from hpctem.techniques import check_campaign

        campaign = communicator.on_root(lambda: read_campaign(config))
        communicator.on_root(lambda: check_campaign(campaign.config))
        name = campaign.config.campaign.name
        target = output or Path(f"{name}.preview.png")
        draw_preview(campaign.config, count, phonons, target, device, communicator)
        if communicator.rank == 0:
            click.echo(f"contact sheet: {target}")

    under_mpi(job)
