"""`hpctem submit` and its kin where there is no Slurm, and what they refuse without one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., subprocess.CompletedProcess[str]]
PROFILE = """\
partitions: {cpu: {walltime: 1h, cores: 4, nodes: 2}}
cpu_partition: cpu
launcher: none
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile in a folder with a quote and a blank; sbatch is nowhere."""
    empty = tmp_path / "programs"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    path = tmp_path / "my site.yaml"
    path.write_text(PROFILE)
    return path


def test_without_slurm_the_commands_are_told_and_do_it(
    call: Call, variant, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain of a first campaign by hand, in a folder whose name a shell would trip over."""
    campaign = variant(("structures: 6", "structures: 1"))
    folder = tmp_path / 'it\'s "mine"'
    done = call("submit", campaign, "--site", site, "--folder", folder, "--no-plan")
    assert done.returncode == 1
    assert "there is no sbatch on this machine" in done.stderr
    commands = [line.strip() for line in done.stderr.splitlines() if "/jobs/" in line]
    assert len(commands) == 3
    monkeypatch.undo()
    for command in commands:
        told = subprocess.run(
            f"HPCTEM_LAUNCHER=none {command}", shell=True, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stderr
    assert (folder / "small.report.html").exists()


def test_the_same_scripts_run_without_slurm(
    call: Call, variant, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And `status` follows them by what they write."""
    campaign = variant(("structures: 6", "structures: 1"))
    order = ("submit", campaign, "--site", site, "--folder", "made", "--dry-run", "--no-plan")
    done = call(*order, "--stages", "simulate,verify")
    assert done.returncode == 0, done.stderr
    assert "nothing is submitted" in done.stdout
    folder = tmp_path / "made"
    told = call("status", folder)
    assert told.returncode == 0
    assert f"to submit it: hpctem resubmit {folder}" in told.stdout
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for script in sorted((folder / "scripts").iterdir()):
        subprocess.run(["bash", script], check=True, capture_output=True)
    told = call("status", folder)
    assert told.returncode == 0
    assert "everything is done" in told.stdout
    assert "1/1 structures (100%)" in told.stdout


def test_a_dry_run_may_be_followed_by_another(call: Call, variant, site: Path) -> None:
    order = ("submit", variant(), "--site", site, "--folder", "made", "--dry-run", "--no-plan")
    assert call(*order).returncode == 0
    assert call(*order, "--stages", "simulate").returncode == 0
    assert [path.name for path in Path("made/scripts").iterdir()] == ["1-simulate.sbatch"]


def test_the_time_is_estimated_and_told(call: Call, variant, site: Path) -> None:
    order = ("submit", variant(), "--site", site, "--folder", "made", "--dry-run")
    done = call(*order)
    assert done.returncode == 0, done.stderr
    assert "in one job of 60 min" in done.stdout
    assert "one file filled by one job: it is done in its time" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--site", "nowhere"), "there is no site 'nowhere'"),
        ((), "which cluster is this?"),
        (("--stages", "simulate,verfy"), "no stage 'verfy'; did you mean 'verify'"),
        (("--account", "a; id"), "'a; id' is no name for Slurm"),
        (("--folder", "full"), "holds other files"),
        (("--folder", "file"), "is a file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    call: Call, variant, site: Path, words: tuple[str, ...], said: str, monkeypatch
) -> None:
    monkeypatch.delenv("HPCTEM_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(site.parent))
    Path("full").mkdir()
    Path("full/x").touch()
    Path("file").touch()
    given = () if words[:1] in ((), ("--site",)) else ("--site", site)
    done = call("submit", variant(), *given, *words, "--no-plan")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("small").exists()


def test_a_folder_with_a_database_goes_on_with_the_same_campaign_alone(
    call: Call, variant, site: Path
) -> None:
    """What `stages` asks for may be another, the campaign may not; nothing without a database."""
    campaign = variant()
    order = ("submit", campaign, "--site", site, "--folder", "made", "--no-plan", "--dry-run")
    refused = call(*order, "--stages", "verify")
    assert refused.returncode == 2
    assert "verify needs the stage simulate, or a folder that has its database" in refused.stderr
    assert call(*order).returncode == 0
    assert call("simulate", campaign, "-o", "made/small.hdf5", "--limit", "1").returncode == 0
    campaign.write_text(campaign.read_text() + "stages: {verify: {walltime: 30min}}\n")
    assert call(*order).returncode == 0
    assert "--time=00:30:00" in Path("made/scripts/2-verify.sbatch").read_text()
    assert not Path("made/scripts/1-simulate.sbatch").exists()
    campaign.write_text(campaign.read_text().replace("structures: 6", "structures: 7"))
    other = call(*order)
    assert other.returncode == 2
    assert "the database of another campaign, which differs in campaign" in other.stderr


@pytest.mark.parametrize("command", ["status", "resubmit", "cancel"])
def test_a_folder_that_is_none_is_refused(call: Call, tmp_path: Path, command: str) -> None:
    done = call(command, tmp_path)
    assert done.returncode == 2
    assert "holds no chain.json" in done.stderr
    assert call(command, tmp_path / "none").returncode == 2


def test_where_sbatch_cannot_reach_a_cluster_its_words_are_told(
    call: Call, variant, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was submitted before stays on record; here it is nothing."""
    program = tmp_path / "programs" / "sbatch"
    program.write_text(
        f"#!{shutil.which('bash', path='/bin:/usr/bin')}\necho no cluster >&2\nexit 1\n"
    )
    program.chmod(0o755)
    done = call("submit", variant(), "--site", site, "--folder", "made", "--no-plan")
    assert done.returncode == 1
    assert "sbatch refuses 1-simulate.sbatch: no cluster" in done.stderr
    assert "submitted before it: nothing" in done.stderr
    assert not Path("made/jobs.json").exists()


def test_a_campaign_is_named_by_its_file_too(call: Call, variant, site: Path) -> None:
    campaign = variant()
    assert call("submit", campaign, "--site", site, "--dry-run", "--no-plan").returncode == 0
    told = call("status", campaign)
    assert told.returncode == 0 and "small on my site" in told.stdout
    assert call("status", site).returncode == 2
