"""Commands that choose from databases: query, subset, export."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import DATABASE, commands, under_mpi

SHOWN = 20


@commands.command()
@click.argument("databases", nargs=-1, required=True, type=DATABASE)
@click.option("--where", metavar="SQL", help="Condition that the images fulfil; all without it.")
@click.option(
    "--columns", metavar="A,B,...", help="Columns to show; 'hpctem info --columns' lists them."
)
@click.option(
    "--order", metavar="SQL", help="Expressions to sort by, such as 'dose DESC, defocus'."
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="The first N images only.")
@click.option("--count", is_flag=True, help="Print how many images there are, nothing else.")
@click.option("--hist", metavar="COLUMN", help="Draw how often which values of a column come.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, an object per image.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values in UTF-8.")
def query(
    databases: tuple[Path, ...],
    where: str | None,
    columns: str | None,
    order: str | None,
    limit: int | None,
    count: bool,
    hist: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show the images of one or several databases that fulfil a condition.

    The condition is SQL over the columns of the images and of their structures, in angstrom, eV,
    rad and electrons per square angstrom; a number with another unit stands in single quotes.
    `particles.radius > '2 nm'` means that such a particle of the image exists; the tables `defects`
    and `columns` hold the point defects and atom columns that the image itself shows. Nothing but
    comparing and computing is allowed. On a terminal the first 20 are shown unless --limit says
    more; JSON and CSV hold all columns unless --columns names some.

    \b
    Examples:
      hpctem query quickstart.hdf5 --where "dose > 500 AND defocus > '2 nm'"
      hpctem query gold.v*.hdf5 --where "planar_defects.kind = 'twin'" --count
      hpctem query gold.hdf5 --order "mean_radius DESC" --columns row,mean_radius --limit 5
      hpctem query gold.hdf5 --where "dose < 300" --hist defocus
      hpctem query gold.hdf5 --csv > gold.csv
      hpctem query wse2.hdf5 --where "n_Se_vacancy > 3 AND material = '1H-WSe2'"
    """
    from hpctem.cli.listing import (
        usual_columns,
        write_csv,
        write_histogram,
        write_json,
        write_table,
    )
    from hpctem.collection.collection import open_collection
    from hpctem.collection.query import find_places, named_columns

    if count + (hist is not None) + as_json + as_csv > 1:
        raise click.UsageError("choose one of --count, --hist, --json and --csv")
    with open_collection(databases) as collection:
        whole = as_json or as_csv
        named = named_columns(collection, where, order)
        if columns is not None:
            shown = [name.strip() for name in columns.split(",")]
        else:
            shown = list(collection.columns) if whole else usual_columns(collection, named)
        used = [] if count else [hist] if hist is not None else shown
        _tell_missing([collection.find(name) for name in [*named, *used]])
        places = find_places(collection, where, order)
        found = collection.take(places[:limit])
        # UTF-8 and line ends as they are, whatever the locale is.
        stream = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="")
        if count:
            stream.write(f"{len(found)}\n")
        elif hist is not None:
            write_histogram(found, hist, stream)
        elif as_json:
            write_json(found, shown, stream)
        elif as_csv:
            write_csv(found, shown, stream)
        else:
            cut = limit is None and sys.stdout.isatty() and len(found) > SHOWN
            write_table(found.take(slice(SHOWN)) if cut else found, shown, stream)
            if cut:
                told = f"the first {SHOWN} of {len(found)} images; --limit shows more"
            elif len(found) < len(places):
                told = f"the first {len(found)} of {len(places)} images"
            else:
                told = f"{len(found)} images"
            stream.write(f"{told}\n")
        stream.flush()
        stream.detach()


def _tell_missing(columns: list[Any]) -> None:
    """Say which columns are NULL in which files, once each."""
    for column in dict.fromkeys(columns):
        if column.missing:
            files = ", ".join(column.missing)
            click.echo(f"note: {files} has no column {column.name}; it is NULL there", err=True)


