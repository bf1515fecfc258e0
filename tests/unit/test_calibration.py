"""A calibration tells what a campaign costs here, and what another one would."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from small_campaigns import SMALL, write_campaign

from hpctem.backend import select_backend
from hpctem.calibration import sites
from hpctem.calibration.calibrate import (
    Calibration,
    average_calibrations,
    calibrate,
    cost_signature,
)
from hpctem.calibration.estimate import estimate
from hpctem.calibration.hrtem_steps import time_structure
from hpctem.calibration.hrtem_work import Passage, describe_structure
from hpctem.calibration.machine import count_cores
from hpctem.calibration.roofline import Roofs, count_bytes, count_operations, roof_seconds
from hpctem.calibration.transforms import (
    choose_ladder,
    floor_seconds,
    time_transforms,
    transform_seconds,
)
from hpctem.calibration.workload import describe_work
from hpctem.campaign_file import CampaignFile, read_campaign
from hpctem.errors import ConfigError, SampleError
from hpctem.hrtem.campaign import compute_structure
from hpctem.hrtem.experiment import Experiment
from hpctem.optics import passes
from hpctem.optics.lanes import LANES
from hpctem.parallel import Communicator
from hpctem.planning import prepare
from hpctem.planning.show import describe_benchmark, format_benchmark
from hpctem.simulate import lay_out

pytestmark = pytest.mark.alone
CPU = select_backend("cpu")
PHONONS = ("phonons: {configurations: 2}", "phonons: {configurations: 12}")
LARGER = (
    ("3.2 nm, 3.2 nm", "9.6 nm, 9.6 nm"),
    PHONONS,
    ("foci: 2", "foci: 5"),
    ("{uniform: [6 A, 12 A]}", "24 A"),
)


def write(folder: Path, *changes: tuple[str, str]) -> CampaignFile:
    return read_campaign(write_campaign(folder, *changes))


def set_up(campaign: CampaignFile) -> tuple[Experiment, object, range]:
    experiment = Experiment(campaign.config, CPU)
    structures = range(campaign.config.campaign.structures)
    return experiment, lay_out(campaign, experiment, structures), structures


def measure(campaign: CampaignFile, folder: Path, structures: int = 2) -> Calibration:
    return calibrate(campaign, CPU, folder, Communicator(), structures)


@pytest.fixture(scope="module", autouse=True)
def processor_time() -> Iterator[None]:
    """What other processes take does not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", time.process_time)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Calibration:
    return measure(read_campaign(SMALL), tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    "changes",
    [
        (("  phonons: {configurations: 2}\n", ""),),
        (("  phonons: {configurations: 2}\n", ""), ("dose: {", "median: stored\n  dose: {")),
    ],
    ids=["still", "median"],
)
def test_what_is_timed_is_what_the_main_job_computes(tmp_path, changes):
    campaign = write(tmp_path, *changes)
    experiment, layout, _ = set_up(campaign)
    timed = time_structure(experiment, 2, layout).rows
    rows = compute_structure(experiment, 2)
    assert timed.keys() == rows.keys()
    for path, values in rows.items():
        np.testing.assert_array_equal(timed[path], values, err_msg=path)


def test_two_phonons_stand_for_all(tmp_path):
    """The steps add up to the time of the whole structure; without scaling they would not."""
    campaign = write(tmp_path, *LARGER)
    experiment, layout, _ = set_up(campaign)
    time_structure(experiment, 0, layout)
    wholes, timed = [], []
    for _ in range(3):  # the shortest of several turns of both
        begin = time.process_time()
        compute_structure(experiment, 1)
        wholes.append(time.process_time() - begin)
        timed.append(sum(time_structure(experiment, 1, layout).seconds.values()))
    assert 0.6 < min(timed) / min(wholes) < 1.7  # a sixth with the phonons left as computed


def test_steps_and_rates_say_the_same(small):
    experiment, layout, structures = set_up(read_campaign(SMALL))
    signature = cost_signature(read_campaign(SMALL))
    work = describe_work(experiment, layout, structures)
    cost = estimate(small, work, signature)
    assert cost.measured and not cost.notes
    assert cost.seconds == pytest.approx(small.structure_seconds, rel=0.3)
    own = estimate(small, small.work, signature)
    for step, seconds in small.seconds.items():
        assert own.steps[step] == pytest.approx(seconds), step


def test_another_campaign_is_foretold(tmp_path, small):
    """Nine times the pixels, six times the phonons, other slices and foci: 50 times the work."""
    campaign = write(tmp_path, *LARGER)
    experiment, layout, structures = set_up(campaign)
    cost = estimate(small, describe_work(experiment, layout, structures), cost_signature(campaign))
    real = measure(campaign, tmp_path, 1).structure_seconds
    assert real > 15 * small.structure_seconds
    assert not cost.measured and cost.error > 0.4
    assert real / 3 < cost.seconds < 3 * real


