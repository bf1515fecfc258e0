"""`hpctem inspect` and `hpctem fit` on micrographs of a known truth, and on what is none."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from phantoms import Truth, make_phantom

from hpctem.cli import commands
from hpctem.errors import HpctemError
from hpctem.micrographs.read import read_micrograph
from hpctem.sections.stem import Imaging

TRUTH = Truth(shape=(240, 320), electrons=5000, pixel=0.15)
KNOWN = ("--lattice", "mos2", "--energy", "60keV", "--semiangle", "30 mrad")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crystal as an array, as a 16-bit image and as a stack; noise; what is no image."""
    folder = tmp_path_factory.mktemp("micrographs")
    image = make_phantom(TRUTH, 1)[0].image
    np.save(folder / "crystal.npy", image)
    np.save(folder / "stack.npy", np.stack([image, make_phantom(TRUTH, 2)[0].image]))
    Image.fromarray(image.astype(np.uint16)).save(folder / "crystal.png")
    noise = np.random.default_rng(0).normal(100, 10, (200, 200))
    np.save(folder / "noise.npy", noise)
    (folder / "text.dm3").write_text("no image\n" * 30)
    return folder


def call(*arguments: object) -> Result:
    """Run a command in this process; errors for the user are not caught here."""
    return CliRunner().invoke(commands, list(map(str, arguments)))


def test_inspect_says_what_the_image_holds(folder: Path) -> None:
    done = call("inspect", folder / "crystal.png", *KNOWN)
    assert done.exit_code == 0, done.output
    lines = dict(line[2:].split("  ", 1) for line in done.output.splitlines()[1:] if line[2] != " ")
    assert "320 x 240 pixels" in lines["size"]
    assert "--pixel-size" in lines["pixel size"]
    assert lines["energy"].strip() == "60.0 keV"
    pixel = float(lines["pixel by the lattice"].split("±")[0])
    assert pixel == pytest.approx(15.0, rel=2e-3)
    assert "contraction +0.0" in done.output and "against 1H-MoS2" in done.output
    assert "electrons a pixel" in lines["if it is counting"]


