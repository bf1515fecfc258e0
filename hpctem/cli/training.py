"""The command that trains networks, and what all commands of learning share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from hpctem.cli.command import CONFIG, commands, under_mpi

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

        from hpctem.learning.ranks.transport import open_transport
        from hpctem.learning.training.progress import TrainingDisplay
        from hpctem.learning.training.repeats import summarise, train_repeats, write_table
        from hpctem.learning.training.runs import Attention, train_model
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
