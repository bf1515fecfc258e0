"""Site profiles: those that are shipped, those that are wrong, which one is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctem.errors import ConfigError
from hpctem.marked_yaml import parse_yaml
from hpctem.slurm.sites import Site, check_site, find_templates, read_site

ROOT = Path(__file__).parents[2]
SITES = ROOT / "slurm" / "sites"
GOOD = """\
partitions:
  cpu: {walltime: 24h, cores: 32, nodes: 4}
  gpu: {walltime: 12h, cores: 16, gpus: 4}
cpu_partition: cpu
gpu_partition: gpu
"""


def read(text: str) -> Site:
    return check_site(parse_yaml(text, "my.yaml"))


def vary(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


@pytest.mark.parametrize("path", sorted(SITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_profiles_that_are_shipped_can_be_read_and_say_that_they_are_untested(
    path: Path,
) -> None:
    name, site, file = read_site(path.stem)
    assert (name, file) == (path.stem, path)
    assert "Untested" in site.description
    assert site.cpu_partition in site.partitions
    if path.stem not in ("cpu", "gpu"):
        assert "https://" in path.read_text()
        assert site.account_needed


def test_the_promised_profiles_are_there() -> None:
    names = {path.stem for path in SITES.glob("*.yaml")}
    assert names == {"cpu", "gpu", "delta", "perlmutter", "frontier"}
    assert find_templates() == ROOT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "lancher: mpirun\n", r"my.yaml:6:1: lancher: unknown key; did you mean 'launcher'"),
        (vary("cores: 32", "core: 32"), "did you mean 'cores'"),
        (vary("cpu_partition: cpu", "cpu_partition: cpus"), "no partition 'cpus'.*mean 'cpu'"),
        (vary("24h", "tomorrow"), "partitions.cpu.walltime: 'tomorrow' is no duration"),
        (vary("cores: 32", "cores: many"), r"my.yaml:2:.*cores"),
        ("partitions: {}\n", "partitions"),
        ("- cpu\n", "mapping"),
        (vary("cpu_partition: cpu\ngpu_partition: gpu\n", ""), "the usual one"),
    ],
)
def test_a_mistake_is_shown_with_its_place_and_the_nearest_name(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){words}"):
        read(text)


@pytest.mark.parametrize(
    "line",
    [
        "account: 'a; touch /tmp/x'",
        "account: '$(id)'",
        'account: "a\\nb"',
        "launcher: srun; id",
        "launcher: srun $(id)",
        "launcher: bash -c id",
        "modules: ['python; id']",
        "modules: ['`id`']",
        "gpu_request: '--gres=gpu:{gpus} ; id'",
        'gpu_request: "--gres=gpu\\n#SBATCH --uid=0"',
        "gpu_binding: ['--x $(id)']",
    ],
)
def test_a_profile_puts_nothing_into_a_script_that_a_shell_would_run(line: str) -> None:
    """But for its `setup` lines, which are lines of shell."""
    with pytest.raises(ConfigError):
        read(GOOD + line + "\n")


@pytest.mark.parametrize(
    "part",
    ["name: 'a b'", "qos: '$X'", "constraint: 'a;b'", "account: 'x y'", "options: ['--x=`id`']"],
)
def test_nor_does_a_partition(part: str) -> None:
    with pytest.raises(ConfigError):
        read(vary("cores: 32", f"cores: 32, {part}"))


def test_the_site_is_named_by_option_variable_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HPCTEM_SITE", raising=False)
    with pytest.raises(ConfigError, match=r"which cluster.*HPCTEM_SITE.*known: cpu, delta"):
        read_site(None)
    (tmp_path / "hpctem").mkdir()
    (tmp_path / "hpctem" / "site").write_text("delta\n")
    assert read_site(None)[0] == "delta"
    mine = tmp_path / "mine.yaml"
    mine.write_text(GOOD)
    monkeypatch.setenv("HPCTEM_SITE", str(mine))
    assert read_site(None)[0] == "mine"
    assert read_site("cpu")[0] == "cpu"


def test_an_unknown_site_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no site 'delat'; did you mean 'delta'"):
        read_site("delat")
    with pytest.raises(ConfigError, match=r"there is no site profile .*none\.yaml"):
        read_site(str(tmp_path / "none.yaml"))
    monkeypatch.setenv("HPCTEM_SITE", "frontie")
    with pytest.raises(ConfigError, match=r"HPCTEM_SITE: .*did you mean 'frontier'"):
        read_site(None)
