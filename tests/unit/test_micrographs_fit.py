"""What a phantom was made with is what its measurement and its proposal say.

Tolerances are what the measurement earns on half a megapixel: pixel 0.1 %, shear and contraction
0.003, jitter 10 %, signal to noise 5 %, source size 0.05 A, dose 10 %, contamination 30 %.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
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

from hpctem.detection.contamination import CARBON_DENSITY, FilmSettings
from hpctem.errors import ConfigError
from hpctem.micrographs.background import cut_moments, solve_variation, spread_variation
from hpctem.micrographs.describe import format_proposal
from hpctem.micrographs.fit import Proposal, propose_imaging, write_fragment
from hpctem.micrographs.known import parse_lattice
from hpctem.micrographs.measure import Measured, cut_rows, measure
from hpctem.micrographs.noise import measure_noise
from hpctem.micrographs.read import Micrograph, read_micrograph
from hpctem.sections.stem import Imaging

FILM = FilmSettings(thickness=20.0, variation=0.6, exponent=2.0, shortest=5.0, longest=30.0)
CASES = {
    "clean": Truth(),
    "sheared": Truth(shear=-0.08, contraction=-0.04, turn=2.2, jitter=0.12, pixel=0.16),
    "noisy": Truth(electrons=1200, jitter=0.1, source_size=1.1, readout=1.5, turn=1.3),
    "dirty": Truth(film=FILM, jitter=0.08, source_size=0.6, turn=3.0, vacancies=0.03),
    "flagging": Truth(flagging=0.10, jitter=0.05, turn=0.2, flagging_lines=12.0),
}


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
    return measure(micrograph, parse_lattice("mos2"), (0, 496))


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