def test_other_physics_is_told_and_widens_the_error(tmp_path, small):
    changes = ("  energy: 200 keV", "  energy: 200 keV\n  projection: finite")
    campaign = write(tmp_path, changes)
    experiment, layout, structures = set_up(campaign)
    work = describe_work(experiment, layout, structures)
    same = dataclasses.replace(work, finite=False)
    cost = estimate(small, work, cost_signature(campaign))
    assert cost.error > estimate(small, same, cost_signature(campaign)).error
    assert any("projection" in note for note in cost.notes)
    assert any("depth functions: not timed" in note for note in cost.notes)


def test_average_work_is_near_the_campaigns_mean():
    experiment, layout, structures = set_up(read_campaign(SMALL))
    work = describe_work(experiment, layout, structures)
    sampled = [experiment.structure(index) for index in structures]
    passed = [describe_structure(experiment, i, s, layout) for i, s in enumerate(sampled)]
    assert work.whole.fields == pytest.approx(np.mean([one.whole.fields for one in passed]))
    assert work.planes == pytest.approx(np.mean([one.planes for one in passed]))
    assert work.atoms == pytest.approx(np.mean([len(s.positions) for s in sampled]))
    assert work.particles == pytest.approx(np.mean([len(s.particles) for s in sampled]))
    assert (work.phonons, work.foci, work.images) == (2, 2, 4)
    assert work.wave == experiment.grids.wave and work.stored == (96, 96)
    assert work.stored_bytes == layout.structure_bytes


