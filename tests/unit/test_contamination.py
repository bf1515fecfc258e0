"""The carbon film: its spectrum, mean and deviation are those asked for or the image's own."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hpctem.detection.contamination import (
    Film,
    FilmSettings,
    contamination_map,
    draw_film,
    map_film,
    power_density,
    scan_film,
)
from hpctem.detection.film_images import extract_contamination, read_contamination
from hpctem.detection.film_spline import evaluate_spline, fit_spline
from hpctem.detection.scan import ScanSettings, draw_path, scan_positions
from hpctem.errors import ConfigError, SampleError

# No cut at zero: a deviation of 2 % of the mean.
GENTLE = FilmSettings(thickness=10.0, variation=0.02, exponent=3.0, shortest=8.0, longest=100.0)


def normalise(maps, settings: FilmSettings) -> np.ndarray:
    """The field s of uncut films: what their thickness says of it."""
    return (np.array(maps, dtype=np.float64) / settings.thickness - 1) / settings.variation


def draw_maps(settings: FilmSettings, side: float, points: int, count: int) -> np.ndarray:
    """The field s of many films, (count, points, points)."""
    return normalise(draw_thickness(settings, side, points, count), settings)


def draw_thickness(settings: FilmSettings, side: float, points: int, count: int) -> np.ndarray:
    extent, shape = (side, side), (points, points)
    maps = [
        contamination_map(extent, shape, settings, np.random.default_rng(i)) for i in range(count)
    ]
    return np.array(maps, dtype=np.float64)


@pytest.mark.parametrize(
    "settings",
    [
        GENTLE,
        FilmSettings(10.0, 0.02, exponent=0.0, shortest=12.0, longest=50.0),
        FilmSettings(10.0, 0.02, exponent=5.0, shortest=5.0, longest=40.0),
        FilmSettings(10.0, 0.02, exponent=2.0, shortest=10.0, longest=1e4),
        FilmSettings(10.0, 0.02, exponent=1.0, shortest=60.0, longest=30.0),
    ],
    ids=["default", "white", "steep", "longer than the frame", "one wave a frame"],
)
def test_the_correlation_is_that_of_the_spectrum(settings):
    """Against the two-dimensional Fourier (Hankel) integral of the spectrum, by quadrature."""
    from scipy.special import j0

    points, step, count = (40, 75), 2.0, 300
    extent = (points[0] * step, points[1] * step)
    fields = normalise(
        [
            contamination_map(extent, points, settings, np.random.default_rng(i))
            for i in range(count)
        ],
        settings,
    )
    # Logarithmic trapezia from far below the lowest frequency up to the band's end.
    f = np.geomspace(1e-7, 1.2 / settings.shortest, 60000)
    density = power_density(f, settings) * f
    for lag in (0, 1, 2, 4, 8, 15):
        kernel = density * j0(2 * np.pi * f * lag * step)
        expected = np.trapezoid(kernel, f) / np.trapezoid(density, f)
        for s in (fields, fields.transpose(0, 2, 1)):
            first, second = s[:, lag:], s[:, : s.shape[1] - lag]
            products = (first * second).mean(axis=(1, 2))
            error = products.std() / math.sqrt(count)
            assert abs(products.mean() - expected) < 4.5 * error + 0.01, lag
            if lag == 0:
                continue
            # Differences say more where most of the variance lies beyond the frame.
            squares = ((first - second) ** 2).mean(axis=(1, 2))
            error = squares.std() / math.sqrt(count)
            assert abs(squares.mean() - 2 * (1 - expected)) < 4.5 * error + 0.01 * squares.mean(), (
                lag
            )


@pytest.mark.parametrize("exponent", [1.0, 3.0, 5.0])
def test_the_spectrum_falls_as_asked_and_ends_at_the_shortest(exponent):
    """Mean periodogram under a Hann window: its slope, its flat part, its end."""
    settings = FilmSettings(10.0, 0.02, exponent=exponent, shortest=8.0, longest=60.0)
    side, points = 360.0, 180
    s = draw_maps(settings, side, points, 40)
    window = np.hanning(points)
    power = (np.abs(np.fft.fft2(s * window[:, None] * window)) ** 2).mean(axis=0)
    k = np.fft.fftfreq(points, side / points)
    radius = np.hypot(k[:, None], k)

    def ring(low, high):
        return np.log(power[(radius >= low) & (radius < high)].mean())

    slope = (ring(0.085, 0.095) - ring(0.028, 0.032)) / math.log(0.09 / 0.03)
    assert slope == pytest.approx(-exponent, abs=0.15)
    assert ring(0.004, 0.007) - ring(0.009, 0.012) == pytest.approx(0.0, abs=0.35)
    assert ring(0.16, 0.2) - ring(0.085, 0.095) < -9.0


def test_mean_and_deviation_over_many_films():
    settings = FilmSettings(thickness=7.0, variation=0.25, longest=40.0)
    maps = draw_thickness(settings, 80.0, 40, 400)
    means = maps.mean(axis=(1, 2))
    assert means.mean() == pytest.approx(7.0, abs=4 * means.std() / 20)
    squares = ((maps - 7.0) ** 2).mean(axis=(1, 2))
    assert math.sqrt(squares.mean()) == pytest.approx(1.75, rel=0.03)


def test_the_film_is_cut_at_zero():
    """A normal thickness of deviation v, cut: the mean is m (Phi(1/v) + v phi(1/v))."""
    settings = FilmSettings(thickness=5.0, variation=2.0, exponent=1.0, longest=20.0)
    maps = draw_thickness(settings, 80.0, 40, 200)
    assert maps.min() == 0
    share = 0.5 * math.erfc(-0.5 / math.sqrt(2))
    assert (maps > 0).mean() == pytest.approx(share, abs=0.02)
    density = math.exp(-0.125) / math.sqrt(2 * math.pi)
    assert maps.mean() == pytest.approx(5 * (share + 2 * density), rel=0.03)


def test_a_film_does_not_repeat_within_the_frame():
    s = draw_maps(FilmSettings(10.0, 0.02, longest=30.0), 200.0, 100, 100)
    opposite = (s[:, :, 0] * s[:, :, -1]).mean()
    assert abs(opposite) < 0.1
    assert (s[:, 0, 0] * s[:, -1, -1]).mean() < 0.4


def test_no_film_without_thickness_and_a_flat_one_without_variation():
    none = contamination_map((50, 60), (20, 24), FilmSettings(0.0), np.random.default_rng(1))
    assert not none.any()
    flat = contamination_map((50, 60), (20, 24), FilmSettings(4.0, 0.0), np.random.default_rng(1))
    np.testing.assert_allclose(flat, 4.0, rtol=1e-6)
    assert flat.shape == (20, 24) and flat.dtype == np.float32


def test_the_spline_is_the_sum_of_its_waves():
    """At any point, in and out of the period: against the Fourier sum itself."""
    generator = np.random.default_rng(6)
    shape, nodes = (14, 12), (72, 60)
    spectrum = np.zeros((14, 7), complex)
    waves = [(i, j) for i in range(-5, 6) for j in range(5) if (i, j) != (0, 0)]
    for i, j in waves:
        if j > 0 or i > 0:
            spectrum[i, j] = generator.normal() + 1j * generator.normal()
            if j == 0:
                spectrum[-i, 0] = spectrum[i, 0].conjugate()
    lines = generator.uniform(-100, 100, (9, 2))
    columns = generator.uniform(-100, 100, (11, 2))
    values = evaluate_spline(fit_spline(spectrum, shape, nodes), lines, columns, 1000.0, 1e-3)
    u = lines[:, None] + columns
    expected = np.zeros((9, 11))
    for i, j in waves:
        wave = np.exp(2j * np.pi * (j * u[..., 0] / 60 + i * u[..., 1] / 72))
        expected += (1 if j == 0 else 2) * (spectrum[i, j] * wave).real
    # Aliases of the spline at the highest wave: (5 / 72 / (1 - 5 / 72))^4 = 3e-5 each.
    np.testing.assert_allclose(values - 1000.0, expected, atol=4e-3)


def test_a_constant_and_coarse_spectrum_keep_their_order():
    """Odd and even sizes: each wave of a spectrum lands at its own frequency."""
    for ny, nx in ((7, 8), (8, 7), (9, 9), (10, 10)):
        for i in range(-((ny - 1) // 2), (ny - 1) // 2 + 1):
            for j in range(1, (nx - 1) // 2 + 1):
                spectrum = np.zeros((ny, nx // 2 + 1), complex)
                spectrum[i, j] = 1
                seen = np.abs(np.fft.rfft2(fit_spline(spectrum, (ny, nx), (40, 36))))
                assert np.unravel_index(seen.argmax(), seen.shape) == (i % 40, j)


@pytest.mark.parametrize("drift", [5.0, 300.0], ids=["aligned frames", "frames apart"])
def test_a_scan_sees_the_film_where_it_looks(drift):
    """On a distorted scan: the mean over the frames of the film's own map at those points."""
    film = draw_film((100.0, 120.0), FilmSettings(8.0, 0.3), np.random.default_rng(3))
    generators = [np.random.default_rng(i) for i in range(3)]
    settings = ScanSettings(frames=3, dwell_time=5.0, jitter=0.1, drift_x=drift, rotation=0.4,
                            shear=0.1, flyback_amplitude=2.0, flyback_time=50.0)  # fmt: skip
    path = draw_path((40, 50), 1.0, (60.0, 50.0), settings, *generators)
    seen = scan_film(film, path)
    assert seen.shape == (40, 50) and seen.dtype == np.float32
    each = np.mean([scan_film(film, draw_frame(path, f)) for f in range(3)], axis=0)
    np.testing.assert_allclose(seen, each, atol=0.05 * seen.std())
    positions = scan_positions(path, 1)
    alone = scan_film(film, draw_frame(path, 1))
    for r, c in ((3, 45), (39, 30), (20, 20), (30, 2)):
        x, y = positions[r, c]
        # The last point of a map of 17 x 17 points that ends there.
        assert alone[r, c] == pytest.approx(
            map_film(film, (17, 17), (y / 16, x / 16))[16, 16], 1e-4
        )


