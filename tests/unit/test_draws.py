"""Draws, strata and splits as functions of arrays: exact counts, fair chances, no leaks."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from hpctem.errors import ConfigError, DatabaseError
from hpctem.subsets.draws import (
    Chance,
    Units,
    balance_rows,
    choose_lowest,
    draw_units,
    draw_units_per_group,
    number_units,
    pair_units,
    random_bits,
    single_rows,
    spread,
)
from hpctem.subsets.splits import check_apart, parse_fractions, split_groups
from hpctem.subsets.strata import (
    Strata,
    combine,
    cut,
    number_values,
    one_stratum,
    parse_edges,
)


def chance_of(count: int, stream: str = "test", first: int = 0) -> Chance:
    return Chance(stream, first + np.arange(count), np.zeros(count, np.uint16), ("campaign",))


def strata_of(values: np.ndarray, name: str = "column") -> Strata:
    units = number_units(np.asarray(values), name)
    return number_values(units.codes, units.values, name)


def edges(text: str, units: str = "", column: str = "column") -> tuple[float, ...]:
    return parse_edges(text, units, column).values


# Random numbers


def test_random_numbers_never_change() -> None:
    """Subset files of old draws are reproduced by these bits on every machine."""
    bits = random_bits("hpctem/subset/7/0/", np.arange(1000))
    digest = hashlib.blake2b(bits.astype("<u8").tobytes(), digest_size=8).hexdigest()
    assert digest == "91fd1ac04c3cc2a1"


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30), st.integers(0, 3))
def test_a_rows_number_depends_on_nothing_but_the_row(rows: list[int], stream: int) -> None:
    whole = random_bits(f"s{stream}", np.arange(5001))
    assert (random_bits(f"s{stream}", np.array(rows)) == whole[rows]).all()
    assert not (random_bits(f"s{stream + 4}", np.array(rows)) == whole[rows]).any()


def test_campaigns_draw_by_numbers_of_their_own() -> None:
    chance = Chance("s", np.array([5, 5, 6]), np.array([0, 1, 1]), ("one", "other"))
    numbers = chance.of_rows("step")
    assert len(set(numbers.tolist())) == 3
    assert (chance[np.array([2])].of_rows("step") == numbers[2:]).all()
    assert not (chance.of_rows("next") == numbers).any()


# Drawing


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=60),
    st.lists(st.integers(0, 30), min_size=5, max_size=5),
)
def test_the_lowest_are_chosen_as_by_sorting(
    rows: list[tuple[int, int]], wanted: list[int]
) -> None:
    """Also where numbers are equal: then the first of them."""
    strata = np.array([s for s, _ in rows], np.int64)
    numbers = np.array([c for _, c in rows], np.uint64) * np.uint64(2**61)
    expected = []
    for stratum in range(5):
        mine = [place for place, (s, _) in enumerate(rows) if s == stratum]
        expected += sorted(mine, key=lambda place: (rows[place][1], place))[: wanted[stratum]]
    assert choose_lowest(strata, numbers, np.array(wanted)).tolist() == sorted(expected)


def test_few_of_many_are_chosen_as_by_sorting() -> None:
    """Where only numbers under a threshold are sorted at all."""
    numbers = random_bits("many", np.arange(200_000))
    strata = np.arange(200_000) % 3
    found = choose_lowest(strata, numbers, np.array([1, 50, 0]))
    for stratum, count in enumerate((1, 50, 0)):
        mine = np.flatnonzero(strata == stratum)
        lowest = np.sort(mine[np.argsort(numbers[mine])[:count]])
        assert found[strata[found] == stratum].tolist() == lowest.tolist()


@given(st.integers(0, 100), st.integers(1, 12), st.integers(0, 99))
def test_a_number_is_spread_evenly(total: int, count: int, seed: int) -> None:
    shares = spread(total, random_bits(f"{seed}", np.arange(3 * count)).reshape(3, count))
    assert (shares.sum(axis=1) == total).all()
    assert (shares.max(axis=1) - shares.min(axis=1) <= 1).all()


def test_what_is_left_over_comes_to_every_stratum_alike() -> None:
    shares = spread(4, random_bits("rest", np.arange(3 * 6000)).reshape(6000, 3))
    assert chisquare((shares == 2).sum(axis=0)).pvalue > 0.01


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=80),
    st.integers(1, 10),
    st.integers(0, 1000),
)
def test_units_come_whole_and_in_the_number_asked_for(
    values: list[int], count: int, seed: int
) -> None:
    units = number_units(np.array(values), "value")
    everywhere = one_stratum(len(values))
    if count > len(set(values)):
        with pytest.raises(
            ConfigError, match=f"has {len(set(values))} values of value, {count} are wanted"
        ):
            draw_units(units, everywhere, count, chance_of(len(values), f"{seed}"), "s")
        return
    places = draw_units(units, everywhere, count, chance_of(len(values), f"{seed}"), "s")
    drawn = {values[place] for place in places}
    assert len(drawn) == count
    assert places.tolist() == [place for place, value in enumerate(values) if value in drawn]


def test_every_unit_is_drawn_equally_often_and_every_pair_too() -> None:
    # Units of one to eight rows: the larger ones are not likelier.
    units = number_units(np.repeat(np.arange(8), np.arange(1, 9)), "value")
    one, pairs = np.zeros(8), np.zeros((8, 8))
    for repeat in range(4000):
        chance = chance_of(len(units.codes), f"fair/{repeat}")
        places = draw_units(units, one_stratum(len(units.codes)), 3, chance, "s")
        drawn = np.unique(units.codes[places])
        one[drawn] += 1
        pairs[np.ix_(drawn, drawn)] += 1
    assert one.sum() == 12_000
    assert chisquare(one).pvalue > 0.01
    assert chisquare(pairs[np.triu_indices(8, 1)]).pvalue > 0.01


def test_a_larger_draw_holds_the_smaller_one() -> None:
    rows, everywhere = single_rows(1000), one_stratum(1000)
    chance = chance_of(1000)
    small, large = (draw_units(rows, everywhere, n, chance, "s") for n in (100, 300))
    assert set(small) < set(large)


def test_a_stratum_is_drawn_the_same_whatever_the_others_hold() -> None:
    """Rows keep their chance when others come, go or change places."""
    chance = chance_of(3000)
    strata = strata_of(np.arange(3000) % 3)
    whole = draw_units(single_rows(3000), strata, 30, chance, "s")
    # Half of the rows of the other strata are gone, and the rest stands in another order.
    kept = np.flatnonzero((np.arange(3000) % 3 == 1) | (np.arange(3000) % 2 == 0))[::-1]
    part = kept[draw_units(single_rows(len(kept)), strata[kept], 30, chance[kept], "s")]
    assert sorted(part[part % 3 == 1]) == whole[whole % 3 == 1].tolist()
    assert len(part) == 30


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 50))
def test_every_group_gives_its_number_spread_over_strata(count: int, bins: int, seed: int) -> None:
    # 20 groups of 12 units of 2 rows; four units in each of three strata.
    group, unit = np.repeat(np.arange(20), 24), np.tile(np.repeat(np.arange(12), 2), 20)
    strata = strata_of(unit % bins)
    groups = number_units(group, "structure_id")
    units = pair_units(groups, number_units(unit, "focus_index"))
    chance = chance_of(480, f"{seed}")
    places = draw_units_per_group(groups, units, strata, count, chance, "s")
    for number in range(20):
        mine = places[group[places] == number]
        drawn, rows = np.unique(unit[mine], return_counts=True)
        assert len(drawn) == count and (rows == 2).all()
        counts = np.bincount(drawn % bins, minlength=bins)
        assert counts.max() - counts.min() <= 1


def test_groups_draw_independently_of_each_other() -> None:
    group, unit = np.repeat(np.arange(600), 5), np.tile(np.arange(5), 600)
    groups = number_units(group, "structure_id")
    places = draw_units_per_group(
        groups,
        pair_units(groups, number_units(unit, "f")),
        one_stratum(3000),
        2,
        chance_of(3000),
        "s",
    )
    assert chisquare(np.bincount(unit[places], minlength=5)).pvalue > 0.01
    first, second = unit[places].reshape(600, 2).T
    pairs = np.bincount(first * 5 + second, minlength=25).reshape(5, 5)
    assert chisquare(pairs[np.triu_indices(5, 1)]).pvalue > 0.01


def test_a_short_group_is_named_or_gives_all_it_has() -> None:
    group = np.array([0, 0, 0, 1, 1, 2])
    groups = Units(group, np.array([10, 11, 12]), "structure_id")
    draw = (groups, single_rows(6), one_stratum(6), 2, chance_of(6), "s")
    with pytest.raises(ConfigError, match=r"structure_id 12 \(one of 1 such\): .* has 1 images, 2"):
        draw_units_per_group(*draw)
    lacking: list[str] = []
    places = draw_units_per_group(*draw, lacking)
    assert np.bincount(group[places]).tolist() == [2, 2, 1]
    assert len(lacking) == 1 and "structure_id 12" in lacking[0]


def test_a_short_stratum_is_named_or_gives_all_it_has() -> None:
    strata = cut(np.array([1.0, 2.0, 3.0, 30.0]), parse_edges("0,10,20,40", "", "x"), "x")
    with pytest.raises(
        ConfigError, match=r"x 10 to 20 has 0 images, 2 are wanted; x 20 to 40 has 1"
    ):
        draw_units(single_rows(4), strata, 6, chance_of(4), "s")
    lacking: list[str] = []
    assert len(draw_units(single_rows(4), strata, 6, chance_of(4), "s", lacking)) == 3
    assert "x 10 to 20 has 0 images" in lacking[0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 20))
def test_balance_takes_as_many_of_each_as_of_the_rarest(values: list[int], seed: int) -> None:
    places = balance_rows(strata_of(np.array(values)), chance_of(len(values), f"{seed}"), "s")
    _, counts = np.unique(np.array(values), return_counts=True)
    _, kept = np.unique(np.array(values)[places], return_counts=True)
    assert kept.tolist() == [counts.min()] * len(counts)


def test_units_are_cut_by_what_differs_in_one_of_them() -> None:
    units = number_units(np.array([4, 4, 9, 9]), "value")
    assert not units.are_cut_by(np.array([1, 1, 0, 0]))
    assert units.are_cut_by(np.array([1, 1, 0, 1]))
    # Units that have no rows any more do not matter.
    assert not units[np.array([0, 1, 2])].are_cut_by(np.array([1, 1, 0]))


# Strata


@pytest.mark.parametrize(
    ("text", "units", "expected"),
    [
        ("20,35,50", "angstrom", (20.0, 35.0, 50.0)),
        ("2, 3.5,5 nm", "angstrom", (20.0, 35.0, 50.0)),
        ("20 A,3.5 nm", "angstrom", (20.0, 35.0)),
        ("-inf,-15 nm,15 nm,inf", "angstrom", (-np.inf, -150.0, 150.0, np.inf)),
        ("0.1,0.3 MeV", "eV", (1e5, 3e5)),
        ("1e2,2E3", "", (100.0, 2000.0)),
        ("1e2 eV,2 keV", "eV", (100.0, 2000.0)),
        ("0,100 e/A^2", "electron/angstrom^2", (0.0, 100.0)),
        ("1,3 mrad", "rad", (1e-3, 3e-3)),
    ],
)
def test_edges_may_have_units(text: str, units: str, expected: tuple[float, ...]) -> None:
    assert edges(text, units) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "units", "message"),
    [
        ("5,3", "", "3 does not exceed the edge before it"),
        ("5,5", "", "does not exceed"),
        ("5", "", "one edge; two make a stratum"),
        ("1,two", "", "'two' is not a number"),
        ("1,nan", "", "'nan' is not a"),
        ("1,2 mrad", "angstrom", "'mrad' in .* is not a unit of length"),
        ("1,2 nm", "", "'2 nm' is not a number"),
        ("1,,2", "", "'' is not a number"),
        ("inf,2", "", "does not exceed"),
    ],
)
def test_wrong_edges_are_named(text: str, units: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"edges of depth: .*{message}"):
        parse_edges(text, units, "depth")


@given(
    st.lists(st.floats(-3, 3) | st.sampled_from([-1.0, 0.0, 2.0, np.nan]), max_size=40),
)
def test_rows_are_cut_at_edges(values: list[float]) -> None:
    strata = cut(np.array(values), parse_edges("-1,0,2", "", "x"), "x")
    assert strata.names == ("x -1 to 0", "x 0 to 2")
    for value, code in zip(values, strata.codes, strict=True):
        assert code == (0 if -1 <= value < 0 else 1 if 0 <= value <= 2 else -1)


def test_values_are_strata_but_a_continuum_is_not() -> None:
    strata = strata_of(np.array(["b", "a", "b"], object))
    assert strata.names == ("column a", "column b") and strata.codes.tolist() == [1, 0, 1]
    assert strata_of(np.array([300.0, 100.0])).count == 2
    with pytest.raises(ConfigError, match=r"defocus has 100 different values.*give edges"):
        strata_of(np.linspace(-1, 1, 100), "defocus")
    with pytest.raises(ConfigError, match="give edges"):
        strata_of(np.array([1.0, np.nan]))


def test_strata_combine_values_that_occur_with_every_bin() -> None:
    values = strata_of(np.array([0, 0, 1, 2]), "lattice")
    other = strata_of(np.array([5, 5, 5, 6]), "size")
    bins = cut(np.array([1.0, 11.0, 1.0, 99.0]), parse_edges("0,10,20", "", "x"), "x")
    both = combine([bins, values, other], 4)
    assert both.names == (
        "lattice 0, size 5, x 0 to 10",
        "lattice 0, size 5, x 10 to 20",
        "lattice 1, size 5, x 0 to 10",
        "lattice 1, size 5, x 10 to 20",
        "lattice 2, size 6, x 0 to 10",
        "lattice 2, size 6, x 10 to 20",
    )
    assert both.codes.tolist() == [0, 1, 2, -1]
    assert combine([], 4).codes.tolist() == [0] * 4


def test_chosen_strata_leave_the_others_out() -> None:
    strata = strata_of(np.array([0, 1, 2, 3])).keep([1, 3])
    assert strata.codes.tolist() == [-1, 0, -1, 1]
    assert strata.names == ("column 1", "column 3")


# Splits

FRACTIONS = ((1, 1), (3, 1), (2, 1), (7, 2, 1), (1, 1, 1, 1, 1))


def split(
    sizes: list[int], shares: tuple[int, ...], seed: int = 0, strata: np.ndarray | None = None
) -> np.ndarray:
    fractions = [Fraction(share, sum(shares)) for share in shares]
    strata = np.zeros(len(sizes), np.int64) if strata is None else strata
    bits = random_bits(f"split/{seed}", np.arange(len(sizes)))
    return split_groups(np.array(sizes), strata, bits, fractions)


@given(st.integers(5, 60), st.sampled_from(FRACTIONS), st.integers(0, 99))
def test_groups_of_one_size_are_split_exactly(
    count: int, shares: tuple[int, ...], seed: int
) -> None:
    if count * min(shares) < sum(shares):
        return
    counts = np.bincount(split([20] * count, shares, seed), minlength=len(shares))
    ideal = count * np.array(shares) / sum(shares)
    assert (np.abs(counts - ideal) < 1).all()


@given(
    st.lists(st.integers(1, 40), min_size=12, max_size=40),
    st.sampled_from(FRACTIONS[:4]),
    st.integers(0, 99),
)
def test_no_exchange_of_groups_comes_nearer(
    sizes: list[int], shares: tuple[int, ...], seed: int
) -> None:
    try:
        parts = split(sizes, shares, seed)
    except ConfigError:
        return
    lacks = np.array(shares) / sum(shares) * sum(sizes) - np.bincount(parts, sizes, len(shares))
    full, empty = int(np.argmin(lacks)), int(np.argmax(lacks))
    wish = (lacks[empty] - lacks[full]) / 2
    here = [size for size, part in zip(sizes, parts, strict=True) if part == full]
    there = [size for size, part in zip(sizes, parts, strict=True) if part == empty]
    moves = here if len(here) > 1 else []
    for passed in [*moves, *(one - other for one in here for other in there)]:
        assert abs(passed - wish) >= wish - 1


def test_strata_are_split_alike() -> None:
    strata = np.repeat(np.arange(4), 40)
    parts = split([10] * 160, (3, 1), strata=strata)
    assert (np.bincount(strata[parts == 1]) == 10).all()


def test_every_group_validates_equally_often() -> None:
    sizes = [1, 2, 3, 5, 8, 13] * 4
    counts = np.zeros(len(sizes))
    for seed in range(2000):
        counts += split(sizes, (3, 1), seed) == 1
    same = counts.reshape(4, 6).sum(axis=0)
    assert chisquare(counts.reshape(4, 6).sum(axis=1)).pvalue > 0.01
    # Exchanges favour sizes that fit a little, but none stays on one side.
    assert same.min() > 0.15 * 8000 and same.max() < 0.35 * 8000


def test_strata_of_one_group_validate_equally_often() -> None:
    counts = np.zeros(12)
    for seed in range(2000):
        counts += split([4] * 12, (3, 1), seed, strata=np.arange(12)) == 1
    assert chisquare(counts).pvalue > 0.01


def test_a_part_without_a_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 groups cannot be split into 4 parts"):
        split([5, 5, 5], (1, 1, 1, 1))


def test_a_leak_is_found() -> None:
    groups = np.array([0, 0, 1, 2, 2])
    check_apart(np.array([0, 0, 1, 0, 0]), groups, "structures")
    with pytest.raises(DatabaseError, match="1 structures are in two parts of the split"):
        check_apart(np.array([0, 0, 1, 0, 1]), groups, "structures")


def test_fractions_are_read() -> None:
    assert parse_fractions("train=0.75, validation=0.25") == {
        "train": Fraction(3, 4),
        "validation": Fraction(1, 4),
    }
    assert parse_fractions("a=2/3,b=1/3") == {"a": Fraction(2, 3), "b": Fraction(1, 3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=0.8,validation=0.25", "sum to 1.05, not to 1"),
        ("train=0.333,validation=0.666", "sum to 0.999"),
        ("train", "'train' is no NAME=FRACTION"),
        ("train=1", "no NAME=FRACTION"),
        ("train=-0.5,x=1.5", "no NAME=FRACTION"),
        ("train=0.5,train=0.5", "named twice"),
        ("train=1/0,x=0.5", "no NAME=FRACTION"),
        ("a b=0.5,c=0.5", "no NAME=FRACTION"),
    ],
)
def test_wrong_fractions_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_fractions(text)
