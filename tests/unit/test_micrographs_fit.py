"""What a phantom was made with is what its measurement and its proposal say.

Tolerances are what the measurement earns on half a megapixel: pixel 0.1 %, shear and contraction
0.003, jitter 10 %, signal to noise 5 %, source size 0.05 A, dose 10 %, contamination 30 %; of a
probe out of focus defocus 15 %, source size 0.1 A, dose 30 %.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.append(str(Path(__file__).parent))

from phantoms import (
    COLLECTION,
    SEMIANGLE,
    Truth,
    make_phantom,
    scatter,
    see_crystal,
)

from hpctem.backend import select_backend
from hpctem.detection.contamination import CARBON_DENSITY, FilmSettings, draw_film, map_film
from hpctem.errors import ConfigError
from hpctem.micrographs.background import (
    cut_moments,
    measure_background,
    solve_variation,
    spread_variation,
    view_of_window,
)
from hpctem.micrographs.blur import structure_amplitudes, tabulate_defoci
from hpctem.micrographs.describe import format_proposal
from hpctem.micrographs.fit import Proposal, propose_imaging, write_fragment
from hpctem.micrographs.known import parse_lattice
from hpctem.micrographs.measure import Measured, Optics, cut_rows, measure
from hpctem.micrographs.noise import measure_noise, measure_streaks
from hpctem.micrographs.read import Micrograph, read_micrograph
from hpctem.micrographs.spectra import power_spectrum
from hpctem.optics.columns import correct_pairs
from hpctem.optics.incoherent import form_picture, gather_points
from hpctem.optics.object_functions import object_transfer
from hpctem.optics.probe import Probe, probe_transfer
from hpctem.sections.stem import Imaging

FILM = FilmSettings(thickness=20.0, variation=0.6, exponent=2.0, shortest=5.0, longest=30.0)
CASES = {
    "clean": Truth(),
    "sheared": Truth(shear=-0.08, contraction=-0.04, turn=2.2, jitter=0.12, pixel=0.16),
    "noisy": Truth(electrons=1300, jitter=0.1, source_size=1.1, readout=1.5, turn=1.3),
    "dirty": Truth(film=FILM, jitter=0.08, source_size=0.6, turn=3.0, vacancies=0.03),
    "flagging": Truth(flagging=0.10, jitter=0.05, turn=0.2, flagging_lines=12.0),
}


@cache
def propose(truth: Truth, seed: int = 11) -> tuple[Proposal, np.ndarray, np.ndarray, Micrograph]:
    """The proposal, the true displacements of the lines in A, the share of the beam, the image."""
    micrograph, path, share = make_phantom(truth, seed)
    proposal = propose_imaging(
        micrograph, parse_lattice("mos2"), semiangle=SEMIANGLE, collection=COLLECTION
    )
    return proposal, path.shifts[0] @ path.row_direction, share, micrograph


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest):
    return CASES[request.param], *propose(CASES[request.param])


def value_of(proposal: Proposal, name: str) -> float:
    return next(found.value for found in proposal.findings if found.name.strip() == name)


def test_the_scan_is_recovered(case) -> None:
    truth, proposal, *_ = case
    distortion = proposal.measured.distortion
    assert distortion.pixel_size == pytest.approx(truth.pixel, rel=1e-3)
    assert distortion.shear == pytest.approx(truth.shear, abs=3e-3)
    assert distortion.contraction == pytest.approx(truth.contraction, abs=3e-3)


def test_errors_are_not_far_below_the_deviations(case) -> None:
    """Within five of the errors that are told, or a fifth of the promise."""
    truth, proposal, *_ = case
    distortion, errors = proposal.measured.distortion, proposal.measured.distortion_errors
    assert abs(distortion.pixel_size / truth.pixel - 1) < 5 * errors[0] + 2e-4
    assert abs(distortion.contraction - truth.contraction) < 5 * errors[1] + 6e-4
    assert abs(distortion.shear - truth.shear) < 5 * errors[2] + 6e-4


def test_the_lines_are_recovered(case) -> None:
    """Against the displacements that this phantom's lines really have, line by line too."""
    truth, proposal, shifts, *_ = case
    lines, pixel = proposal.measured.lines, proposal.measured.distortion.pixel_size
    if truth.flagging == 0:
        assert lines.jitter * pixel == pytest.approx(shifts.std(), rel=0.05)
    else:
        assert lines.jitter * pixel == pytest.approx(truth.jitter, rel=0.15)
    if truth.flagging > 0:
        assert lines.flagging * pixel == pytest.approx(truth.flagging, rel=0.4)
        assert 5 < lines.flagging_lines < 30
    else:
        assert lines.flagging * pixel < 0.3 * truth.jitter
    rough = shifts - np.poly1d(np.polyfit(np.arange(len(shifts)), shifts, 6))(
        np.arange(len(shifts))
    )
    assert np.corrcoef(lines.displacements, rough)[0, 1] > 0.85


