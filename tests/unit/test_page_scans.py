"""What the page says of scanned crystals: every draw has its column, rates have their intervals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from small_campaigns import vary

from hpctem.config import StemConfig, check_config
from hpctem.database.fill import fill
from hpctem.database.reader import open_database
from hpctem.database.schema import Field, Layout
from hpctem.database.segment import StructureRows
from hpctem.marked_yaml import parse_yaml
from hpctem.page.defects import count_columns, find_interval
from hpctem.page.drawn_columns import STEM, Place, find_column
from hpctem.page.draws import read_draws
from hpctem.page.reflections import list_reflections
from hpctem.page.settings import list_settings
from hpctem.page.spectra import _find_floors, _resample
from hpctem.sampling import Distribution
from hpctem.stem.conditions import CONDITION_COLUMNS
from hpctem.structures.materials import load_material
from hpctem.structures.sheet_columns import sheet_columns

WHOLE = """
campaign: {name: whole, technique: stem, seed: 1, structures: 4}
structure:
  material: {prototype: 1H, elements: [W, Se]}
  layers: {count: 2, twist: {uniform: [0 deg, 5 deg]}}
  ripples: {amplitude: 0.1 A}
  edge: {probability: 0.5}
  holes: {count: 1, radius: {uniform: [2 A, 4 A]}}
  islands: {count: 1, radius: 8 A}
  defects:
    - {kind: vacancy, site: chalcogen, rate: {uniform: [0.0, 0.1]}, name: Se_vacancy}
    - {kind: vacancy, site: chalcogen, atoms: 2, rate: 0.01}
    - {kind: substitution, site: metal, element: Mo, rate: 0.02}
    - {kind: adatom, site: hollow, element: C, rate: 0.01}
simulation: {energy: 80 keV}
imaging:
  pixels: 64
  sampling: 0.2 A
  probe:
    semiangle_cutoff: 25 mrad
    aberrations: {magnitudes: {C12: {uniform: [0 nm, 1 nm]}}, angles: {C12: 10 deg}}
  detectors: {adf: {inner: 63 mrad, outer: 200 mrad}}
  beam: {current: 35 pA, dwell_time: 20 us}
  scan: {flyback: {amplitude: 1 A, time: 50 us}}
  contamination: {thickness: 1 A}
  detector: {mtf: {c1: 0.1, c2: 0.2, c3: 1.0}}
