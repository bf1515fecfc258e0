"""Scores of pixels and positions, their intervals, and the baselines, against closed forms."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from hpctem.learning.judging.baselines import (
    ALL,
    choose_baselines,
    find_otsu_threshold,
    name_baselines,
    tally_baselines,
)
from hpctem.learning.judging.judge import Record, sum_up
from hpctem.learning.judging.matching import (
    count_kinds,
    judge_positions,
    match_positions,
    tally_positions,
)
from hpctem.learning.judging.metrics import (
    bootstrap,
    choose_blocks,
    count_confusion,
    score,
    summarise,
    tally_pixels,
)

TRUTH = np.array([[0, 1, 1, 2], [0, 1, 2, 2]], np.uint8)
FOUND = np.array([[1, 1, 0, 2], [0, 1, 1, 0]], np.uint8)


def test_pixels_are_counted_by_class_and_together() -> None:
    tallies = tally_pixels(count_confusion(TRUTH, FOUND, 2))[0]
    # Class 1: two right, one on background and one on class 2, one missed; class 2: one, 0, two.
    assert tallies.tolist() == [[2, 2, 1], [1, 0, 2], [4, 1, 2]]


def test_scores_are_those_of_the_paper() -> None:
    precision, recall, f1, iou = score(np.array([6, 2, 4]))
    assert (precision, recall) == (6 / 8, 6 / 10)
    assert f1 == 6 / (6 + 0.5 * (2 + 4))
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert iou == 6 / 12 == pytest.approx(f1 / (2 - f1))


def test_scores_of_nothing_do_not_apply() -> None:
    assert np.isnan(score(np.array([0, 0, 0]))).all()
    nothing_found = score(np.array([0, 0, 3]))
    assert np.isnan(nothing_found[0]) and nothing_found[1:].tolist() == [0, 0, 0]
    nothing_there = score(np.array([0, 3, 0]))
    assert np.isnan(nothing_there[1]) and nothing_there[[0, 2, 3]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_blocks_are_parts_of_the_image(blocks: int) -> None:
    generator = np.random.default_rng(1)
    truth, found = generator.integers(0, 3, (2, 17, 23)).astype(np.uint8)
    parts = count_confusion(truth, found, 2, blocks)
    assert (parts.sum(axis=0) == count_confusion(truth, found, 2)[0]).all()
    assert parts[0].sum() == -(-17 // blocks) * -(-23 // blocks)


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="truth is"):
        count_confusion(TRUTH, FOUND[:1], 2)
    with pytest.raises(ValueError, match="more than 1"):
        count_confusion(TRUTH, FOUND, 1)


def test_scores_over_all_pixels_and_over_images_are_told_apart() -> None:
    # A large image that is all right, a small one that is half right, an empty one.
    tallies = np.array([[90, 0, 0], [5, 5, 5], [0, 0, 0]])
    found = summarise(tallies, np.arange(3), np.arange(3))
    assert found["f1"]["value"] == 95 / 100
    assert found["images"]["f1"]["value"] == (1 + 0.5) / 2
    assert found["images"]["f1"]["images"] == 2
    assert (found["true_positives"], found["false_negatives"]) == (95, 5)


def test_parts_of_an_image_count_as_one_in_the_mean_over_images() -> None:
    tallies = np.array([[8, 0, 0], [0, 0, 8], [4, 0, 0], [4, 0, 0]])
    found = summarise(tallies, np.arange(4), np.array([0, 0, 1, 1]))
    assert found["images"]["recall"]["value"] == (8 / 16 + 1) / 2


def test_one_unit_has_no_interval() -> None:
    found = summarise(np.array([[5, 1, 1]]), np.zeros(1, int), np.zeros(1, int))
    assert found["f1"]["low"] is None and found["f1"]["high"] is None
    assert found["f1"]["value"] == 5 / 6


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Of the mean of 60 draws of an exponential: 95 % is reached but for its skewness."""
    generator = np.random.default_rng(5)

    def mean(sums: np.ndarray) -> np.ndarray:
        return sums[:, :1] / sums[:, 1:]

    inside = 0
    for trial in range(400):
        drawn = generator.exponential(size=60)
        low, high = bootstrap(np.stack([drawn, np.ones(60)], 1), mean, seed=trial, repeats=400)
        inside += bool(low[0] <= 1 <= high[0])
    # Binomial about 0.925 with a standard deviation of 0.013.
    assert 0.88 <= inside / 400 <= 0.97


