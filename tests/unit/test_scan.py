"""The path of a scan: its statistics are those asked for, and it can be inverted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpctem.backend import select_backend
from hpctem.detection.detector import Detector, detect
from hpctem.detection.dose import electrons_per_pixel
from hpctem.detection.scan import (
    FARTHEST,
    ScanPath,
    ScanSettings,
    add_streaks,
    bounds,
    draw_path,
    locate,
    scan_positions,
    scan_reach,
)
from hpctem.errors import ConfigError, SampleError
from hpctem.sampling import Streams

CPU = select_backend("cpu")
CENTRE = (100.0, 80.0)


def draw(shape=(64, 48), pixel=0.25, index=0, **settings) -> ScanPath:
    streams = Streams(7)
    generators = (streams(name, index) for name in ("jitter", "flagging", "frames"))
    return draw_path(shape, pixel, CENTRE, ScanSettings(**settings), *generators)


def position(path: ScanPath, f: int, r: int, c: int) -> np.ndarray:
    """One position written out as the module's head states it."""
    along = path.step[:, 0] / np.linalg.norm(path.step[:, 0])
    flyback = path.flyback_amplitude * math.exp(-c / path.flyback_pixels)
    return np.array(path.origin) + path.step @ [c, r] + path.shifts[f, r] + along * flyback


def test_a_perfect_scan_is_a_square_grid_about_its_centre():
    path = draw((5, 7), 0.3)
    positions = scan_positions(path, 0)
    np.testing.assert_allclose(positions.mean(axis=(0, 1)), CENTRE, atol=1e-12)
    np.testing.assert_allclose(positions[0, :, 0], 100 + 0.3 * (np.arange(7) - 3), atol=1e-12)
    np.testing.assert_allclose(positions[:, 3, 1], 80 + 0.3 * (np.arange(5) - 2), atol=1e-12)
    assert path.pixel_area == pytest.approx(0.09, rel=1e-12)


def test_positions_are_those_of_the_formula():
    path = draw(frames=3, dwell_time=4, line_time=50, jitter=0.1, flagging=0.2, drift_x=900.0,
                drift_y=-700.0, frame_shift=0.3, shear=0.04, contraction=-0.03, rotation=0.5,
                flyback_amplitude=1.5, flyback_time=30)  # fmt: skip
    for f in range(3):
        positions = scan_positions(path, f)
        for r, c in ((0, 0), (5, 40), (63, 47)):
            np.testing.assert_allclose(positions[r, c], position(path, f, r, c), rtol=1e-13)


def test_shear_contraction_and_rotation_make_the_step():
    """The image of the unit vectors under: lengthen along y, shear along x, turn."""
    path = draw(pixel=0.2, shear=0.05, contraction=0.1, rotation=0.3)

    def turn(x, y):
        cos, sin = math.cos(0.3), math.sin(0.3)
        return x * cos - y * sin, x * sin + y * cos

    np.testing.assert_allclose(path.step[:, 0], turn(0.2, 0.0), atol=1e-15)
    np.testing.assert_allclose(path.step[:, 1], turn(0.05 * 0.22, 0.22), atol=1e-15)


def test_jitter_has_the_asked_deviation_and_is_white():
    path = draw((400, 16), frames=25, jitter=0.12, rotation=0.4)
    along = path.shifts @ path.row_direction
    across = path.shifts @ np.array([-path.row_direction[1], path.row_direction[0]])
    n = along.size
    assert along.std() == pytest.approx(0.12, abs=5 * 0.12 / math.sqrt(2 * n))
    assert abs(along.mean()) < 5 * 0.12 / math.sqrt(n)
    assert np.abs(across).max() < 1e-12
    for a, b in ((along[:, :-1], along[:, 1:]), (along[:-1], along[1:])):
        assert abs((a * b).mean()) / 0.12**2 < 5 / math.sqrt(a.size)


