"""The page's parts: honest statements about draws, charts that say what they hold, safe markup."""

from __future__ import annotations

import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpctem.database.pace import PACE, Look, read_pace, record_pace
from hpctem.page.agreement import compare, cumulative, density, is_discrete, probabilities
from hpctem.page.charts import (
    choose_ticks,
    draw_histogram,
    draw_ranks,
    draw_spectra,
    draw_steps,
    shade,
)
from hpctem.page.histogram import count_draws, count_values
from hpctem.page.markup import Html, colour_yaml, join, table, tag
from hpctem.page.reflections import find_reflections
from hpctem.page.settings import describe_distribution, list_settings, write_numbers
from hpctem.page.spectra import Group, Spectra, _group
from hpctem.page.survey import unite_identities
from hpctem.page.timeline import draw_up, list_runs
from hpctem.parallel import Progress
from hpctem.sampling import Distribution, Streams
from hpctem.structures.lattices import Crystal, build_crystal

INFINITE = math.inf
DISTRIBUTIONS = {
    "uniform": Distribution("uniform", parameters=(2.0, 8.0)),
    "uniform number": Distribution("uniform", parameters=(0, 5), integer=True),
    "log-uniform": Distribution("log_uniform", parameters=(10.0, 1000.0)),
    "log-uniform number": Distribution("log_uniform", parameters=(1.0, 20.0), integer=True),
    "normal": Distribution("normal", parameters=(0.0, 5.0)),
    "truncated": Distribution("normal", parameters=(4.0, 1.0), bounds=(3.0, 5.0)),
    "upper tail": Distribution("normal", parameters=(0.0, 1.0), bounds=(5.0, 8.0)),
    "lower tail": Distribution("normal", parameters=(0.0, 1.0), bounds=(-8.0, -5.0)),
    "half": Distribution("normal", parameters=(0.0, 1.0), bounds=(0.0, INFINITE)),
    "clipped": Distribution("normal", parameters=(4.0, 1.0), bounds=(3.0, 5.0), clip=True),
    "clipped half": Distribution(
        "normal", parameters=(0.0, 1.0), bounds=(0.5, INFINITE), clip=True
    ),
    "number": Distribution("normal", parameters=(4.0, 1.5), bounds=(1.0, 7.0), integer=True),
    "choice": Distribution("choice", values=(1, 1, 2), weights=(1, 2, 3), integer=True),
    "words": Distribution("choice", values=("twin", "stacking_fault")),
    "grid": Distribution("grid", values=(400.0, 1600.0, 100.0)),
    "spread grid": Distribution("grid", values=(-20.0, 0.0, 20.0), std=2.0),
    "constant": Distribution("constant", values=(15.0,)),
}


