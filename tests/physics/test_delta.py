"""One atom and one defect, put through the image and through every label of it.

The image is that of `optics.incoherent`, formed in Fourier space and gathered along the scan; the
labels are computed at the scan's positions without any image. Rotation, shear, contraction, drift,
jitter, flagging, flyback and shifts of frames move both alike.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hpctem.backend import select_backend
from hpctem.column_labels.columns import find_columns, place_defects, tabulate_columns
from hpctem.column_labels.maps import (
    map_columns,
    map_defect_disks,
    map_defect_gaussians,
    map_defect_images,
    map_distances,
)
from hpctem.detection.scan import ScanPath, ScanSettings, draw_path
from hpctem.optics.aberrations import Aberrations
from hpctem.optics.incoherent import form_picture, gather_points
from hpctem.optics.point_spread import Transfer, gaussian_transfer
from hpctem.optics.probe import Probe, probe_transfer

CPU = select_backend("cpu")
EXTENT = (60.0, 64.0)  # A
MIDDLE = (32.0, 30.0)
PIXEL = 0.1
SHAPE = (128, 144)
STRONG = ScanSettings(
    dwell_time=2.0,
    line_time=20.0,
    jitter=0.15,
    flagging=0.8,
    flagging_lines=30.0,
    drift_x=40.0,
    drift_y=-30.0,
    frame_shift=0.2,
    shear=0.15,
    contraction=-0.2,
    rotation=0.7,
    flyback_amplitude=1.5,
    flyback_time=24.0,
)
# Frames of an aligned series. A pixel of its labels lies where the scan stood on average; that is
# the image's own place to second order: the product of two displacements that differ between
# frames, along y and along x with y, is what it leaves. So they stay near a pixel here.
SERIES = replace(
    STRONG,
    frames=16,
    jitter=0.1,
    flagging=0.2,
    flagging_lines=40.0,
    drift_x=0.3,
    drift_y=-0.2,
    frame_shift=0.07,
    flyback_time=16.0,
)
WIDTH = 0.35  # A, of the image of an atom
RADIUS = 2 * WIDTH


def lead_scan(
    seed: int, settings: ScanSettings, spread: float = 2.0
) -> tuple[ScanPath, np.ndarray]:
    """A scan, and a random place of the specimen up to `spread` A beside its middle."""
    generators = [np.random.default_rng([seed, k]) for k in range(4)]
    path = draw_path(SHAPE, PIXEL, MIDDLE, settings, *generators[:3])
    return path, MIDDLE + generators[3].uniform(-spread, spread, 2)


def see_atoms(points: np.ndarray, path: ScanPath, transfer: Transfer) -> np.ndarray:
    picture = form_picture(points, np.ones(len(points)), EXTENT, transfer, CPU)
    return gather_points(picture, path.lines, path.columns, CPU)


def tabulate_atom(transfer: Transfer, sampling: float, half: int) -> np.ndarray:
    """The image of one atom on a fine grid: (2 half + 1,) squared, the atom in the middle."""
    size = 2 * half + 1
    grid = ScanPath(
        (size, size),
        (MIDDLE[0] - half * sampling, MIDDLE[1] - half * sampling),
        sampling * np.eye(2),
        np.zeros((1, size, 2)),
    )
    return see_atoms(np.array([MIDDLE]), grid, transfer)


def centroid(image: np.ndarray) -> np.ndarray:
    """(column, row) in pixels."""
    weights = np.asarray(image, dtype=np.float64)
    rows, columns = np.indices(weights.shape)
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


def row_of(point: np.ndarray) -> dict:
    return {"defect": 1, "kind": "vacancy", "x": float(point[0]), "y": float(point[1])}


def carbon_at(point: np.ndarray):
    return find_columns(np.array([[*point, 5.0]]), np.array([6], np.uint8), np.ones(1, np.uint8))


@pytest.mark.parametrize("seed", range(6))
def test_every_label_follows_one_frame_pixel_by_pixel(seed: int) -> None:
    path, point = lead_scan(seed, STRONG, spread=4.0)
    image = see_atoms(point[None], path, gaussian_transfer(WIDTH)) * 2 * np.pi * WIDTH**2
    columns, defects = carbon_at(point), [row_of(point)]
    assert 0.9 < image.max() < 1.001
    gaussian = map_defect_gaussians(defects, ["vacancy"], path, WIDTH)["vacancy"]
    assert np.abs(gaussian - 255 * image).max() < 0.6
    bright = image > 0.01
    distance = WIDTH * np.sqrt(-2 * np.log(np.minimum(image[bright], 1.0)))
    assert np.abs(map_distances(columns, path)[bright] - distance).max() < 0.02
    within = image > np.exp(-(RADIUS**2) / 2 / WIDTH**2)
    clear = np.abs(image - np.exp(-(RADIUS**2) / 2 / WIDTH**2)) > 1e-3
    assert (map_columns(columns, path, RADIUS) == within)[clear].all()
    disk = map_defect_disks(defects, ["vacancy"], path, RADIUS)["vacancy"]
    assert (disk == within)[clear].all()
    assert clear.mean() > 0.99 and within.sum() > 50


def test_labels_of_a_series_lie_where_the_image_shows_the_atom() -> None:
    away: dict[str, list[np.ndarray]] = {}
    for seed in range(24):
        path, point = lead_scan(seed, SERIES)
        place = centroid(see_atoms(point[None], path, gaussian_transfer(WIDTH)))
        # Without the distortions the atom would be seen elsewhere.
        ideal = (point - MIDDLE) / PIXEL + (np.array(SHAPE[::-1]) - 1) / 2
        assert np.hypot(*(place - ideal)) > 1
        columns, defects = carbon_at(point), [row_of(point)]
        gaussian = map_defect_gaussians(defects, ["vacancy"], path, WIDTH)["vacancy"]
        distance = map_distances(columns, path)
        for name, labels in {
            "gaussian": gaussian,
            "distance": np.exp(-(distance**2) / 2 / WIDTH**2),
            "atoms": map_columns(columns, path, RADIUS),
            "disk": map_defect_disks(defects, ["vacancy"], path, RADIUS)["vacancy"],
        }.items():
            away.setdefault(name, []).append(centroid(labels) - place)
    assert np.abs(away["gaussian"]).max() < 0.05
    assert np.abs(away["distance"]).max() < 0.05
    # Whole pixels of a disk of this radius have their centroid up to 0.2 px beside the disk's.
    for name in ("atoms", "disk"):
        assert np.abs(away[name]).max() < 0.25
        assert np.abs(np.mean(away[name], axis=0)).max() < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_tables_name_the_pixel_where_the_image_shows_the_atom(seed: int) -> None:
    # A line's own jitter tears the atom's image; the table follows the line through its middle.
    path, point = lead_scan(seed, replace(SERIES, jitter=0.0))
    place = centroid(see_atoms(point[None], path, gaussian_transfer(WIDTH)))
    row = place_defects([row_of(point)], path)[0]
    table = tabulate_columns(carbon_at(point), path)
    assert row["inside"] == 1 and len(table["x"]) == 1
    assert np.abs(place - [row["pixel_x"], row["pixel_y"]]).max() < 0.05
    assert np.abs(place - [table["pixel_x"][0], table["pixel_y"][0]]).max() < 0.05


PROBES = {
    "in_focus": Probe(80e3, 0.025, source_size=0.8),
    "aberrated": Probe(
        60e3,
        0.030,
        defocus=40.0,
        aberrations=Aberrations(C12=15.0, phi12=0.4, C21=900.0, phi21=1.0, C23=400.0, phi23=0.2),
        focal_spread=30.0,
        source_size=1.0,
    ),
}


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampling", [0.03, 0.15])
def test_the_map_of_a_defect_is_its_image_at_a_quarter_of_its_peak(
    name: str, seed: int, sampling: float
) -> None:
    path, point = lead_scan(seed, replace(STRONG, frames=5, drift_x=4.0, drift_y=-3.0))
    transfer = probe_transfer(PROBES[name])
    points = np.stack([point, point + np.array([2.5, 0.7])])  # the second adds to the first
    psf = tabulate_atom(transfer, sampling, round(9.0 / sampling))
    peak = tabulate_atom(transfer, 0.01, 150).max()
    image = see_atoms(points, path, transfer) / peak
    labels = map_defect_images([row_of(p) for p in points], ["vacancy"], path, psf, sampling)
    clear = np.abs(image - 0.25) > 1e-3
    assert (labels["vacancy"] == (image > 0.25))[clear].all()
    assert clear.mean() > 0.99 and 50 < labels["vacancy"].sum() < 5000
