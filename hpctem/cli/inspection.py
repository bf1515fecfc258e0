"""Commands that look into one database: info, verify, atoms."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import DATABASE, commands, under_mpi


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