def draw(distribution: Distribution, count: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    streams = Streams(seed)
    values = [distribution.draw(streams("test", i), i) for i in range(count)]
    return np.array(values), np.arange(count)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_was_drawn_from_a_distribution_agrees_with_it(name: str) -> None:
    distribution = DISTRIBUTIONS[name]
    fit = compare(distribution, *draw(distribution, 3000))
    assert fit.draws == 3000 and not fit.fault and not fit.departs(1)
    untested = name in ("grid", "constant")
    assert (fit.probability is None) == untested
    assert untested or fit.statistic


@pytest.mark.parametrize(
    ("drawn", "asked"),
    [
        ("clipped", "truncated"),
        ("truncated", "clipped"),
        ("normal", "uniform"),
        ("uniform", "truncated"),
        ("half", "normal"),
        ("clipped half", "half"),
        ("number", "uniform number"),
        ("log-uniform number", "number"),
    ],
)
def test_draws_of_another_distribution_depart(drawn: str, asked: str) -> None:
    values, positions = draw(DISTRIBUTIONS[drawn], 3000)
    assert compare(DISTRIBUTIONS[asked], values, positions).departs(20)


def test_small_differences_are_found_and_named() -> None:
    values, positions = draw(DISTRIBUTIONS["truncated"], 3000)
    assert compare(DISTRIBUTIONS["truncated"], values + 0.06, positions).departs(10)
    values, positions = draw(DISTRIBUTIONS["choice"], 3000)
    other = Distribution("choice", values=(1, 2), integer=True, weights=(0.44, 0.56))
    assert compare(other, values, positions).departs(10)
    values, positions = draw(DISTRIBUTIONS["grid"], 30)
    values[7] = 1600.0 if values[7] != 1600.0 else 100.0
    assert compare(DISTRIBUTIONS["grid"], values, positions).fault.startswith("1 of 30 values")
    assert compare(DISTRIBUTIONS["grid"], values[::-1], positions).departs(1)
    fifteen = np.full(9, 15.0)
    assert not compare(DISTRIBUTIONS["constant"], fifteen * 3 / 3, positions[:9]).fault
    fifteen[2] = 15.001
    assert "1 of 9" in compare(DISTRIBUTIONS["constant"], fifteen, positions[:9]).fault
    for bad in (8.1, math.nan, math.inf):
        found = compare(DISTRIBUTIONS["uniform"], np.array([3.0, 4.0, bad]), np.arange(3))
        assert found.fault == "1 of 3 values cannot come from it"


@pytest.mark.parametrize("name", ["truncated", "uniform", "spread grid", "choice", "clipped"])
def test_false_alarms_are_as_rare_as_stated(name: str) -> None:
    """Over 300 campaigns the probabilities are spread evenly, at least where they are small."""
    distribution = DISTRIBUTIONS[name]
    every = [
        compare(distribution, *draw(distribution, 60, seed)).probability for seed in range(300)
    ]
    found = np.array(every, dtype=float)
    for level in (0.05, 0.2, 0.5):
        share = (found <= level).mean()
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / 300), level


