"""What a training has been, for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

FOLDER = "tensorboard"
HELD_OUT = "val_"


def open_board(folder: Path) -> Any:
    """A writer of TensorBoard's files in the folder of a model."""
    return tf.summary.create_file_writer(str(folder / FOLDER))


def show_on_board(board: Any, row: Mapping[str, float], picture: Path) -> None:
    """Write an epoch: its row of the history as curves, and its picture if there is one.

    Columns that begin with val_ become validation/..., all others train/...
    """
    epoch = int(row["epoch"])
    with board.as_default(step=epoch):
        for name, value in row.items():
            if name not in ("epoch", "steps"):
                part = "validation" if name.startswith(HELD_OUT) else "train"
                tf.summary.scalar(f"{part}/{name.removeprefix(HELD_OUT)}", value)
        if picture.exists():
            tf.summary.image("samples", tf.io.decode_png(picture.read_bytes(), channels=3)[None])
    board.flush()
