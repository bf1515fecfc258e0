"""A plan's figures: bytes as they will be, time as ranks will share the work, warnings when due."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpctem.backend import select_backend
from hpctem.calibration.calibrate import Calibration
from hpctem.calibration.estimate import Estimate
from hpctem.calibration.machine import Machine
from hpctem.calibration.measure import Storage
from hpctem.calibration.workload import describe_work
from hpctem.campaign_file import read_campaign
from hpctem.database.create import create
from hpctem.database.schema import Field, Layout, volume_range
from hpctem.hrtem.experiment import Experiment
from hpctem.parallel import Communicator
from hpctem.planning import disk, plan
from hpctem.planning.plan import Limits, Plan, Space, plan_campaign
from hpctem.planning.prepare import parse_walltime
from hpctem.planning.schedule import (
    STOP_SECONDS,
    Pace,
    count_jobs,
    count_volumes,
    schedule,
    time_reading,
    time_work,
)
from hpctem.planning.show import describe_plan, format_plan, format_table
from hpctem.simulate import Options, identify, lay_out, simulate

SMALL = Path(__file__).parents[1] / "small.yaml"
CPU = select_backend("cpu")
FAST_DISK = Storage(digests=0.0, writing=0.0, syncing=0.0, reading=0.0, commit=0.0, record=0.0)
MIB = 2**20


def make_layout(structures: int, each: int, image_bytes: int = MIB) -> Layout:
    fields = (Field("/entry/images/intensity", "images", np.dtype("u1"), (image_bytes,)),)
    return Layout(structures, {"images": 2}, each, fields)


def test_file_size_is_right_to_the_byte(tmp_path):
    campaign = read_campaign(SMALL)
    experiment = Experiment(campaign.config, CPU)
    identity = identify(campaign, experiment)
    for structures in (range(1), range(6), volume_range(6, 2, 3), range(3000)):
        layout = lay_out(campaign, experiment, structures)
        if len(structures) > 100:  # tiny images, so that a file of many rows is soon made
            layout = make_layout(len(structures), 7, 100)
        create(tmp_path / "real.hdf5", layout, identity)
        real = (tmp_path / "real.hdf5").stat().st_size
        assert disk.measure_file(layout, identity) == disk.FileSize(real, True)
        (tmp_path / "real.hdf5").unlink()


def test_size_of_a_huge_file_is_right_to_a_megabyte(tmp_path, monkeypatch):
    campaign = read_campaign(SMALL)
    experiment = Experiment(campaign.config, CPU)
    layout = lay_out(campaign, experiment, range(5000))
    exact = disk.measure_file(layout, {})
    monkeypatch.setattr(disk, "MOST_AXIS_ROWS", 100)
    estimated = disk.measure_file(layout, {})
    assert exact.exact and not estimated.exact
    assert abs(estimated.bytes - exact.bytes) < MIB


def test_size_beyond_what_this_filesystem_makes_is_foretold():
    """30 TiB: exact where a sparse file can be so large, right to a megabyte on ext4."""
    layout = make_layout(15 * 2**20, 128)
    found = disk.measure_file(layout, {})
    assert abs(found.bytes - layout.data_bytes) < 2 * MIB


def test_journals_are_as_long_as_foretold(tmp_path):
    campaign = read_campaign(SMALL)
    path, summary = simulate(campaign, tmp_path / "a.hdf5", Options("cpu"), Communicator())
    assert summary.complete
    found = sum(f.stat().st_size for f in (tmp_path / "a.hdf5.journal").glob("*.journal"))
    layout = lay_out(campaign, Experiment(campaign.config, CPU), range(6))
    assert disk.count_journal_bytes(layout) == found
    assert (
        path.stat().st_size
        == disk.measure_file(layout, identify(campaign, Experiment(campaign.config, CPU))).bytes
    )


def play(layout: Layout, pace: Pace, ranks: int) -> float:
    """Rank by rank, segment by segment: each is committed while the next one is computed."""
    ends = [0.0]
    for rank in range(ranks):
        handed = committed = 0.0
        for segment in range(rank, layout.segments, ranks):
            computed = handed + len(layout.segment(segment)) * pace.structure
            handed = max(computed, committed)  # one segment at a time is being committed
            size = len(layout.segment(segment)) * layout.structure_bytes
            committed = handed + size * pace.storage.syncing + pace.storage.commit
        ends.append(committed)
    return max(ends)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 20])
@pytest.mark.parametrize(("structures", "each"), [(1, 1), (7, 1), (8, 3), (100, 4), (96, 12)])
@pytest.mark.parametrize("syncing", [0.0, 1e-7, 2e-6])
def test_time_is_that_of_the_slowest_rank(structures, each, ranks, syncing):
    layout = make_layout(structures, each)
    storage = dataclasses.replace(FAST_DISK, syncing=syncing, commit=0.01)
    pace = Pace(2.0, storage, 1e18, 0.0)
    played = play(layout, pace, ranks)
    planned = time_work(layout, pace, ranks)
    segment = each * (2.0 + layout.structure_bytes * syncing) + 0.01
    assert played - 1e-9 <= planned <= played + segment  # the last segment may be a short one
    if structures % each == 0:
        assert planned == pytest.approx(played)


def test_disk_sets_the_limit_when_it_is_slower():
    layout = make_layout(1000, 1)
    pace = Pace(1.0, FAST_DISK, 20 * layout.structure_bytes, 0.0)
    below, above = schedule(layout, pace, 1, 10), schedule(layout, pace, 1, 50)
    assert (below.limit, above.limit) == ("compute", "disk")
    assert below.structures == pytest.approx(10) and above.structures == pytest.approx(20)
    assert time_work(layout, pace, 50) == pytest.approx(50.0)
    assert above.bytes == pytest.approx(20 * layout.structure_bytes)
    assert time_reading(layout, pace, 50) == pytest.approx(50.0)


def test_a_gpu_computes_while_rows_are_kept():
    """Digests and writing cost nothing while they are the shorter part, and set the rate after."""
    layout, size = make_layout(1000, 10), make_layout(1, 1).structure_bytes
    for seconds, expected in ((0.5, 1.0), (2.0, 2.0)):
        slow = dataclasses.replace(
            FAST_DISK, digests=seconds / size / 2, writing=seconds / size / 2
        )
        pace = Pace(1.0, slow, 1e18, 0.0, background=True)
        assert schedule(layout, pace, 1, 4).structures == pytest.approx(4 / expected)
        whole = 10 * (seconds + 24 * expected + 1.0)
        assert time_work(layout, pace, 4) == pytest.approx(whole)
        serial = dataclasses.replace(pace, background=False)
        assert time_work(layout, serial, 4) == pytest.approx(250.0)


def test_only_a_gpus_plan_leaves_digests_out_of_its_time(campaign):
    """They are done beside; on a CPU they take the core's time."""
    read, experiment, layout, calibration = campaign
    cost = Estimate({"exit waves": 1.0, "digests": 0.2, "writing": 0.3}, 0.1, True, ())
    on_gpu = dataclasses.replace(MACHINE, device="NVIDIA H100 (device 0)", devices=4)
    rates = [
        plan_campaign(
            experiment,
            layout,
            identify(read, experiment),
            dataclasses.replace(calibration, machine=machine),
            cost,
            Path("."),
            Limits(cores=4),
            nodes=(1,),
        ).schedules[0]
        for machine in (MACHINE, on_gpu)
    ]
    assert [one.structures for one in rates] == pytest.approx([4 / 1.5, 4.0])


