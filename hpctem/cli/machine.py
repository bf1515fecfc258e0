"""Commands about the program and this machine: doctor, schema."""

from __future__ import annotations

import json
import sys

import click

from hpctem.cli.command import commands


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