def test_signal_to_noise_and_dose_are_recovered(case) -> None:
    truth, proposal, _, share, _ = case
    fine = 0.05 * np.stack([np.arange(800), np.zeros(800)], axis=1)
    ideal = see_crystal(fine[:, ::-1], fine, truth)
    noise = math.sqrt(share.mean() / truth.electrons + (truth.readout / truth.electrons) ** 2)
    assert value_of(proposal, "lattice over noise") == pytest.approx(ideal.std() / noise, rel=0.05)
    beam = value_of(proposal, "electrons of the beam per pixel")
    assert beam == pytest.approx(truth.electrons, rel=0.1)
    assert value_of(proposal, "units per electron") == pytest.approx(truth.gain, rel=0.06)


def test_the_sharpness_is_recovered(case) -> None:
    truth, proposal, *_ = case
    blur = proposal.measured.blur
    assert blur.source_size == pytest.approx(truth.source_size, abs=0.05)
    assert (blur.along_x, blur.along_y) == pytest.approx(2 * (truth.source_size,), abs=0.12)


def test_a_probe_in_focus_is_not_called_out_of_focus(case) -> None:
    blur = case[1].measured.blur
    assert blur.defocus == 0 and "defocus" not in case[1].imaging["probe"]
    if len(blur.frequencies) < 4:
        assert blur.unseen == math.inf
    else:
        assert 10 < blur.unseen < 50
        assert f"defocus of less than {blur.unseen:.0f} Å" in format_proposal(case[1])


@pytest.mark.parametrize("defocus, source_size", [(50.0, 0.8), (-38.0, 0.6)])
def test_a_defocus_is_told_from_the_source(defocus: float, source_size: float) -> None:
    truth = Truth(defocus=defocus, source_size=source_size, electrons=4000, jitter=0.04)
    proposal, *_ = propose(truth)
    blur = proposal.measured.blur
    assert blur.defocus == pytest.approx(abs(defocus), rel=0.15)
    assert blur.source_size == pytest.approx(source_size, abs=0.1)
    assert abs(blur.defocus - abs(defocus)) < 4 * blur.defocus_error
    assert 0 < blur.defocus_error < 10
    assert blur.fitted == pytest.approx(blur.heights, rel=0.15)
    probe = Imaging.model_validate(dict(proposal.imaging)).probe
    assert probe.defocus.parameters[0] == pytest.approx(blur.defocus, rel=1e-2)
    beam = value_of(proposal, "electrons of the beam per pixel")
    assert beam == pytest.approx(truth.electrons, rel=0.3)
    assert "the sign of the defocus" in format_proposal(proposal)


