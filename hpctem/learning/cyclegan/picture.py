"""The picture of a CycleGAN after an epoch: patches on their way around the cycle, with spectra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hpctem.micrographs.spectra import power_spectrum
from hpctem.report import scale_grey

INCHES = 1.7
# Decades of the power spectrum below its brightest values that are told apart.
DECADES = 5.0


def draw_cycle(columns: Mapping[str, np.ndarray], path: Path, inches: float = INCHES) -> None:
    """Draw patches side by side, each with its power spectrum below, and write a PNG.

    columns  title -> float (n, y, x); all of one shape
    inches   width of a patch in the picture

    Grey values run between the 0.5th and the
    99.5th percentile of each patch, spectra are logarithmic over five decades.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = next(iter(columns.values()))
    count, tall = len(first), first.shape[1] / first.shape[2]
    size = (len(columns) * inches, count * (1 + tall) * inches + 0.3)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    # Frequencies up to half a pixel's along both directions are a square, whatever the image is.
    square = (-0.5, 0.5, 0.5, -0.5)
    axes = figure.subplots(2 * count, len(columns), squeeze=False, height_ratios=[tall, 1] * count)
    for column, (title, patches) in enumerate(columns.items()):
        axes[0, column].set_title(title.strip(), fontsize=9)
        for number, patch in enumerate(patches):
            shown = ((scale_grey(patch), None), (scale_power(patch), square))
            for row, (picture, extent) in enumerate(shown, 2 * number):
                axes[row, column].imshow(
                    picture, cmap="gray", interpolation="nearest", vmin=0, vmax=1, extent=extent
                )
                axes[row, column].set_axis_off()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def scale_power(patch: np.ndarray) -> np.ndarray:
    """The logarithm of a patch's power spectrum as grey values 0...1 (y, x)."""
    power = np.log10(power_spectrum(patch) + 1e-30)
    top = float(np.percentile(power, 99.9))
    return np.clip((power - top) / DECADES + 1, 0, 1)
