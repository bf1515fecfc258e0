"""Learning rates: what the papers print, between epochs, and with many ranks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpctem.learning.training.schedules import cyclegan_rate, segmentation_rate
from hpctem.sections.training import CycleOptimiser, Optimiser


def test_segmentation_rate_decays_with_every_whole_epoch_as_in_the_paper() -> None:
    rate = segmentation_rate(Optimiser(learning_rate=1e-3, decay=0.8), size=1)

    assert [rate(float(epoch)) for epoch in range(4)] == pytest.approx(
        [1e-3, 0.8e-3, 0.64e-3, 0.512e-3], rel=1e-12
    )
    assert rate(2.999) == rate(2.0)
    assert rate(24.0) == pytest.approx(1e-3 * 0.8**24, rel=1e-12)


def test_rates_know_the_number_of_ranks_only_where_asked() -> None:
    plain = Optimiser(learning_rate=1e-3)
    scaled = Optimiser(learning_rate=1e-3, scale_with_ranks=True)
    cycle = CycleOptimiser(learning_rate=2e-4, scale_with_ranks=True)

    assert segmentation_rate(plain, size=8)(3.0) == 1e-3
    assert segmentation_rate(scaled, size=8)(3.0) == pytest.approx(8e-3)
    assert cyclegan_rate(cycle, 10, size=4)(0.0) == pytest.approx(8e-4)
    assert cyclegan_rate(CycleOptimiser(learning_rate=2e-4), 10, size=4)(0.0) == 2e-4


def test_warm_up_rises_linearly_within_epochs_and_ends_at_the_scaled_rate() -> None:
    section = Optimiser(learning_rate=1e-3, scale_with_ranks=True, warm_up=2.5)
    rate = segmentation_rate(section, size=4)

    assert rate(0.0) == 0
    assert rate(0.5) == pytest.approx(4e-3 * 0.2)
    assert rate(1.25) == pytest.approx(4e-3 * 0.5)
    assert rate(2.5) == rate(7.0) == pytest.approx(4e-3)


def test_warm_up_and_decay_multiply() -> None:
    rate = segmentation_rate(Optimiser(learning_rate=1.0, decay=0.5, warm_up=4.0), size=1)

    assert rate(2.5) == pytest.approx(0.5**2 * 2.5 / 4)


def test_cyclegan_rate_is_constant_for_148_of_297_epochs_then_falls_to_zero() -> None:
    rate = cyclegan_rate(CycleOptimiser(), epochs=297, size=1)

    assert rate(0.0) == rate(147.5) == rate(148.0) == 2e-4
    assert rate(148.0 + 149 / 2) == pytest.approx(1e-4)
    assert rate(149.0) == pytest.approx(2e-4 * 148 / 149)
    assert rate(297.0) == rate(300.0) == 0


def test_cyclegan_rate_follows_the_given_number_of_constant_epochs() -> None:
    early = cyclegan_rate(CycleOptimiser(learning_rate=1.0, constant_epochs=0), 4, size=1)
    never = cyclegan_rate(CycleOptimiser(learning_rate=1.0, constant_epochs=4), 4, size=1)

    assert [early(epoch) for epoch in (0.0, 1.0, 2.0, 4.0)] == [1.0, 0.75, 0.5, 0.0]
    assert never(3.99) == never(4.0) == 1.0


def test_schedules_need_no_tensorflow() -> None:
    code = "import sys, hpctem.learning.training.schedules; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
