"""One structure through the whole campaign: what depends on what, and what must not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from small_campaigns import SMALL, vary

from hpctem import tables
from hpctem.backend import select_backend
from hpctem.config import check_config
from hpctem.detection.filters import MEDIAN_VIEW, apply_view, filter_median
from hpctem.errors import ConfigError
from hpctem.hrtem.campaign import compute_images, compute_structure, image_wave
from hpctem.hrtem.conditions import DrawConditions
from hpctem.hrtem.experiment import Experiment
from hpctem.hrtem.tables import EXIT_WAVES
from hpctem.marked_yaml import parse_yaml

TEXT = SMALL.read_text()
CPU = select_backend("cpu")
UNCROPPED = ("  crop: 96\n", "")


def experiment(*changes: tuple[str, str]) -> Experiment:
    return Experiment(check_config(parse_yaml(vary(TEXT, *changes))), CPU)


def column(rows: dict[str, np.ndarray], name: str) -> np.ndarray:
    return rows[f"/entry/metadata/{name}"]


def imaging(text: str) -> tuple[str, str]:
    """The small campaign's imaging section with further keys."""
    return ("  foci: 2\n", f"  foci: 2\n{text}")


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    """Structure 1 of the small campaign: one with two particles."""
    return compute_structure(experiment(), 1)


def test_a_structure_is_a_pure_function_of_its_index(rows: dict[str, np.ndarray]) -> None:
    again = experiment()
    compute_structure(again, 0)
    repeated = compute_structure(again, 1)
    assert repeated.keys() == rows.keys()
    assert all(np.array_equal(repeated[path], rows[path]) for path in rows)


def test_one_image_alone_is_the_image_among_all(rows: dict[str, np.ndarray]) -> None:
    """Which images are formed together does not matter: previews show what campaigns hold."""
    here = experiment()
    [alone], _ = compute_images(here, here.structure(1), 1, range(2, 3))
    assert np.array_equal(alone[tables.IMAGES], rows[tables.IMAGES][2])
    assert all(np.array_equal(values, rows[path][2]) for path, values in alone.items())


def test_stored_exit_waves_give_the_images_again(rows: dict[str, np.ndarray]) -> None:
    here = experiment()
    draw = DrawConditions(here.config, here.streams, 1)
    height = float(rows["/entry/structures/height"][0])
    labels = np.zeros(here.grids.image, np.uint8)
    waves = rows[EXIT_WAVES][0]
    again = list(image_wave(here, waves, height, labels, draw, range(4)))
    assert all(
        np.array_equal(image.image(), rows[tables.IMAGES][k]) for k, image in enumerate(again)
    )


def test_crop_and_median_act_alike_on_image_and_labels(rows: dict[str, np.ndarray]) -> None:
    whole = compute_structure(experiment(UNCROPPED), 1)
    median = compute_structure(experiment(imaging("  median: stored\n")), 1)
    assert whole[tables.IMAGES].shape == (4, 128, 128)
    for k in range(4):
        y, x = column(rows, "crop_y")[k], column(rows, "crop_x")[k]
        window = np.s_[y : y + 96, x : x + 96]
        assert np.array_equal(rows[tables.IMAGES][k], whole[tables.IMAGES][k][window])
        assert np.array_equal(rows[tables.INSTANCES][k], whole[tables.INSTANCES][k][window])
        filtered = filter_median(whole[tables.IMAGES][k])
        assert np.array_equal(median[tables.IMAGES][k], filtered[window])


def test_the_view_is_recorded_and_applied_on_reading(rows: dict[str, np.ndarray]) -> None:
    image = rows[tables.IMAGES][0]
    assert np.array_equal(apply_view(image, "raw"), image)
    assert np.array_equal(apply_view(image, MEDIAN_VIEW), filter_median(image))
    with pytest.raises(ConfigError, match="view 'mean' is unknown"):
        apply_view(image, "mean")


def test_counts_are_poisson_of_the_noise_free_image() -> None:
    """From the stored wave: (counts - expected)^2 / expected averages to 1."""
    from hpctem.hrtem.experiment import set_optics
    from hpctem.optics.transfer import form_images

    here = experiment(UNCROPPED)
    rows = compute_structure(here, 1)
    draw = DrawConditions(here.config, here.streams, 1)
    height = float(rows["/entry/structures/height"][0])
    optics = set_optics(here.config, draw.optics(1), height)
    intensity = form_images(rows[EXIT_WAVES][0], here.grids.extent, [optics], CPU)[0]
    expected = intensity.astype(float) * 1600 * 0.25**2
    square = (rows[tables.IMAGES][3] - expected) ** 2 / expected
    assert square.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / square.size))


