"""Small files laid out as the published sets are, with what is true of them, for the tests."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from hpctem.micrographs.read import SMALLEST


def draw_discs(shape: tuple[int, int], places: list[tuple[float, float]], radius: float):
    """1 within `radius` of the places (x, y), else 0: uint8."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, np.uint8)
    for at_x, at_y in places:
        mask |= ((x - at_x) ** 2 + (y - at_y) ** 2 <= radius**2).astype(np.uint8)
    return mask


def make_particles(
    count: int, shape: tuple[int, int], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, ny, nx), uint16 counts, darker in particles; and their masks, uint8."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    masks = np.stack(
        [
            draw_discs(shape, [(rng.uniform(0, nx), rng.uniform(0, ny))], min(shape) / 5)
            for _ in range(count)
        ]
    )
    images = rng.poisson(np.where(masks, 60, 100)).astype(np.uint16)
    return images, masks


def write_groschner(folder: Path, count: int = 4, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Zenodo 3755011 as pyNanoFind writes it: Keras' order, float64, channels background, particle.

    Images are scaled to 0...1 after their median. Returns images and masks (n, y, x).
    """
    counts, masks = make_particles(count, (side, side))
    low, high = counts.min(), counts.max()
    images = (counts - low) / (high - low)
    with h5py.File(folder / "Au_Bal_MedFilt_cutimages_20190726.h5", "w") as file:
        file["images"] = images[..., np.newaxis]
    with h5py.File(folder / "Au_Bal_unFilt_cutimages_20190423_maps.h5", "w") as file:
        file["maps"] = np.stack([1 - masks, masks], axis=-1).astype(np.float64)
    return images, masks


def write_sytwu(folder: Path, count: int = 3, side: int = 1100) -> tuple[np.ndarray, np.ndarray]:
    """Zenodo 6419024 as its preprocessing reads it: raw (n, y, x), labels 0 and 1.

    Returns images and masks.
    """
    images, masks = make_particles(count, (side, side), 1)
    with h5py.File(folder / "Au_20nm_87kx_16e_Images.h5", "w") as file:
        file["images"] = images
    with h5py.File(folder / "Au_20nm_87kx_16e_Labels.h5", "w") as file:
        file["labels"] = masks
    return images, masks


def write_khan(
    folder: Path, names: list[str], side: int = 96, ending: str = "tif", seed: int = 2
) -> list[list[tuple[float, float]]]:
    """Zenodo 7696721 as the paper's code reads it: a folder for each image with input and label.

    A column of the lattice every 12 px, a few of them dim: the label shows these alone, as a
    Gaussian dot each; the second image has none and an empty label. Returns where they are (x, y).
    """
    rng = np.random.default_rng(seed)
    assert side >= SMALLEST
    y, x = np.mgrid[:side, :side].astype(np.float64)
    truth = []
    for number, name in enumerate(names):
        home = folder / name
        home.mkdir(parents=True)
        image, label = np.zeros((side, side)), np.zeros((side, side))
        sites = [(6.3 + 12 * i, 6.3 + 12 * j) for i in range(side // 12) for j in range(side // 12)]
        chosen = {} if number == 1 else rng.choice(len(sites), 5, replace=False)
        places = [sites[k] for k in sorted(chosen)]
        for at in sites:
            dot = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 2.5**2))
            image += dot * (0.5 if at in places else 1.0)
            label += dot * (at in places)
        recorded = rng.poisson(200 * image + 20).astype(np.uint16)
        Image.fromarray(recorded).save(home / f"input.{ending}")
        Image.fromarray(label.astype(np.float32)).save(home / f"label_1vacancy.{ending}")
        truth.append(places)
    return truth