def test_rings_are_those_of_a_campaigns_picture() -> None:
    """Spots of an ideal sheet, pictured as a campaign does, out of focus: to a thousandth."""
    known, cpu = parse_lattice("mos2"), select_backend("cpu")
    cell, (a, b) = known.material.cell[:2, :2], (6, 4)
    across = [i * cell[0] + j * (cell[0] + 2 * cell[1]) for i in range(a) for j in range(b)]
    block = np.concatenate([known.material.positions[:, :2] + half for half in (0, cell[1])])
    heights = np.tile(known.material.positions[:, 2], 2)
    places = np.concatenate([np.column_stack([block + move, heights]) for move in across])
    numbers = np.tile(known.material.numbers, 2 * len(across))
    extent = b * math.sqrt(3) * 3.16, a * 3.16
    probe = Probe(6e4, SEMIANGLE, defocus=40.0, source_size=0.7)
    sigma = np.array([scatter(int(z)) for z in numbers])
    weights = correct_pairs(places, numbers, sigma, probe, *COLLECTION, cpu)
    kinds = [object_transfer(z, 6e4, SEMIANGLE, *COLLECTION) for z in (16, 42)]
    picture = form_picture(
        places[:, :2], weights, extent, probe_transfer(probe), cpu,
        objects=((numbers == 42).astype(np.int64), kinds),
    )  # fmt: skip
    grid = [np.arange(n) * length / n for n, length in zip((192, 168), extent, strict=True)]
    lines, columns = np.zeros((1, 192, 2)), np.zeros((168, 2))
    lines[0, :, 1], columns[:, 0] = grid
    seen = np.abs(np.fft.fft2(gather_points(picture, lines, columns, cpu))) / 192 / 168
    indices = np.array([(1, 0), (1, 1), (2, 0), (2, 1)])
    reciprocal = indices @ np.linalg.inv(cell).T
    lengths = np.linalg.norm(reciprocal, axis=1)
    model, share = structure_amplitudes(known.material, indices, lengths, probe, COLLECTION)
    defoci, curves = tabulate_defoci(Probe(6e4, SEMIANGLE), lengths)
    curve = np.array([np.interp(40.0, defoci, column) for column in curves.T])
    source = np.exp(-((math.pi * 0.7 * lengths) ** 2) / (4 * math.log(2)))
    x, y = np.rint(reciprocal * [extent[1], extent[0]]).astype(int).T
    assert seen[0, 0] == pytest.approx(share, rel=1e-4)
    assert model * curve * source == pytest.approx(seen[y, x], rel=2e-3)


def test_contamination_is_recovered() -> None:
    truth = CASES["dirty"]
    truth = replace(truth, vacancies=0.0)
    proposal, _, share, _ = propose(truth)
    _, path, _ = make_phantom(truth, 11)
    lattice = see_crystal(path.lines[0], path.columns, truth)
    scatters = CARBON_DENSITY * scatter(6)
    deviation = float(((share - lattice) / scatters).std())
    assert value_of(proposal, "contamination varies by") == pytest.approx(deviation, rel=0.3)
    film = proposal.measured.background
    pixel = proposal.measured.distortion.pixel_size
    assert 0.7 * FILM.shortest < film.shortest * pixel < 1.5 * FILM.shortest
    assert 0.5 * FILM.longest < film.longest * pixel < 2 * FILM.longest
    assert abs(film.exponent - FILM.exponent) < 1.2


def test_variations_as_long_as_the_image_are_recovered() -> None:
    """Mean over films of a spectrum that is flat beyond the longer side only."""
    truth = FilmSettings(5.0, 0.2, exponent=2.2, shortest=6.3, longest=137.0)
    found = []
    for seed in range(4):
        generator = np.random.default_rng([8, seed])
        film = map_film(draw_film((66.5, 137.0), truth, generator), (248, 512), (0.268, 0.268))
        image = film + 0.1 * generator.standard_normal(film.shape)
        slow = measure_background(image, 0.268 / 2.74, 0.01, generator)
        found.append((slow.deviation, 0.268 * slow.longest, slow.exponent, slow.errors[0]))
    deviation, longest, exponent, error = np.mean(found, axis=0)
    assert deviation == pytest.approx(1.0, rel=0.3)
    assert longest > 60 and exponent == pytest.approx(2.2, abs=0.6)
    assert 0.02 < error < 0.5