def test_the_interval_is_as_wide_as_the_standard_error() -> None:
    values = np.random.default_rng(2).normal(size=400)
    low, high = bootstrap(values[:, None], lambda sums: sums / 400, repeats=4000)
    assert (high - low)[0] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_groups_are_drawn_together() -> None:
    """Ten copies of each value say no more than the values: the interval is the same."""
    values = np.random.default_rng(3).normal(size=(30, 1))
    alone = bootstrap(values, lambda sums: sums / 30, seed=4)
    copies = bootstrap(
        np.repeat(values, 10, 0), lambda sums: sums / 300, np.repeat(np.arange(30), 10), seed=4
    )
    apart = bootstrap(np.repeat(values, 10, 0), lambda sums: sums / 300, seed=4)
    np.testing.assert_allclose(alone, copies, rtol=1e-12)
    assert (apart[1] - apart[0])[0] < 0.5 * (alone[1] - alone[0])[0]


def test_intervals_are_the_same_each_time_and_change_with_the_seed() -> None:
    values = np.random.default_rng(3).normal(size=(30, 1))
    assert bootstrap(values, np.copy, seed=1) == bootstrap(values, np.copy, seed=1)
    assert bootstrap(values, np.copy, seed=1) != bootstrap(values, np.copy, seed=2)


def test_few_images_are_cut_into_about_forty_parts() -> None:
    assert [choose_blocks(n) for n in (1, 6, 19, 20, 500)] == [7, 3, 2, 1, 1]


def best_by_trying(truth: np.ndarray, found: np.ndarray, radius: float) -> tuple[int, float]:
    """Most pairs and their least distance, of all matchings."""
    distances = np.linalg.norm(truth[:, None] - found[None], axis=2)
    if len(truth) > len(found):
        distances = distances.T
    best = (0, 0.0)
    for order in itertools.permutations(range(distances.shape[1]), distances.shape[0]):
        chosen = distances[np.arange(len(order)), order]
        chosen = chosen[chosen <= radius]
        if (-len(chosen), chosen.sum()) < (-best[0], best[1]):
            best = (len(chosen), float(chosen.sum()))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_matching_is_the_best_of_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.uniform(0, 4, (generator.integers(1, 7), 2))
    found = generator.uniform(0, 4, (generator.integers(1, 7), 2))
    pairs = match_positions(truth, found, 1.2)
    distances = np.linalg.norm(truth[pairs[:, 0]] - found[pairs[:, 1]], axis=1)
    assert (distances <= 1.2).all()
    assert len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == len(pairs)
    assert (len(pairs), distances.sum()) == pytest.approx(best_by_trying(truth, found, 1.2))


def test_the_nearest_first_would_lose_a_pair() -> None:
    truth, found = np.array([[0.0, 0], [2.0, 0]]), np.array([[1.2, 0], [2.9, 0]])
    # The nearest pair of all is (1, 0); taking it leaves (0, 1), 2.9 apart.
    assert match_positions(truth, found, 1.5).tolist() == [[0, 0], [1, 1]]


def test_radius_is_included_and_empty_sets_match_nothing() -> None:
    one = np.array([[1.0, 1.0]])
    assert len(match_positions(one, one + np.array([1.5, 0]), 1.5)) == 1
    assert len(match_positions(one, one + np.array([1.5001, 0]), 1.5)) == 0
    assert match_positions(one, np.zeros((0, 2)), 1.5).shape == (0, 2)
    assert match_positions(np.zeros((0, 2)), one, 1.5).shape == (0, 2)


def test_thousands_of_positions_are_matched_in_little_time() -> None:
    generator = np.random.default_rng(0)
    truth = generator.uniform(0, 1000, (8000, 2))
    found = truth + generator.normal(0, 0.3, truth.shape)
    start = time.process_time()
    pairs = match_positions(truth, found, 3.0)
    assert time.process_time() - start < 5.0
    assert (pairs[:, 0] == pairs[:, 1]).mean() > 0.98 and len(pairs) > 7990


SHAPE = (100, 200)


@pytest.mark.parametrize(
    ("truth", "found", "counts"),
    [
        ((50, 50), (51, 50), (1, 0, 0)),
        ((50, 50), (60, 50), (0, 1, 1)),
        ((9.4, 50), (12, 50), (0, 0, 0)),  # the truth in the strip, found inside: not false
        ((9.6, 50), (8, 50), (1, 0, 0)),  # the truth inside, found in the strip: found
        ((5, 50), (60, 50), (0, 1, 0)),
        ((60, 50), (5, 50), (0, 0, 1)),
        ((-3, 50), (-1, 50), (0, 0, 0)),
        ((189.4, 89.4), (189.4, 89.4), (1, 0, 0)),
        ((189.6, 50), (189.6, 50), (0, 0, 0)),
        ((50, 89.6), (50, 89.6), (0, 0, 0)),
    ],
)
def test_the_border_is_left_out_for_both(truth: tuple, found: tuple, counts: tuple) -> None:
    one, other = np.array([truth]), np.array([found])
    judged = judge_positions(one, other, SHAPE, 4.0, 10.0)
    assert tally_positions(judged, one, other, SHAPE)[0].tolist() == list(counts)


