"""Commands that look into databases: info, verify, atoms, show, report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import DATABASE, commands, under_mpi


@commands.command()
@click.argument("databases", nargs=-1, required=True, type=DATABASE)
@click.option("--columns", is_flag=True, help="Describe every column: unit, range, meaning.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print all of it as JSON: 'databases', 'together'."
)
def info(databases: tuple[Path, ...], columns: bool, as_json: bool) -> None:
    """Say what databases hold: counts, conditions, quarantined samples, campaign, versions.

    Several are described one by one and then together. Ranges and numbers are those of good rows;
    values are counted where there are at most 12 of them.

    \b
    Examples:
      hpctem info quickstart.hdf5
      hpctem info quickstart.hdf5 --columns
      hpctem info gold.v*.hdf5 --json
    """
    from hpctem.database.information import inform, unite
    from hpctem.summaries import describe, format_information, format_union

    found = [inform(path, thorough=columns) for path in databases]
    together = unite(found) if len(found) > 1 else None
    if as_json:
        whole = describe(together) if together else None
        parts = [describe(one) for one in found]
        click.echo(json.dumps({"databases": parts, "together": whole}, indent=1))
        return
    texts = [format_information(one, columns) for one in found]
    click.echo("\n\n".join([*texts, format_union(together, columns)] if together else texts))


@commands.command()
@click.argument("databases", nargs=-1, required=True, type=DATABASE)
def verify(databases: tuple[Path, ...]) -> None:
    """Check every row, and every byte outside the rows, against the stored digests.

    Names the rows that are damaged and the command that has them computed again.

    \b
    Examples:
      hpctem verify quickstart.hdf5
      mpirun -n 4 hpctem verify gold.v*.hdf5
    """

    def job(communicator: Any) -> None:
        from hpctem.database.verify import verify
        from hpctem.errors import DatabaseError
        from hpctem.summaries import format_verification

        intact = True
        for path in databases:
            try:
                found = verify(path, communicator)
            except DatabaseError as error:
                # One that cannot be read must not hide what the others hold.
                if len(databases) == 1 or not (error.shared or communicator.size == 1):
                    raise
                intact = False
                if communicator.rank == 0:
                    click.echo(f"hpctem: error: {error}", err=True)
                continue
            intact = intact and found.intact
            if communicator.rank == 0:
                click.echo(format_verification(path, found))
        if not intact:
            sys.exit(1)

    under_mpi(job)


@commands.command()
@click.argument("database", type=DATABASE)
@click.argument("row", type=click.IntRange(min=0))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="XYZ file.")
def atoms(database: Path, row: int, output: Path) -> None:
    """Rebuild the atoms that an image shows, bit for bit, and write them as extended XYZ.

    ROW is the row of the image in the file, the column `row` of a query.

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
@click.argument("database", type=DATABASE)
@click.argument("rows", metavar="ROW...", nargs=-1, required=True, type=click.IntRange(min=0))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PNG, PDF or SVG; NAME.rowROW.png by default.",
)
def show(database: Path, rows: tuple[int, ...], output: Path | None) -> None:
    """Draw images with their labels, power spectra and metadata, a strip for each row.

    ROW is the row of the image in the file, the column `row` of a query; up to 12 in one picture.

    \b
    Examples:
      hpctem show quickstart.hdf5 0
      hpctem show quickstart.hdf5 0 5 17 -o three.pdf
    """
    from hpctem.database.reader import open_database
    from hpctem.pictures import choose_kind, draw_portraits, read_portraits, save_figure

    target = output or Path(f"{database.stem}.row{'-'.join(map(str, rows[:4]))}.png")
    choose_kind(target)
    with open_database(database) as opened:
        figure = draw_portraits(read_portraits(opened, rows))
    click.echo(f"picture: {click.format_filename(save_figure(figure, target))}")


@commands.command()
@click.argument("databases", nargs=-1, required=True, type=DATABASE)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML file; NAME.report.html by default.",
)
@click.option("--verify", "check", is_flag=True, help="Verify every row first, as 'verify' does.")
def report(databases: tuple[Path, ...], output: Path | None, check: bool) -> None:
    """Write one page of HTML about databases: what was asked, what was drawn, how it looks.

    Histograms over their distributions, images with masks, power spectra, bad samples, throughput,
    checks and provenance. The page needs no other file and no network. Volumes of one campaign are
    taken together.

    \b
    Examples:
      hpctem report quickstart.hdf5
      hpctem report gold.v*.hdf5 --verify -o gold.html
    """
    from hpctem.page.document import write_report

    target = output or Path(f"{databases[0].stem}.report.html")
    click.echo(f"report: {click.format_filename(write_report(databases, target, check))}")
