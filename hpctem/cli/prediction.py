"""The command that finds what images show, and options of all that run a model over images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import commands, under_mpi, with_options
from hpctem.cli.micrographs import FrameParameter, QuantityParameter, RowsParameter
from hpctem.cli.training import FOLDER, require_tensorflow


class BorderParameter(click.ParamType):
    """A width in pixels or with a unit of length: (number, 'px') or (number, 'A')."""

    name = "32px|5A"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, str]:
        from hpctem.units import parse_quantity

        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        number, unit = (text[:-2], "px") if text.endswith("px") else (text, "A")
        try:
            width = float(number) if unit == "px" else parse_quantity(number, "length")
        except ValueError:
            self.fail(f"{value!r} is neither pixels, as 32px, nor a length, as 5A", param, ctx)
        if not 0 <= width < float("inf"):
            self.fail(f"{value} is below zero, or no width", param, ctx)
        return width, unit


# The options of every command that runs a model over images: which, and how.
looking = with_options(
    click.option("--where", metavar="SQL", help="Of databases, the condition images fulfil."),
    click.option("--part", metavar="NAME", help="Of a subset file, only this part."),
    click.option("--draw", type=click.IntRange(min=0), help="Of a subset file; 0 without it."),
    click.option(
        "--rows", type=RowsParameter(), help="Of image files, only these; b not included."
    ),
    click.option("--frame", type=FrameParameter(), help="Of stacks: one, or all averaged."),
    click.option(
        "--pixel-size",
        type=QuantityParameter("length", "13.4pm"),
        help="Of image files, instead of what they say.",
    ),
    click.option(
        "--own-scale",
        is_flag=True,
        help="Scale each image by its own mean and deviation, not by those learnt.",
    ),
    click.option("--tile", type=click.IntRange(min=8), help="Pixels; by default as in training."),
    click.option(
        "--step",
        type=click.IntRange(min=1),
        help="Pixels between tiles; a quarter of one by default.",
    ),
    click.option(
        "--whole", is_flag=True, help="Each image at once, in no tiles: faster, more memory."
    ),
    click.option(
        "--no-symmetries", is_flag=True, help="Once as it is, not turned and mirrored: 8 x."
    ),
)


def split_looking(options: Mapping[str, Any]) -> tuple[Any, Any]:
    """What `looking` gives a command, as the images to choose and the way to pass them."""
    from hpctem.learning.prediction.inference import Tiling
    from hpctem.learning.prediction.sources import Choice

    names = ("where", "part", "draw", "rows", "frame", "pixel_size")
    tiling = Tiling(
        options["tile"], options["step"], options["whole"], not options["no_symmetries"]
    )
    return Choice(*(options[name] for name in names)), tiling


@commands.command()
@click.argument("model", type=FOLDER)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE|DB...")
@click.option("-o", "--output", required=True, type=FOLDER, help="New folder.")
@looking
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    help="Probability from which pixels count, of masks too; else 0.5, and masks show what is most "
    "probable.",
)
@click.option(
    "--radius",
    type=QuantityParameter("length", "1.85A"),
    help="Within it is one thing of a class; 1.85 A without it. Less than the distance of atoms.",
)
@click.option(
    "--border",
    type=BorderParameter(),
    default="0px",
    show_default=True,
    help="Positions as near to the image's edge are left out.",
)
@click.option(
    "--least-area",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="PIXELS",
    help="What has fewer pixels is nothing.",
)
@click.option(
    "--positions",
    type=click.Choice(["peaks", "components"]),
    help="Maxima, as of atoms and defects, or connected areas, as of particles; by the model.",
)
@click.option(
    "--write",
    metavar="masks,maps,overlays|none",
    help="Files of each image beside the tables of all: all three of image files, masks of "
    "databases.",
)
def predict(
    model: Path,
    images: tuple[str, ...],
    output: Path,
    threshold: float | None,
    radius: float | None,
    border: tuple[float, str],
    least_area: int,
    positions: Any,
    write: str | None,
    **looked: Any,
) -> None:
    """Find what images show by a trained model: masks, and positions of atoms, defects, particles.

    IMAGE is a micrograph (DM3, DM4, EMD, TIFF ...; NAME::TITLE is one of several in a file), DB a
    database or a subset file. Images of any size are prepared as in training, cut into overlapping
    tiles, and averaged over the 8 symmetries of the square. Pixels more than 2 % off those that the
    model has learnt are resampled, up to a factor of 4. The folder gets positions.csv and
    positions.json (in pixels and in angstrom, of the whole image of a file), prediction.json, and
    of each image a mask (PNG), maps of probabilities (NPZ) and a picture. Ranks share the images.

    \b
    Examples:
      hpctem predict defects mos2.dm3 -o found
      hpctem predict defects mos2.dm3 --rows 528:1024 --pixel-size 12.7pm -o found
      mpirun -n 4 hpctem predict gold day-a/*.emd --write masks,overlays -o masks
      hpctem predict gold gold.hdf5 --where "dose < 300" --step 128 -o low-dose
      hpctem predict lattice graphene.emd --radius 0.7A --threshold 0.3 -o atoms
    """
    from hpctem.learning.prediction.files import parse_written

    written = parse_written(write)

    def job(communicator: Any) -> None:
        communicator.on_root(require_tensorflow)
        require_tensorflow()
        from hpctem.learning.prediction.positions import RADIUS
        from hpctem.learning.prediction.predict import Finding, Request, format_predicted
        from hpctem.learning.prediction.predict import predict as predict_images

        found = predict_images(
            Request(
                model,
                images,
                output,
                *split_looking(looked),
                Finding(threshold, radius or RADIUS, border, least_area, positions),
                written,
                looked["own_scale"],
            ),
            communicator,
        )
        if found is not None:
            click.echo(format_predicted(found, output))

    under_mpi(job)