def test_without_a_border_the_image_ends_half_a_pixel_beyond_its_pixels() -> None:
    points = np.array([[-0.5, 0], [-0.6, 0], [199.4, 99.4], [199.6, 99]])
    judged = judge_positions(points, np.zeros((0, 2)), SHAPE, 3, 0)
    assert judged.missed.tolist() == [True, False, True, False]


def test_positions_are_counted_in_the_block_where_they_are() -> None:
    truth = np.array([[10.0, 10], [150, 10], [150, 90]])
    found = np.array([[11.0, 10], [20, 90]])
    judged = judge_positions(truth, found, SHAPE, 3, 0)
    parts = tally_positions(judged, truth, found, SHAPE, 2)
    assert parts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_kinds_that_are_mistaken_for_others_are_counted() -> None:
    truth = np.array([[10.0, 10], [50, 10], [90, 10], [2, 50]])
    found = np.array([[10.0, 11], [50, 11], [150, 50], [2, 50]])
    judged = judge_positions(truth, found, SHAPE, 3, 5)
    table = count_kinds(
        truth, np.array([1, 1, 2, 1]), found, np.array([1, 2, 2, 1]), judged, classes=2
    )
    assert table.tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 0]]


def test_otsu_parts_two_heaps_in_the_middle_of_the_gap() -> None:
    generator = np.random.default_rng(0)
    heaps = np.concatenate([generator.uniform(0, 1, 3000), generator.uniform(5, 6, 1000)])
    assert find_otsu_threshold(heaps) == pytest.approx(3.0, abs=0.05)
    assert find_otsu_threshold(np.full(5, 2.0)) == 2.0


def test_otsu_maximises_the_variance_between_classes() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=5000)
    cut = find_otsu_threshold(values)

    def between(threshold: float) -> float:
        upper = values > threshold
        share = upper.mean()
        return share * (1 - share) * (values[upper].mean() - values[~upper].mean()) ** 2

    best = max(between(t) for t in np.linspace(values.min() + 0.01, values.max() - 0.01, 2000))
    assert between(cut) == pytest.approx(best, rel=1e-3)


def test_everything_a_particle_scores_by_their_share() -> None:
    truth = np.zeros((64, 64), np.uint8)
    truth[:, :32] = 3
    image = np.random.default_rng(0).normal(size=(64, 64))
    tallies = tally_baselines(image, truth, 1.0)
    assert score(tallies[0, 0])[2] == pytest.approx(2 / 3)  # 2 p / (1 + p) of a share p


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_best_otsu_sees_particles_that_are_darker_or_brighter_on_average(sign: int) -> None:
    y, x = np.mgrid[:128, :128]
    truth = (np.hypot(y - 60, x - 70) < 40).astype(np.uint8)
    noise = np.random.default_rng(0).normal(size=truth.shape)
    image = sign * 0.6 * truth + np.sin(2 * np.pi * x / 4) * truth + noise
    tallies = tally_baselines(image, truth, 0.5)
    chosen = choose_baselines(tallies)
    assert next(iter(chosen)) == ALL and chosen[ALL] == 0
    name, number = list(chosen.items())[1]
    assert name_baselines()[number] == name
    assert name.endswith("bright" if sign > 0 else "dark")
    assert score(tallies[number].sum(axis=0))[2] > 0.9
    # The unblurred half of the candidates is drowned by noise: blurring is what helps.
    assert score(tallies[number].sum(axis=0))[2] > score(tallies[1 + (sign > 0)].sum(axis=0))[2]


def test_images_of_one_structure_are_one_unit_of_the_interval() -> None:
    """Six images of one structure have no interval; their blocks at the same place are one."""

    def interval(groups: list[int], blocks: int) -> tuple[float | None, float | None]:
        tally = np.array([[[j + 5, 1, j]] * 2 for j in range(blocks)])
        records = [
            Record("x", k, positions=tally + k, mistaken=np.zeros((2, 2)))
            for k in range(len(groups))
        ]
        found = sum_up(records, ["one"], np.array(groups), [1], 0)
        one = found["positions"]["one"]["f1"]
        return one["low"], one["high"]

    assert interval([0] * 6, 1) == (None, None)
    assert None not in interval([0, 0, 0, 1, 1, 1], 1)
    assert None not in interval([0] * 6, 4)
