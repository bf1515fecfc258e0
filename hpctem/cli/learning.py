"""Commands that train networks, use them and judge them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import CONFIG, DATABASE, QUARANTINED, commands, under_mpi
from hpctem.cli.micrographs import FrameParameter, QuantityParameter, RowsParameter
from hpctem.cli.simulation import tell_end

FOLDER = click.Path(file_okay=False, path_type=Path)


def require_tensorflow() -> None:
    """Make TensorFlow ready to be imported: Keras' backend, and silent: what fails raises.

    Raises MachineError where it is not installed.
    """
    import importlib.util

    from hpctem.errors import MachineError

    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for package in ("tensorflow", "keras"):
        if importlib.util.find_spec(package) is None:
            raise MachineError(
                f"{package} is not installed: pip install 'hpctem[train]', or 'hpctem[train-cpu]' "
                "on machines without a GPU"
            )


@commands.command()
@click.argument("kind", type=click.Choice(["segmentation", "defects", "cyclegan"]))
@click.argument("config", type=CONFIG)
@click.option("-o", "--output", type=FOLDER, help="Folder of the model; its NAME by default.")
@click.option(
    "--transport",
    type=click.Choice(["auto", "horovod", "mpi4py", "single"]),
    default="auto",
    show_default=True,
    help="What carries gradients between ranks; auto takes Horovod where it works.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    help="Train N networks with draws and beginnings of their own.",
)
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Minutes between checkpoints within an epoch; there is one after each.",
)
def train(
    kind: str,
    config: Path,
    output: Path | None,
    transport: str,
    repeats: int | None,
    checkpoint_every: float,
) -> None:
    """Train a network on images of databases, on one process or under mpirun, horovodrun or srun.

    Run the same command again after any interruption: it goes on from its last checkpoint, and the
    loss curve is that of an uninterrupted training on as many ranks. A finished model is left
    alone. Its folder holds weights, config, metrics and a card; history.csv, steps.csv, a picture
    after every epoch and TensorBoard's files tell how it went.

    \b
    Examples:
      hpctem train segmentation configs/train_segmentation_small.yaml
      mpirun -n 2 hpctem train segmentation configs/train_segmentation_au.yaml -o gold
      srun --mpi=pmix hpctem train cyclegan configs/train_cyclegan_mos2.yaml --transport horovod
      hpctem train defects configs/train_defects_wse2.yaml --repeats 5
    """

    def job(communicator: Any) -> None:
        communicator.on_root(require_tensorflow)
        require_tensorflow()
        from hpctem.learning.training_file import read_training

        file = communicator.on_root(lambda: read_training(config, kind))
        folder = output or Path(file.config.training.name)

        from hpctem.learning.repeats import summarise, train_repeats, write_table
        from hpctem.learning.runs import Attention, train_model
        from hpctem.learning.training_progress import TrainingDisplay
        from hpctem.learning.transport import open_transport
        from hpctem.parallel import listen_for_stop

        carrier = open_transport(communicator, transport)
        attention = Attention(listen_for_stop(), TrainingDisplay(), _note, checkpoint_every * 60)
        if repeats is None:
            done = [train_model(file, folder, carrier, attention)]
            if communicator.rank == 0:
                _tell_trained(done[0])
        else:
            done = train_repeats(file, folder, repeats, carrier, attention, _tell_trained)
        if done[-1].end == "stopped":
            sys.exit(1)
        if repeats is not None and communicator.rank == 0:
            click.echo(f"{len(done)} networks in {folder}:")
            for line in write_table(summarise([one.metrics for one in done])):
                click.echo(f"  {line}")

    under_mpi(job)


def _note(text: str) -> None:
    click.echo(text, err=True)


def _tell_trained(trained: Any) -> None:
    if trained.end == "stopped":
        click.echo(
            f"stopped as asked: {trained.epochs} epochs of {trained.folder} are done; run the same "
            "command to go on",
            err=True,
        )
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in trained.metrics.items())
    already = " already" if trained.end == "found" else ""
    click.echo(f"{trained.folder}: trained{already}, {trained.epochs} epochs: {scores}")


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


@commands.command()
@click.argument("model", type=FOLDER)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE|DB...")
@click.option("-o", "--output", required=True, type=FOLDER, help="New folder.")
@click.option("--where", metavar="SQL", help="Of databases, the condition that images fulfil.")
@click.option("--part", metavar="NAME", help="Of a subset file, only this part.")
@click.option("--draw", type=click.IntRange(min=0), help="Of a subset file; 0 without it.")
@click.option("--rows", type=RowsParameter(), help="Of image files, only these; b not included.")
@click.option("--frame", type=FrameParameter(), help="Of stacks: one, or all averaged.")
@click.option(
    "--pixel-size",
    type=QuantityParameter("length", "13.4pm"),
    help="Of image files, instead of what they say.",
)
@click.option("--tile", type=click.IntRange(min=8), help="Pixels; by default as in training.")
@click.option(
    "--step", type=click.IntRange(min=1), help="Pixels between tiles; a quarter of one by default."
)
@click.option("--whole", is_flag=True, help="Each image at once, in no tiles: faster, more memory.")
@click.option("--no-symmetries", is_flag=True, help="Once as it is, not turned and mirrored: 8 x.")
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
    where: str | None,
    part: str | None,
    draw: int | None,
    rows: tuple[int, int | None] | None,
    frame: int | str | None,
    pixel_size: float | None,
    tile: int | None,
    step: int | None,
    whole: bool,
    no_symmetries: bool,
    threshold: float | None,
    radius: float | None,
    border: tuple[float, str],
    least_area: int,
    positions: Any,
    write: str | None,
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
    from hpctem.learning.prediction_files import parse_written

    written = parse_written(write)

    def job(communicator: Any) -> None:
        communicator.on_root(require_tensorflow)
        require_tensorflow()
        from hpctem.learning.inference import Tiling
        from hpctem.learning.positions import RADIUS
        from hpctem.learning.prediction import Finding, Request, format_predicted
        from hpctem.learning.prediction import predict as predict_images
        from hpctem.learning.prediction_sources import Choice

        found = predict_images(
            Request(
                model,
                images,
                output,
                Choice(where, part, draw, rows, frame, pixel_size),
                Tiling(tile, step, whole, not no_symmetries),
                Finding(threshold, radius or RADIUS, border, least_area, positions),
                written,
            ),
            communicator,
        )
        if found is not None:
            click.echo(format_predicted(found, output))

    under_mpi(job)


def _filling(command: Any) -> Any:
    """The options of both commands that fill a database with translated images."""
    options = (
        click.option("--limit", type=click.IntRange(min=1), help="Of DB, its first N structures."),
        click.option(
            "--own-scale",
            is_flag=True,
            help="Scale intensities by the images' own mean and deviation, not by those learnt.",
        ),
        click.option(
            "--repair",
            is_flag=True,
            help="Read the database back and compute again what is damaged or missing.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@commands.command()
@click.argument("model", type=FOLDER)
@click.argument("database", type=DATABASE, metavar="DB")
@click.option("-o", "--output", required=True, type=DATABASE, help="Database to fill.")
@_filling
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
@_filling
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
        from hpctem.learning.denoising import denoise_image, require_ending, write_denoised
        from hpctem.learning.generators import choose_recipe, choose_section
        from hpctem.learning.model_folder import open_model
        from hpctem.learning.prediction_sources import Choice, ImageFile

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
        from hpctem.learning.generators import choose_recipe, choose_section
        from hpctem.learning.model_folder import open_model
        from hpctem.learning.translation import measure_own, plan_translation
        from hpctem.learning.translation import translate as fill
        from hpctem.learning.translation_outcome import format_outcome, survey
        from hpctem.learning.transport import take_gpu
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
        if communicator.rank == 0:
            tell_end(output, summary)
            if summary.complete and summary.good:
                click.echo(format_outcome(survey(output)))
        if not summary.complete:
            sys.exit(1)
        if summary.quarantined:
            sys.exit(QUARANTINED)

    return job