def test_few_draws_are_not_tested() -> None:
    for name in ("uniform", "choice", "words", "clipped", "spread grid"):
        fit = compare(DISTRIBUTIONS[name], *draw(DISTRIBUTIONS[name], 4))
        assert fit.probability is None and not fit.departs(1)
    assert compare(DISTRIBUTIONS["uniform"], np.zeros(0), np.zeros(0, int)).draws == 0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_densities_and_probabilities_sum_to_one(name: str) -> None:
    distribution = DISTRIBUTIONS[name]
    if is_discrete(distribution):
        assert sum(probabilities(distribution).values()) == pytest.approx(1)
        return
    low, high = distribution.support
    x = np.linspace(low, high, 20001)
    # What a clipped normal has on its bounds has no density.
    ends = np.nextafter([low, high], [INFINITE, -INFINITE])
    whole = float(np.diff(cumulative(distribution, ends))[0])
    assert np.trapezoid(density(distribution, x), x) == pytest.approx(whole, abs=1e-4)
    middle = (x[1:] + x[:-1]) / 2
    slope = np.diff(cumulative(distribution, x)) / np.diff(x)
    inside = slice(1, -1)
    assert slope[inside] == pytest.approx(density(distribution, middle)[inside], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_histograms_count_every_draw_and_expect_as_many(name: str) -> None:
    distribution = DISTRIBUTIONS[name]
    values, _ = draw(distribution, 500)
    found = count_draws(distribution, values, "A" if name == "truncated" else "")
    assert found.counts.sum() == found.draws == 500
    if found.labels:
        assert found.expected.sum() == pytest.approx(500)
    else:
        per_bin = np.diff(np.log(found.edges) if found.log else found.edges)
        x, y = found.curve
        area = np.trapezoid(y, np.log(x) if found.log else x) / per_bin[0]
        # What a clipped normal has on its bounds is no part of the curve.
        ends = np.nextafter(distribution.support, [INFINITE, -INFINITE])
        share = float(np.diff(cumulative(distribution, ends))[0])
        assert area == pytest.approx(500 * share, rel=0.02)
    ElementTree.fromstring(draw_histogram(found, name, "asked & drawn"))


def test_histograms_are_in_the_unit_of_a_microscopist() -> None:
    distribution = Distribution("normal", parameters=(40.0, 10.0), bounds=(30.0, 50.0))
    found = count_draws(distribution, draw(distribution, 50)[0], "A")
    assert found.unit == "nm" and found.edges[[0, -1]] == pytest.approx([3, 5])
    assert count_values(np.array([0.0, 1, 1, 3]), "").labels == ("0", "1", "3")
    assert count_values(np.array([1e4, 2e4, 3.5e4]), "angstrom").unit == "µm"
    assert count_values(np.array([5.0]), "").counts.sum() == 1
    assert count_values(np.array([math.nan, 1.5]), "").draws == 1
    assert count_values(np.zeros(0), "").draws == 0


def test_bars_are_as_high_as_their_counts() -> None:
    found = count_values(np.array([0] * 10 + [1] * 5 + [2] * 20), "")
    chart = ElementTree.fromstring(draw_histogram(found, "placed", "", "structures"))
    bars = [part for part in chart.iter() if part.get("class") == "bar"]
    heights = [float(bar.get("height", 0)) for bar in bars]
    assert heights == pytest.approx([heights[2] / 2, heights[2] / 4, heights[2]], rel=0.01)
    feet = {round(float(bar.get("y", 0)) + float(bar.get("height", 0)), 1) for bar in bars}
    assert len(feet) == 1
    texts = [part.text for part in chart.iter() if part.tag == "text"]
    assert {"0", "1", "2", "structures"} <= set(texts)


@pytest.mark.parametrize(
    ("distribution", "unit", "text"),
    [
        (DISTRIBUTIONS["truncated"], "", "normal, mean 4, deviation 1, truncated to 3 … 5"),
        (
            Distribution("normal", parameters=(40.0, 10.0), bounds=(30.0, 50.0), clip=True),
            "A",
            "normal, mean 4 nm, deviation 1 nm, clipped to 3 … 5 nm",
        ),
        (DISTRIBUTIONS["half"], "A", "normal, mean 0 Å, deviation 1 Å, truncated to at least 0 Å"),
        (DISTRIBUTIONS["log-uniform"], "e/A^2", "log-uniform, 10 … 1000 e/Å²"),
        (DISTRIBUTIONS["uniform"], "rad", "uniform, 114.592 … 458.366 deg"),
        (Distribution("uniform", parameters=(0.0, 0.02)), "rad", "uniform, 0 … 20 mrad"),
        (DISTRIBUTIONS["choice"], "", "one of 1, 1, 2 with weights 1 : 2 : 3"),
        (DISTRIBUTIONS["words"], "", "one of twin, stacking_fault"),
        (DISTRIBUTIONS["spread grid"], "A", "in turn -2, 0, 2 nm, each with deviation 2 Å"),
        (DISTRIBUTIONS["constant"], "A", "1.5 nm"),
    ],
)
def test_distributions_are_told_in_a_line(distribution, unit, text) -> None:
    assert describe_distribution(distribution, unit) == text


def test_every_key_of_a_campaign_has_its_unit_and_meaning() -> None:
    from hpctem.campaign_file import read_campaign

    config = read_campaign(
        Path(__file__).parents[2] / "configs/au_on_carbon_varying_substrate.yaml"
    )
    settings = {setting.key: setting for setting in list_settings(config.config)}
    assert settings["structure.cell"].text == "12.8, 12.8 nm"
    assert settings["structure.particles.crystal.a"].text == "4.08265 Å"
    assert settings["structure.substrate.density"].text == "0.11 /Å³"
    assert settings["imaging.aberrations.magnitudes.C40"].text == "-1.913 µm"
    assert settings["imaging.aberrations.angles.C22"].text == "-68.5 deg"
    assert settings["simulation.energy"].text == "300 keV"
    assert settings["imaging.defocus"].drawn and not settings["imaging.dose"].drawn
    assert settings["structure.particles.radius"].meaning == "Radius of the spheres."
    assert write_numbers((1e7, 2.0), "A") == "1, 2e-07 mm"


def test_aberrations_are_traced_through_every_notation() -> None:
    from hpctem.config import check_config
    from hpctem.marked_yaml import parse_yaml
    from hpctem.page.drawn_columns import Place, find_column

    text = (Path(__file__).parents[1] / "small.yaml").read_text()
    for notation, name, column, factor in (
        ("krivanek", "C12", "C12", 1),
        ("power_of_angle", "C40", "C30", 4),
        ("power_of_angle", "C22", "C12", 2),
        ("haider", "B2", "C21", 3),
        ("haider", "S5", "C52", 6),
    ):
        given_text = text.replace(
            "  focal_spread: 15 A",
            f"  focal_spread: 15 A\n  aberrations: {{notation: {notation}, magnitudes: "
            f"{{{name}: {{uniform: [1 nm, 2 nm]}}}}"
            + ("}" if name == "C40" else f", angles: {{{name}: 10 deg}}}}"),
        )
        config = check_config(parse_yaml(given_text, "test"))
        settings = {setting.key: setting for setting in list_settings(config)}
        magnitude = settings[f"imaging.aberrations.magnitudes.{name}"]
        assert find_column(config, magnitude) == Place("images", column, factor)
        if name != "C40":
            angle = settings[f"imaging.aberrations.angles.{name}"]
            assert find_column(config, angle) == Place("images", f"phi{column[1:]}")
        assert find_column(config, settings["imaging.sampling"]) is None


class Reader(HTMLParser):
    """Collects the text of a page, and the tags and attributes that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@given(st.text() | st.text(alphabet=st.sampled_from("<>&;\"'/!=- ab")))
@example('<script>alert(1)</script>"\' onload="x')
def test_text_never_becomes_markup(text: str) -> None:
    reader = Reader()
    reader.feed(join(tag("p", text, title=text), table(("a",), [(text,)], text)))
    reader.close()
    assert [name for name, _ in reader.tags] == [
        *("p", "table", "caption", "thead", "tr", "th", "tbody", "tr", "th")
    ]
    # Parsers read a carriage return as a line feed and leave out what is no character.
    if not re.search(r"[\r\0]", text):
        assert "".join(reader.words).startswith(text)
        assert reader.tags[0][1]["title"] == text


@given(st.text(alphabet=st.sampled_from("ab:#'\"-0123.e nmA{}[]<>&\n"), max_size=60))
def test_coloured_campaign_files_say_what_they_said(text: str) -> None:
    marked = colour_yaml(text)
    bare = unescape(re.sub(r"</?(?:span|code|pre)[^>]*>", "", marked))
    assert bare == "\n".join(text.splitlines())
    assert "<" not in re.sub(r'</?(?:code|pre|span(?: class="yaml-\w+")?)>', "", marked)


def test_campaign_files_are_coloured_by_what_stands_there() -> None:
    marked = colour_yaml(
        "  radius: {normal: {mean: -2.5e-1 nm}}  # of 3\nname: 'a: 1'\nfile: Au2.cif"
    )
    assert '<span class="yaml-key">radius</span>: {' in marked
    assert '<span class="yaml-number">-2.5e-1 nm</span>' in marked
    assert '<span class="yaml-comment"># of 3</span>' in marked
    assert "<span class=\"yaml-text\">'a: 1'</span>" in marked
    assert ": Au2.cif" in marked
    assert isinstance(marked, Html)


def progress(seconds: float, computed: tuple[int, ...], last: bool = False) -> Progress:
    return Progress(0, 100, computed, (50,) * len(computed), 0, seconds, last)


def test_the_sidecar_notes_what_progress_says_and_begins_anew_with_run_1(tmp_path: Path) -> None:
    told: list[Progress] = []
    (tmp_path / PACE).write_text('{"run": 9, "time": 0, "seconds": 5, "computed": [7]}\n')
    record = record_pace(tmp_path, 1, told.append)
    assert record is not None
    for second in range(1, 400):
        record(progress(second * 0.5, (second // 4, second // 8), last=second == 399))
    looks = read_pace(tmp_path)
    assert len(told) == 399 and {look.run for look in looks} == {1}
    assert looks[-1].computed == (99, 49) and looks[-1].seconds == 199.5
    gaps = np.diff([look.seconds for look in looks[:-1]])
    assert gaps.min() >= 1 and len(looks) < 200
    resumed = record_pace(tmp_path, 2, told.append)
    assert resumed is not None
    resumed(progress(3, (1, 2, 3), last=True))
    assert [look.run for look in read_pace(tmp_path)][-2:] == [1, 2]
    assert record_pace(tmp_path, 2, None) is None


def test_a_sidecar_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog) -> None:
    (tmp_path / PACE).mkdir()
    told: list[Progress] = []
    record = record_pace(tmp_path, 1, told.append)
    assert record is not None
    record(progress(1, (1,)))
    record(progress(9, (2,), last=True))
    assert len(told) == 2 and read_pace(tmp_path) == []
    assert caplog.text.count("cannot be written") == 1


def test_torn_and_senseless_lines_are_left_out(tmp_path: Path) -> None:
    good = '{"run": 1, "time": 1.5, "seconds": 2.0, "computed": [1, 2]}'
    lines = [
        *('{"run": 1, "time": 1', "[]", "null", "7", '{"run": 1}', '{"run": 1e999}', "\0\0\xff"),
        '{"run": 1, "time": NaN, "seconds": 1, "computed": [1]}',
        '{"run": 1, "time": 1, "seconds": -1, "computed": [1]}',
        '{"run": 1, "time": 1, "seconds": 1, "computed": []}',
        '{"run": 1, "time": 1, "seconds": 1, "computed": 5}',
        '{"run": 1, "time": 1, "seconds": 1, "computed": [-1]}',
        "[" * 100000,
        good,
    ]
    (tmp_path / PACE).write_bytes("\n".join(lines).encode("latin-1"))
    assert read_pace(tmp_path) == [Look(1, 1.5, 2.0, (1, 2))]


def test_rates_over_time_sum_to_what_was_computed() -> None:
    looks = [Look(1, 1000.0 + t, float(t), (t // 10, t // 5)) for t in range(10, 601, 10)]
    looks += [Look(2, 9000.0 + t, float(t), (t // 2,)) for t in range(10, 301, 10)]
    timeline = draw_up(looks)
    assert timeline is not None
    assert timeline.unit == "min" and timeline.edges[-1] == pytest.approx(15)
    seconds = np.diff(timeline.edges) * 60
    assert (timeline.rates * seconds).sum(axis=1) == pytest.approx([60 + 150, 120])
    assert timeline.rates[0, 5] == pytest.approx(0.1) and timeline.rates[1, 5] == pytest.approx(0.2)
    assert timeline.rates[0, -2] == pytest.approx(0.5) and timeline.rates[1, -2] == 0
    assert timeline.begins == ((0.0, "run 1"), (10.0, "run 2"))
    first, second = list_runs(looks)
    assert first.began == "1970-01-01 00:16 UTC" and first.computed == (60, 120)
    assert second.seconds == 300
    assert draw_up([]) is None and draw_up([Look(1, 0.0, 5.0, (0, 0))]) is None
    steps = draw_steps(timeline.edges, timeline.rates.sum(axis=0), timeline.begins, "min", "Pace")
    texts = {part.text for part in ElementTree.fromstring(steps).iter()}
    assert {"run 1", "run 2", "images/s"} <= texts


@pytest.mark.parametrize("ranks", [2, 7, 300, 5000])
def test_any_number_of_ranks_has_a_chart(ranks: int) -> None:
    rates = np.tile(np.linspace(0, 1, 12), (ranks, 1))
    text = draw_ranks(np.linspace(0, 5, 13), rates, "h", "Pace of ranks")
    chart = ElementTree.fromstring(text)
    fields = [part for part in chart.iter() if part.get("fill")]
    assert len(fields) >= 10
    assert len(text) < 400_000 and float(chart.get("viewBox", "").split()[3]) < 400
    labels = [part for part in chart.iter() if part.get("text-anchor") == "end"]
    assert 2 <= len(labels) <= 20


def test_shades_darken_all_the_way() -> None:
    def luminance(colour: str) -> float:
        red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    levels = [luminance(shade(value)) for value in np.linspace(0, 1, 21)]
    assert (np.diff(levels) < -4).all() and shade(2) == shade(1) and shade(-1) == "#ffffff"


def reflections(crystal: Crystal, edge: float) -> list[tuple[str, float]]:
    return find_reflections(crystal.cell, crystal.fractional, crystal.numbers, edge)


def test_reflections_are_those_of_the_lattice() -> None:
    gold = reflections(build_crystal("fcc", [79], 4.08265), 0.9)
    assert [name for name, _ in gold][:5] == ["111", "200", "220", "311", "222"]
    assert gold[0][1] == pytest.approx(math.sqrt(3) / 4.08265)
    silicon = reflections(build_crystal("diamond", [14], 5.431), 0.65)
    assert [name for name, _ in silicon] == ["111", "220", "311"]
    cadmium_selenide = reflections(build_crystal("wurtzite", [48, 34], 4.39, 7.17), 0.35)
    names = dict(cadmium_selenide)
    assert names["100"] == pytest.approx(2 / math.sqrt(3) / 4.39) and "001" not in names
    assert names["002"] == pytest.approx(2 / 7.17)


def test_groups_of_a_column_share_its_unit() -> None:
    """Close to focus too a defocus is in nm, as in the other groups."""
    values = np.linspace(-125.0, 118.0, 96)
    groups = _group(np.ones((96, 3)), values, "A", None)
    assert [group.label for group in groups][2:4] == ["-4.31 … -0.478 nm", "-0.222 … 3.61 nm"]
    assert len(groups) == 6 and sum(group.images for group in groups) == 96
    assert all(group.label.endswith(" nm") for group in groups)
    few = _group(np.ones((4, 3)), np.array([-50.0, 2.0, 2.0, 50.0]), "A", None)
    assert [(group.label, group.images) for group in few] == [
        ("-5 nm", 1),
        ("0.2 nm", 2),
        ("5 nm", 1),
    ]


def test_what_differs_between_the_files_of_a_campaign_is_told() -> None:
    files = [
        {"code": "1", "numpy": "2.0"},
        {"code": "1", "numpy": "2.1"},
        {"code": "1", "gpu": "x"},
    ]
    assert unite_identities(files) == {"code": "1", "numpy": "2.0 | 2.1", "gpu": "x"}


def test_counts_have_whole_ticks_and_large_ones_commas() -> None:
    assert choose_ticks(0, 1.6, 5, whole=True) == [(0, "0"), (1, "1")]
    assert [text for _, text in choose_ticks(0, 250_000, 5, whole=True)][-1] == "250,000"


def test_spectrum_charts_are_whole_and_name_close_reflections_apart() -> None:
    q = np.linspace(0.01, 2.0, 100)
    power = 1e-3 + np.exp(-((q - 0.42) ** 2) / 0.001)
    groups = tuple(Group(f"{d} <e>", 8, power, power / 2, power * 2, 1e-3) for d in (100, 200))
    spectra = Spectra("dose", q, groups)
    reflections = [("111", 0.424), ("200", 0.49), ("220", 0.693), ("311", 0.812), ("222", 0.849)]
    chart = ElementTree.fromstring(
        draw_spectra(spectra, groups[0], (1e-4, 10.0), reflections, "a <title> & more")
    )
    kinds = [part.get("class") for part in chart.iter()]
    assert kinds.count("others") == 1 and kinds.count("curve") == 1 and kinds.count("floor") == 1
    assert kinds.count("mark") == 5
    named = {part.text: part for part in chart.iter() if part.text in dict(reflections)}
    assert set(named) == set(dict(reflections))
    marks = [
        part.get("d", "")[1:].split()[0] for part in chart.iter() if part.get("class") == "mark"
    ]
    assert [named[name].get("x") for name, _ in reflections] == marks, "each over its own line"
    assert {part.get("text-anchor") for part in named.values()} == {"middle"}
    for row in {part.get("y") for part in named.values()}:
        places = sorted(float(p.get("x", 0)) for p in named.values() if p.get("y") == row)
        assert (np.diff(places) > 18).all(), "names of reflections overlap"
    points = next(p for p in chart.iter() if p.get("class") == "curve").get("points", "").split()
    x, y = np.array([point.split(",") for point in points], dtype=float).T
    box = [float(part) for part in chart.get("viewBox", "").split()]
    assert x.min() >= 0 and x.max() <= box[2] and y.min() >= 0 and y.max() <= box[3]
