"""Campaign files: units, distributions, and one clear error for each mistake."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpctem.campaign_file import read_campaign
from hpctem.config import Config, check_config, resolved, schema
from hpctem.errors import ConfigError
from hpctem.marked_yaml import parse_yaml
from hpctem.units import parse_quantity

CONFIGS = Path(__file__).parents[2] / "configs"
QUICKSTART = (CONFIGS / "quickstart.yaml").read_text()
SMALL = Path(__file__).parents[1] / "small.yaml"


def read(text: str) -> Config:
    return check_config(parse_yaml(text, "campaign.yaml"))


@pytest.mark.parametrize(
    "text, dimension, value",
    [
        ("300 keV", "energy", 3e5),
        ("300 kV", "energy", 3e5),
        ("-40 nm", "length", -400.0),
        ("1.4A", "length", 1.4),
        ("15 Å", "length", 15.0),
        ("1.048 mm", "length", 1.048e7),
        ("-1.913 µm", "length", -19130.0),
        ("25 mrad", "angle", 0.025),
        ("180 deg", "angle", 3.141592653589793),
        ("400 e/A^2", "dose", 400.0),
        ("400 e-/Å²", "dose", 400.0),
        ("100 e/nm^2", "dose", 1.0),
        ("0.11 atoms/A^3", "number density", 0.11),
        ("110 1/nm^3", "number density", 0.11),
        ("1e-3 nm", "length", 0.01),
        (0.2, None, 0.2),
    ],
)
def test_quantities(text: str, dimension: str | None, value: float) -> None:
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=1e-12)


def test_elements_named_like_booleans_stay_text() -> None:
    assert parse_yaml("elements: [No, Y, N, on]").data == {"elements": ["No", "Y", "N", "on"]}


# What a beginner writes wrong: (text to replace, replacement, line pointed at, words of the error).
MISTAKES = {
    "unknown key": ("edge_distance:", "edge_distanse:", "did you mean 'edge_distance'"),
    "missing unit": ("300 keV", "300", "300 has no unit: write it as '300 eV'"),
    "missing unit in text": ("300 keV", "'300'", "has no unit"),
    "wrong unit": ("300 keV", "300 nm", "'nm' in '300 nm' is not a unit of energy"),
    "out of range": ("300 keV", "3 keV", "outside the allowed range 10000 to 2e+06 eV"),
    "distribution out of range": (
        "{uniform: [2 nm, 5 nm]}",
        "{uniform: [2 nm, 5000 nm]}",
        "5000 nm is outside the allowed range 1 to 5000 A",
    ),
    "normal out of range": (
        "mean: 2.5 nm, std: 0.5 nm, min: 1.5 nm",
        "mean: 2.5 nm, std: 0.5 nm",
        "reaches beyond the allowed range 2 to 1000 A; give it 'min'",
    ),
    "unknown distribution": ("{uniform:", "{unifrom:", "did you mean 'uniform'"),
    "crossed bounds": ("[2 nm, 5 nm]", "[5 nm, 2 nm]", "the lowest value 5 nm is above"),
    "log of zero": (
        "{log_uniform: [200 e/A^2",
        "{log_uniform: [0 e/A^2",
        "outside the allowed range",
    ),
    "unknown level": ("per: image}", "per: picture}", "one of structure, wave, focus, image"),
    "level too fine": (
        "std: 8 nm}, per: focus}",
        "std: 8 nm}, per: image}",
        "one of structure, wave, focus here",
    ),
    "unknown lattice": ("fcc", "fccc", "'fcc', 'bcc'"),
    "no lattice constant": (", a: 4.08265 A", "", "needs the lattice constant 'a'"),
    "particle too large": ("max: 3.5 nm", "max: 6 nm", "does not fit the cell: at most 38 A"),
    "bad name": ("name: quickstart", "name: ../../etc", "is not of the form"),
    "missing section": ("\nlabels:", "\nlabel:", "did you mean 'labels'"),
    "duplicate key": ("  seed: 1\n", "  seed: 1\n  seed: 2\n", "given twice"),
    "not YAML": ("[9.6 nm, 9.6 nm]", "[9.6 nm, 9.6 nm", "not valid YAML"),
    "aberration": (
        "focal_spread: 15 A",
        "focal_spread: 15 A\n  aberrations: {magnitudes: {C3: 1 um}}",
        "'C3' is no aberration in krivanek notation",
    ),
    "category": ("[twin, stacking_fault]", "[twin, fault]", "'fault' is not one of twin"),
    "unknown orientation": ("orientation: uniform", "orientation: random", "'uniform'"),
    "key of a zone axis": (
        "orientation: uniform",
        "orientation: {zone_axs: [1, 1, 0]}",
        "unknown key; did you mean 'zone_axis'?",
    ),
    "key that is near none": (
        "focal_spread: 15 A",
        "focal_spread: 15 A\n  aberrations: {C30: 1 mm}",
        "unknown key; known are notation, magnitudes",
    ),
    "too few planes": (
        "focal_spread: 15 A",
        "focal_spread: 15 A\n  focal_planes: 1",
        "greater than or equal to 5",
    ),
    "planes in words": (
        "focal_spread: 15 A",
        "focal_spread: 15 A\n  focal_planes: many",
        "'auto'",
    ),
    "half an MTF": (
        "focal_spread: 15 A",
        "focal_spread: 15 A\n  detector: {mtf: {c1: 0.1, c2: 0.2}}",
        "the key 'c3' is missing",
    ),
    "one side of a cell": ("[9.6 nm, 9.6 nm]", "[9.6 nm]", "2 or more values are needed"),
    "value for a section": ("mask: {method: projected_potential}", "mask: 3", "is a section"),
    "defocus among aberrations": (
        "focal_spread: 15 A",
        "focal_spread: 15 A\n  aberrations: {magnitudes: {C10: 1 um}}",
        "'C10' is the defocus: give it as imaging.defocus",
    ),
    "angle of a round aberration": (
        "focal_spread: 15 A",
        "focal_spread: 15 A\n  aberrations: {magnitudes: {C30: 1 um}, angles: {C30: 1 rad}}",
        "'C30' is round and has no angle",
    ),
    "grid that leaves the range": (
        "{uniform: [2 nm, 5 nm]}",
        "{grid: [2 nm, 5 nm], std: 1 nm}",
        "reaches beyond the allowed range",
    ),
    "element by its name": (
        "configurations: 4",
        "configurations: 4\n    rms: {gold: 0.1 A}",
        "'gold' is not the symbol of an element",
    ),
    "fraction of a count": ("[0, 1, 2, 3]", "[0, 1.5]", "1.5 is not a whole number"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_has_one_clear_error(name: str) -> None:
    old, new, words = MISTAKES[name]
    assert QUICKSTART.count(old) >= 1
    text = QUICKSTART.replace(old, new, 1)
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    first, source, caret = message.splitlines()[:3]
    assert words in message
    assert first.startswith("campaign.yaml:")
    line = int(first.split(":")[1])
    assert source == f"{line:5d} | {text.splitlines()[line - 1]}"
    assert caret.strip() == "^"


def test_a_mistake_in_one_choice_is_one_error() -> None:
    """Not one for each thing that the value might have been."""
    axis = "orientation: {zone_axs: [1, 1, 0], zone_axis: [1, 1, 0]}"
    for change in ("orientation: random", axis):
        with pytest.raises(ConfigError) as caught:
            read(QUICKSTART.replace("orientation: uniform", change))
        assert str(caught.value).count("campaign.yaml:") == 1


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 3000 + "]" * 3000])
def test_endless_nesting_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="nested"):
        read(text)


def test_the_error_points_at_the_line_of_the_mistake() -> None:
    text = QUICKSTART.replace("energy: 300 keV", "energy: 300")
    line = next(i for i, t in enumerate(text.splitlines(), 1) if "energy" in t)
    with pytest.raises(ConfigError, match=f"campaign.yaml:{line}:3: simulation.energy"):
        read(text)


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        read(QUICKSTART.replace("300 keV", "300").replace("foci: 2", "foci: two"))
    assert "simulation.energy" in str(caught.value) and "imaging.foci" in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^nowhere\.yaml: cannot be read: No such file"):
        read_campaign("nowhere.yaml")


def test_a_file_that_is_no_campaign_file_is_refused_unread(tmp_path: Path) -> None:
    database = tmp_path / "gold.hdf5"
    database.write_bytes(b"\x89HDF\r\n\x1a\n")
    os.truncate(database, 10**13)  # read whole it would fill the memory
    with pytest.raises(ConfigError, match=r"gold\.hdf5: is no text in UTF-8"):
        read_campaign(database)
    table = tmp_path / "table.csv"
    table.write_text("1,2\n" * 2_500_001)
    with pytest.raises(ConfigError, match=r"table\.csv: is longer than 10000000 characters"):
        read_campaign(table)


def test_the_papers_data_sets_have_the_papers_numbers() -> None:
    """Counts, doses and defocus of Rangel DaCosta et al., supplement, sections 1, 2 and 5."""
    baseline = read_campaign(CONFIGS / "au_on_carbon_baseline.yaml").config
    thermal = read_campaign(CONFIGS / "au_on_carbon_thermal.yaml").config
    varying = read_campaign(CONFIGS / "au_on_carbon_varying_substrate.yaml").config
    for config, structures, foci, images in (
        (baseline, 512, 2048, 10240),
        (thermal, 512, 2048, 10240),
        (varying, 1024, 11264, 11264),
    ):
        assert config.campaign.structures == structures
        assert config.campaign.structures * config.foci == foci
        assert config.campaign.structures * config.images == images
        assert config.structure.cell == (128.0, 128.0)
        assert config.simulation.energy == 3e5 and config.simulation.sampling == 0.1
        assert config.imaging.sampling == 0.2 and config.imaging.crop == 512
    assert thermal.imaging.dose.values == (100, 300, 600, 900, 1200)
    assert baseline.imaging.defocus.parameters == (-30.0, 20.0)
    assert varying.imaging.defocus.values == tuple(range(-500, 501, 100))
    assert baseline.simulation.phonons is None and thermal.simulation.phonons.configurations == 8
    # The same seed and structures: Thermal reuses those of Baseline.
    assert resolved(baseline)["structure"] == resolved(thermal)["structure"]
    assert baseline.campaign.seed == thermal.campaign.seed


def test_the_hash_follows_the_content_not_the_spelling(tmp_path: Path) -> None:
    def hash_of(text: str) -> str:
        path = tmp_path / "campaign.yaml"
        path.write_text(text)
        return read_campaign(path).hash

    plain = hash_of(QUICKSTART)
    assert plain == hash_of(QUICKSTART.replace("15 A", "1.5 nm"))
    assert plain == hash_of("# a comment\n" + QUICKSTART)
    assert plain != hash_of(QUICKSTART.replace("15 A", "1.6 nm"))
    assert plain != hash_of(QUICKSTART.replace("per: image", "per: focus"))


def test_the_schema_describes_every_section() -> None:
    text = json.dumps(schema())
    for key in ("structures_per_segment", "planar_defects", "focal_spread", "quantum_efficiency"):
        assert f'"{key}"' in text
    for model in ("HrtemConfig", "StemConfig"):
        assert schema()["$defs"][model]["additionalProperties"] is False


def test_a_file_of_another_technique_is_recognised() -> None:
    """Whoever forgets `technique: stem` is told so before a dozen unknown keys."""
    stem = SMALL.with_name("small_stem.yaml").read_text()
    forgotten = stem.replace("  technique: stem\n", "")
    assert forgotten != stem
    with pytest.raises(ConfigError, match=r"\Athese are keys of .*technique: stem"):
        check_config(parse_yaml(forgotten))
    wrong = SMALL.read_text().replace("  name: small\n", "  name: small\n  technique: stem\n")
    with pytest.raises(ConfigError, match=r"\Athese are keys of .*technique: hrtem"):
        check_config(parse_yaml(wrong))