def test_more_nodes_than_a_job_may_have(campaign):
    limits = Limits(cores=4, nodes=4)
    told = plan.warn_of_ranks(make(campaign, make_layout(4096, 1), nodes=(1, 8), limits=limits))
    assert told == ["nodes: a job may have 4, not 8"]
    assert plan.warn_of_ranks(make(campaign, make_layout(4096, 1), nodes=(4,), limits=limits)) == []


def test_schedule_counts_segments_and_idle_ranks():
    layout = make_layout(100, 5)
    one = schedule(layout, Pace(10.0, FAST_DISK, 1e18, 30.0), 2, 4)
    assert (one.ranks, one.most, one.fewest) == (8, 3, 2)
    assert one.idle == pytest.approx(1 - 1000 / (8 * 150))
    assert one.segment == 50 and one.images == pytest.approx(1.6)
    assert one.seconds == pytest.approx(180) and one.node_hours == pytest.approx(0.1)
    few = schedule(layout, Pace(10.0, FAST_DISK, 1e18, 0.0), 8, 4)
    assert (few.most, few.fewest) == (1, 0) and few.structures == pytest.approx(2.0)


def play_jobs(work: float, reading: float, overhead: float, segment: float, walltime: float) -> int:
    """Job after job: each stops so early that its last segment is done when its time is up."""
    done, jobs = 0.0, 0
    while jobs < 10**4:
        jobs += 1
        if work - done + reading + overhead <= walltime:
            return jobs
        done = min(work, done + walltime - overhead - max(segment, STOP_SECONDS))
    return 0