def draw_frame(path, frame):
    """One frame of a path, as a path of its own."""
    return type(path)(path.shape, path.origin, path.step, path.shifts[frame : frame + 1],
                      path.flyback_amplitude, path.flyback_pixels)  # fmt: skip


def test_the_same_generator_gives_the_same_film():
    a, b = (draw_film((90.0, 80.0), GENTLE, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(a.coefficients, b.coefficients)
    c = draw_film((90.0, 80.0), GENTLE, np.random.default_rng(5))
    assert not np.array_equal(a.coefficients, c.coefficients)


def test_a_film_too_fine_for_its_frame_is_refused():
    with pytest.raises(SampleError, match="shortest"):
        draw_film((5000.0, 5000.0), FilmSettings(5.0, shortest=1.0), np.random.default_rng(0))


def waves(shape: tuple[int, int], pixel: float) -> np.ndarray:
    """Two slow cosines that fit the mirror exactly, on the pixels' middles, and a lattice."""
    y, x = ((np.arange(n) + 0.5) * pixel for n in shape)
    ly, lx = shape[0] * pixel, shape[1] * pixel
    slow = np.cos(np.pi * 3 * x / lx) + 0.5 * np.cos(np.pi * 2 * y / ly)[:, None]
    lattice = 4 * np.cos(2 * np.pi * x / 2.8) * np.cos(2 * np.pi * y / 2.5)[:, None]
    return 300 + 20 * slow + 20 * lattice


def test_low_frequencies_of_an_image_are_kept_and_the_lattice_is_not():
    pixel = 0.3
    text = extract_contamination(waves((400, 500), pixel), pixel, 10.0)
    values, (dy, dx) = read_contamination(text)
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(values.shape, (dy, dx), strict=True))
    assert y[-1] + dy / 2 == pytest.approx(120) and x[-1] + dx / 2 == pytest.approx(150)
    slow = np.cos(np.pi * 3 * x / 150) + 0.5 * np.cos(np.pi * 2 * y / 120)[:, None]
    # Sampled to a thousandth; the lattice's leakage past its own edges stays below a hundredth.
    np.testing.assert_allclose(values, slow / slow.std(), atol=0.02)
    assert max(dy, dx) <= 10.0 / 2.4


def test_a_gradient_makes_no_cross():
    """A ramp is no wave: in a periodic picture its jump would ring; its mirror image has none."""
    ramp = np.linspace(0, 1, 300)[None, :] * np.ones((200, 1))
    values, _ = read_contamination(extract_contamination(ramp, 0.5, 8.0))
    assert np.abs(np.diff(values, axis=0)).max() < 0.01
    steps = np.diff(values, axis=1)
    assert steps.min() > -0.02
    np.testing.assert_allclose(steps[:, 2:-2], steps.mean(), rtol=0.25)


def test_the_text_is_a_function_of_the_image_and_small():
    image = waves((256, 256), 0.4)
    text = extract_contamination(image, 0.4, 10.0)
    assert text == extract_contamination(image.copy(), (0.4, 0.4), 10.0)
    assert len(text) < 4000
    kept = json.loads(text)
    assert set(kept) == {"shortest", "spacing", "shape", "values"}


@pytest.mark.parametrize(("pixel", "side"), [(1.0, 510 * 4 / 2.4), (5.0, 512 * 5.0)])
def test_of_a_large_image_the_middle_is_kept(pixel, side):
    """An image that is its own mirror image stays so; 512 points or pixels a side, not more."""
    x = (np.arange(1300) - 649.5) * pixel
    image = np.cos(x / 90)[None, :] + np.exp(-((x / 400) ** 2))[:, None]
    values, (_, dx) = read_contamination(extract_contamination(image, pixel, 4.0))
    assert max(values.shape) <= 512
    assert dx * values.shape[1] == pytest.approx(side, abs=2 * pixel)
    np.testing.assert_allclose(values, values[:, ::-1], atol=0.03)
    np.testing.assert_allclose(values, values[::-1], atol=0.03)


def test_a_film_shows_the_image_in_one_of_eight_orientations():
    """A frame of the image's own size, far from square, so that every orientation is told apart."""
    pixel = 0.5
    image = np.random.default_rng(8).normal(size=(240, 320))
    text = extract_contamination(image, pixel, 12.0)
    settings = FilmSettings(10.0, 0.01, shortest=12.0)
    values, spacing = read_contamination(text)
    shape = values.shape
    extent = (shape[0] * spacing[0], shape[1] * spacing[1])
    seen = set()
    for seed in range(60):
        film = draw_film(extent, settings, np.random.default_rng(seed), [text])
        # Half a point inside, as the values lie; the offset is taken out again.
        s = (map_film(centred(film, extent, spacing), shape, spacing) / 10 - 1) / 0.01
        for name, turned in (("", values), ("x", values[:, ::-1]), ("y", values[::-1]),
                             ("xy", values[::-1, ::-1])):  # fmt: skip
            if np.corrcoef(s.ravel(), turned.ravel())[0, 1] > 0.95:
                seen.add(name)
        if not film.transform[0, 0]:
            seen.add("swapped")
    assert seen == {"", "x", "y", "xy", "swapped"}


def centred(film: Film, extent, spacing) -> Film:
    """The film with its image's corner at the frame's, and map points on the image's own points."""
    if not film.transform[0, 0]:
        return film
    # In grid coordinates, the image's corner lies at the first multiple below zero.
    per_node = np.abs(np.diag(film.transform))
    corner = [-0.5 * spacing[1] * per_node[0], -0.5 * spacing[0] * per_node[1]]
    far = [extent[1] * per_node[0], extent[0] * per_node[1]]
    origin = [
        corner[i] + (0 if film.transform[i, i] > 0 else far[i])
        + 0.5 * film.transform[i, i] * spacing[1 - i]
        for i in range(2)
    ]  # fmt: skip
    return Film(film.coefficients, tuple(origin), film.transform, film.mean, film.variation)


def test_a_small_frame_lies_within_the_image():
    """Never across a mirror: the part of the image that is seen is one that the image has."""
    pixel = 0.5
    image = np.add.outer(np.arange(300.0), 0 * np.arange(300.0))  # rises along y throughout
    text = extract_contamination(image, pixel, 12.0)
    for seed in range(40):
        film = draw_film((50.0, 40.0), FilmSettings(10.0, 0.1, shortest=12.0),
                         np.random.default_rng(seed), [text])  # fmt: skip
        field = map_film(film, (50, 40), (1.0, 1.0))
        axis = 0 if np.ptp(field[:, 0]) > np.ptp(field[0]) else 1
        steps = np.diff(field, axis=axis)
        assert (steps > -2e-3).all() or (steps < 2e-3).all()


def test_a_frame_larger_than_the_image_is_filled_by_its_mirror():
    text = extract_contamination(np.random.default_rng(1).normal(size=(200, 200)), 0.5, 10.0)
    film = draw_film((500.0, 400.0), FilmSettings(10.0, 0.1, shortest=10.0),
                     np.random.default_rng(2), [text])  # fmt: skip
    field = map_film(film, (500, 400), (1.0, 1.0))
    np.testing.assert_allclose(field[200:400], field[:200], atol=1e-3)
    assert field.std() == pytest.approx(1.0, rel=0.05)
    assert field.mean() == pytest.approx(10.0, rel=0.02)


def test_a_longer_shortest_wavelength_smooths_the_image_further():
    text = extract_contamination(np.random.default_rng(1).normal(size=(400, 400)), 0.5, 8.0)
    for shortest in (8.0, 30.0):
        settings = FilmSettings(10.0, 0.1, shortest=shortest)
        film = draw_film((200.0, 200.0), settings, np.random.default_rng(2), [text])
        field = map_film(film, (200, 200), (1.0, 1.0))
        spectrum = np.abs(np.fft.fft2((field - field.mean()) * np.outer(*[np.hanning(200)] * 2)))
        k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(200)] * 2))
        beyond = (spectrum[k > 1.25 / shortest] ** 2).sum() / (spectrum**2).sum()
        assert beyond < 0.005
        assert field.std() == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize(
    ("image", "pixel", "words"),
    [
        (np.ones((100, 100)), 0.5, "does not vary"),
        (np.full((100, 100), np.nan), 0.5, "NaN"),
        (np.ones((100, 100, 3)), 0.5, "two axes"),
        (np.random.default_rng(0).random((40, 400)), 0.5, "4 times"),
        (np.random.default_rng(0).random((100, 100)), 0.0, "above 0"),
        (np.random.default_rng(0).random((100, 100)), math.nan, "above 0"),
    ],
)
def test_images_that_hold_no_contamination_are_refused(image, pixel, words):
    with pytest.raises(ConfigError, match=words):
        extract_contamination(image, pixel, 10.0)


SHORT = '{"spacing": [1, 1], "shape": [3, 3], "values": "AAAA"}'


@pytest.mark.parametrize("text", ["", "[]", "{}", SHORT])
def test_foreign_texts_are_refused(text):
    with pytest.raises(ConfigError, match="extract it again"):
        read_contamination(text)
