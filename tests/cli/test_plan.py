"""`hpctem plan` and `hpctem benchmark`, held against what `hpctem simulate` then does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from hpctem.cli import main

HEAVIER = (("structures: 6", "structures: 20"), ("configurations: 2", "configurations: 16"))
SMALL = Path(__file__).parents[1] / "small.yaml"
SMALL_STEM = SMALL.with_name("small_stem.yaml")
HPCTEM = (sys.executable, "-m", "hpctem")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Calibrations are kept here and not in the user's folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


@pytest.mark.alone
def test_plan_says_what_simulate_does(run, variant):
    """Bytes exactly, the rate within a factor that leaving out the phonons would exceed."""
    path = variant(*HEAVIER)
    planned = run("plan", path, "--json", "--nodes", "1", "--ranks-per-node", "1")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert "timing small" in planned.stderr and plan["measured"]
    done = run("simulate", path, "-o", "real.hdf5", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    database = path.parent / "real.hdf5"
    assert plan["file_bytes"] == database.stat().st_size and plan["file_bytes_exact"]
    journals = (path.parent / "real.hdf5.journal").glob("*.journal")
    assert plan["journal_bytes"] == sum(journal.stat().st_size for journal in journals)
    rate = float(re.findall(r"([\d.]+) images/s", done.stderr)[-1])
    assert rate / 3 < plan["schedules"][0]["images"] < 3 * rate
    assert (plan["structures"], plan["images"], plan["segments"]) == (20, 80, 20)


@pytest.mark.alone
def test_plan_of_stem_says_what_simulate_does(run, tmp_path):
    path = tmp_path / "small_stem.yaml"
    path.write_text(SMALL_STEM.read_text().replace("structures: 6", "structures: 20"))
    planned = run("plan", path, "--json", "--nodes", "1", "--ranks-per-node", "1")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    done = run("simulate", path, "-o", "real.hdf5", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert plan["file_bytes"] == (tmp_path / "real.hdf5").stat().st_size and plan["measured"]
    journals = (tmp_path / "real.hdf5.journal").glob("*.journal")
    assert plan["journal_bytes"] == sum(journal.stat().st_size for journal in journals)
    rate = float(re.findall(r"([\d.]+) images/s", done.stderr)[-1])
    assert rate / 3 < plan["schedules"][0]["images"] < 3 * rate
    assert (plan["structures"], plan["images"], plan["segments"]) == (20, 80, 20)


def test_benchmark_of_stem_tells_every_step(run):
    done = run("benchmark", SMALL_STEM, "--structures", "1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    steps = {"structure", "pictures", "film", "scan", "detection", "labels", "rows", "digests"}
    assert steps <= told["seconds"].keys() and all(told["seconds"][step] > 0 for step in steps)
    assert sum(told["shares"].values()) == pytest.approx(1)
    assert told["images_per_second"] == pytest.approx(4 * told["structures_per_second"])
    assert told["transform_seconds"].keys() == {"pictures"} and 0 < told["floor_share"] < 0.5


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[Path, CompletedProcess]:
    """A folder with a calibration of the small campaign, kept as site `here`, and what was said."""
    folder = tmp_path_factory.mktemp("kept")
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder)}
    command = [*HPCTEM, "plan", str(SMALL), "--site", "here", "--calibrate"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_plan_is_made_from_a_kept_calibration(run, variant, kept, monkeypatch):
    folder, calibrated = kept
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    path = variant()
    assert "is kept as site here" in calibrated.stderr
    again = run("plan", path, "--site", "here", "--nodes", "1,3", "--walltime", "2h")
    assert again.returncode == 0 and "timing" not in again.stderr
    lines = again.stdout.splitlines()
    assert [line.split()[0] for line in lines if line[:1].isdigit()] == ["1", "3"]
    other = run("plan", variant(HEAVIER[1], name="b.yaml"), "--site", "here", "--json")
    plan, first = json.loads(other.stdout), calibrated.stdout
    assert not plan["measured"] and "small: 6 structures" in first
    assert plan["steps"]["exit waves"] > 0.05


def test_this_machines_own_calibration_is_taken_again(run, variant):
    path = variant()
    assert run("plan", path, "--calibrate").returncode == 0
    again = run("plan", path)
    assert again.returncode == 0 and "timing" not in again.stderr
    changed = run("plan", variant(HEAVIER[1], name="b.yaml"))
    assert changed.returncode == 0 and "timing" in changed.stderr


def test_volume_is_planned_alone(run, variant, kept, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(kept[0]))
    path = variant()
    plan = json.loads(run("plan", path, "--site", "here", "--volume", "2/3", "--json").stdout)
    assert (plan["structures"], plan["first_structure"]) == (2, 2)
    assert run("simulate", path, "--volume", "2/3").returncode == 0
    (real,) = path.parent.glob("small.v2of3.hdf5")
    assert plan["file_bytes"] == real.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--site", "nowhere"), "there is no calibration of site 'nowhere'"),
        (("--site", "../../etc"), "is no name"),
        (("--nodes", "0"), "whole numbers from 1 on"),
        (("--nodes", "1,a"), "whole numbers from 1 on"),
        (("--nodes", ""), "whole numbers from 1 on"),
        (("--walltime", "soon"), "is no duration"),
        (("--volume", "7/8"), "volume 7/8 does not exist"),
        (("-o", "no/such/folder/x.hdf5"), "does not exist"),
        (("--device", "tpu"), "tpu"),
        (("--ranks-per-node", "0"), "ranks-per-node"),
    ],
)
def test_bad_requests_are_refused_at_once(variant, monkeypatch, tmp_path, capsys, arguments, said):
    """In this process: starting Python for each would take longer than all of them."""
    path = variant()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hpctem", "plan", str(path), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told.replace("\n", " ")
    assert "Traceback" not in told and "timing" not in told


def test_benchmark_tells_every_step(run, variant):
    done = run("benchmark", variant(), "--structures", "3", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["timed"] == 3 and told["ranks"] == 1 and told["efficiency"] is None
    assert sum(told["shares"].values()) == pytest.approx(1)
    steps = {"structure", "displacements", "exit waves", "labels", "imaging", "detection"}
    assert steps | {"digests", "writing"} <= told["seconds"].keys()
    assert all(told["seconds"][step] > 0 for step in steps)
    assert told["images_per_second"] == pytest.approx(4 * told["structures_per_second"])
    written = told["bytes_per_structure"] * told["structures_per_second"]
    assert told["bytes_per_second"] == pytest.approx(written)
    assert told["disk_share"] == pytest.approx(written / told["disk_bytes_per_second"])
    assert 1e8 < told["peak_bytes"] < 1e10
    table = run("benchmark", variant())
    assert table.returncode == 0 and "a structure" in table.stdout and "100%" in table.stdout


def test_benchmark_refuses_a_bad_campaign(run, variant):
    done = run("benchmark", variant(("energy: 200 keV", "energy: 200")))
    assert done.returncode == 2 and "no unit" in done.stderr
    assert run("benchmark", variant(), "--folder", "/nowhere").returncode == 2


def test_ranks_are_timed_at_once(run_mpi, variant):
    """All of them, then one table; the calibration knows how many there were."""
    path = variant()
    environment = dict(os.environ)
    done = run_mpi(2, *HPCTEM, "benchmark", path, "--json", cwd=path.parent, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ranks"] == 2 and len(told["rank_structures_per_second"]) == 2
    assert 0.2 < told["efficiency"] < 2.5
    kept = run_mpi(
        *(2, *HPCTEM, "plan", path, "--site", "two", "--calibrate", "--json"), cwd=path.parent
    )
    assert kept.returncode == 0, kept.stderr
    plan = json.loads(kept.stdout)
    assert plan["calibration"]["ranks"] == 2
    assert plan["schedules"][0]["ranks"] == plan["ranks_per_node"]


def test_an_error_on_all_ranks_is_told_once(run_mpi, variant):
    path = variant()
    done = run_mpi(2, *HPCTEM, "plan", path, "--site", "nowhere", cwd=path.parent)
    assert done.returncode == 2 and done.stderr.count("there is no calibration") == 1