"""


def read(text: str, *changes: tuple[str, str]) -> StemConfig:
    config = check_config(parse_yaml(vary(text, *changes), "test"))
    assert isinstance(config, StemConfig)
    return config


def test_every_draw_of_a_scan_has_a_column_that_is_there() -> None:
    config = read(WHOLE)
    known = {c.name for c in sheet_columns(config.structure)} | {"layers", "edge"}
    known_images = {c.name for c in CONDITION_COLUMNS}
    settings = {setting.key: setting for setting in list_settings(config)}
    without = set()
    for key, setting in settings.items():
        if isinstance(setting.value, Distribution):
            place = find_column(config, setting)
            if place is None:
                without.add(key)
            else:
                assert place.column in (known if place.table == "structures" else known_images)
    assert without == {
        *("structure.holes.radius", "structure.islands.radius"),
        *("imaging.probe.chromatic", "imaging.probe.energy_spread"),
    }
    bulk_or_convolved = {"structure.thickness", "simulation.convolution.exponent"}
    assert set(STEM) - set(settings) == bulk_or_convolved | {"simulation.convolution.width"}
    rate = settings["structure.defects.Se_vacancy.rate"]
    assert find_column(config, rate) == Place("structures", "rate_Se_vacancy")
    aberration = settings["imaging.probe.aberrations.magnitudes.C12"]
    assert find_column(config, aberration) == Place("images", "C12")
    assert settings["imaging.detectors.adf.inner"].value == 0.063


def test_a_spread_of_several_causes_is_not_compared_with_one_of_them() -> None:
    def place(config: StemConfig) -> Place | None:
        settings = {setting.key: setting for setting in list_settings(config)}
        return find_column(config, settings["imaging.probe.focal_spread"])

    angle = "    semiangle_cutoff: 25 mrad\n"
    both = (angle, f"{angle}    chromatic: 1 mm\n")
    assert place(read(WHOLE)) == place(read(WHOLE, both)) == Place("images", "focal_spread")
    energy = (both[0], f"{both[1]}    energy_spread: 0.3 eV\n")
    assert place(read(WHOLE, energy)) is None


def test_draws_count_only_where_they_were_made(tmp_path: Path) -> None:
    """A single layer has no twist: its column holds a zero that nobody drew."""
    layers, twist = np.array([1, 2, 3, 1, 2]), np.array([0.0, 0.01, 0.05, 0.0, 0.08])
    fields = (
        Field("/entry/images/intensity", "images", np.dtype("u2"), (2, 2)),
        Field("/entry/structures/layers", "structures", np.dtype("i4")),
        Field("/entry/structures/twist", "structures", np.dtype("f8")),
    )

    def compute(index: int) -> StructureRows:
        values = {"layers": layers[index], "twist": twist[index]}
        rows = {f"/entry/structures/{name}": value for name, value in values.items()}
        return StructureRows(rows | {"/entry/images/intensity": np.zeros((1, 2, 2), np.uint16)})

    layout = Layout(5, {"images": 1}, 1, fields)
    fill(tmp_path / "x.hdf5", layout, {}, compute)
    config = read(WHOLE)
    wanted = [s for s in list_settings(config) if s.key.startswith("structure.layers.")]
    with open_database(tmp_path / "x.hdf5") as database:
        found = {draws.column: draws for draws in read_draws([database], config, wanted)}
    assert found["structures.twist"].values.tolist() == [0.01, 0.05, 0.08]
    assert found["structures.twist"].positions.tolist() == [1, 2, 4]
    assert found["structures.layers"].values.tolist() == layers.tolist()


@pytest.mark.parametrize(
    ("material", "site", "element", "atoms", "expected"),
    [
        ("{prototype: 1H, elements: [W, Se]}", "chalcogen", None, 1, 1),
        ("{prototype: 1H, elements: [W, Se]}", "chalcogen", None, 2, 1),
        ("{prototype: 1H, elements: [W, Se]}", "metal", None, 2, 0),
        ("{prototype: 1T, elements: [Ti, Se]}", "chalcogen", None, 1, 2),
        ("{prototype: 1T, elements: [Ti, Se]}", "chalcogen", None, 2, 0),
        ("{prototype: graphene}", "carbon", None, 1, 2),
        ("{prototype: graphene}", "carbon", "C", 1, 0),
        ("{prototype: hbn}", "boron", "C", 1, 1),
    ],
)
def test_columns_that_can_bear_a_defect_are_counted(
    material: str, site: str, element: str | None, atoms: int, expected: int
) -> None:
    kind = "vacancy" if element is None else f"substitution, element: {element}"
    defects = WHOLE[WHOLE.index("  defects:") : WHOLE.index("simulation:")]
    config = read(
        WHOLE,
        ("{prototype: 1H, elements: [W, Se]}", material),
        (defects, f"  defects: [{{kind: {kind}, site: {site}, atoms: {atoms}, rate: 0.1}}]\n"),
    )
    assert count_columns(config, config.structure.defects[0]) == expected


def test_adatoms_are_counted_over_cells() -> None:
    config = read(WHOLE)
    assert count_columns(config, config.structure.defects[3]) == 1


@pytest.mark.parametrize(("rate", "tries"), [(0.03, 459), (0.001, 3000), (0.5, 40)])
def test_intervals_hold_the_rate_as_often_as_they_say(rate: float, tries: int) -> None:
    counts = np.random.default_rng(1).binomial(tries, rate, 4000)
    ends = np.array([find_interval(int(count), tries) for count in counts])
    held = ((ends[:, 0] <= rate) & (rate <= ends[:, 1])).mean()
    assert 0.93 < held < 0.98
    assert find_interval(0, 100)[0] == 0 and find_interval(100, 100)[1] == 1
    # The roots of (p - rate)^2 = z^2 rate (1 - rate) / n.
    low, high = find_interval(7, 50)
    for end in (low, high):
        assert (0.14 - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 50)


def test_reflections_are_those_of_the_crystal_in_projection() -> None:
    config = read(WHOLE)
    found = list_reflections(config, 1.0)
    a = float(np.linalg.norm(load_material(config.structure.material).cell[0]))
    assert found[0][0] in ("10", "11") and found[0][1] == pytest.approx(2 / math.sqrt(3) / a)
    assert found[1][1] == pytest.approx(2 / a)
    cubic = read(WHOLE, ("{prototype: 1H, elements: [W, Se]}", STO), ("count: 2, twist", "twist"))
    first = list_reflections(cubic, 0.6)
    cell = float(np.linalg.norm(load_material(cubic.structure.material).cell[0]))
    assert [name for name, _ in first][:2] == ["10", "11"]
    assert first[0][1] == pytest.approx(1 / cell)


STO = "{prototype: perovskite, elements: [Sr, Ti, O]}"


def test_spectra_of_different_pixels_meet_on_one_axis() -> None:
    """A line is a line at any sampling."""
    coarse, fine = np.linspace(0.05, 2.0, 40), np.linspace(0.04, 2.5, 77)
    found = _resample([coarse, fine], [3 - coarse, 3 - fine], coarse)
    assert found.shape == (2, 40) and (found[0] == 3 - coarse).all()
    assert found[1] == pytest.approx(3 - coarse, abs=1e-12)


def test_the_floor_of_a_scan_is_that_of_the_electrons_it_collects() -> None:
    """Poisson counts of mean m in pixels of area A have P = A / m."""
    config = read(WHOLE, ("  detector: {mtf: {c1: 0.1, c2: 0.2, c3: 1.0}}\n", ""))
    one = np.ones(2)
    pixel, mean = np.array([0.1, 0.2]), np.array([60.0, 80.0])
    found = _find_floors(config, 1e5 * one, one, one, pixel, 10 * one, mean)
    assert found == pytest.approx([0.01 / 50, 0.04 / 70])
    assert _find_floors(read(WHOLE), one, one, one, pixel, one, mean) is None
    noise_free = read(WHOLE, ("  beam: {current: 35 pA, dwell_time: 20 us}\n", ""))
    assert _find_floors(noise_free, one, one, one, pixel, one, mean) is None
