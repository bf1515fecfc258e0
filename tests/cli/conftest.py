"""What the tests of the command line share: ways to run it, campaigns and databases to change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_campaigns import write_campaign

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


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """A copy of the small database for jobs to work on, with its journals."""
    shutil.copytree(f"{small}.journal", tmp_path / "copy.hdf5.journal")
    return Path(shutil.copy(small, tmp_path / "copy.hdf5"))


@pytest.fixture
def variant(tmp_path: Path) -> Callable[..., Path]:
    """The small campaign with texts replaced, as a file: `variant(("old", "new"), ...)`."""

    def write(*changes: tuple[str, str], name: str = "variant.yaml") -> Path:
        return write_campaign(tmp_path, *changes, name=name)

    return write
