"""A calibration of a STEM campaign: its steps are the main job's, its figures foretell others."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from small_campaigns import SMALL, SMALL_STEM, write_campaign

from hpctem.backend import Backend, select_backend
from hpctem.calibration import sites, stem_steps
from hpctem.calibration.calibrate import Calibration, calibrate, cost_signature
from hpctem.calibration.estimate import distance, estimate
from hpctem.calibration.stem_work import StemWork, describe_structure
from hpctem.calibration.transforms import choose_ladder, time_transforms
from hpctem.calibration.workload import Timed, choose_steps, describe_work
from hpctem.campaign_file import CampaignFile, read_campaign
from hpctem.database.schema import Layout
from hpctem.errors import ConfigError
from hpctem.optics import passes, probe_passage_cpu
from hpctem.optics.probe_passage import BatchPassage
from hpctem.optics.scan_grid import ScanGrid
from hpctem.optics.stem import frame_tile
from hpctem.parallel import Communicator
from hpctem.planning.prepare import Request, make_plan
from hpctem.simulate import lay_out
from hpctem.stem import pictures
from hpctem.stem.campaign import compute_structure
from hpctem.stem.experiment import Experiment

pytestmark = pytest.mark.alone
CPU = select_backend("cpu")
FILM = "  contamination: {thickness: {uniform: [0 A, 10 A], per: image}}\n"
BEAM = "  beam: {current: {uniform: [20 pA, 40 pA], per: image}, dwell_time: 2 us}\n"
FLYBACK = "    flyback: {amplitude: 0.5 A, time: 10 us, streak: 0.05}\n"
LABELS = "labels: {distance: true, columns: true}\nstorage: {store_atoms: true}"
LARGER = (
    ("pixels: 96", "pixels: 480"),
    ("foci: 2\n", "foci: 1\n"),
    ("images_per_focus: 2", "images_per_focus: 3"),
    ("frames: 3", "frames: 5"),
)
# A thin probe in small windows of a flat layer: two dozen probes a second and more.
MULTISLICE = (
    ("method: incoherent", "method: multislice\n  sampling: 0.07 A\n  window: 12 A"),
    ("  ripples: {amplitude: 0.5 A, wavelength: 40 A}\n", ""),
    ("  displacement: 0.01 A\n", ""),
    ("pixels: 96", "pixels: 32"),
    ("foci: 2\n", "foci: 1\n"),
    ("images_per_focus: 2", "images_per_focus: 1"),
    ("outer: 200 mrad", "outer: 150 mrad"),
    ("{C12: 1 nm, C30: 0.3 um}", "{C12: 0.2 nm, C30: 0.01 um}"),
    ("{normal: {mean: 0 nm, std: 1 nm}, per: focus}", "0 nm"),
)
PHONONS = ("window: 12 A", "window: 12 A\n  phonons: {configurations: 2}")


def write(folder: Path, *changes: tuple[str, str]) -> CampaignFile:
    return read_campaign(write_campaign(folder, *changes, of=SMALL_STEM))


def set_up(campaign: CampaignFile) -> tuple[Experiment, object, range]:
    experiment = Experiment(campaign.config, CPU)
    structures = range(campaign.config.campaign.structures)
    return experiment, lay_out(campaign, experiment, structures), structures


@pytest.fixture(scope="module", autouse=True)
def processor_time() -> Iterator[None]:
    """What other processes take does not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", time.process_time)
        yield