@pytest.mark.parametrize("work", [100.0, 5000.0, 86400.0, 1e6])
@pytest.mark.parametrize("walltime", [600.0, 3600.0, 86400.0])
@pytest.mark.parametrize("reading", [1.0, 200.0])
def test_jobs_are_as_many_as_when_played(work, walltime, reading):
    counted = count_jobs(work, reading, 20.0, 30.0, walltime)
    assert abs(counted - play_jobs(work, reading, 20.0, 30.0, walltime)) <= 1
    assert counted >= 1


def test_no_job_is_better_than_one_that_gets_nothing_done():
    assert count_jobs(1e5, 10.0, 20.0, 700.0, 1000.0) == 0  # no segment fits
    assert count_jobs(1e5, 2000.0, 20.0, 10.0, 1000.0) == 0  # reading back does not
    assert count_jobs(900.0, 10.0, 20.0, 700.0, 1000.0) == 1


@pytest.mark.parametrize("walltime", [100.0, 1000.0, 20000.0])
def test_volumes_are_the_fewest_that_fit(walltime):
    layout = make_layout(2000, 4)
    pace = Pace(5.0, dataclasses.replace(FAST_DISK, reading=1e-9), 1e12, 10.0)

    def fits(volumes: int) -> bool:
        part = dataclasses.replace(layout, structures=-(-2000 // volumes))
        return pace.startup + time_work(part, pace, 4) + time_reading(part, pace, 4) <= walltime

    volumes = count_volumes(layout, pace, 4, walltime)
    assert fits(volumes) and (volumes == 1 or not fits(volumes - 1))
    assert count_volumes(layout, pace, 4, 11.0) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("24h", 86400), ("90 min", 5400), ("2d", 172800), ("1.5h", 5400), ("45s", 45)),
        *(("02:30:00", 9000), ("1-12:00:00", 129600), ("1-12:00", 129600)),
    ],
)
def test_walltimes_are_read(text, seconds):
    assert parse_walltime(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "24", "h", "0h", "00:00:00", "1:2:3:4", "-3h", "nan h", "30:00"]
)
def test_what_is_no_walltime_is_refused(text):
    with pytest.raises(ValueError, match="is no"):
        parse_walltime(text)


def test_quotas_are_read():
    lustre = "/scratch  1048576  2097152  3145728  -  12  0  0  -\n"
    assert disk.parse_lustre_quota(lustre) == 2 * 2**30
    wrapped = "/lustre/very/long/path\n   4194304*  2097152  3145728  1d  12  0  0  -"
    assert disk.parse_lustre_quota(wrapped) == 0
    assert disk.parse_lustre_quota("/scratch  5  0  0  -") is None
    assert disk.parse_lustre_quota("Permission denied.") is None
    told = "Disk quotas for user x (uid 1):\n  Filesystem blocks quota limit grace\n"
    told += "/dev/sda1  1000  5000  0  0  1 0 0 0\nnfs:/home  900*  500  800  6days  1 0 0 0\n"
    assert disk.parse_quota(told, "/dev/sda1") == 4000 * 1024
    assert disk.parse_quota(told, "nfs:/home") == 0
    assert disk.parse_quota(told, "/dev/sdb") is None


