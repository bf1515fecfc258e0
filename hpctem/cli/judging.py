"""Commands that judge what was learnt: evaluate, realism."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import commands, under_mpi
from hpctem.cli.micrographs import FrameParameter, QuantityParameter, RowsParameter
from hpctem.cli.prediction import BorderParameter, looking, split_looking
from hpctem.cli.training import FOLDER, require_tensorflow


@commands.command()
@click.argument("model", type=FOLDER)
@click.argument("images", nargs=-1, required=True, metavar="DB|IMAGE...")
@click.option("-o", "--output", required=True, type=FOLDER, help="New folder.")
@click.option(
    "--truth",
    "truths",
    multiple=True,
    metavar="FILE",
    help="Labels of an image file: positions (.csv) or a mask (.png, .npy); one for each image.",
)
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN[:EDGES]",
    help="Scores over a column, as defocus or 'defocus:-50,0,50 nm'; several times for several.",
)
@click.option(
    "--radius",
    type=QuantityParameter("length", "1.5A"),
    default="1.5 A",
    show_default=True,
    help="A found position is a true one within it.",
)
@click.option(
    "--border",
    type=BorderParameter(),
    help="Positions as near to the edge do not count; 32px without it, or an eighth of the image.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    help="Probability from which pixels count; as in predict.",
)
@click.option(
    "--apart",
    type=QuantityParameter("length", "1.85A"),
    help="Within it is one thing of a class, as --radius of predict; 1.85 A without it.",
)
@looking
@click.option(
    "--all",
    "learnt",
    is_flag=True,
    help="Of databases, also images of structures that the model has learnt from.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the intervals."
)
def evaluate(
    model: Path,
    images: tuple[str, ...],
    output: Path,
    truths: tuple[str, ...],
    by: tuple[str, ...],
    radius: float,
    border: tuple[float, str] | None,
    threshold: float | None,
    apart: float | None,
    learnt: bool,
    seed: int,
    **looked_at: Any,
) -> None:
    """Judge a trained model on images whose truth is known.

    DB is a database or a subset file; images of structures that the model has learnt from are left
    out. IMAGE is a micrograph whose labels --truth names. Pixels: F1, precision, recall and IoU of
    each class, of segmentations beside what needs no network. Defects and atoms: found positions
    are matched one to one with true ones. All with 95 % intervals. The folder gets
    evaluation.json, evaluation.html and images.csv. Ranks share the images.

    \b
    Examples:
      hpctem evaluate gold gold.hdf5 --by dose --by defocus -o judged
      hpctem evaluate gold subset.json --part validation -o judged
      mpirun -n 4 hpctem evaluate defects wse2.hdf5 --by 'defocus:-5,0,5 nm' -o judged
      hpctem evaluate defects mos2.dm3 --rows 528:1024 --truth vacancies.csv --border 32px -o judged
    """

    def job(communicator: Any) -> None:
        communicator.on_root(require_tensorflow)
        require_tensorflow()
        from hpctem.learning.judging.evaluate import evaluate as evaluate_model
        from hpctem.learning.judging.evaluate import format_evaluation
        from hpctem.learning.judging.judge import Rules
        from hpctem.learning.judging.plan import Request
        from hpctem.learning.prediction.positions import RADIUS
        from hpctem.learning.prediction.predict import Finding
        from hpctem.learning.prediction.predict import Request as Looked

        looked = Looked(
            model,
            images,
            output,
            *split_looking(looked_at),
            Finding(threshold, apart or RADIUS),
            own_scale=looked_at["own_scale"],
        )
        request = Request(looked, truths, Rules(radius, border), by, seed, learnt)
        report = evaluate_model(request, communicator)
        if report is not None:
            click.echo(format_evaluation(report, output))

    under_mpi(job)


@commands.command()
@click.argument("sets", nargs=-1, required=True, metavar="[NAME=]DB|IMAGE,...")
@click.option(
    "--experiment",
    multiple=True,
    required=True,
    metavar="IMAGE",
    help="Micrograph that the sets are compared with; several times for several.",
)
@click.option("--rows", type=RowsParameter(), help="Of the experiment, only these.")
@click.option(
    "--floor",
    type=RowsParameter(),
    help="Other rows of it, whose distance from --rows is the floor; else between their halves.",
)
@click.option("--frame", type=FrameParameter(), help="Of stacks: one, or all averaged.")
@click.option(
    "--pixel-size",
    type=QuantityParameter("length", "13.4pm"),
    help="Of the experiment, instead of what its file says.",
)
@click.option("--where", metavar="SQL", help="Of databases, the condition that images fulfil.")
@click.option("--part", metavar="NAME", help="Of subset files, only this part.")
@click.option(
    "--patch",
    type=click.IntRange(min=64),
    default=256,
    show_default=True,
    help="Pixels a side of what is compared.",
)
@click.option(
    "--patches",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Of each set, cut at random.",
)
@click.option(
    "--lattice",
    metavar="NAME",
    help="Crystal (mos2, graphene) or a=3.16A,hexagonal; found in the experiment without it.",
)
@click.option("--no-bands", is_flag=True, help="Leave out the power of Bragg spots.")
@click.option("--median", is_flag=True, help="Compare 3 x 3 medians of all images.")
@click.option(
    "--inception",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Weights of Inception v3 without its classifier, for the Frechet Inception distance.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the patches."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="JSON of all figures."
)
def realism(
    sets: tuple[str, ...],
    experiment: tuple[str, ...],
    rows: tuple[int, int | None] | None,
    floor: tuple[int, int | None] | None,
    frame: int | str | None,
    pixel_size: float | None,
    where: str | None,
    part: str | None,
    patch: int,
    patches: int,
    lattice: str | None,
    no_bands: bool,
    median: bool,
    inception: Path | None,
    seed: int,
    output: Path | None,
) -> None:
    """Measure how far sets of images are from an experiment.

    Each set is a database, a subset file or micrographs; the first is the raw simulation, and of
    the others is told which part of its distance they have closed, down to the floor that parts of
    the experiment have between them. Histograms (KL divergence), texture (sliced Wasserstein), the
    power of low frequencies, Bragg spots and what lies between, features of Inception v3 if its
    weights are given, and whether patches are copies of the experiment.

    \b
    Examples:
      hpctem realism raw.hdf5 translated.hdf5 --experiment mos2.dm3 --rows 0:496 --floor 528:1024
      hpctem realism raw=clean.hdf5 manual=noisy.hdf5 gan=translated.hdf5 --experiment mos2.dm3 \\
          --lattice mos2 -o realism.json
      hpctem realism sim.tif --experiment day-a.emd --patch 128 --no-bands
    """

    def job(communicator: Any) -> None:
        if inception is not None:
            communicator.on_root(require_tensorflow)
            require_tensorflow()
        from hpctem.learning.realism.comparison import (
            Request,
            compare,
            format_comparison,
            write_comparison,
        )
        from hpctem.learning.realism.image_sets import Choice, Cutting

        request = Request(
            sets,
            experiment,
            Cutting(patch, patches, seed),
            rows,
            floor,
            frame,
            pixel_size,
            lattice,
            not no_bands,
            inception,
            median,
            Choice(where, part),
        )
        report = communicator.on_root(
            lambda: compare(request, lambda text: click.echo(text, err=True))
        )
        if communicator.rank == 0:
            click.echo(format_comparison(report))
            if output is not None:
                write_comparison(report, output)

    under_mpi(job)