@pytest.mark.parametrize("length", [1.0, 6.0, 40.0])
def test_flagging_has_the_asked_deviation_and_correlation(length):
    lines = np.concatenate(
        [
            draw((2000, 16), index=i, flagging=0.3, flagging_lines=length).shifts[0, :, 0]
            for i in range(200)
        ]
    ).reshape(200, 2000)
    # Independent values in a series: lines over the integral of the squared correlation.
    independent = lines.size / (length * math.sqrt(math.pi))
    for lag in (0, 1, math.ceil(length), math.ceil(2 * length), math.ceil(5 * length)):
        measured = (lines[:, : 2000 - lag] * lines[:, lag:]).mean() / 0.09
        expected = math.exp(-0.5 * (lag / length) ** 2)
        # 1.5 % of the sampled Gaussian's own error at a length of one line.
        slack = 0.015 if length == 1.0 else 0.0
        assert abs(measured - expected) < 5 * math.sqrt(2 / independent) + slack, lag
    np.testing.assert_allclose(lines[:, 0].std(), 0.3, rtol=5 / math.sqrt(400))


def test_flagging_runs_on_from_frame_to_frame():
    path = draw((50, 16), frames=4, flagging=0.5, flagging_lines=30.0)
    series = path.shifts[:, :, 0].ravel()
    assert np.abs(np.diff(series)).max() < 0.5 * 5 / 30  # slope sigma / L, at 5 sigma


def test_drift_is_linear_in_time_and_against_the_specimen():
    """A specimen that moves towards +x is scanned ever further towards -x of itself."""
    vx, vy = 2000.0, -500.0
    dwell, wait, (ny, nx), frames = 3.0, 70.0, (20, 30), 4
    path = draw((ny, nx), frames=frames, dwell_time=dwell, line_time=wait, drift_x=vx, drift_y=vy)
    still = draw((ny, nx))
    ticks = []
    for f in range(frames):
        moved = scan_positions(path, f) - scan_positions(still, 0)
        r, c = np.mgrid[:ny, :nx]
        seconds = 1e-6 * ((f * ny + r) * (nx * dwell + wait) + c * dwell)
        ticks.append((seconds, moved))
    middle = np.mean([seconds for seconds, _ in ticks])
    for seconds, moved in ticks:
        np.testing.assert_allclose(moved[..., 0], -vx * (seconds - middle), atol=1e-10)
        np.testing.assert_allclose(moved[..., 1], -vy * (seconds - middle), atol=1e-10)


def test_frames_are_shifted_along_both_axes():
    path = draw((4, 16), frames=4000, frame_shift=0.2)
    assert np.ptp(path.shifts, axis=1).max() == 0
    x, y = path.shifts[:, 0].T
    for values in (x, y):
        assert values.std() == pytest.approx(0.2, rel=5 / math.sqrt(2 * 4000))
    assert abs(np.corrcoef(x, y)[0, 1]) < 5 / math.sqrt(4000)


def test_each_effect_leaves_the_draws_of_the_others():
    both = draw(frames=2, jitter=0.1, flagging=0.2, frame_shift=0.3).shifts
    settings = {"jitter": 0.1, "flagging": 0.2, "frame_shift": 0.3}
    alone = [draw(frames=2, **{name: value}).shifts for name, value in settings.items()]
    np.testing.assert_allclose(both, sum(alone), atol=1e-14)


def test_flyback_displaces_the_first_pixels_along_the_row():
    path = draw((16, 64), flyback_amplitude=0.8, flyback_time=20.0, dwell_time=4.0, rotation=0.3)
    moved = scan_positions(path, 0) - scan_positions(draw((16, 64), rotation=0.3), 0)
    expected = 0.8 * np.exp(-np.arange(64) * 4.0 / 20.0)
    np.testing.assert_allclose(moved[3, :, 0], expected * math.cos(0.3), atol=1e-12)
    np.testing.assert_allclose(moved[9, :, 1], expected * math.sin(0.3), atol=1e-12)


HARD = dict(dwell_time=4.0, line_time=80.0, drift_x=800.0, drift_y=-300.0, shear=0.05,
            contraction=0.04, rotation=0.7, flyback_time=40.0)  # fmt: skip


