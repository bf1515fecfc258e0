"""The target of compiled loops, and the folder where their machine code is kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpctem import processor
from hpctem.optics.line_transforms import plan_lines, transform


def test_every_module_with_compiled_loops_is_listed() -> None:
    """One that is not would keep the machine code of before an update."""
    pattern = re.compile(r"^(from|import) (numba|hpctem\.compiling)\b", re.MULTILINE)
    found = {
        str(path.relative_to(processor.PACKAGE))
        for path in processor.PACKAGE.rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert found == set(processor.COMPILED)


def test_folder_is_that_of_the_sources_and_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in processor.COMPILED:
        (tmp_path / module).parent.mkdir(exist_ok=True)
        shutil.copy(processor.PACKAGE / module, tmp_path / module)
    names = [processor.name_folder(tmp_path)]
    assert names == [processor.name_folder()]
    for module in processor.COMPILED:
        with (tmp_path / module).open("a") as file:
            file.write("# changed\n")
        names.append(processor.name_folder(tmp_path))
    monkeypatch.setenv("NUMBA_CPU_NAME", "nehalem")
    names.append(processor.name_folder(tmp_path))
    assert len(set(names)) == len(names)


def test_target_tells_what_a_processor_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign begun with fused multiply-add is not continued without: other bytes."""
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64-v3")
    found = set()
    for features in ("", "+avx2,+fma", "+avx2,-fma"):
        monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
        found.add(processor.read_target())
    assert found == {"x86-64-v3", "x86-64-v3 +avx2,+fma", "x86-64-v3 +avx2,-fma"}


def test_folder_is_the_first_place_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = processor.name_folder()
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert processor.choose_folder() == processor.PACKAGE / "__pycache__" / name
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(processor, "name_folder", lambda: name)
    monkeypatch.setattr(processor, "PACKAGE", blocked)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert processor.choose_folder() == tmp_path / "cache" / name
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert processor.choose_folder() == tmp_path / f"hpctem-{os.getuid()}" / name
    (tmp_path / f"hpctem-{os.getuid()}").rmdir()
    (tmp_path / f"hpctem-{os.getuid()}").touch()  # another's
    assert processor.choose_folder().parent.parent == tmp_path


def test_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine code found there would be run."""
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)
    folder = processor.choose_folder().parent
    assert folder.parent == tmp_path and folder.name.startswith("hpctem-")
    assert folder.name != f"hpctem-{2**31 - 5}" and folder.stat().st_mode & 0o77 == 0


def test_folder_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = processor.choose_folder()
    assert folder == tmp_path / processor.name_folder()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))  # as a process that this one starts meets it
    assert processor.choose_folder() == folder


PROGRAM = """
from hpctem.export import crc32c
print(crc32c.crc32c(b"123456789"), sum(crc32c._update.stats.cache_misses.values()))
"""


def test_ranks_that_compile_at_once_share_what_they_compiled(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    ranks = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [rank.communicate()[0].split()[0] for rank in ranks] == [str(0xE3069283)] * 3
    after = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert after.stdout.split() == [str(0xE3069283), "0"]
    assert len(list(tmp_path.rglob("*.nbc"))) == 1
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_transforms_are_compiled_for_one_set_of_types() -> None:
    """Where ranks compile a function for several types in another order, Numba may confuse them."""
    for n in (64, 75, 82):
        block = np.zeros(n * 16, np.float32)
        transform(block, plan_lines(n), np.empty_like(block))
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    kept = {
        module: [path.name for path in folder.rglob(f"{module}.*.nbc")]
        for module in ("butterflies", "line_transforms", "panels", "passes")
    }
    assert kept["butterflies"] and kept["line_transforms"]
    assert all(name.endswith(".1.nbc") for names in kept.values() for name in names)
