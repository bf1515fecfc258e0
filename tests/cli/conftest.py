"""What the tests of the command line share: ways to run it, a small database of each technique."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = Path(__file__).parents[1] / "small.yaml"
SMALL_STEM = SMALL.with_name("small_stem.yaml")
Run = Callable[..., subprocess.CompletedProcess[str]]


def hpctem(*arguments: object, folder: Path, timeout: float = 240) -> subprocess.CompletedProcess:
    """Run `hpctem ...` in a process of its own, in that folder."""
    command = [sys.executable, "-m", "hpctem", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `hpctem ...` in an empty folder."""
    return lambda *arguments, **options: hpctem(*arguments, **{"folder": tmp_path} | options)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `hpctem ...` in an empty folder, in this process: what only reads, or fails early."""
    from hpctem.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["hpctem", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return subprocess.CompletedProcess(sys.argv, code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished database of the small campaign; tests do not change it."""
    folder = tmp_path_factory.mktemp("small")
    done = hpctem("simulate", SMALL, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "small.hdf5"


@pytest.fixture(scope="session")
def small_stem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished database of the small STEM campaign, its contact sheet beside it."""
    folder = tmp_path_factory.mktemp("small_stem")
    done = hpctem("simulate", SMALL_STEM, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "complete and verified" in done.stdout
    return folder / "small_stem.hdf5"


@pytest.fixture
def variant(tmp_path: Path) -> Callable[..., Path]:
    """The small campaign with texts replaced, as a file: `variant(("old", "new"), ...)`."""

    def write(*changes: tuple[str, str], name: str = "variant.yaml") -> Path:
        text = SMALL.read_text()
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {SMALL}"
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