@pytest.mark.parametrize("amplitude", [0.0, 1.5, -1.5, -40.0])
def test_locating_undoes_the_path(amplitude):
    path = draw((96, 80), jitter=0.2, flagging=0.5, frame_shift=0.4, flyback_amplitude=amplitude,
                **HARD)  # fmt: skip
    found = locate(path, scan_positions(path, 0).reshape(-1, 2)).reshape(96, 80, 2)
    rows, columns = np.mgrid[:96, :80]
    assert np.abs(found[..., 0] - columns).max() < 1e-6
    assert np.abs(found[..., 1] - rows).max() < 1e-6


def test_locating_takes_the_mean_path_of_the_frames():
    path = draw((96, 80), frames=9, jitter=0.2, flagging=0.5, frame_shift=0.4,
                flyback_amplitude=1.0, **HARD)  # fmt: skip
    mean = np.mean([scan_positions(path, f) for f in range(9)], axis=0)
    found = locate(path, mean.reshape(-1, 2)).reshape(96, 80, 2)
    rows, columns = np.mgrid[:96, :80]
    assert np.abs(found - np.stack([columns, rows], axis=-1)).max() < 1e-6


def test_locating_follows_shifts_across_the_lines():
    """Shifts along y that vary from line to line, so that rows must be found by iteration."""
    generator = np.random.default_rng(3)
    slow = np.cumsum(generator.normal(0, 0.02, (60, 2)), axis=0)
    path = ScanPath((60, 60), (5.0, 6.0), np.array([[0.3, 0.02], [-0.01, 0.3]]), slow[None])
    found = locate(path, scan_positions(path, 0).reshape(-1, 2)).reshape(60, 60, 2)
    rows, columns = np.mgrid[:60, :60]
    assert np.abs(found - np.stack([columns, rows], axis=-1)).max() < 1e-6


def test_points_outside_are_located_outside():
    path = draw((96, 80), jitter=0.2, flyback_amplitude=3.0, **HARD)
    outside = np.array(path.origin) + np.array(
        [path.step @ offset for offset in ((-30, 20), (110, 20), (40, -20), (40, 130))]
    )
    column, row = locate(path, outside).T
    assert column[0] < -20 and column[1] > 90 and row[2] < -15 and row[3] > 110


def test_a_point_passed_twice_is_located_at_its_later_pixel():
    """Flyback of 40 px over 10 px: the beam first runs back, turns, and passes points again."""
    path = draw((16, 200), 0.25, flyback_amplitude=10.0, flyback_time=40.0, dwell_time=4.0)
    x = scan_positions(path, 0)[0, :, 0]
    turning = int(np.argmin(x))
    assert turning == round(10 * math.log(4))
    found = locate(path, scan_positions(path, 0)[0])
    np.testing.assert_allclose(found[turning + 1 :, 0], np.arange(turning + 1, 200), atol=1e-5)
    assert (found[:turning, 0] > turning).all()
    unseen = locate(path, np.array([[x.min() - 0.01, 80.0]]))
    assert unseen[0, 0] < 0


def test_a_point_appears_at_the_pixel_that_looks_at_it():
    """A delta through the path: the pixel where it is brightest is where `locate` says."""
    path = draw((128, 128), jitter=0.02, flagging=0.4, flagging_lines=25.0, flyback_amplitude=1.2,
                **HARD)  # fmt: skip
    positions = scan_positions(path, 0)
    x0, y0, x1, y1 = bounds(draw((80, 80)))
    points = np.random.default_rng(1).uniform((x0, y0), (x1, y1), (60, 2))
    found = locate(path, points)
    pixels = np.stack(np.mgrid[:128, :128][::-1], axis=-1)
    for point, pixel in zip(points, found, strict=True):
        image = np.exp(-0.5 * ((positions - point) ** 2).sum(axis=-1) / 0.5**2)
        centroid = (image[..., None] * pixels).sum(axis=(0, 1)) / image.sum()
        assert np.abs(centroid - pixel).max() < 0.5
        brightest = np.unravel_index(image.argmax(), image.shape)[::-1]
        assert np.abs(brightest - pixel).max() < 1.0


def test_bounds_are_those_of_all_positions():
    path = draw(frames=3, jitter=0.3, flagging=0.5, frame_shift=0.4, flyback_amplitude=-2.0, **HARD)
    everywhere = np.array([scan_positions(path, f) for f in range(3)]).reshape(-1, 2)
    corners = (*everywhere.min(axis=0), *everywhere.max(axis=0))
    np.testing.assert_allclose(bounds(path), corners, rtol=1e-12)


