"""The contact sheet shows what it was given, where it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from hpctem.errors import ConfigError
from hpctem.report import (
    OUTLINES,
    choose_scale_bar,
    contact_sheet,
    format_quantity,
    scale_grey,
)


def picture(ny: int = 64, nx: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image with a darker disc in its lower right quarter, and the disc's mask."""
    y, x = np.mgrid[:ny, :nx]
    mask = (np.hypot(y - 0.75 * ny, x - 0.75 * nx) < 0.15 * min(nx, ny)).astype(np.uint8)
    image = np.random.default_rng(0).poisson(16 - 6 * mask).astype(np.uint16)
    return image, mask


def find_colour(sheet: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero(np.abs(sheet[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02)


def test_outline_lies_around_the_particle_and_its_mask_below(tmp_path):
    image, mask = picture()
    path = contact_sheet([image], [mask], [{}], tmp_path / "sheet.png")
    sheet = imread(path)
    rows, columns = find_colour(sheet, OUTLINES[0])
    dots = sheet.shape[1] / (2.6 + 0.4)
    tile, margin = 2.6 * dots, 0.2 * dots
    inside = (rows - margin < tile) & (columns > margin)
    y, x = (rows[inside] - margin) / tile, (columns[inside] - margin) / tile
    distance = np.hypot(y - 0.75, x - 0.75)
    assert np.abs(distance - 0.15).max() < 0.03
    assert (rows[~inside] > margin + tile).all()
    # The mask's own picture is filled: 0.72 inch wide, of which the disc covers pi 0.15^2.
    assert (~inside).sum() == pytest.approx(math.pi * 0.15**2 * (0.72 * dots) ** 2, rel=0.15)


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_every_image_has_its_tile_and_every_caption_its_line(tmp_path, count):
    image, mask = picture()
    masks = [mask * (k % 7 + 1) for k in range(count)]
    bare = imread(contact_sheet([image] * count, masks, [{}] * count, tmp_path / "bare.png"))
    captions = [{"defocus": (-30.0 * k, "A"), "dose": (400, "e/A^2")} for k in range(count)]
    path = contact_sheet([image] * count, masks, captions, tmp_path / "sheet.png", "A title", 0.2)
    sheet = imread(path)
    for k in range(min(count, 7)):
        assert find_colour(sheet, OUTLINES[k])[0].size > 0
    if count < 7:
        assert find_colour(sheet, OUTLINES[count])[0].size == 0
    assert sheet.shape[0] > bare.shape[0]
    assert sheet.shape[1] == bare.shape[1]
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_images_of_any_size_and_no_mask(tmp_path):
    sizes = [(40, 90), (90, 40), (33, 33), (1, 1)]
    images = [picture(*size)[0] for size in sizes]
    path = contact_sheet(images, [], [{}] * 4, tmp_path / "sheet.png", "", [0.2, 0.1, 0.5, 0])
    sheet = imread(path)
    assert all(find_colour(sheet, colour)[0].size == 0 for colour in OUTLINES)


def test_the_same_sheet_is_the_same_bytes(tmp_path):
    image, mask = picture()
    sheets = [
        contact_sheet([image], [mask], [{"dose": (400, "e/A^2")}], tmp_path / name, "Title", 0.2)
        for name in ("a.png", "b.png")
    ]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()


def test_grey_values_ignore_a_few_bright_pixels():
    image, _ = picture()
    spoiled = image.astype(np.float32)
    spoiled[0, :5] = [1e6, np.nan, np.inf, 1e6, 1e6]
    grey = scale_grey(spoiled)
    assert grey.min() == 0 and grey.max() == 1
    assert 0.3 < np.median(grey) < 0.8
    assert grey[0, 1] == 0
    assert (scale_grey(np.full((3, 3), 7)) == 0.5).all()
    assert (scale_grey(np.full((3, 3), np.nan)) == 0).all()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (-30.0, "A", "-3.00 nm"),
        (0.0, "A", "0 nm"),
        (-1.913e4, "A", "-1.91 µm"),
        (1.048e7, "A", "1.05 mm"),
        (0.0123, "rad", "12.3 mrad"),
        (300e3, "eV", "300 keV"),
        (400, "e/A^2", "400 e/Å²"),
        (1234567.0, "", "1.23e6"),
        (12345, "", "12345"),
        (999.7, "", "1000"),
        (np.float32(0.5), "", "0.500"),
        (np.int64(3), "", "3"),
        (np.True_, "", "yes"),
        ("twin", "", "twin"),
    ],
)
def test_quantities_read_as_a_microscopist_writes_them(value, unit, text):
    assert format_quantity(value, unit) == text


@pytest.mark.parametrize(
    ("width", "length"), [(102.4, 2), (128, 2), (20, 0.5), (1000, 20), (50, 1)]
)
def test_scale_bar_is_round_and_about_a_fifth(width, length):
    assert choose_scale_bar(width) == pytest.approx(length)


def test_sheets_that_do_not_match_are_refused(tmp_path):
    image, mask = picture()
    for images, masks, captions, message in (
        ([], [], [], "1 to 64"),
        ([image] * 65, [], [{}] * 65, "65 were given"),
        ([image], [mask], [], "0 captions"),
        ([image, image], [mask], [{}, {}], "1 masks"),
        ([image], [mask[1:]], [{}], "its mask is"),
    ):
        with pytest.raises(ConfigError, match=message):
            contact_sheet(images, masks, captions, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
