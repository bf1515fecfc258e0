"""Spectra have their units and frequencies; a picture of a row says what its columns say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.image import imread

from hpctem.detection.filters import MEDIAN_VIEW, RAW_VIEW
from hpctem.errors import ConfigError
from hpctem.pictures.lines import write_lines
from hpctem.pictures.portraits import Portrait, choose_rings, draw_portraits, save_figure
from hpctem.pictures.spectra import power_spectrum, radial_average, whole_spectrum

SHAPES = [(64, 64), (63, 63), (48, 80), (81, 50), (2, 2), (1, 1), (1, 9)]


@pytest.mark.parametrize("pixel", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("dose", [100.0, 1200.0])
def test_shot_noise_is_flat_at_one_over_the_dose(pixel: float, dose: float) -> None:
    generator = np.random.default_rng(1)
    curves = []
    for _ in range(20):
        image = generator.poisson(dose * pixel**2, (128, 128)).astype(np.uint16)
        q, curve = radial_average(power_spectrum(image, pixel), 128, pixel)
        curves.append(curve)
    mean = np.mean(curves, axis=0)
    assert mean[2:].mean() == pytest.approx(1 / dose, rel=0.02)
    assert mean[20:].max() / mean[20:].min() < 1.4
    assert q[-1] == pytest.approx(0.5 / pixel) and q[0] == pytest.approx(1 / (128 * pixel))


@pytest.mark.parametrize("shape", [(128, 128), (96, 160), (161, 97)])
@pytest.mark.parametrize("period", [5.0, 11.3])
def test_fringes_are_found_at_their_frequency(shape: tuple[int, int], period: float) -> None:
    y, x = np.indices(shape)
    pixel, angle = 0.25, 0.6
    image = 100 + 30 * np.cos(
        2 * np.pi * (x * math.cos(angle) + y * math.sin(angle)) * pixel / period * 2
    )
    q, curve = radial_average(power_spectrum(image, pixel), shape[1], pixel)
    assert q[np.argmax(curve)] == pytest.approx(2 / period, abs=1 / (min(shape) * pixel))
    # Parseval: the power within the fringe's peak is its variance, 0.3^2 / 2.
    qy = np.fft.fftfreq(shape[0], pixel)
    total = power_spectrum(image, pixel)
    double = np.full(total.shape, 2.0)
    double[:, 0] = 1
    if shape[1] % 2 == 0:
        double[:, -1] = 1
    variance = (total * double).sum() * abs(qy[1]) / (shape[1] * pixel)
    assert variance == pytest.approx(0.045, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_spectrum_is_that_of_the_full_transform(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(2).random(shape).astype(np.float32) + 1
    half = power_spectrum(image, 1.0)
    assert half.shape == (shape[0], shape[1] // 2 + 1) and half.dtype == np.float32
    whole = whole_spectrum(half, shape[1])
    assert whole.shape == shape
    nx = shape[1]
    # Friedel: P(-q) = P(q), with the zero frequency at (ny // 2, nx // 2).
    shifted = np.fft.ifftshift(whole)
    mirrored = np.roll(shifted[::-1, ::-1], (1, 1), axis=(0, 1))
    assert mirrored == pytest.approx(shifted, rel=1e-3, abs=1e-9)
    assert (np.fft.ifftshift(whole)[:, : nx // 2 + 1] == half).all()


def test_images_without_a_spectrum_say_so() -> None:
    for image in (np.zeros((8, 8)), np.full((8, 8), np.nan), -np.ones((8, 8))):
        assert np.isnan(power_spectrum(image, 0.2)).all()


@pytest.mark.parametrize(
    ("edge", "rings"),
    [(10.0, [2, 4, 6, 8]), (12.5, [5, 10]), (2.5, [0.5, 1, 1.5, 2]), (4.9, [1, 2, 3, 4])],
)
def test_rings_are_round_and_within_the_picture(edge: float, rings: list[float]) -> None:
    assert choose_rings(edge) == pytest.approx(rings)


def portrait(view: str = RAW_VIEW, shape: tuple[int, int] = (96, 96)) -> Portrait:
    y, x = np.indices(shape)
    mask = (np.hypot(y - shape[0] / 2, x - shape[1] / 2) < min(shape) / 4).astype(np.uint8)
    waves = np.cos(2 * np.pi * x / 6)
    image = np.random.default_rng(0).poisson(40 + 20 * mask * waves).astype(np.uint16)
    lines = {"defocus": "-3.00 nm", "dose": "400 e/Å²"}
    lines["MTF c1 / c2 / c3"] = "-0.0284 / 0.0186 / -0.0123"
    return Portrait("gold.hdf5, row 7", image, mask, view, 0.2, lines)


def test_a_strip_shows_image_label_and_spectrum_side_by_side(tmp_path) -> None:
    figure = draw_portraits([portrait()])
    picture = imread(save_figure(figure, tmp_path / "a.png"))[..., :3]
    dots = picture.shape[1] / figure.get_figwidth()

    def panel(k: int) -> np.ndarray:
        left, top = (0.2 + k * 3.24) * dots, 0.6 * dots
        return picture[round(top) : round(top + 3.1 * dots), round(left) : round(left + 3.1 * dots)]

    image, label, spectrum = map(panel, range(3))
    assert np.ptp(image, axis=2).max() < 0.01, "the image is grey"
    coloured = np.ptp(label, axis=2) > 0.02
    assert coloured.mean() == pytest.approx(math.pi / 16, rel=0.1)
    rows, columns = np.nonzero(coloured)
    assert rows.mean() / len(label) == pytest.approx(0.5, abs=0.02)
    assert columns.mean() / len(label) == pytest.approx(0.5, abs=0.02)
    # Fringes of 6 pixels of 0.2 A: two spots at 8.33 1/nm, of 12.5 at the panel's edges.
    # The colour map ends in pale yellow, which the white rings are not.
    bright = (spectrum[..., 1] > 0.8) & (spectrum[..., 0] - spectrum[..., 2] > 0.15)
    for side in (spectrum[:8], spectrum[-8:], spectrum[:, :8], spectrum[:, -8:]):
        assert side[..., 0].mean() > 0.15, "the spectrum fills its panel"
    rows, columns = np.nonzero(bright[:, : bright.shape[1] // 3])
    assert np.median(columns) / bright.shape[1] == pytest.approx(0.5 - 8.33 / 25, abs=0.02)
    assert np.median(rows) / bright.shape[0] == pytest.approx(0.5, abs=0.02)


def test_strips_of_all_shapes_fit_the_picture_and_are_the_same_each_time(tmp_path) -> None:
    shapes = [(96, 96), (40, 160), (160, 40), (16, 16), (1, 1)]
    portraits = [portrait(MEDIAN_VIEW, shape) for shape in shapes]
    paths = [save_figure(draw_portraits(portraits), tmp_path / name) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    figure = draw_portraits(portraits)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    for text in figure.axes[0].texts:
        assert "…" not in text.get_text(), "a line is cut"
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text.get_text()
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height, text.get_text()


@pytest.mark.parametrize(
    ("name", "head"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")]
)
def test_pictures_are_written_as_their_name_says(tmp_path, name: str, head: bytes) -> None:
    path = save_figure(draw_portraits([portrait()]), tmp_path / name)
    assert path.read_bytes().startswith(head)


def test_other_kinds_and_too_many_rows_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="one of png, pdf, svg, not 'doc'"):
        save_figure(draw_portraits([portrait()]), tmp_path / "a.doc")
    for count in (0, 13):
        with pytest.raises(ConfigError, match=f"1 to 12 rows; {count} were given"):
            draw_portraits([portrait()] * count)
    assert not list(tmp_path.iterdir())


def test_metadata_are_told_with_units_and_nothing_that_is_not_there() -> None:
    values = {
        "structure_id": 3,
        **{"energy": 300e3, "pixel_size": 0.2, "defocus": -51.0, "dose": 400.0},
        **{"minimum": 7.0, "maximum": 67.0, "mean": 24.0, "standard_deviation": 5.0},
        **{"tilt_x": 0.0, "tilt_y": 0.0, "gain": 1.0, "quantum_efficiency": 0.8},
        **{"C30": -1.913e4, "C12": 16.0, "phi12": math.radians(-68.5), "C21": 0.0, "phi21": 0.0},
        **{"cell_x": 128.0, "cell_y": 128.0, "height": 97.3, "particle_fraction": 0.282},
        **{"crop_x": 23, "crop_y": 0, "sigma_of_something": 2.5, "kind_of_film": "carbon"},
        **{"status": "good", "row": 12, "structure": 3, "atoms_digest": np.zeros(16)},
    }
    units = {"energy": "eV", "pixel_size": "angstrom", "defocus": "angstrom", "crop_x": "pixel"}
    units |= {"dose": "electron/angstrom^2", "cell_x": "angstrom", "sigma_of_something": "rad"}
    assert write_lines(values, units) == {
        "structure": "3",
        "energy": "300 keV",
        "pixel": "0.200 Å",
        "defocus": "-5.10 nm",
        "dose": "400 e/Å²",
        "quantum efficiency": "0.800",
        "mean / deviation": "24.0 / 5.00",
        "lowest / highest": "7 / 67",
        "crop from x / y": "23 / 0",
        "particle area": "28.2 %",
        "cell": "12.8 × 12.8 × 9.73 nm",
        "C12": "1.60 nm / -68.5°",
        "C30": "-1.91 µm",
        "sigma of something": "2500 mrad",
        "kind of film": "carbon",
    }
