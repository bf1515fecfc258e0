"""Frozen phonons: Gaussian, of the right size, independent between axes and atoms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpctem.errors import ConfigError
from hpctem.structures.phonons import RMS_300K, displacements

NUMBERS = np.repeat([79, 6], [30_000, 20_000])


def draw(seed: int = 1) -> np.ndarray:
    return displacements(NUMBERS, RMS_300K, np.random.default_rng(seed))


@pytest.mark.parametrize("number", [79, 6])
def test_gaussian_of_the_tabulated_size(number: int) -> None:
    """Per axis: mean 0, the rms of the table (4.5 standard errors), normal in shape."""
    chosen = draw()[NUMBERS == number]
    count, rms = len(chosen), RMS_300K[number]
    for axis in chosen.T:
        assert abs(axis.mean()) < 4.5 * rms / np.sqrt(count)
        assert axis.std() == pytest.approx(rms, rel=4.5 / np.sqrt(2 * count))
        assert stats.kstest(axis / rms, "norm").pvalue > 1e-3


def test_axes_and_neighbours_are_independent() -> None:
    u = draw() / np.array([RMS_300K[n] for n in NUMBERS])[:, None]
    bound = 4.5 / np.sqrt(len(u))
    correlation = np.corrcoef(u.T) - np.eye(3)
    assert np.abs(correlation).max() < bound
    assert not np.array_equal(u[:, 0], u[:, 1])
    for lag in (1, 2, 3):
        assert np.abs((u[lag:] * u[:-lag]).mean(axis=0)).max() < bound


def test_only_the_generator_decides() -> None:
    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))
    assert draw().dtype == np.float64 and draw().shape == (50_000, 3)


def test_an_atom_keeps_its_displacement_whatever_the_others_are() -> None:
    """The draw of atom i does not depend on which elements the other atoms are."""
    other = NUMBERS.copy()
    other[100:] = 47
    np.testing.assert_array_equal(
        draw()[:100], displacements(other, RMS_300K, np.random.default_rng(1))[:100]
    )


def test_published_values() -> None:
    """Sears & Shelley 1991: u = sqrt(B / 8 pi^2), gold B = 0.62 A^2; the project's four."""
    assert RMS_300K[79] == 0.089
    assert (RMS_300K[6], RMS_300K[48], RMS_300K[34]) == (0.08, 0.113, 0.10)
    assert 8 * np.pi**2 * RMS_300K[29] ** 2 == pytest.approx(0.56, abs=0.01)


def test_element_without_a_value() -> None:
    with pytest.raises(ConfigError, match=r"U has no .* simulation\.phonons\.rms"):
        displacements(np.array([6, 92]), RMS_300K, np.random.default_rng(1))
    own = {**RMS_300K, 92: 0.06}
    assert displacements(np.array([6, 92]), own, np.random.default_rng(1)).shape == (2, 3)