def measure(campaign: CampaignFile, folder: Path, structures: int = 2) -> Calibration:
    return calibrate(campaign, CPU, folder, Communicator(), structures)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Calibration:
    return measure(read_campaign(SMALL_STEM), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def multislice(tmp_path_factory) -> Calibration:
    folder = tmp_path_factory.mktemp("multislice")
    return measure(write(folder, *MULTISLICE), folder, 1)


@pytest.mark.parametrize(
    "changes",
    [(), ((FILM, ""), (BEAM, ""), (FLYBACK, ""), (LABELS, "labels: {defects: {method: disk}}"))],
    ids=["everything", "noise-free"],
)
def test_what_is_timed_is_what_the_main_job_computes(tmp_path, changes):
    experiment, layout, _ = set_up(write(tmp_path, *changes))
    timed = stem_steps.time_structure(experiment, 2, layout)
    rows = compute_structure(experiment, 2)
    assert timed.rows.keys() == rows.keys()
    for path, values in rows.items():
        np.testing.assert_array_equal(timed.rows[path], values, err_msg=path)
    assert ("film" in timed.seconds) == (not changes)
    # every step has a unit, and no unit is of a step that is not there
    units = timed.work.units() | timed.work.transforms(True)
    assert timed.seconds.keys() | {"digests", "writing"} == {s for s, unit in units.items() if unit}


def time_both(experiment: Experiment, layout: Layout) -> tuple[float, Timed]:
    """Seconds of structure 1 and what is said of it, each the shortest of three turns."""
    wholes, timed = [], []
    for _ in range(3):
        begin = time.process_time()
        compute_structure(experiment, 1)
        wholes.append(time.process_time() - begin)
        timed.append(stem_steps.time_structure(experiment, 1, layout))
    return min(wholes), min(timed, key=lambda one: sum(one.seconds.values()))


def test_some_probes_stand_for_all(tmp_path):
    """Of 4 tiles, two configurations and a hundred times the probes that are timed."""
    campaign = write(tmp_path, *MULTISLICE, PHONONS)
    experiment, layout, _ = set_up(campaign)
    stem_steps.time_structure(experiment, 0, layout)
    whole, timed = time_both(experiment, layout)
    # A tenth where they are not scaled.
    assert 0.6 < sum(timed.seconds.values()) / whole < 1.7
    assert timed.seconds["probes"] > 0.5 * whole


def test_some_images_and_foci_stand_for_all(tmp_path):
    many = write(
        tmp_path, ("foci: 2\n", "foci: 20\n"), ("images_per_focus: 2", "images_per_focus: 3")
    )
    experiment, layout, _ = set_up(many)
    whole, timed = time_both(experiment, layout)
    rows = compute_structure(experiment, 1)
    assert 0.6 < sum(timed.seconds.values()) / whole < 1.7
    path = "/entry/images/intensity"
    assert timed.rows[path].shape == rows[path].shape == (60, 96, 96)
    np.testing.assert_array_equal(timed.rows[path][:24], rows[path][:24])


def test_steps_and_rates_say_the_same(small):
    campaign = read_campaign(SMALL_STEM)
    experiment, layout, structures = set_up(campaign)
    cost = estimate(small, describe_work(experiment, layout, structures), cost_signature(campaign))
    assert cost.measured and not cost.notes
    assert cost.seconds == pytest.approx(small.structure_seconds, rel=0.3)
    own = estimate(small, small.work, cost_signature(campaign))
    for step, seconds in small.seconds.items():
        assert own.steps[step] == pytest.approx(seconds), step


def test_another_campaign_is_foretold(tmp_path, small):
    """25 times the pixels in three images for four: without what calls take, ten times too long."""
    campaign = write(tmp_path, *LARGER)
    experiment, layout, structures = set_up(campaign)
    cost = estimate(small, describe_work(experiment, layout, structures), cost_signature(campaign))
    real = measure(campaign, tmp_path, 1).structure_seconds
    assert not cost.measured and cost.error > 0.4
    assert real / 2.5 < cost.seconds < 2.5 * real


def test_other_multislice_is_foretold(tmp_path, multislice):
    """Twice the configurations in windows of twice the pixels."""
    wider = tuple((old, new.replace("12 A", "17 A")) for old, new in MULTISLICE)
    campaign = write(
        tmp_path, *wider, ("window: 17 A", "window: 17 A\n" + PHONONS[1].split("\n")[1])
    )
    experiment, layout, structures = set_up(campaign)
    cost = estimate(
        multislice, describe_work(experiment, layout, structures), cost_signature(campaign)
    )
    real = measure(campaign, tmp_path, 1).structure_seconds
    assert real > 2.5 * multislice.structure_seconds
    assert real / 2 < cost.seconds < 2 * real
    assert cost.notes == ("displacements: not timed with small_stem, left out",)


def test_transforms_of_pictures_are_those_that_are_done(tmp_path, monkeypatch):
    experiment, layout, _ = set_up(read_campaign(SMALL_STEM))
    done: dict[tuple[int, ...], float] = {}

    def watch(name: str, shape_of: Callable) -> None:
        transform = getattr(Backend, name)

        def counted(self: Backend, *given: object, **options: object) -> object:
            shape = (1, *shape_of(given))
            done[shape] = done.get(shape, 0) + 1
            return transform(self, *given, **options)

        monkeypatch.setattr(Backend, name, counted)

    watch("rfft2", lambda given: given[0].shape)
    watch("irfft2", lambda given: given[1])
    # the picture of one atom, which labels need, is no picture of a structure
    monkeypatch.setattr("hpctem.stem.campaign.point_spread", lambda *_: (np.eye(3) + 0.1, 0.2))
    compute_structure(experiment, 1)
    work = describe_structure(experiment, 1, experiment.structure(1), layout)
    assert work.transforms(True) == work.transforms(False) == {"pictures": done}


@pytest.mark.parametrize("phonons", [(), (PHONONS,)], ids=["still", "phonons"])
def test_transforms_of_probes_are_those_that_are_done(tmp_path, monkeypatch, phonons):
    """Blocks of eight lines of the probes, and whole fields of the tiles' potentials."""
    experiment, layout, _ = set_up(write(tmp_path, *MULTISLICE, *phonons))
    lines, fields = 0.0, {}
    counted = {
        "enter_window": lambda v: len(v[0]),
        "cross_window": lambda v: 2 * len(v[1]),
        "collect": lambda v: v[1].shape[1],
    }

    def watch(module: object, name: str, blocks: Callable) -> None:
        work = getattr(module, name)

        def passed(*given: object) -> object:
            nonlocal lines
            lines += blocks(given)
            return work(*given)

        monkeypatch.setattr(module, name, passed)

    for name, blocks in counted.items():
        watch(probe_passage_cpu, name, blocks)
    watch(passes, "propagate_lines", lambda v: 2 * len(v[1]))
    for name in ("fft2", "ifft2"):
        transform = getattr(Backend, name)

        def whole(self: Backend, a: np.ndarray, *given, transform=transform, **options) -> object:
            fields[a.shape[-2:]] = fields.get(a.shape[-2:], 0) + len(a)
            return transform(self, a, *given, **options)

        monkeypatch.setattr(Backend, name, whole)
    compute_structure(experiment, 1)
    work = describe_structure(experiment, 1, experiment.structure(1), layout)
    done = work.transforms(by_lines=True)
    assert sum(done["probes"].values()) == lines
    ((frame, number),) = done["potentials"].items()
    assert number == fields[frame]
    ((window, number),) = work.transforms(by_lines=False)["probes"].items()
    configurations = 1 + len(phonons)
    assert window == (180, 180) and number > configurations * 1000


def test_a_gpu_transforms_whole_windows(tmp_path, monkeypatch):
    """As many as the passage of many probes does, which runs here too."""
    few = tuple((old, new.replace("32", "16")) for old, new in MULTISLICE)
    experiment, layout, _ = set_up(write(tmp_path, *few))
    done = 0
    transforms = {name: getattr(Backend, name) for name in ("fft2", "ifft2")}

    def watch(name: str) -> Callable:
        def counted(self: Backend, a: np.ndarray, *given, **options) -> object:
            nonlocal done
            done += len(a) if a.shape[-2:] == (180, 180) else 0
            return transforms[name](self, a, *given, **options)

        return counted

    for name in transforms:
        monkeypatch.setattr(Backend, name, watch(name))
    monkeypatch.setattr("hpctem.optics.stem.passage_for", lambda backend: BatchPassage)
    compute_structure(experiment, 1)
    work = describe_structure(experiment, 1, experiment.structure(1), layout)
    assert work.transforms(False)["probes"] == {(180, 180): done}


def test_a_tile_is_as_large_with_fewer_points():
    for shape in ((90, 90), (17, 41), (32, 20)):
        grid = ScanGrid((3.0, 4.0), shape, (5, 5), (0.1, 0.1), 8)
        few, several = (stem_steps.thin_out(grid, n) for n in (stem_steps.FEW, stem_steps.SEVERAL))
        assert few.shape == (2, 2) and several.points > 15 * few.points
        tiles = [frame_tile(one, (64, 64))[0] for one in (grid, few, several)]
        assert tiles[1] == tiles[2]
        assert tiles[2].pixels == pytest.approx(tiles[0].pixels, rel=0.15)
        for one in (few, several):
            first, last = one.point(0, 0), one.point(one.shape[0] - 1, one.shape[1] - 1)
            assert all(low >= edge for low, edge in zip(first, grid.origin, strict=True))
            edge = grid.point(shape[0] - 1, shape[1] - 1)
            assert all(high <= end + 1e-9 for high, end in zip(last, edge, strict=True))


def test_steps_beyond_those_timed_are_told_and_widen_the_error(tmp_path, small):
    rotated = write(tmp_path, ("shear: {normal: {mean: 0, std: 0.01}}", "rotation: 0.1 rad"))
    experiment, layout, structures = set_up(rotated)
    work = describe_work(experiment, layout, structures)
    signature = cost_signature(rotated)
    cost = estimate(small, work, signature)
    straight = estimate(small, dataclasses.replace(work, turned=False), signature)
    assert cost.error > straight.error and cost.steps["scan"] > 1.5 * straight.steps["scan"]
    assert any("rotated" in note for note in cost.notes)
    clean = dataclasses.replace(small, rates={k: v for k, v in small.rates.items() if k != "film"})
    told = estimate(clean, work, signature).notes
    assert any("film: not timed with small_stem" in note for note in told)


def test_frames_that_scatter_far_ask_for_the_film_in_each(tmp_path):
    experiment, layout, _ = set_up(read_campaign(SMALL_STEM))
    work = describe_structure(experiment, 0, experiment.structure(0), layout)
    far = write(tmp_path, ("jitter: 0.1 A", "jitter: 4 A"))
    experiment, layout, _ = set_up(far)
    wide = describe_structure(experiment, 0, experiment.structure(0), layout)
    assert (work.film, wide.film) == (1.0, 3.0)


def test_calibrations_of_both_techniques_are_kept_together(
    tmp_path, monkeypatch, small, multislice
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("hpctem.calibration.calibrate.choose_ladder", lambda *given: [])
    hrtem = measure(read_campaign(SMALL), tmp_path, 1)
    for one in (hrtem, small, multislice):
        path = sites.keep_calibration("both", one)
    kept = sites.read_calibrations("both")
    assert kept == [hrtem, small, multislice]
    for one in kept:
        assert sites.choose_calibration(kept, one.work, "another signature") == one
        assert distance(one, one.work, one.signature) == 0
    with pytest.raises(ConfigError, match=r"HRTEM and incoherent STEM campaigns.*multislice STEM"):
        sites.choose_calibration(kept[:2], multislice.work, "s")
    # a file from before there were two techniques says nothing of them
    document = json.loads(path.read_text())
    document["calibrations"] = document["calibrations"][:1]
    del document["calibrations"][0]["technique"]
    path.write_text(json.dumps(document))
    assert sites.read_calibrations("both") == [hrtem]
    document["calibrations"][0]["technique"] = "tomography"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="delete it and calibrate again"):
        sites.read_calibrations("both")


def test_convolution_is_foretold_by_incoherent_pictures(small):
    work = dataclasses.replace(small.work, method="convolution")
    assert isinstance(work, StemWork) and work.family == small.work.family
    cost = estimate(small, work, "s")
    assert any("method" in note for note in cost.notes)
    assert cost.steps["lens"] < 0.1 * small.seconds["lens"]


def test_real_transforms_are_timed_where_there_are_any():
    ladder = choose_ladder(CPU, [(1, 120, 120)])
    assert {len(shape) for shape in ladder} == {3} and (1, 2048, 2048) in ladder
    timed = time_transforms([(1, 128, 128), (1, 512, 512), (512, 512)], CPU)
    assert 8 < timed[1, 512, 512] / timed[1, 128, 128] < 100
    assert timed[1, 512, 512] < timed[512, 512]


def test_a_step_takes_longer_than_its_transforms_alone(small, multislice):
    for one in (small, multislice):
        for step, floor in one.floors.items():
            # Timed apart from each other, and perhaps while the machine did something else.
            assert 0 < floor < 2 * one.seconds[step], step
    assert multislice.floors["probes"] > 0.3 * multislice.seconds["probes"]


def test_a_plan_is_made_of_a_kept_calibration(tmp_path, monkeypatch, small):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    sites.keep_calibration("here", small)
    request = Request(tmp_path / "x.hdf5", site="here", nodes=(1, 4))
    made = make_plan(write(tmp_path, *LARGER), request, Communicator())
    assert made.images == 18 and not made.cost.measured
    assert made.cost.seconds == pytest.approx(sum(made.cost.steps.values()))
    assert made.rank_memory > 2.5e8 and made.device_memory == 0
    gpu = dataclasses.replace(small.machine, device="NVIDIA H100 (device 0)", devices=4)
    sites.keep_calibration("gpu", dataclasses.replace(small, machine=gpu))
    there = make_plan(
        write(tmp_path, *LARGER), dataclasses.replace(request, site="gpu"), Communicator()
    )
    assert there.device_memory > 2e8 and there.rank_memory > 1e9
    with pytest.raises(ConfigError, match="tell nothing of a campaign of multislice STEM"):
        make_plan(write(tmp_path, *MULTISLICE), request, Communicator())


def test_steps_are_those_of_the_technique():
    assert choose_steps("stem") is stem_steps
    assert pictures.View is stem_steps.View
