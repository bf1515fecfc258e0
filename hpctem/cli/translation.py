"""Commands that pass images through the generators of a CycleGAN: translate, denoise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import DATABASE, REPAIR, commands, under_mpi, with_options
from hpctem.cli.micrographs import FrameParameter, QuantityParameter, RowsParameter
from hpctem.cli.simulation import end_filling
from hpctem.cli.training import FOLDER, require_tensorflow

# The options of both commands that fill a database with translated images.
filling_options = with_options(
    click.option("--limit", type=click.IntRange(min=1), help="Of DB, its first N structures."),
    click.option(
        "--own-scale",
        is_flag=True,
        help="Scale intensities by the images' own mean and deviation, not by those learnt.",
    ),
    REPAIR,
)


@commands.command()
@click.argument("model", type=FOLDER)
@click.argument("database", type=DATABASE, metavar="DB")
@click.option("-o", "--output", required=True, type=DATABASE, help="Database to fill.")
@filling_options
def translate(
    model: Path, database: Path, output: Path, limit: int | None, own_scale: bool, repair: bool
) -> None:
    """Make the simulated images of a database look as if a microscope had recorded them.

    MODEL is a CycleGAN that 'hpctem train cyclegan' has trained. Every image of DB becomes tiles of
    the size that the model was trained on, with label maps, defects, columns and metadata; tile_x,
    tile_y and parent_row say where a tile comes from. Every tile is checked against its input:
    displaced by under half a pixel, defects with the contrast that they had. What fails is kept
    with accepted = 0 and the reason, counted, and left out of training. Resumes as simulate does,
    and gives the same file at any number of ranks.

    \b
    Examples:
      hpctem translate mos2_gan mos2_se_implanted.hdf5 -o realistic.hdf5
      mpirun -n 4 hpctem translate mos2_gan mos2_se_implanted.hdf5 -o realistic.hdf5
      hpctem query realistic.hdf5 --where "accepted = 0" --columns reason,offset_x,offset_y
    """
    under_mpi(_fill_by("translate", model, database, output, limit, own_scale, repair))


@commands.command()
@click.argument("model", type=FOLDER)
@click.argument("source", metavar="IMAGE|DB")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="TIFF or NPY file of an image, database of a database.",
)
@click.option("--rows", type=RowsParameter(), help="Of an image file, only these; b not included.")
@click.option("--frame", type=FrameParameter(), help="Of a stack: one, or all averaged.")
@click.option(
    "--pixel-size",
    type=QuantityParameter("length", "13.4pm"),
    help="Of an image file, instead of what it says.",
)
@filling_options
def denoise(
    model: Path,
    source: str,
    output: Path,
    rows: tuple[int, int | None] | None,
    frame: int | str | None,
    pixel_size: float | None,
    limit: int | None,
    own_scale: bool,
    repair: bool,
) -> None:
    """Make experimental images look like simulations: without noise, distortions and dirt.

    MODEL is a CycleGAN that 'hpctem train cyclegan' has trained; its other generator is used. A
    micrograph (DM3, EMD, TIFF ...) becomes an image of its own size and a picture of both; the
    images of a database become tiles as in 'hpctem translate', checked in the same way. What such
    a network shows is what it takes to be there: measure in the micrograph itself.

    \b
    Examples:
      hpctem denoise mos2_gan mos2.dm3 --rows 528:1024 --pixel-size 13.4pm -o clean.tif
      mpirun -n 4 hpctem denoise mos2_gan noisy.hdf5 --own-scale -o clean.hdf5
    """
    if Path(source).suffix.lower() == ".hdf5":
        if (rows, frame, pixel_size) != (None, None, None):
            raise click.UsageError("--rows, --frame and --pixel-size choose from image files")
        under_mpi(_fill_by("denoise", model, Path(source), output, limit, own_scale, repair))
        return
    if limit is not None or repair:
        raise click.UsageError("--limit and --repair are about databases")

    def job(communicator: Any) -> None:
        if communicator.rank:  # an image is little work
            return
        require_tensorflow()
        from hpctem.learning.prediction.sources import Choice, ImageFile
        from hpctem.learning.training.model_folder import open_model
        from hpctem.learning.translation.denoise import (
            denoise_image,
            require_ending,
            write_denoised,
        )
        from hpctem.learning.translation.generators import choose_recipe, choose_section

        require_ending(output)
        opened = open_model(model)
        recipe = choose_recipe(opened, "denoise")
        choice = Choice(rows=rows, frame=frame, pixel_size=pixel_size)
        shot = ImageFile(source, Path(source).name, choice).read()
        own = choose_section(opened, "denoise") if own_scale else None
        found = denoise_image(recipe, shot, own)
        for note in found.notes:
            click.echo(f"note: {note}", err=True)
        for path in write_denoised(found, output, f"{source} by {recipe.name}"):
            click.echo(click.format_filename(path))

    under_mpi(job)


def _fill_by(
    command: str,
    model: Path,
    database: Path,
    output: Path,
    limit: int | None,
    own_scale: bool,
    repair: bool,
) -> Any:
    """The job that fills a database with what a generator makes of another's images."""

    def job(communicator: Any) -> None:
        communicator.on_root(require_tensorflow)
        require_tensorflow()
        from hpctem.learning.ranks.transport import take_gpu
        from hpctem.learning.training.model_folder import open_model
        from hpctem.learning.translation.generators import choose_recipe, choose_section
        from hpctem.learning.translation.outcome import format_outcome, survey
        from hpctem.learning.translation.translate import measure_own, plan_translation
        from hpctem.learning.translation.translate import translate as fill
        from hpctem.parallel import ProgressDisplay, listen_for_stop

        stop = listen_for_stop()
        take_gpu(communicator.local_rank)
        opened = communicator.on_root(lambda: open_model(model))
        recipe = choose_recipe(opened, command)
        if own_scale:
            section = choose_section(opened, command)
            own = communicator.on_root(lambda: measure_own(database, section))
            recipe = choose_recipe(opened, command, own)
        planned = plan_translation(recipe, database, output, communicator, limit)
        display = ProgressDisplay(planned.tiles)
        summary = fill(
            planned,
            output,
            communicator,
            repair=repair,
            stop=stop,
            progress=display,
            interval=display.interval,
        )
        end_filling(
            communicator, output, summary, lambda: click.echo(format_outcome(survey(output)))
        )

    return job
