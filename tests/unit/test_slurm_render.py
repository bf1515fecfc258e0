"""The scripts that are submitted: as they are kept, as bash reads them, whatever names they hold.

`HPCTEM_GOLDEN=write pytest tests/unit/test_slurm_render.py` writes those of slurm_golden/ anew,
to be read before they are committed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from small_campaigns import write_campaign

from hpctem.errors import ConfigError, MachineError
from hpctem.slurm.chain import Inside, Job, Share
from hpctem.slurm.render import END, Places, format_time, quote_all, render
from hpctem.slurm.sites import read_site
from hpctem.slurm.submit import Order, Prepared, prepare

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("slurm_golden")
STAGES = """\
stages:
  simulate: {nodes: 2, volumes: 12, walltime: 90min, memory: 8G}
  verify:
  report:
  subset: {where: "dose > 300 AND campaign = 'small'", split: {train: 0.75, validation: 0.25}}
  train: {file: gan.yaml}
  translate: {walltime: 1h}
  train_translated: {file: net.yaml, nodes: 2, transport: horovod}
  evaluate: {by: [dose, "defocus:-5,0,5 nm"]}
"""
GAN = """\
training: {name: gan, kind: cyclegan}
simulation: {databases: [x.hdf5], patch: 64}
experiment: {images: [/data/mos2.dm3]}
generator: {levels: 3}
schedule: {epochs: 1, batch: 1}
"""
NET = """\
training: {name: net, kind: segmentation}
data: {databases: [x.hdf5]}
target: {classes: {particle: instances}}
network: {name: residual_unet}
schedule: {epochs: 1, batch: 1}
"""
PLACES = Places(ROOT, Path("/opt/hpctem/.venv/bin"), Path("/scratch/me/gold campaign"))
SHARE = Share("compute", 1, 4, 2, 0, None, 3600.0)


def make(folder: Path, site: str) -> Prepared:
    """A chain of all stages for a cluster, prepared but not written."""
    (folder / "gan.yaml").write_text(GAN)
    (folder / "net.yaml").write_text(NET)
    campaign = write_campaign(folder, ("structures: 6", "structures: 24"))
    campaign.write_text(campaign.read_text() + STAGES)
    name, profile, _ = read_site(site)
    account = "m1234" if profile.account_needed else None
    return prepare(Order(campaign, name, profile, folder / "made", (), account, planned=False))


@pytest.fixture(scope="module", params=["cpu", "gpu", "delta", "perlmutter", "frontier"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make(tmp_path_factory.mktemp("chain"), request.param)


def require_shellcheck() -> None:
    """Skip a test where there is none; `jobs/test` installs it, so under CI it fails."""
    if shutil.which("shellcheck") is None:
        assert os.environ.get("CI") != "true", "shellcheck is not installed"
        pytest.skip("shellcheck is not installed")


def scripts_of(prepared: Prepared) -> dict[str, str]:
    """The scripts with places that are the same on every machine, by name."""
    account = "m1234" if prepared.site.account_needed else None
    return {
        f"{job.name}.sbatch": render(job, prepared.name, prepared.site, account, PLACES).replace(
            str(ROOT), "/opt/hpctem"
        )
        for job in prepared.jobs
    }


def test_scripts_are_those_that_are_kept(prepared: Prepared) -> None:
    """Compared whole: a change of a script is seen in the difference of a commit."""
    folder = GOLDEN / prepared.site_name
    found = scripts_of(prepared)
    if os.environ.get("HPCTEM_GOLDEN") == "write":
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in found.items():
            (folder / name).write_text(text)
        pytest.fail("written anew: read them, and run this without HPCTEM_GOLDEN")
    assert sorted(path.name for path in folder.iterdir()) == sorted(found)
    for name, text in found.items():
        assert text == (folder / name).read_text(), name


def test_scripts_pass_bash_and_shellcheck(prepared: Prepared, tmp_path: Path) -> None:
    for name, text in prepared.texts.items():
        if name.endswith(".sbatch"):
            path = tmp_path / Path(name).name
            path.write_text(text)
            subprocess.run(["bash", "-n", path], check=True)
    require_shellcheck()
    scripts = sorted(tmp_path.glob("*.sbatch"))
    assert len(scripts) == 8
    subprocess.run(["shellcheck", "-x", *scripts], check=True, cwd=ROOT)


def test_templates_pass_bash_and_shellcheck() -> None:
    templates = [*sorted((ROOT / "slurm").glob("*.sbatch")), ROOT / "slurm" / "stage.sh"]
    assert len(templates) == 8
    for path in templates:
        subprocess.run(["bash", "-n", path], check=True)
    require_shellcheck()
    subprocess.run(["shellcheck", "-x", *templates], check=True, cwd=ROOT)


def test_what_a_script_does_is_the_body_of_its_template(prepared: Prepared) -> None:
    for job in prepared.jobs:
        text = prepared.texts[f"scripts/{job.name}.sbatch"]
        template = (ROOT / "slurm" / f"{job.program}.sbatch").read_text()
        assert text.partition(END)[2] == template.partition(END)[2] != ""


def test_every_job_of_a_template_exists_and_can_be_run() -> None:
    for template in (ROOT / "slurm").glob("*.sbatch"):
        job = ROOT / "jobs" / template.stem
        assert f'run_stage "$root/jobs/{job.name}" "$@"' in template.read_text()
        assert job.stat().st_mode & 0o111
    assert (ROOT / "jobs" / "rank").stat().st_mode & 0o111


HOSTILE = (
    *("plain", "two words", "it's", 'say "hi"', "$(touch HACKED)", "`touch HACKED`", "a;b&c|d"),
    *("*", "~", "-n", "", "\\", "$HOME", "new\nline", "é ü", "{a,b}", "!x", "#no", ">out"),
)


def test_bash_reads_every_argument_as_it_was_given(tmp_path: Path) -> None:
    """Also what would be a command of the shell, also in a folder that is called so."""
    folder = tmp_path / 'it\'s $(touch HACKED) "odd" `x` & *'
    folder.mkdir()
    arguments = (*HOSTILE, Inside("a.hdf5"), Inside("b.v*of12.hdf5"), Inside("*/12"))
    job = Job(1, "simulate", SHARE, 12, arguments, "database", ("b.v01of12.hdf5",), HOSTILE)
    site = read_site("cpu")[1]
    text = render(job, "gold", site, None, Places(ROOT, Path("/bin"), folder))
    # All of the script but its body, which would run it.
    shown = text.partition(END)[0] + (
        'printf \'%s\\0\' "$folder" "${watched[@]}" "${beforehand[@]:1}" "$@"\n'
    )
    script = tmp_path / "script.sh"
    script.write_text(shown)
    done = subprocess.run(
        ["bash", script], cwd=tmp_path, capture_output=True, env={"SLURM_ARRAY_TASK_ID": "3"}
    )
    assert done.stderr == b""
    files = [str(folder / name) for name in ("a.hdf5", "b.v03of12.hdf5")]
    wanted = [str(folder), files[1], *HOSTILE, *HOSTILE, *files, "03/12"]
    assert done.stdout.decode().split("\0")[:-1] == wanted
    assert not (tmp_path / "HACKED").exists()
    assert list(tmp_path.glob("out")) == []


@pytest.mark.parametrize(
    "name", ["a b", "a;id", "$(id)", "a\n#SBATCH --uid=0", "", "-x", "a" * 101, "é"]
)
def test_names_that_are_none_of_slurm_are_refused(name: str) -> None:
    job = Job(1, "verify", SHARE, 0, (), "", ())
    site = read_site("cpu")[1]
    with pytest.raises(ConfigError, match="is no name for Slurm"):
        render(job, "gold", site.model_copy(update={"account": name}), None, PLACES)
    with pytest.raises(ConfigError, match="is no name for Slurm"):
        render(job, name, site, None, PLACES)


def test_a_folder_that_no_line_can_name_is_refused() -> None:
    job = Job(1, "verify", SHARE, 0, (), "", ())
    with pytest.raises(ConfigError, match="no script can name"):
        render(job, "gold", read_site("cpu")[1], None, replace(PLACES, folder=Path("/a\nb")))


def test_a_template_without_its_mark_is_told(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "verify.sbatch").write_text("#!/bin/bash\n")
    job = Job(1, "verify", SHARE, 0, (), "", ())
    with pytest.raises(MachineError, match="lacks the line"):
        render(job, "gold", read_site("cpu")[1], None, replace(PLACES, root=tmp_path))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(60, "00:01:00"), (5400, "01:30:00"), (86400, "1-00:00:00"), (172799.6, "2-00:00:00")],
)
def test_times_are_written_as_slurm_reads_them(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_arguments_are_one_line_of_words() -> None:
    assert quote_all(("a b", Inside("x.json"), "--by")) == "'a b' \"$folder\"/x.json --by"