def test_no_scan_goes_beyond_its_reach():
    generator = np.random.default_rng(5)
    closest = -math.inf
    for index in range(300):
        greatest = ScanSettings(
            frames=int(generator.integers(1, 4)), dwell_time=5.0, line_time=90.0,
            jitter=generator.exponential(0.2), flagging=generator.exponential(0.3),
            drift_x=generator.exponential(60), drift_y=generator.exponential(60),
            frame_shift=generator.exponential(0.2), shear=generator.uniform(0, 0.3),
            contraction=generator.uniform(0, 0.3), rotation=generator.uniform(0, 3.2),
            flyback_amplitude=generator.exponential(2.0), flyback_time=50.0,
        )  # fmt: skip
        drawn = {
            name: getattr(greatest, name) * generator.choice([-1, 1, generator.uniform(-1, 1)])
            for name in ("drift_x", "drift_y", "shear", "contraction", "rotation",
                         "flyback_amplitude")
        }  # fmt: skip
        drawn |= {
            name: getattr(greatest, name)
            for name in ("frames", "dwell_time", "line_time", "jitter", "flagging", "frame_shift",
                         "flyback_time")
        }  # fmt: skip
        shape = (int(generator.integers(16, 60)), int(generator.integers(16, 60)))
        reach = scan_reach(shape, 0.25, greatest)
        x0, y0, x1, y1 = bounds(draw(shape, index=index, **drawn))
        half_x, half_y = shape[1] * 0.125, shape[0] * 0.125
        left = max(CENTRE[0] - half_x - x0, x1 - CENTRE[0] - half_x) - reach[0]
        above = max(CENTRE[1] - half_y - y0, y1 - CENTRE[1] - half_y) - reach[1]
        assert max(left, above) <= 1e-9
        closest = max(closest, left, above)
    assert closest > -2.0  # A: a bound, not just a large number
    assert scan_reach((64, 48), 0.25, ScanSettings()) == (0.0, 0.0)


@pytest.mark.parametrize(
    "settings",
    [
        dict(drift_x=40.0, dwell_time=10.0, line_time=50.0, frames=3),
        dict(drift_y=-40.0, dwell_time=10.0, line_time=50.0),
        dict(shear=0.2, contraction=0.2),
        dict(rotation=0.2),
        dict(flyback_amplitude=-3.0, dwell_time=1.0, flyback_time=0.1),
    ],
)
def test_the_reach_is_no_larger_than_it_must_be(settings):
    """To a pixel where nothing is random: the steady parts are the path's own."""
    shape, pixel = (64, 48), 0.25
    x0, y0, x1, y1 = bounds(draw(shape, pixel, **settings))
    greatest = ScanSettings(**{name: abs(value) for name, value in settings.items()})
    for reach, low, high, centre, n in zip(
        scan_reach(shape, pixel, greatest), (x0, y0), (x1, y1), CENTRE, shape[::-1], strict=True
    ):
        left = max(0.0, centre - low - n * pixel / 2, high - centre - n * pixel / 2)
        along = abs(settings.get("flyback_amplitude", 0.0))  # allowed for on all sides
        assert -1e-9 <= reach - left < 1.5 * pixel + along


def test_random_displacements_end_at_six_deviations():
    class Extreme:
        def standard_normal(self, shape):
            return np.full(shape, 50.0)

    path = draw_path((8, 8), 1.0, CENTRE, ScanSettings(jitter=0.1, flagging=0.2, frame_shift=0.3),
                     Extreme(), Extreme(), Extreme())  # fmt: skip
    np.testing.assert_allclose(path.shifts[..., 1], 0.3 * FARTHEST)
    np.testing.assert_allclose(path.shifts[..., 0], 0.6 * FARTHEST)


def test_a_turned_scan_reaches_as_far_as_its_diagonal():
    """A square at 45 degrees: its corners lie half a diagonal from the centre."""
    reach = scan_reach((101, 101), 1.0, ScanSettings(rotation=math.pi))
    assert reach == pytest.approx((50 * math.sqrt(2) - 50.5,) * 2, rel=1e-12)


