"""What all commands share: their group, the kinds of arguments, the way to run under MPI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import hpctem

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


REPAIR = click.option(
    "--repair",
    is_flag=True,
    help="Read the database back and compute again what is damaged or missing.",
)


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator that gives commands the same options, shown in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def under_mpi(job: Callable[[Any], None]) -> None:
    """Run a job on all ranks; an error on one ends them all with one message."""
    from hpctem.parallel import abort_on_error, world

    communicator = world()
    with abort_on_error(communicator):
        job(communicator)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(hpctem.__version__)
def commands() -> None:
    """Databases of simulated, labelled electron micrographs for training neural networks.

    \b
    Examples:
      hpctem preview configs/quickstart.yaml
      mpirun -n 4 hpctem simulate configs/quickstart.yaml
      hpctem info quickstart.hdf5

    Exit codes: 0 done, 1 failed, 2 bad usage or config, 3 ended with quarantined samples.
    """