@pytest.mark.parametrize("wave", [(0.0, 0.5), (0.5, 0.5), (0.5, 1.5), (1.0, 2.0), (2.5, 0.0)])
def test_the_windows_view_is_that_of_the_power_spectrum(wave: tuple[float, float]) -> None:
    """Waves of unit power in the four directions and all phases, as `power_spectrum` sees them."""
    ny, nx = 80, 120
    y, x = (np.arange(ny) + 0.5)[:, None] / ny, (np.arange(nx) + 0.5) / nx
    sides = [sorted({step, -step}) for step in wave]
    seen = np.zeros((ny, nx))
    for fy in sides[0]:
        for fx in sides[1]:
            for phase in (0, np.pi / 2):
                seen += power_spectrum(np.cos(2 * np.pi * (fy * y + fx * x) + phase))
    seen /= 4 * ny * nx  # a wave is half a step of frequency wide along each axis
    rows, columns = np.arange(4), np.arange(4)
    parts = [seen[ny // 2 + a * rows][:, nx // 2 + b * columns] for a in (1, -1) for b in (1, -1)]
    half = [round(2 * step) for step in wave]
    view = view_of_window().reshape(4, 4, 17, 17)[:, :, half[0], half[1]]
    assert view == pytest.approx(np.mean(parts, axis=0), abs=2e-3)


def test_streaks_along_lines_are_reported() -> None:
    """Noise of which a tenth is common to neighbours, and all of it to none."""
    generator = np.random.default_rng(5)
    white = generator.standard_normal((300, 503))
    alike = (white[:, :-3] + white[:, 1:-2] + white[:, 2:-1] + white[:, 3:]) / 2
    mixed = math.sqrt(0.9) * generator.standard_normal(alike.shape) + math.sqrt(0.1) * alike
    streaks = measure_streaks(mixed, 1.0, generator)
    assert streaks.seen and streaks.correlations == pytest.approx([0.075, 0.05, 0.025], abs=0.01)
    assert not measure_streaks(white, 1.0, generator).seen
    assert not measure_streaks(mixed.T, 1.0, generator).seen
    blobs = (white[:-1, :-1] + white[1:, :-1] + white[:-1, 1:] + white[1:, 1:]) / 2
    assert not measure_streaks(blobs, 1.0, generator).seen


def test_a_clean_crystal_is_not_called_dirty() -> None:
    proposal, *_ = propose(CASES["clean"])
    film = proposal.imaging.get("contamination")
    assert film is None or value_of(proposal, "contamination varies by") < 1.0


def test_constant_noise_is_told_from_counting() -> None:
    """Readout noise leaves the gain as it is and moves the intensity without noise."""
    truth = Truth(readout=3.0, electrons=4000)
    proposal, *_ = propose(truth)
    assert value_of(proposal, "noise beside counting") == pytest.approx(3.0, rel=0.15)
    assert value_of(proposal, "units per electron") == pytest.approx(truth.gain, rel=0.03)
    assert proposal.imaging["detector"]["readout_noise"] == pytest.approx(3.0, rel=0.15)


def test_noise_of_no_growth_is_not_called_counting() -> None:
    micrograph, _, share = make_phantom(Truth(), 1)
    generator = np.random.default_rng(0)
    image = share / share.mean() + 0.2 * generator.standard_normal(share.shape)
    noise = measure_noise(image, 0.17, np.random.default_rng(1))
    assert math.sqrt(noise.variance) == pytest.approx(0.2, rel=0.02)
    assert not noise.grows
    flat = replace(micrograph, image=image.astype(np.float32))
    proposal = propose_imaging(flat, parse_lattice("mos2"))
    assert any("constant noise" in line for line in proposal.unidentified)
    assert "beam" in proposal.imaging


def test_a_fragment_is_a_campaigns_imaging_as_it_is(case) -> None:
    truth, proposal, *_ = case
    text = write_fragment(proposal, "phantom.dm3", parse_lattice("mos2"))
    imaging = Imaging.model_validate(yaml.safe_load(text)["imaging"])
    assert imaging.pixels == truth.shape[1]
    mean, std = imaging.sampling.parameters
    assert mean == pytest.approx(truth.pixel, rel=1e-3) and 0 < std < 1e-3 * truth.pixel
    assert imaging.scan.shear.parameters[0] == pytest.approx(truth.shear, abs=3e-3)
    assert imaging.probe.source_size.parameters[0] == pytest.approx(truth.source_size, abs=0.05)
    current = imaging.beam.current.parameters[0] * imaging.beam.dwell_time.values[0] * 6.241509
    assert current == pytest.approx(truth.electrons, rel=0.1)
    assert "structure.material: {prototype: 1H, elements: [Mo, S]}" in text


def test_the_same_image_gives_the_same_fragment() -> None:
    texts = [write_fragment(propose(Truth(shape=(200, 220)))[0], "a", None) for _ in range(2)]
    assert texts[0] == texts[1]


def test_what_one_image_cannot_say_is_said(case) -> None:
    text = format_proposal(case[1])
    for words in ("absolute dose", "offset", "strain", "defocus", "Cannot be identified"):
        assert words in text


def test_rows_are_cut_before_anything_is_measured() -> None:
    """Rows that are kept for judging change nothing."""
    micrograph, *_ = make_phantom(CASES["clean"], 3)
    spoilt = micrograph.image.copy()
    spoilt[300:] = 0
    known = parse_lattice("mos2")
    texts = [
        write_fragment(
            propose_imaging(replace(micrograph, image=image), known, (0, 300)), "a", None
        )
        for image in (micrograph.image, spoilt)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("rows", [(-1, 100), (0, 600), (100, 100), (200, 100), (0, 20)])
def test_rows_out_of_range_are_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="rows"):
        cut_rows(np.zeros((512, 512)), rows)


def test_without_a_known_crystal_the_files_pixel_is_kept() -> None:
    micrograph, *_ = make_phantom(CASES["clean"], 2)
    proposal = propose_imaging(micrograph)
    assert proposal.measured.symmetry == "hexagonal"
    assert proposal.measured.distortion.pixel_size == pytest.approx(0.127, rel=1e-9)
    assert proposal.measured.distortion.shear == pytest.approx(-0.03, abs=3e-3)
    assert "source_size" not in proposal.imaging["probe"] and "beam" not in proposal.imaging
    assert any("pixel size" in line for line in proposal.unidentified)
    assert any("they need the atoms" in line for line in proposal.unidentified)


def test_what_is_missing_is_named() -> None:
    micrograph, *_ = make_phantom(CASES["clean"], 2)
    with pytest.raises(ConfigError, match="--pixel-size"):
        propose_imaging(replace(micrograph, pixel_size=None))
    with pytest.raises(ConfigError, match="--energy"):
        propose_imaging(replace(micrograph, energy=None), parse_lattice("mos2"))
    noise = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    with pytest.raises(ConfigError, match="no lattice is found"):
        propose_imaging(replace(micrograph, image=noise), parse_lattice("mos2"))


def test_cut_normals_have_the_skewness_that_gives_their_width() -> None:
    """Against moments of draws."""
    draws = np.random.default_rng(0).standard_normal(400_000)
    for variation in (0.4, 0.8, 1.5):
        cut = np.maximum(1 + variation * draws, 0)
        skewness = float(np.mean((cut - cut.mean()) ** 3) / cut.std() ** 3)
        assert solve_variation(skewness) == pytest.approx(variation, rel=0.03)
        assert cut_moments(variation)[:2] == pytest.approx((cut.mean(), cut.std()), rel=0.01)
        ratio = cut.std() / cut.mean()
        assert spread_variation(ratio) == pytest.approx(variation, rel=0.02)


def experimental(name: str) -> Path:
    folder = os.environ.get("HPCTEM_MICROGRAPHS")
    if folder is None or not (Path(folder) / name).is_file():
        pytest.skip(f"HPCTEM_MICROGRAPHS names no folder with {name}")
    return Path(folder) / name


@pytest.fixture(scope="module")
def mos2() -> Measured:
    micrograph = read_micrograph(experimental("example_Se_implanted_MoS2.dm3"))
    assert micrograph.pixel_size == pytest.approx((0.12695, 0.12695), rel=1e-4)
    assert micrograph.energy == 6e4
    return measure(micrograph, parse_lattice("mos2"), (0, 496), Optics(6e4, 0.03, COLLECTION))


def test_the_rings_of_a_real_micrograph_are_those_of_a_probe_out_of_focus(mos2: Measured) -> None:
    """A Gaussian alone leaves its second ring a half too high."""
    blur = mos2.blur
    assert 30 < blur.defocus < 55 and blur.defocus > 4 * blur.defocus_error
    assert blur.fitted == pytest.approx(blur.heights, rel=0.12)
    assert mos2.streaks.seen


def test_the_pixel_of_a_real_micrograph_comes_from_its_lattice(mos2: Measured) -> None:
    """Its header says 12.7 pm, the lattice constant asks for 13.4 pm along the rows."""
    assert mos2.distortion.pixel_size == pytest.approx(0.134, rel=5e-3)
    assert mos2.distortion.shear == pytest.approx(-0.063, abs=0.005)
    assert mos2.lattice.explained > 0.9
    assert 0.2 < mos2.lines.jitter < 0.5


def test_a_real_micrograph_of_particles_is_read() -> None:
    micrograph = read_micrograph(experimental("example_Au_nanoparticle.emd"))
    assert micrograph.image.shape == (2048, 2048)
    assert micrograph.energy == 3e5
    assert micrograph.source["semiangle"] == pytest.approx(0.0179, rel=1e-2)
    assert micrograph.source["collection"] == pytest.approx((0.0412, 0.2475), rel=1e-2)
    assert micrograph.source["dwell time"] == pytest.approx(2.5)
