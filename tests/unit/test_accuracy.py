"""`simulation.accuracy`: what it fills in, what wins over it, how right the presets are."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hpctem.backend import select_backend
from hpctem.campaign_file import read_campaign
from hpctem.config import HrtemConfig, schema
from hpctem.errors import ConfigError
from hpctem.hrtem.campaign import displace_atoms, exit_waves_of
from hpctem.hrtem.experiment import Experiment
from hpctem.page.settings import list_settings
from hpctem.sections.accuracy import PRESETS, apply_accuracy

ROOT = Path(__file__).parents[2]
QUICKSTART = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
SMALL = yaml.safe_load((ROOT / "tests" / "small.yaml").read_text())
CPU = select_backend("cpu")
# What each preset stands for, as docs/performance.md says.
FAST = ("0.2 A", "4 A", 4)
STANDARD = ("0.1 A", "2 A", 8)
CONVERGED = ("0.067 A", "1 A", 64)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """The campaign of the quickstart with these keys as its whole `simulation`, beside energy."""

    def read_with(simulation: dict[str, Any], imaging: dict[str, Any] | None = None) -> Any:
        document = copy.deepcopy(QUICKSTART)
        document["simulation"] = {"energy": "300 keV", **simulation}
        document["imaging"] |= imaging or {}
        path = tmp_path / "campaign.yaml"
        path.write_text(yaml.safe_dump(document))
        return read_campaign(path)

    return read_with


def spelled(sampling: str, thickness: str, configurations: int) -> dict[str, Any]:
    """The keys that a preset stands for."""
    return {
        "sampling": sampling,
        "slice_thickness": thickness,
        "slice_plane": "centroid",
        "phonons": {"configurations": configurations},
    }


@pytest.mark.parametrize(
    ("name", "keys"), [("fast", FAST), ("standard", STANDARD), ("converged", CONVERGED)]
)
def test_a_preset_is_the_campaign_that_names_its_values(name: str, keys: Any, read: Any) -> None:
    """One description and one hash, so that either file resumes what the other began."""
    short = read({"accuracy": name})
    written = read(spelled(*keys), {"focal_planes": "auto"})
    assert short.config.simulation.accuracy == name
    assert short.description == written.description
    assert short.hash == written.hash
    assert short.config.imaging == written.config.imaging


def test_the_hash_of_a_file_without_a_preset_is_that_of_its_keys(read: Any) -> None:
    """Databases made before a preset was known go on."""
    for simulation in ({}, {"accuracy": None}, {"accuracy": "fast"}):
        assert "simulation.accuracy" not in read(simulation).description
    plain = read({})
    assert plain.hash == read({"accuracy": None}).hash != read({"accuracy": "fast"}).hash
    assert plain.config.simulation.phonons is None


def test_the_page_of_campaign_files_has_the_values_of_the_presets() -> None:
    page = (ROOT / "docs" / "campaigns.md").read_text()
    for name, preset in PRESETS.items():
        row = f"| `{name}` | {preset.sampling:g} A | {preset.slice_thickness:g} A | `centroid` "
        assert f"{row}| {preset.configurations} | `auto` |" in page


GIVEN: dict[str, tuple[dict[str, Any], str, Any]] = {
    "sampling": ({"sampling": "0.08 A"}, "sampling", 0.08),
    "slices": ({"slice_thickness": "3 A"}, "slice_thickness", 3.0),
    "plane": ({"slice_plane": "edge"}, "slice_plane", "edge"),
    "no phonons": ({"phonons": None}, "phonons", None),
    "smeared": ({"debye_waller": {"Au": "0.1 A", "C": "0.1 A"}}, "phonons", None),
}


@pytest.mark.parametrize("case", GIVEN)
def test_a_key_that_is_given_wins_and_the_others_are_filled_in(case: str, read: Any) -> None:
    given, key, value = GIVEN[case]
    found = read({"accuracy": "standard", **given}).config.simulation
    plain = read({"accuracy": "standard"}).config.simulation
    assert getattr(found, key) == value
    others = {"sampling", "slice_thickness", "slice_plane", "phonons"} - {key}
    assert all(getattr(found, other) == getattr(plain, other) for other in others)


def test_displacements_that_are_given_keep_the_number_of_the_preset(read: Any) -> None:
    given = {"phonons": {"rms": {"Au": "0.1 A"}}}
    phonons = read({"accuracy": "fast", **given}).config.simulation.phonons
    assert (phonons.configurations, phonons.rms) == (4, {"Au": 0.1})
    given["phonons"]["configurations"] = 3
    assert read({"accuracy": "fast", **given}).config.simulation.phonons.configurations == 3


def test_focal_planes_that_are_given_win(read: Any) -> None:
    found = read({"accuracy": "converged"}, {"focal_planes": 25})
    assert found.config.imaging.focal_planes == 25


def test_waves_are_no_coarser_than_the_image(read: Any) -> None:
    found = read({"accuracy": "fast"}, {"sampling": "0.15 A", "crop": None})
    assert found.config.simulation.sampling == 0.15
    coarse = read({"accuracy": "fast"}, {"sampling": "0.3 A", "crop": None})
    assert coarse.config.simulation.sampling == 0.2


MISTAKES = {
    "an unknown preset": ({"accuracy": "fine"}, {}, ["simulation.accuracy", "'standard'"]),
    "no name": ({"accuracy": ["fast"]}, {}, ["simulation.accuracy"]),
    "phonons that are no section": (
        {"accuracy": "fast", "phonons": 8},
        {},
        ["simulation.phonons", "is a section"],
    ),
    "an image pixel without unit": (
        {"accuracy": "fast"},
        {"sampling": 0.1},
        ["imaging.sampling", "no unit"],
    ),
    "an image pixel that is too fine": (
        {"accuracy": "fast"},
        {"sampling": "0.001 A"},
        ["imaging.sampling", "outside the allowed range"],
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_beside_a_preset_are_told_once_and_with_their_line(case: str, read: Any) -> None:
    simulation, imaging, words = MISTAKES[case]
    with pytest.raises(ConfigError) as caught:
        read(simulation, imaging)
    message = str(caught.value)
    assert all(word in message for word in words)
    assert message.count("campaign.yaml:") == 1, message
    assert message.count("^") == 1


@pytest.mark.parametrize(
    "document",
    [None, 3, [], {}, {"simulation": None}, {"simulation": {"accuracy": {}}}, {"simulation": []}],
)
def test_what_is_no_campaign_is_left_to_the_checks(document: Any) -> None:
    assert apply_accuracy(document) is document


def test_the_document_is_not_changed() -> None:
    document = {"simulation": {"accuracy": "fast", "phonons": {"rms": {}}}, "imaging": {"foci": 2}}
    before = copy.deepcopy(document)
    assert apply_accuracy(document) != before
    assert document == before


def test_schema_and_report_name_the_preset(read: Any) -> None:
    properties = schema()["$defs"]["hpctem__sections__hrtem__Simulation"]["properties"]
    assert properties["accuracy"]["anyOf"][0]["enum"] == list(PRESETS)
    settings = {one.key: one.value for one in list_settings(read({"accuracy": "fast"}).config)}
    assert settings["simulation.accuracy"] == "fast"
    assert settings["simulation.phonons.configurations"] == 4


def test_a_finer_preset_is_righter(tmp_path: Path) -> None:
    """Gold on carbon, one frozen configuration, against 0.031 A, 0.5 A slices, finite projection.

    docs/performance.md has the errors of the whole cell of the published data sets, where there is
    more carbon to each gold atom and so less error.
    """

    def wave(name: str, **keys: str) -> np.ndarray:
        document = copy.deepcopy(SMALL)
        document["structure"]["cell"] = ["2 nm", "2 nm"]
        document["structure"]["particles"]["radius"] = "5 A"
        document["simulation"] = {"energy": "300 keV", "accuracy": name, **keys}
        document["imaging"] |= {"sampling": "0.2 A", "crop": None}
        path = tmp_path / "campaign.yaml"
        path.write_text(yaml.safe_dump(document))
        config = read_campaign(path).config
        assert isinstance(config, HrtemConfig)
        experiment = Experiment(config, CPU)
        structure = experiment.structure(0)
        displaced = displace_atoms(experiment, structure, 0, 0)[:1]
        return exit_waves_of(experiment, structure, displaced, structure.tags >= -1, (0, 0))[0]

    finest = {"sampling": "0.03125 A", "slice_thickness": "0.5 A", "projection": "finite"}
    exact = wave("converged", **finest)
    errors = [
        float(np.linalg.norm(wave(name) - exact) / np.linalg.norm(exact - 1)) for name in PRESETS
    ]
    assert all(finer < 0.6 * coarser for coarser, finer in pairwise(errors))
    for error, measured in zip(errors, (0.231, 0.048, 0.021), strict=True):
        assert error == pytest.approx(measured, rel=0.15)