def test_a_drift_that_outruns_the_scan_is_refused():
    with pytest.raises(SampleError, match="drift"):
        draw(dwell_time=1000.0, drift_x=251.0)


def test_a_flyback_without_a_dwell_time_is_refused():
    with pytest.raises(ConfigError, match="dwell"):
        draw(flyback_amplitude=1.0)


def test_streaks_blend_the_end_of_the_line_before():
    """Against the sum written out pixel by pixel."""
    image = np.random.default_rng(2).random((6, 40)).astype(np.float32)
    share, decay = 0.4, 1.7
    streaked = add_streaks(image, share, decay, CPU)
    for r in range(6):
        weights = np.array([math.exp(-k / decay) for k in range(40)])
        before = sum(w * x for w, x in zip(weights, image[r - 1, ::-1], strict=True))
        before /= weights.sum()
        for c in range(40):
            w = share * math.exp(-c / decay)
            assert streaked[r, c] == pytest.approx((1 - w) * image[r, c] + w * before, abs=1e-6)
    assert streaked.dtype == np.float32


def test_no_streaks_without_a_share_and_none_in_a_flat_image():
    image = np.random.default_rng(2).random((6, 40)).astype(np.float32)
    np.testing.assert_array_equal(add_streaks(image, 0.0, 5.0, CPU), image)
    flat = np.full((6, 40), 0.3, np.float32)
    np.testing.assert_allclose(add_streaks(flat, 0.8, 5.0, CPU), flat, rtol=1e-6)


def test_streaks_keep_the_mean_and_the_range():
    image = np.random.default_rng(4).random((300, 200)).astype(np.float32)
    kept = image.copy()
    streaked = add_streaks(image, 0.6, 8.0, CPU)
    np.testing.assert_array_equal(image, kept)
    assert streaked.min() >= image.min() and streaked.max() <= image.max()
    # Random ends: what is moved, 8 of 200 pixels a line times 0.6, averages out over 300 lines.
    assert abs(streaked.mean() - image.mean()) < 5 * 0.6 * (8 / 200) * 0.29 / math.sqrt(300)
    assert np.abs(streaked - image)[:, 0].mean() > 0.05


def test_electrons_per_pixel_are_charge_over_the_elementary_charge():
    assert electrons_per_pixel(1.0, 1.0) == pytest.approx(6.241509074460763, rel=1e-15)
    assert electrons_per_pixel(35.0, 2.0, 10) == pytest.approx(35e-12 * 20e-6 / 1.602176634e-19)
    for bad in ((-1.0, 1.0, 1), (1.0, math.nan, 1), (1.0, 1.0, 0)):
        with pytest.raises(ConfigError):
            electrons_per_pixel(*bad)


@pytest.mark.parametrize("expected", [0.02, 0.9, 5.0, 9.99, 10.01, 50.0])
def test_counts_are_poisson_with_current_and_dwell(expected):
    """Mean, variance and every frequency of the counts at a collected share of 2 %."""
    from scipy.stats import poisson

    share, current, frames = np.float32(0.02), 30.0, 4
    dwell = expected / (float(share) * current * frames * 6.241509074460763)
    image = np.full((400, 500), share)
    counts, _ = detect(
        image, electrons_per_pixel(current, dwell, frames), 1.0, Detector(),
        np.random.default_rng(int(100 * expected)), np.random.default_rng(0), CPU,
    )  # fmt: skip
    n = counts.size
    assert counts.dtype == np.uint16
    assert counts.mean() == pytest.approx(expected, abs=4 * math.sqrt(expected / n))
    spread = math.sqrt((expected + 2 * expected**2) / n)  # of the variance of Poisson samples
    assert counts.var() == pytest.approx(expected, abs=4 * spread)
    seen = np.bincount(counts.ravel(), minlength=200)[:200]
    likely = n * poisson.pmf(np.arange(200), expected)
    common = likely > 20
    square = ((seen - likely)[common] ** 2 / likely[common]).sum()
    assert square < common.sum() + 5 * math.sqrt(2 * common.sum()) + 5