@commands.command()
@click.argument("databases", nargs=-1, required=True, type=DATABASE)
@click.option("-o", "--output", required=True, type=DATABASE, help="Subset file, JSON.")
@click.option("--where", metavar="SQL", help="Condition that the images fulfil; all without it.")
@click.option(
    "--stratify",
    multiple=True,
    metavar="COLUMN[:EDGES]",
    help="Spread all that is drawn evenly over the values of a column, or over the bins between "
    "edges, as 'dose:0,500,1000'; an edge may have a unit. Images outside are left out.",
)
@click.option(
    "--combinations",
    metavar="COLUMN",
    help="Draw from every combination of its strata: 15 of four.",
)
@click.option(
    "--sample",
    multiple=True,
    metavar="N[:COLUMN]",
    help="N random images, or N random values of a column with all their images.",
)
@click.option(
    "--per",
    multiple=True,
    metavar="COLUMN:K[:UNIT]",
    help="Of each value of a column K random images, or K random values of UNIT with all theirs.",
)
@click.option(
    "--balance",
    multiple=True,
    metavar="COLUMN[:EDGES]",
    help="As many images of each value as of the rarest; strata of all that is drawn, as well.",
)
@click.option(
    "--split",
    metavar="NAME=FRACTION,...",
    help="Parts that share no structure: train=0.75,validation=0.25.",
)
@click.option(
    "--folds", type=click.IntRange(min=2), metavar="K", help="K draws, each validates on one fold."
)
@click.option(
    "--group",
    metavar="COLUMN",
    help="What a split or folds keep together beyond a structure, such as elements.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="So many independent draws in one file.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws."
)
@click.option(
    "--allow-fewer", is_flag=True, help="Take what there is where there are too few; say so."
)
def subset(databases: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Draw images for training, reproducibly, and split them so that no structure leaks.

    One order: --where, --stratify, --combinations, --sample N:COLUMN, --per, --balance, --sample N,
    --split or --folds; --draws does all of it with other random numbers. A structure is known by
    its atoms, in whichever database it is. The file names the rows, not the images: export and
    hpctem.open() take it, and check that the databases still hold these rows. A stratum with too
    few images is an error. Another subset file of that name is replaced, other files never.

    \b
    Examples:
      hpctem subset gold.hdf5 -o dose400.json --where "dose = 400" --sample 128:structure_id \\
          --sample 512 --split train=0.75,validation=0.25 --draws 5
      hpctem subset gold.hdf5 -o thickness.json --combinations substrate_thickness \\
          --stratify "substrate_thickness:2,3.5,5,6.5,8 nm" --sample 1024
      hpctem subset np.hdf5 -o foci.json --sample 256:structure_id --sample 3:focus_index \\
          --stratify focus_index:0,4,7,11 --draws 35
      hpctem subset gold.hdf5 cdse.hdf5 -o mixed.json --balance campaign --sample 8000
      hpctem subset materials.hdf5 -o elements.json --split train=2/3,test=1/3 --group elements
      hpctem subset gold.hdf5 -o folds.json --folds 5
    """
    from hpctem.collection.collection import open_collection
    from hpctem.subsets.file import check_place, write_subset
    from hpctem.subsets.subset import draw_subset
    from hpctem.subsets.table import format_subset

    check_place(output)
    with open_collection(databases) as collection:
        drawn = draw_subset(collection, **options)
        write_subset(drawn, output)
        click.echo(f"{output}: {format_subset(drawn)}")


class Scale(click.ParamType):
    """LOW:HIGH, the stored values that become 0 and 65535."""

    name = "low:high"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        low, _, high = str(value).partition(":")
        try:
            return float(low), float(high)
        except ValueError:
            self.fail(f"{value!r} is no range: write LOW:HIGH, such as 0:255", param, ctx)


@commands.command()
@click.argument("sources", nargs=-1, required=True, type=DATABASE, metavar="SOURCE...")
@click.option(
    "-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="New folder."
)
@click.option(
    "--format",
    "kind",
    required=True,
    metavar="FORMAT",
    help="hdf5, tfrecord, webdataset, tiff, png or emd.",
)
@click.option("--where", metavar="SQL", help="Condition that the images fulfil; all without it.")
@click.option("--part", metavar="NAME", help="Only this part of the subset; all without it.")
@click.option("--draw", type=click.IntRange(min=0), help="Draw of the subset; 0 without it.")
@click.option(
    "--view",
    default="stored",
    show_default=True,
    metavar="stored|campaign",
    help="Images as stored, or through the view (the median) that their campaign records.",
)
@click.option(
    "--compress", default="", metavar="none|gzip|lzf", help="PNG is always compressed, others not."
)
@click.option(
    "--shard",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images in each file (TIFF, PNG: folder); 128 MiB for TFRecord and WebDataset without it.",
)
@click.option(
    "--scale",
    type=Scale(),
    help="TIFF, PNG: values that become 0 and 65535. Without it counts stay as they are, other "
    "images take the range of the whole export.",
)
@click.option(
    "--labels",
    default="all",
    show_default=True,
    metavar="NAME,...|all|none",
    help="Label maps that go with the images; 'hpctem info' lists them.",
)
@click.option(
    "--detectors",
    default="none",
    show_default=True,
    metavar="NAME,...|all|none",
    help="Further detectors whose images go with those of the first; 'hpctem info' lists them.",
)
@click.option("--license", "licence", default="", metavar="TEXT", help="URL or SPDX name.")
@click.option("--creator", default="", metavar="TEXT", help="Who made the data.")
@click.option("--cite", default="", metavar="TEXT", help="What to cite, as BibTeX or text.")
@click.option("--url", default="", metavar="URL", help="Where the data will be published.")
@click.option(
    "--published",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Date of publication; without it that of the newest database.",
)
def export(
    sources: tuple[Path, ...],
    target: Path,
    kind: str,
    where: str | None,
    part: str | None,
    draw: int | None,
    view: str,
    compress: str,
    shard: int | None,
    scale: tuple[float, float] | None,
    labels: str,
    detectors: str,
    licence: str,
    creator: str,
    cite: str,
    url: str,
    published: Any,
) -> None:
    """Write databases, or a subset drawn from them, as files of another format.

    SOURCE is a subset file (.json), whose parts become folders, or databases. The new folder holds
    the images and labels, tables of all columns and of the particles and defects as Parquet and
    CSV, the campaign files, SHA-256 digests, and a Croissant description with licence and creator
    as given. Ranks share the work; the bytes do not depend on their number. An interrupted export
    begins anew; one that is there already is left.

    \b
    Examples:
      hpctem export subset.json -o gold-tf --format tfrecord --license CC-BY-4.0
      mpirun -n 4 hpctem export gold.hdf5 -o gold-hdf5 --format hdf5 --compress gzip
      hpctem export gold.hdf5 -o tiffs --format tiff --where "dose > 500" --view campaign
      hpctem export camera.hdf5 -o pngs --format png --scale 0:4000
      hpctem export wse2.hdf5 -o wse2-tf --format tfrecord --labels atoms,Se_vacancy
      hpctem export srtio3.hdf5 -o srtio3-tiff --format tiff --detectors all
    """

    def job(communicator: Any) -> None:
        from hpctem.export.croissant import About
        from hpctem.export.job import export, format_summary
        from hpctem.export.plan import Choice
        from hpctem.export.sources import open_parts

        maps = [tuple(name.strip() for name in names.split(",")) for names in (labels, detectors)]
        choice = communicator.on_root(lambda: Choice(kind, view, compress, shard, scale, *maps))
        given = {"license": licence, "creator": creator, "cite": cite, "url": url}
        about = About(**{name: text for name, text in given.items() if text})
        if published is not None:
            about = replace(about, published=published.date().isoformat())
        parts, origin = communicator.on_root(lambda: open_parts(sources, where, part, draw))
        found = export(parts, target, choice, about, origin, communicator)
        if communicator.rank == 0:
            click.echo(format_summary(target, kind, found))

    under_mpi(job)
