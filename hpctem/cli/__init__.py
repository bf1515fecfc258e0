"""The command line: one thin command for each verb; what is heavy is imported inside."""

from __future__ import annotations

import sys

import click

from hpctem.cli import (
    curation,
    importing,
    inspection,
    judging,
    machine,
    micrographs,
    prediction,
    simulation,
    slurm,
    training,
    translation,
)
from hpctem.cli.command import commands
from hpctem.errors import HpctemError, describe_os_error

__all__ = [
    "commands",
    "curation",
    "importing",
    "inspection",
    "judging",
    "machine",
    "main",
    "micrographs",
    "prediction",
    "simulation",
    "slurm",
    "training",
    "translation",
]


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
        click.echo(f"hpctem: error: {describe_os_error(error)}", err=True)
        sys.exit(1)