def test_inspect_draws_a_picture(folder: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "crystal.png"
    done = call("inspect", folder / "crystal.npy", *KNOWN, "--rows", "0:200", "-o", drawn)
    assert done.exit_code == 0, done.output
    with Image.open(drawn) as picture:
        assert picture.width > 1000 and picture.height > 600
        assert np.asarray(picture.convert("L")).std() > 20
    assert call("inspect", folder / "noise.npy", "-o", tmp_path / "noise.svg").exit_code == 0
    assert (tmp_path / "noise.svg").read_text().startswith("<?xml")


def test_inspect_of_no_crystal_says_so(folder: Path) -> None:
    done = call("inspect", folder / "noise.npy")
    assert done.exit_code == 0
    assert "none found" in done.output


def test_fit_writes_a_fragment_that_a_campaign_takes(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "imaging.yaml"
    done = call("fit", folder / "crystal.npy", *KNOWN, "--detector", "80:200mrad", "-o", target)
    assert done.exit_code == 0, done.output
    imaging = Imaging.model_validate(yaml.safe_load(target.read_text())["imaging"])
    assert imaging.sampling.parameters[0] == pytest.approx(TRUTH.pixel, rel=2e-3)
    assert imaging.detectors["adf"].outer == pytest.approx(0.2)
    assert "Measured:" in done.output and "Cannot be identified from one image" in done.output
    assert "Assumed" in done.output  # the dwell time
    printed = call("fit", folder / "crystal.npy", *KNOWN, "--detector", "80:200mrad").output
    assert yaml.safe_load(printed) == yaml.safe_load(target.read_text())


CAMPAIGN = """
campaign: {name: back, technique: stem, seed: 5, structures: 1}
structure:
  material: {prototype: 1H, elements: [Mo, S]}
  defects: [{kind: vacancy, site: chalcogen, rate: 0.02}]
simulation: {energy: 60 keV}
imaging:
  pixels: 448
  sampling: 14 pm
  probe: {semiangle_cutoff: 30 mrad, source_size: 0.75 A}
  detectors: {adf: {inner: 80 mrad, outer: 200 mrad}}
  beam: {current: 15 pA, dwell_time: 30 us}
  scan: {shear: -0.06, contraction: 0.02, jitter: 6 pm}
  contamination: {thickness: 12 A, variation: 0.6, exponent: 2, shortest: 6 A, longest: 25 A}
  detector: {readout_noise: 2}
"""


def test_a_simulated_image_is_fitted_back_to_its_campaign(run, tmp_path: Path) -> None:
    """The keys of a campaign mean to the simulation what they mean to the fit, signs included."""
    (tmp_path / "back.yaml").write_text(CAMPAIGN)
    done = run("simulate", "back.yaml")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "back.hdf5") as file:
        np.save(tmp_path / "back.npy", file["entry/images/intensity"][0])
    done = call("fit", tmp_path / "back.npy", *KNOWN, "--detector", "80:200mrad")
    assert done.exit_code == 0, done.output
    imaging = Imaging.model_validate(yaml.safe_load(done.output)["imaging"])
    assert imaging.sampling.parameters[0] == pytest.approx(0.14, rel=1e-3)
    assert imaging.scan.shear.parameters[0] == pytest.approx(-0.06, abs=3e-3)
    assert imaging.scan.contraction.parameters[0] == pytest.approx(0.02, abs=3e-3)
    assert imaging.scan.jitter.parameters[0] == pytest.approx(0.06, rel=0.1)
    assert imaging.probe.source_size.parameters[0] == pytest.approx(0.75, abs=0.05)
    assert imaging.detector.readout_noise.values[0] == pytest.approx(2.0, rel=0.35)
    electrons = imaging.beam.current.parameters[0] * imaging.beam.dwell_time.values[0]
    assert electrons == pytest.approx(15 * 30, rel=0.1)
    film = imaging.contamination.thickness.parameters[0] * imaging.contamination.variation.values[0]
    assert film == pytest.approx(12 * 0.6, rel=0.4)


def test_one_frame_of_a_stack_is_chosen(folder: Path) -> None:
    assert call("inspect", folder / "stack.npy", "--frame", 1, *KNOWN).exit_code == 0
    frames = [read_micrograph(folder / "stack.npy", frame).image for frame in (0, 1, "mean")]
    assert np.allclose(frames[2], (frames[0] + frames[1]) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("inspect", "nothing.dm3"), "does not exist"),
        (("inspect", "text.dm3"), "cannot be read as .dm3"),
        (("inspect", "stack.npy"), "choose one with --frame"),
        (("inspect", "stack.npy", "--frame", "2"), "no frame 2"),
        (("inspect", "crystal.npy", "--lattice", "mos"), "did you mean 'mos2'"),
        (("inspect", "crystal.npy", "--rows", "0:9999"), "not within the image's 0:240"),
        (("inspect", "crystal.npy", "-o", "picture.jpg"), "png, pdf, svg"),
        (("fit", "crystal.npy", "--energy", "60keV"), "--pixel-size"),
        (("fit", "crystal.npy", "--lattice", "mos2"), "--energy"),
        (("fit", "noise.npy", "--lattice", "mos2", "--energy", "60keV"), "no lattice is found"),
    ],
)
def test_errors_name_what_to_do(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    command, image, *rest = arguments
    done = call(command, folder / image, *rest)
    assert isinstance(done.exception, HpctemError), done.output
    assert done.exception.exit_code == 2
    assert message in str(done.exception)


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--rows", "1-5", "is not a:b"),
        ("--pixel-size", "13.4", "has no unit"),
        ("--pixel-size", "0pm", "not above zero"),
        ("--energy", "60 nm", "is not a unit of energy"),
        ("--frame", "first", "neither the number"),
    ],
)
def test_bad_options_are_refused_with_the_way_to_write_them(
    folder: Path, option: str, value: str, message: str
) -> None:
    done = call("inspect", folder / "crystal.npy", option, value)
    assert done.exit_code == 2
    assert message in done.output


def test_crossed_angles_are_refused(folder: Path) -> None:
    for angles in ("200:80mrad", "80mrad", "80:200"):
        done = call("fit", folder / "crystal.npy", "--detector", angles)
        assert done.exit_code == 2
        assert "Invalid value" in done.output


def test_an_error_has_no_traceback(run, folder: Path) -> None:
    done = run("inspect", folder / "text.dm3")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "cannot be read" in done.stderr


def test_phantoms_differ_by_seed_alone() -> None:
    """What the tests above rest on."""
    small = replace(TRUTH, shape=(64, 64))
    first, again, other = (make_phantom(small, seed)[0].image for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