def test_quota_is_asked_of_the_system(tmp_path, monkeypatch):
    device, mount, _ = disk.find_mount(tmp_path)
    assert tmp_path.is_relative_to(mount)
    assert disk.find_mount(Path("/proc/self"))[1:] == ("/proc", "proc")
    program = tmp_path / "quota"
    program.write_text(f"#!/bin/sh\necho 'Disk quotas:'\necho '{device} 10 20 30 0 1 0 0 0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert disk.find_quota(tmp_path / "not" / "yet") == 20 * 1024
    program.write_text("#!/bin/sh\nexit 1\n")
    assert disk.find_quota(tmp_path) is None


MACHINE = Machine("node1", "a processor", 4, 8 * 2**30, "CPU", 0, "mkl_fft", "1")


@pytest.fixture(scope="module")
def campaign() -> tuple:
    read = read_campaign(SMALL)
    experiment = Experiment(read.config, CPU)
    layout = lay_out(read, experiment, range(6))
    work = describe_work(experiment, layout, range(6))
    calibration = Calibration(
        campaign="small",
        signature="s",
        machine=MACHINE,
        ranks=4,
        writers=4,
        work=work,
        seconds={},
        floors={},
        rates={},
        transforms={},
        storage=dataclasses.replace(FAST_DISK, writing=1e-9, syncing=1e-9),
        spread=0.1,
        timed=2,
        startup=3.0,
        warmup=5.0,
        peak=3e8,
        made="today",
    )
    return read, experiment, layout, calibration


def make(campaign: tuple, layout: Layout | None = None, **options: object) -> Plan:
    read, experiment, own, calibration = campaign
    limits = options.pop("limits", Limits(cores=4, memory=8 * 2.0**30))
    seconds = float(options.pop("seconds", 2.0))
    cost = Estimate({"all": seconds}, 0.1, True, ())
    made = plan_campaign(
        experiment,
        own,
        identify(read, experiment),
        options.pop("calibration", calibration),
        cost,
        Path("."),
        limits,
        **options,
    )
    if layout is None:
        return made
    schedules = tuple(
        schedule(
            layout,
            Pace(seconds, FAST_DISK, 1e15, 1.0),
            one.nodes,
            made.ranks_per_node,
            limits.walltime,
        )
        for one in made.schedules
    )
    return dataclasses.replace(
        made,
        layout=layout,
        images=layout.rows("images"),
        schedules=schedules,
        file=disk.FileSize(layout.data_bytes, False),
    )


def warnings(made: Plan) -> Iterator[str]:
    for warn in (plan.warn_of_disk, plan.warn_of_ranks, plan.warn_of_time, plan.warn_of_numbers):
        yield from warn(made)


def test_what_fits_is_not_warned_of(campaign):
    made = make(campaign, make_layout(4096, 1), nodes=(1, 4))
    made = dataclasses.replace(made, space=Space(Path("."), 1e15, None))
    assert list(warnings(made)) == []
    assert made.ranks_per_node == 4


@pytest.mark.parametrize(
    ("free", "quota", "said"),
    [(1e3, None, "free"), (1e15, 1e3, "left of your quota"), (1e15, 0.0, "left of your quota")],
)
def test_a_small_disk_is_warned_of(campaign, free, quota, said):
    made = dataclasses.replace(make(campaign), space=Space(Path("/data"), free, quota))
    (warning,) = plan.warn_of_disk(made)
    assert said in warning and "/data" in warning


def test_memory_sets_the_ranks_and_is_warned_of(campaign):
    roomy = make(campaign)
    tight = Limits(cores=4, memory=2.5 * roomy.rank_memory)
    assert make(campaign, limits=tight).ranks_per_node == 2
    (warning,) = plan.warn_of_ranks(make(campaign, limits=tight, ranks_per_node=3, nodes=(1,)))
    assert "at most 2 fit" in warning and "--ranks-per-node 2" in warning
    none = Limits(cores=4, memory=0.5 * roomy.rank_memory)
    assert "at most 0 fit" in plan.warn_of_ranks(make(campaign, limits=none, nodes=(1,)))[0]


def test_ranks_without_work_are_warned_of(campaign):
    made = make(campaign, make_layout(100, 10), nodes=(1, 2, 4, 8))
    warning = plan.warn_of_ranks(made)[0]
    assert "at 4 node(s) 6 of 16 ranks have nothing to do" in warning
    assert "campaign.structures_per_segment: 6 " in warning
    single = make(campaign, make_layout(10, 1), nodes=(4,))
    assert "there are 10 structure(s)" in plan.warn_of_ranks(single)[0]
    many = make(campaign, make_layout(100, 10), nodes=(64,))
    assert "there are 100 structure(s)" in plan.warn_of_ranks(many)[0]


def test_waiting_ranks_are_warned_of(campaign):
    (warning,) = plan.warn_of_ranks(make(campaign, make_layout(90, 10), nodes=(1, 2)))
    assert "wait" in warning and "3 segments (others have 2)" in warning


def test_more_ranks_than_were_timed_or_have_cores(campaign):
    made = make(campaign, make_layout(4096, 1), nodes=(1,), ranks_per_node=6)
    told = plan.warn_of_ranks(made)
    assert any("6 a node share 4 core(s)" in text for text in told)
    assert any("timed with 4 at once" in text for text in told)


def test_long_segments_and_short_jobs_are_warned_of(campaign):
    limits = Limits(walltime=1800.0, cores=4, memory=8 * 2.0**30)
    made = make(campaign, make_layout(1000, 50), nodes=(1,), seconds=60.0, limits=limits)
    told = plan.warn_of_time(made)
    assert any("campaign.structures_per_segment: 3 " in text for text in told)
    assert any("no job of 30 min gets done" in text for text in told)
    assert made.schedules[0].jobs == 0 and made.schedules[0].volumes == 0
    assert plan.warn_of_time(make(campaign, make_layout(1000, 1), seconds=60.0)) == []


def test_a_slow_disk_is_warned_of(campaign):
    slow = dataclasses.replace(campaign[3], storage=dataclasses.replace(FAST_DISK, syncing=1e-4))
    told = plan.warn_of_time(make(campaign, seconds=0.01, calibration=slow))
    assert any("the disk is the limit" in text and "4 rank(s)" in text for text in told)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (make_layout(2**30 + 1, 10**4, 1), "cut the campaign into 2 volumes"),
        (make_layout(9 * 2**20, 4096), "16 TiB"),
        (make_layout(2 * 10**6, 1, 1), "2000000 segments"),
    ],
)
def test_numbers_beyond_limits_are_warned_of(campaign, layout, said):
    (warning,) = plan.warn_of_numbers(make(campaign, layout, nodes=(1,)))
    assert said in warning