class Counter:
    """Counts blocks of eight lines that the passes over fields transform, by their length."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: dict[int, int] = {}
        self.looks = 0
        for name in COUNTED:
            monkeypatch.setattr(passes, name, self._watch(name, getattr(passes, name)))

    def _watch(self, name: str, work: Callable) -> Callable:
        def counted(*values: object) -> object:
            blocks, plan = COUNTED[name](values)
            length = plan.order.size
            self.lines[length] = self.lines.get(length, 0) + blocks
            self.looks += name == "add_intensity"
            return work(*values)

        return counted


# Arguments -> blocks transformed, and the plan that they are transformed by.
COUNTED = {
    "transform_atoms": lambda v: (len(v[0]), v[7]),
    "weigh": lambda v: (len(v[0]), v[3]),
    "invert_lines": lambda v: (len(v[1]), v[2]),
    "filter_lines": lambda v: (2 * len(v[1]), v[2]),
    "make_phase_objects": lambda v: (len(v[2]) + len(v[0]) + len(v[1]), v[6]),
    "multiply_fields": lambda v: (3 * len(v[0]), v[3]),
    "propagate_lines": lambda v: ((2 - bool(v[5].size)) * len(v[1]), v[4]),
    "focus_lines": lambda v: (len(v[1]), v[4]),
    "add_intensity": lambda v: (len(v[1]), v[4]),
}
STILL = ("  phonons: {configurations: 2}\n", "")
FINITE = ("  energy: 200 keV", "  energy: 200 keV\n  projection: finite")
APERTURE = ("  foci: 2", "  objective_aperture: 12 mrad\n  foci: 5")


@pytest.mark.parametrize(
    "changes",
    [(STILL,), (), (STILL, FINITE), (STILL, APERTURE)],
    ids=["still", "phonons", "finite", "aperture"],
)
def test_transforms_are_those_that_are_done(tmp_path, monkeypatch, changes):
    """Line by line as the passes do them; phonons and depth functions differ a little by atom."""
    experiment, layout, _ = set_up(write(tmp_path, *changes))
    counter = Counter(monkeypatch)
    for index in range(2):
        counter.lines.clear()
        counter.looks = 0
        compute_structure(experiment, index)
        work = describe_structure(experiment, index, experiment.structure(index), layout)
        said: dict[int, float] = {}
        for counts in work.transforms(by_lines=True).values():
            for shape, number in counts.items():
                if len(shape) == 1:
                    said[shape[0]] = said.get(shape[0], 0) + number
        exact = changes in ((STILL,), (STILL, APERTURE))
        assert said == pytest.approx(counter.lines, rel=1e-9 if exact else 0.15)
        assert counter.looks == work.planes * work.phonons


def test_a_gpu_transforms_whole_fields():
    experiment, layout, _ = set_up(read_campaign(SMALL))
    work = describe_structure(experiment, 0, experiment.structure(0), layout)
    passage = Passage(slices=10.0, pairs=5.0, fields=7.0)
    work = dataclasses.replace(work, whole=passage, phonons=3, waves=2, foci=4, planes=5.0)
    done = work.transforms(by_lines=False)
    # a slice: t there and back, psi there and back; a pair of slices: its elements there, V back
    assert work.exit == work.wave
    assert done["exit waves"] == {work.wave: 2 * 3 * (10 * 4 - 1 + 7 + 5 + 1)}
    assert done["imaging"] == {work.exit: 2 * 3 + 3 * 5}
    masked = dataclasses.replace(work, mask="phase", particles=2.0, parts=passage)
    # two particles: potential and blur of each wave; multislice and a propagation of each alone
    assert masked.transforms(False)["labels"] == {work.wave: 2 * 2 * 4 + 2 * 3 * (51 + 2 * 3)}
    bare = dataclasses.replace(masked, particles=0.0, parts=Passage())
    assert bare.transforms(False)["labels"] == {work.wave: 0}


def test_transform_times_are_interpolated():
    timed = {(64, 64): 1.0e-4, (256, 256): 3.2e-3}
    assert transform_seconds((64, 64), timed) == 1.0e-4
    per_work = [1.0e-4 / (4096 * 12), 3.2e-3 / (65536 * 16)]
    between = transform_seconds((128, 128), timed) / (16384 * 14)
    assert between == pytest.approx(np.mean(per_work))
    assert transform_seconds((512, 512), timed) == pytest.approx(per_work[1] * 262144 * 18)
    assert floor_seconds({(64, 64): 10, (256, 256): 2}, timed) == pytest.approx(7.4e-3)
    # lines know nothing of fields, also of as many numbers
    lines = timed | {(100,): 1e-6, (4096,): 1.0}
    assert transform_seconds((50, 2), lines) == pytest.approx(per_work[0] * 100 * np.log2(100))
    assert transform_seconds((64, 64), lines) == 1.0e-4


def test_larger_transforms_take_longer():
    timed = time_transforms([(64, 64), (512, 512), (64, 64), (64,), (1024,)], CPU)
    assert list(timed) == [(64, 64), (512, 512), (64,), (1024,)]
    assert 10 < timed[512, 512] / timed[64, 64] < 1000
    assert 5 < timed[1024,] / timed[64,] < 200


def test_every_line_that_a_grid_has_is_timed():
    ladder = choose_ladder(CPU, [(640,), (320, 320)])
    assert {(64,), (480,), (600,), (640,), (2048,)} <= set(ladder)
    on_gpu = choose_ladder(dataclasses.replace(CPU, name="cupy"), [])
    assert {len(shape) for shape in on_gpu} == {2} and len(ladder) == len(set(ladder))


def test_a_step_takes_longer_than_its_transforms_alone(small):
    for step, floor in small.floors.items():
        assert 0 < floor < small.seconds[step], step


def test_the_roof_counts_what_any_transform_must_do():
    """5 n log2 n operations; lines and fields read and written once for there and back."""
    assert count_operations((1024,)) == 8 * 5 * 1024 * 10
    assert count_operations((64, 128)) == 5 * 8192 * 13
    assert count_operations((1, 64, 128)) == 2.5 * 8192 * 13
    # all lines of a field along one axis and the other are the field: 64 of 128, 128 of 64
    lines = (64 / LANES) * count_bytes((128,)) + (128 / LANES) * count_bytes((64,))
    assert lines == count_bytes((64, 128)) == 2 * 8192 * 8
    assert roof_seconds({(1024,): 10}, Roofs(1e9, 1e12)) == pytest.approx(10 * 409600 / 1e9)
    assert roof_seconds({(1024,): 10}, Roofs(1e15, 1e9)) == pytest.approx(10 * 65536 / 1e9)
    assert roof_seconds({(1024,): 10}, Roofs()) == 0


def test_no_transform_goes_through_the_roof(small):
    assert small.roofs.operations > 1e9 and small.roofs.bytes > 1e8
    for step, roof in small.roof_seconds.items():
        assert 0 < roof < small.floors[step] < small.seconds[step], step


def test_slow_transforms_do_not_come_near_the_roof(small):
    """Twice as slow transforms are a larger share of their step, and a smaller one of the roof."""
    slow = dataclasses.replace(
        small,
        floors={step: 2 * floor for step, floor in small.floors.items()},
        seconds={s: t + small.floors.get(s, 0.0) for s, t in small.seconds.items()},
    )
    before, after = (describe_benchmark([one], None) for one in (small, slow))
    assert after["floor_share"] > before["floor_share"]
    assert after["roof_share"] < before["roof_share"]
    (line,) = (t for t in format_benchmark([small], None).splitlines() if "a structure" in t)
    assert line.endswith(f" {before['roof_share']:.0%}")


def test_calibrations_of_older_versions_know_no_roof(small):
    described = json.loads(json.dumps(sites.describe(small)))
    del described["roofs"]
    older = sites.rebuild(described)
    assert dataclasses.replace(older, roofs=small.roofs) == small
    assert describe_benchmark([older], None)["roof_share"] == 0


def test_signature_is_of_the_cost_alone(tmp_path):
    small = cost_signature(read_campaign(SMALL))
    same = (
        ("name: small", "name: other"),
        ("seed: 7", "seed: 8"),
        ("structures: 6", "structures: 9"),
    )
    assert cost_signature(write(tmp_path, *same)) == small
    assert cost_signature(write(tmp_path, PHONONS)) != small


def test_calibrations_are_kept_and_read_back(tmp_path, monkeypatch, small):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = sites.keep_calibration("my-site", small)
    assert path == tmp_path / "hpctem/calibrations/my-site.json"
    assert sites.read_calibrations("my-site") == [small]
    later = dataclasses.replace(small, made="later")
    more = dataclasses.replace(small, ranks=2)
    for calibration in (later, more):
        sites.keep_calibration("my-site", calibration)
    assert sites.read_calibrations("my-site") == [later, more]
    assert sites.choose_calibration([later, more], small.work, small.signature) == more


def test_the_likest_campaign_is_chosen(tmp_path, small):
    campaign = write(tmp_path, *LARGER)
    experiment, layout, structures = set_up(campaign)
    work = describe_work(experiment, layout, structures)
    twin = dataclasses.replace(small, campaign="twin", signature="x", work=work)
    assert sites.choose_calibration([small, twin], work, "y") == twin
    assert sites.choose_calibration([small, twin], small.work, "y") == small
    assert sites.choose_calibration([small, twin], work, small.signature) == small


def test_the_device_asked_for_is_chosen(small):
    machine = dataclasses.replace(small.machine, device="NVIDIA H100 (device 0)")
    on_gpu = dataclasses.replace(small, machine=machine)
    busy = dataclasses.replace(small, ranks=64)
    kept = [small, on_gpu, busy]
    assert prepare.choose_device(kept, "auto", "x") == kept
    assert prepare.choose_device(kept, "cpu", "x") == [small, busy]
    assert prepare.choose_device(kept, "cuda", "x") == [on_gpu]
    assert sites.choose_calibration(kept, small.work, small.signature) == on_gpu
    with pytest.raises(ConfigError, match="no calibration with --device cuda, only with"):
        prepare.choose_device([small], "cuda", "x")


@pytest.mark.parametrize("site", ["", "../x", "a/b", ".hidden", "x" * 65, "a b"])
def test_sites_are_names(site):
    with pytest.raises(ConfigError, match="is no name"):
        sites.site_path(site)


def test_missing_and_damaged_calibrations_say_what_to_do(tmp_path, monkeypatch, small):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = sites.keep_calibration("cluster", small)
    with pytest.raises(ConfigError, match=r"did you mean 'cluster'.*--site clustre --calibrate"):
        sites.read_calibrations("clustre")
    whole = path.read_text()
    document = json.loads(whole)
    del document["calibrations"][0]["rates"]
    for text in ("", "{}", "[1]", "not json", whole[:-200], json.dumps(document)):
        path.write_text(text)
        with pytest.raises(ConfigError, match="delete it and calibrate again"):
            sites.read_calibrations("cluster")


def test_a_campaign_without_a_good_structure_is_refused(tmp_path):
    campaign = write(tmp_path, ("dose: {grid: [400 e/A^2, 1600 e/A^2]", "dose: {grid: [4e6 e/A^2]"))
    with pytest.raises(SampleError, match="structures in a row fail"):
        measure(campaign, tmp_path)


def test_structures_that_fail_now_and_then_are_left_out(tmp_path, monkeypatch):
    """Ten in a row are too many, not ten in all."""
    begun = []

    def fail_thrice_of_four(*given):
        begun.append(given[1])
        if len(begun) % 4:
            raise SampleError("fails")
        return time_structure(*given)

    monkeypatch.setattr("hpctem.calibration.hrtem_steps.time_structure", fail_thrice_of_four)
    found = measure(read_campaign(SMALL), tmp_path, 4)
    assert found.timed == 4 and len(begun) == 20


def test_nothing_is_left_in_the_folder(tmp_path):
    measure(read_campaign(SMALL), tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_ranks_are_averaged(small):
    slow = dataclasses.replace(
        small,
        seconds={step: 3 * s for step, s in small.seconds.items()},
        peak=2 * small.peak,
    )
    mean = average_calibrations([small, slow])
    assert mean.structure_seconds == pytest.approx(2 * small.structure_seconds)
    assert mean.peak == 2 * small.peak and mean.timed == 2 * small.timed
    assert mean.bandwidth == pytest.approx(small.bandwidth)


def test_cores_are_counted():
    import os

    assert 1 <= count_cores() <= (os.cpu_count() or 1)