BARE = "  planar_defects: {count: {choice: [0, 1]}, minimum_separation: 1, edge_distance: 1}\n"


def test_tables_that_a_campaign_cannot_fill_are_left_out() -> None:
    rows = compute_structure(experiment((f"  {BARE}", "")), 1)
    assert "/entry/particles/radius" in rows and "/entry/planar_defects/plane" not in rows
    start, end = TEXT.index("  particles:"), TEXT.index("  substrate:")
    rows = compute_structure(experiment((TEXT[start:end], "")), 1)
    assert "/entry/particles/radius" not in rows and rows["/entry/structures/n_particle_atoms"] == 0


def test_images_without_particles_have_empty_labels() -> None:
    """Negatives: a count of 0 among the choices."""
    here = experiment(("count: {choice: [1, 1, 2]}", "count: {choice: [0]}"))
    rows = compute_structure(here, 0)
    assert not rows[tables.INSTANCES].any() and not column(rows, "particle_fraction").any()
    assert rows["/entry/structures/particles_placed"] == 0
    assert "/entry/particles/radius" not in rows and rows[tables.IMAGES].any()


@pytest.mark.parametrize("method, share", [("phase", 0.6), ("intensity", 0.4)])
def test_the_papers_masks_lie_on_the_particle(method: str, share: float) -> None:
    """A gold sphere of 2.4 nm; docs/images-and-labels.md has the figures for larger ones."""
    large = (
        ("cell: [3.2 nm, 3.2 nm]", "cell: [4.8 nm, 4.8 nm]"),
        ("radius: {uniform: [5 A, 7 A]}", "radius: 12 A"),
        ("count: {choice: [1, 1, 2]}", "count: 1"),
        UNCROPPED,
    )
    one = compute_structure(experiment(*large), 1)[tables.INSTANCES][0] > 0
    labels = f"labels: {{mask: {{method: {method}}}}}\nstorage:"
    two = compute_structure(experiment(*large, ("storage:", labels)), 1)[tables.INSTANCES][0] > 0
    assert (one & two).sum() / two.sum() > 0.95
    assert share < (one & two).sum() / one.sum() < 1


@pytest.mark.parametrize("tilt", [0.0, 0.05, 0.15])
def test_masks_lie_where_a_tilted_beam_shows_the_particle(tilt: float) -> None:
    """The projected sphere, its centre moved by (height - z) tan(tilt): IoU of at least 0.94."""
    here = experiment(
        ("cell: [3.2 nm, 3.2 nm]", "cell: [6.4 nm, 6.4 nm]"),
        ("radius: {uniform: [5 A, 7 A]}", "radius: 16 A"),
        ("count: {choice: [1, 1, 2]}", "count: 1"),
        ("  sampling: 0.25 A\n  phonons: {configurations: 2}\n", f"  sampling: 0.25 A\n"
         f"  phonons: {{configurations: 1}}\n  tilt: {{x: {tilt} rad, y: {-tilt / 2} rad}}\n"),
        UNCROPPED,
    )  # fmt: skip
    rows = compute_structure(here, 1)
    mask = rows[tables.INSTANCES][0] > 0
    x, y, z = (rows[f"/entry/particles/{name}"][0] for name in "xyz")
    depth = rows["/entry/structures/height"][0] - z
    grid = np.arange(256) * 0.25
    dx = (grid[None, :] - x - depth * np.tan(tilt) + 32) % 64 - 32
    dy = (grid[:, None] - y + depth * np.tan(tilt / 2) + 32) % 64 - 32
    disc = dx**2 + dy**2 < 16**2
    assert (mask & disc).sum() / (mask | disc).sum() > 0.94


def test_coarse_pixels_average_the_intensity_and_lose_no_beams() -> None:
    """0.5 A pixels: the wave keeps its band, the counts are those of the pixel's area."""
    from scipy.ndimage import convolve1d

    from hpctem.hrtem.experiment import set_optics
    from hpctem.optics.transfer import form_images

    dose = ("[400 e/A^2, 1600 e/A^2]", "[20000 e/A^2, 100000 e/A^2]")
    coarse_pixels = ("imaging:\n  sampling: 0.25 A", "imaging:\n  sampling: 0.5 A")
    fine = experiment(UNCROPPED)
    coarse = compute_structure(experiment(UNCROPPED, dose, coarse_pixels), 1)
    rows = compute_structure(fine, 1)
    assert coarse[tables.IMAGES].shape == (4, 64, 64)
    assert np.array_equal(coarse[EXIT_WAVES], rows[EXIT_WAVES])
    draw = DrawConditions(fine.config, fine.streams, 1)
    height = float(rows["/entry/structures/height"][0])
    optics = set_optics(fine.config, draw.optics(1), height)
    intensity = form_images(rows[EXIT_WAVES][0], fine.grids.extent, [optics], CPU)[0]
    for axis in (0, 1):
        intensity = convolve1d(intensity, [0.25, 0.5, 0.25], axis, mode="wrap")
    expected = intensity[::2, ::2].astype(float) * 1e5 * 0.5**2
    square = (coarse[tables.IMAGES][3] - expected) ** 2 / expected
    assert square.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / square.size))
    assert np.array_equal(coarse[tables.INSTANCES][0], rows[tables.INSTANCES][0][::2, ::2])


