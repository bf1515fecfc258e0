"""What README and docs show is true: campaign files load, Python runs, commands and links exist."""

from __future__ import annotations

import configparser
import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

ROOT = Path(__file__).parents[2]
HPCTEM = Path(sys.executable).with_name("hpctem")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
# Commands that only read are run where what they read exists; the others are parsed.
READING = ("info", "verify", "schema")
# So are these, in this process.
ASKING = ("query", "subset")
SECTIONS = {"structure", "particles", "substrate", "simulation", "imaging", "labels", "storage"}
# A part of a campaign stands in the place of that of a whole one.
COMPLETED_BY = {"docs/stem.md": "mos2_se_implanted.yaml"}
LAUNCHERS = ("mpirun", "srun")


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found, text in BLOCK.findall(page.read_text()):
            if found == language:
                yield str(page.relative_to(ROOT)), text


def shell_lines() -> Iterator[tuple[str, list[str]]]:
    for page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield page, words


def hpctem_commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The words after `hpctem` of every command, launched or not, and the page they are on."""
    for page, words in shell_lines():
        if words[0] in LAUNCHERS:
            words = next((words[i:] for i, w in enumerate(words) if Path(w).name == "hpctem"), [])
        if words and Path(words[0]).name == "hpctem":
            end = words.index("&") if "&" in words else len(words)
            yield page, tuple(words[1:end])


def parametrize(name: str, found: Iterator[tuple[str, object]]):
    pairs = list(found)
    ids = [f"{page}-{number}" for number, (page, _) in enumerate(pairs)]
    return pytest.mark.parametrize(name, [value for _, value in pairs], ids=ids)


@pytest.fixture(scope="module")
def quickstart_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as jobs/quickstart leaves it, with the database of two structures.

    Beside it the first campaign of docs/stem.md, simulated, and a dozen images of
    atomvision_2d.yaml, of the materials below.
    """
    folder = tmp_path_factory.mktemp("docs")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "quickstart").mkdir()
    subprocess.run(
        [
            *(HPCTEM, "simulate", "configs/quickstart.yaml", "--limit", "2"),
            *("-o", "quickstart/quickstart.hdf5"),
        ],
        cwd=folder,
        check=True,
    )
    first = BLOCK.search((ROOT / "docs/stem.md").read_text())
    assert first is not None
    (folder / "mos2.yaml").write_text(first[2])
    subprocess.run([HPCTEM, "simulate", "mos2.yaml"], cwd=folder, check=True)
    write_materials(folder / "c2db.json")
    text = (ROOT / "configs/atomvision_2d.yaml").read_text().replace("9150", "12")
    (folder / "atomvision_2d.yaml").write_text(text.replace("c2db.db", "c2db.json"))
    subprocess.run([HPCTEM, "simulate", "atomvision_2d.yaml"], cwd=folder, check=True)
    return folder


def write_materials(path: Path) -> None:
    """A database of six layers, of each of the five lattices at least one."""
    from ase import Atoms
    from ase.build import graphene, mx2
    from ase.db import connect

    with connect(path) as materials:
        materials.write(mx2("MoS2", a=3.16, thickness=3.13, vacuum=8.0))
        materials.write(graphene(vacuum=8.0))
        for symbols, a, b, angle, second in (
            ("FeSe", 3.8, 3.8, 90, (0.5, 0.5, 0.5)),
            ("GeS", 3.6, 4.4, 90, (0.4, 0.5, 0.5)),
            ("NaCl", 4.0, 4.9, 80, (0.3, 0.4, 0.55)),
            ("CuO", 4.0, 4.0, 80, (0.5, 0.5, 0.5)),
        ):
            cell, places = [a, b, 15, 90, 90, angle], [(0, 0, 0.5), second]
            materials.write(Atoms(symbols, scaled_positions=places, cell=cell, pbc=(1, 1, 0)))


@parametrize("shown", ((page, (page, text)) for page, text in blocks("yaml")))
def test_campaign_files_load(shown: tuple[str, str]) -> None:
    """A whole file as it stands, a part of a campaign in the place of that of a whole one."""
    from hpctem.config import check_config, check_sections
    from hpctem.learning.training_file import MODELS
    from hpctem.marked_yaml import parse_yaml

    page, text = shown
    part = yaml.safe_load(text)
    if "training" in part:
        check_sections(parse_yaml(text, "docs"), MODELS[part["training"]["kind"]])
        return
    if "campaign" not in part:
        whole = ROOT / "configs" / COMPLETED_BY.get(page, "quickstart.yaml")
        text = yaml.safe_dump(merge(yaml.safe_load(whole.read_text()), part), sort_keys=False)
    check_config(parse_yaml(text, "docs"))


def merge(base: dict, changes: dict) -> dict:
    """Sections are completed, values and distributions are replaced."""
    both = {key: merge(base[key], changes[key]) for key in SECTIONS & base.keys() & changes.keys()}
    return base | changes | both


@parametrize("words", hpctem_commands())
def test_commands_are_understood(
    words: tuple[str, ...], quickstart_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpctem.cli import commands

    monkeypatch.chdir(quickstart_folder)
    if words[0] in READING and all(Path(word).exists() for word in words[1:]):
        subprocess.run([HPCTEM, *words], check=True)
        return
    with click.Context(commands) as context:
        command = commands.get_command(context, words[0])
        assert command is not None, f"there is no command {words[0]}"
        given = command.make_context(words[0], list(words[1:]), parent=context)
        if words[0] in ASKING and all(path.exists() for path in given.params["databases"]):
            with given:
                command.invoke(given)


@parametrize("text", blocks("python"))
def test_python_runs(text: str, quickstart_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(quickstart_folder)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "documentation", "exec"), {})


@parametrize("words", (pair for pair in shell_lines() if pair[1][0].startswith("jobs/")))
def test_job_scripts_exist(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()


@parametrize("words", (pair for pair in shell_lines() if "install" in pair[1]))
def test_extras_exist(words: list[str]) -> None:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    for word in words:
        if found := re.search(r"\[(.+)\]$", word):
            for extra in found[1].split(","):
                assert extra in metadata["options.extras_require"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
