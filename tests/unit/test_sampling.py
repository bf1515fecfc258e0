"""Random streams and distributions: pinned draws, independence, truncation, statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hpctem.errors import SampleError
from hpctem.sampling import Distribution, Streams, constant

STREAMS = Streams(seed=20240101)
TWO = Distribution("choice", values=("twin", "stacking_fault"), weights=(0.75, 0.25))
BOUNDED = Distribution("normal", parameters=(4.0, 1.0), bounds=(3.0, 5.0))
CLIPPED = Distribution("normal", parameters=(4.0, 1.0), bounds=(3.0, 5.0), clip=True)

# The first draws of every distribution: whoever changes these changes every campaign.
GOLDEN = {
    "constant": (constant(4.0), [4.0, 4.0, 4.0, 4.0]),
    "uniform": (
        Distribution("uniform", parameters=(2.0, 8.0)),
        [6.284492463895433, 3.030303257392736, 2.6969914742531387, 6.32306927368965],
    ),
    "log_uniform": (
        Distribution("log_uniform", parameters=(1.0, 1e4)),
        [2154.15419518823, 5.655378915926032, 888.392409764048, 796.0401935475319],
    ),
    "normal": (
        Distribution("normal", parameters=(4.0, 1.0)),
        [4.414961120625918, 3.1395286966901743, 4.438652895419639, 4.9286982395802585],
    ),
    "truncated": (
        BOUNDED,
        [4.007890871489, 3.017981342517349, 4.963897468669042, 3.9440428049396115],
    ),
    "clipped": (CLIPPED, [3.0, 5.0, 4.5960453288894865, 3.0]),
    "choice": (Distribution("choice", values=(0, 1, 2, 3), integer=True), [1, 1, 1, 0]),
    "weighted": (TWO, ["stacking_fault", "twin", "twin", "twin"]),
    "grid": (
        Distribution("grid", values=(-50.0, 0.0, 50.0), std=2.0),
        [-54.49712391418166, 3.1979527764270665, 51.091901571882424, -51.21825455139023],
    ),
    "integers": (Distribution("uniform", parameters=(1, 6), integer=True), [5, 2, 2, 3]),
}


def draws(distribution: Distribution, count: int, name: str = "test") -> np.ndarray:
    return np.array([distribution.draw(STREAMS(name, i), i) for i in range(count)])


@pytest.mark.parametrize("name", GOLDEN)
def test_first_draws_are_pinned(name: str) -> None:
    distribution, expected = GOLDEN[name]
    drawn = [distribution.draw(STREAMS(f"golden/{name}", i), i) for i in range(4)]
    if isinstance(expected[0], str):
        assert drawn == expected
    else:
        assert drawn == pytest.approx(expected, rel=1e-12)


def test_streams_depend_on_seed_name_and_index_alone() -> None:
    first = STREAMS("structure/radius", 7).random(5)
    assert (STREAMS("structure/radius", 7).random(5) == first).all()
    others = [
        STREAMS("structure/radius", 8),
        STREAMS("structure/x", 7),
        Streams(1)("structure/radius", 7),
    ]
    assert not any((other.random(5) == first).any() for other in others)


def test_neighbouring_samples_share_no_draws() -> None:
    """With the index in the lowest word of the counter, sample i + 1 would repeat sample i."""
    pools = [set(STREAMS("phonon/3", i).random(4000)) for i in range(4)]
    assert not set.intersection(pools[0], pools[1])
    assert len(set.union(*pools)) == 16000


def test_neighbouring_samples_are_uncorrelated() -> None:
    first = np.array([STREAMS("a", i).random() for i in range(4000)])
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / math.sqrt(4000)
    assert stats.kstest(first, "uniform").pvalue > 1e-4


def test_truncated_normal_follows_its_law() -> None:
    """Kolmogorov-Smirnov against scipy's truncated normal, 4000 draws."""
    sample = draws(BOUNDED, 4000)
    assert stats.kstest(sample, stats.truncnorm(-1, 1, loc=4, scale=1).cdf).pvalue > 1e-4
    assert sample.min() >= 3 and sample.max() <= 5


@pytest.mark.parametrize("low, high", [(6.0, 8.0), (-8.0, -6.0), (9.0, math.inf)])
def test_truncation_far_in_a_tail_keeps_its_law(low: float, high: float) -> None:
    tail = Distribution("normal", parameters=(0.0, 1.0), bounds=(low, high))
    sample = draws(tail, 2000)
    expected = stats.truncnorm(low, high).mean()
    spread = stats.truncnorm(low, high).std() / math.sqrt(2000)
    assert abs(sample.mean() - expected) < 4 * spread
    assert len(set(sample)) > 1900


def test_clipping_puts_the_tails_on_the_bounds() -> None:
    """With bounds at one sigma 31.7 % of the draws land on them; truncation leaves none there."""
    clipped = draws(CLIPPED, 4000)
    share = np.mean((clipped == 3) | (clipped == 5))
    assert abs(share - 0.3173) < 4 * math.sqrt(0.3173 * 0.6827 / 4000)
    assert not np.isin(draws(BOUNDED, 1000), [3, 5]).any()


def test_choice_follows_its_weights() -> None:
    share = np.mean(draws(TWO, 4000) == "twin")
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 4000)


def test_zero_weight_is_never_chosen() -> None:
    never = Distribution("choice", values=(1, 2, 3), weights=(0.0, 1.0, 0.0), integer=True)
    assert set(draws(never, 200)) == {2}


def test_grid_cycles_and_spreads() -> None:
    grid = Distribution("grid", values=(-500.0, 0.0, 500.0), std=20.0)
    sample = draws(grid, 3000).reshape(-1, 3)
    assert np.abs(sample.mean(axis=0) - [-500, 0, 500]).max() < 4 * 20 / math.sqrt(1000)
    assert np.abs(sample.std(axis=0) - 20).max() < 4 * 20 / math.sqrt(2000)


def test_a_draw_beyond_the_allowed_range_is_a_bad_sample() -> None:
    spread = Distribution("normal", parameters=(0.0, 1.0), allowed=(0.0, math.inf))
    with pytest.raises(SampleError, match="allowed range 0 to inf"):
        draws(spread, 20)


@settings(max_examples=200, deadline=None)
@given(
    mean=st.floats(-100, 100),
    std=st.floats(0.01, 50),
    low=st.floats(-5, 3),
    width=st.floats(0.01, 8),
    index=st.integers(0, 2**32),
)
def test_truncated_draws_stay_inside(
    mean: float, std: float, low: float, width: float, index: int
) -> None:
    bounds = (mean + low * std, mean + (low + width) * std)
    value = Distribution("normal", parameters=(mean, std), bounds=bounds).draw(STREAMS("x", index))
    assert bounds[0] <= value <= bounds[1]