def test_plan_is_told_in_full(campaign):
    limits = Limits(walltime=3600.0, cores=4, memory=8 * 2.0**30)
    made = make(campaign, make_layout(100000, 10), nodes=(1, 4), limits=limits)
    text = format_plan(made)
    for part in ("small: 100000 structures", "node1", "0.5 structures/s", "jobs", "--volume 1/"):
        assert part in text, part
    head = next(line for line in text.splitlines() if line.startswith("nodes"))
    assert len(head) < 120
    plain = describe_plan(made)
    assert plain["structures"] == 100000 and len(plain["schedules"]) == 2
    assert plain["schedules"][0]["jobs"] == made.schedules[0].jobs > 1


def test_tables_are_aligned():
    lines = format_table(("step", "time"), [("a", "1 s"), ("longer", "100 s")]).splitlines()
    assert lines == ["step     time", "a         1 s", "longer  100 s"]


def test_notes_of_the_estimate_are_warnings(campaign):
    _, experiment, layout, calibration = campaign
    cost = Estimate({"all": 1.0}, 0.5, False, ("a note",))
    made = plan_campaign(experiment, layout, {}, calibration, cost, Path("."), Limits(), nodes=(1,))
    assert "a note" in made.warnings and "scaled from another campaign" in format_plan(made)
    assert math.isclose(made.schedules[0].structures, 1.0)