DETECTORS: dict[str, tuple[str, str, Callable[[np.ndarray, np.ndarray], bool]]] = {
    "parametric MTF": (
        "detector: {mtf: {c1: 0.1, c2: 0.15, c3: 1.2}}",
        "float32",
        lambda image, counts: bool(image.std() < 0.8 * counts.std()),
    ),
    "measured MTF": (
        "detector: {mtf: {frequencies: [0, 0.5, 1], values: [1, 0.5, 0.2]}}",
        "float32",
        lambda image, counts: bool(image.std() < 0.8 * counts.std()),
    ),
    "digitised readout": (
        "detector: {readout_noise: 5, gain: 3, offset: 100, digitize: true}",
        "uint16",
        lambda image, counts: abs(image.mean() - 100 - 3 * counts.mean()) < 1,
    ),
    "half the electrons": (
        "detector: {quantum_efficiency: 0.5}",
        "uint16",
        lambda image, counts: abs(image.mean() / counts.mean() - 0.5) < 0.02,
    ),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_change_the_images_as_they_say(name: str) -> None:
    text, dtype, holds = DETECTORS[name]
    plain = compute_structure(experiment(UNCROPPED), 1)[tables.IMAGES].astype(float)
    here = experiment(UNCROPPED, imaging(f"  {text}\n"))
    images = compute_structure(here, 1)[tables.IMAGES]
    assert images.dtype == dtype == here.image_dtype
    assert all(
        holds(image.astype(float), counts) for image, counts in zip(images, plain, strict=True)
    )


def test_every_wave_has_its_own_tilt_and_phonons() -> None:
    changes = [
        ("  sampling: 0.25 A\n  phonons", "  sampling: 0.25 A\n  waves: 2\n"
         "  tilt: {x: {uniform: [-20 mrad, 20 mrad], per: wave}}\n  phonons"),
    ]  # fmt: skip
    rows = compute_structure(experiment(*changes), 1)
    assert rows[EXIT_WAVES].shape == (2, 2, 128, 128)
    assert column(rows, "wave_index").tolist() == [0] * 4 + [1] * 4
    assert column(rows, "focus_index").tolist() == [0, 0, 1, 1] * 2
    tilt = column(rows, "tilt_x")
    assert len(set(tilt[:4])) == len(set(tilt[4:])) == 1 and tilt[0] != tilt[4]
    assert len(set(column(rows, "defocus"))) == 4


@pytest.mark.parametrize("level, distinct", [("structure", 1), ("focus", 2), ("image", 4)])
def test_values_are_drawn_as_often_as_asked(level: str, distinct: int) -> None:
    dose = ("{grid: [400 e/A^2, 1600 e/A^2], per: image}",
            f"{{uniform: [400 e/A^2, 1600 e/A^2], per: {level}}}")  # fmt: skip
    rows = compute_structure(experiment(dose), 1)
    assert len(set(column(rows, "dose"))) == distinct


NOTATIONS = (
    "{magnitudes: {C12: 3.204 nm, C30: -7.652 um}, angles: {C12: 90 deg}}",
    "{notation: power_of_angle, magnitudes: {C22: 1.602 nm, C40: -1.913 um}, "
    "angles: {C22: 90 deg}}",
    "{notation: haider, magnitudes: {A1: 3.204 nm, C3: -7.652 um}, angles: {A1: 90 deg}}",
)


def test_three_notations_of_one_lens_give_one_image() -> None:
    images = []
    for text in NOTATIONS:
        rows = compute_structure(experiment(imaging(f"  aberrations: {text}\n")), 1)
        assert column(rows, "C12") == pytest.approx(32.04)
        assert column(rows, "C30") == pytest.approx(-76520)
        assert column(rows, "phi12") == pytest.approx(np.pi / 2)
        images.append(rows[tables.IMAGES])
    assert np.mean(images[0] != images[1]) < 1e-3 and np.mean(images[0] != images[2]) < 1e-3
