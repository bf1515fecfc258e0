"""The shape of the project: what imports what, how light the command is, that the docs are true."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hpctem"
HPCTEM = Path(sys.executable).with_name("hpctem")

# Data flows down this list: a module imports its own package and what stands before it.
FLOW = (
    *("errors", "units", "aligned"),
    *("sampling", "marked_yaml", "distributions", "sections", "config"),
    *("processor", "compiling", "backend"),
    *("structures", "optics", "detection", "labels", "column_labels", "report", "micrographs"),
    *("parallel", "database", "collection", "subsets", "inputs", "campaign_file"),
    *("conditions", "tables", "hrtem", "stem", "techniques", "memory", "simulate"),
    *("reimaging", "export", "pictures", "summaries", "page", "learning", "importing"),
    *("calibration", "planning", "slurm", "examinations", "doctor", "cli", "__main__"),
)
# The object of a notebook offers, as methods, what stands above it.
METHODS = {"collection/collection.py": ("subsets", "pictures")}
# Beyond the order: physics knows no campaign file (but for the recipes of structures) and no
# processes, storage computes no physics.
PHYSICS = ("structures", "optics", "detection", "labels", "column_labels")
APART = {
    **{name: ("config", "sections") for name in (*PHYSICS[1:], "report")},
    **{
        name: ("config", "sections", "sampling", "report", *PHYSICS)
        for name in ("database", "collection", "subsets")
    },
    "parallel": ("config", "sections", *PHYSICS),
}
# Layers and losses need it at their head; `learning` is therefore itself imported late.
LEARNING = ("tensorflow", "keras")
# Imported where they are used, never when a module is: each costs time, or is not everywhere.
LATE = (
    *("cupy", "mpi4py", "ase", "pymatgen", "spglib", "matplotlib", "horovod", *LEARNING),
    *("duckdb", "pyarrow", "pandas", "PIL", "torch"),
)
# Licences that the package must not depend on (GPL), and what only tests may use.
NEVER = ("rsciio", "hyperspy", "abtem", "pyprismatic", "pytest", "hypothesis")
# An extra that a user may install reads the files of microscopes.
OPTIONAL = {"micrographs/read.py": "rsciio"}


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Names of the modules a file imports, and whether the import runs with the module's own."""
    tree = ast.parse(path.read_text())
    inner = {
        node
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(outer)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in inner
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or "", node not in inner
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node not in inner


def for_types(node: ast.AST) -> bool:
    """Whether a block is there for type checkers alone and never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def unit(path: Path) -> str:
    """The name in FLOW that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def unit_imports(path: Path) -> set[str]:
    parts = (name.split(".") for name, _ in imports_of(path))
    names = {part[1] for part in parts if part[0] == "hpctem" and len(part) > 1}
    return {name for name in names if name != "__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_data_flows_one_way(path: Path) -> None:
    assert unit(path) in FLOW, f"give {unit(path)} its place in FLOW"
    before = FLOW[: FLOW.index(unit(path)) + 1]
    for name in unit_imports(path) - set(METHODS.get(str(path.relative_to(PACKAGE)), ())):
        assert name in before, f"{path} imports {name}, which comes after {unit(path)}"
        assert name not in APART.get(unit(path), ()), f"{path} must not know {name}"


# What the rows of a structure depend on is in the plan of their database: most as a digest of the
# code, these otherwise. The config by its resolved values, micrographs by the text taken from them,
# the target of compiled loops by its name; the database puts rows in place and decides none.
RECORDED = {
    *("errors", "units", "marked_yaml", "distributions", "sections", "config", "processor"),
    *("micrographs", "database"),
}


@pytest.mark.parametrize("technique", ["hrtem", "stem"])
def test_the_digest_of_the_code_covers_all_that_computes_rows(technique: str) -> None:
    """Code that is changed and not noticed would go on with a database of other images."""
    from hpctem.simulate import DECIDING

    reached, waiting = set(), {technique}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        if name not in RECORDED:
            files = [path for path in modules() if unit(path) == name]
            waiting |= set().union(*map(unit_imports, files)) - reached
    assert reached - RECORDED - {technique} <= set(DECIDING)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_late_and_foreign_licences_never(path: Path) -> None:
    for name, at_once in imports_of(path):
        package = name.split(".")[0]
        extra = OPTIONAL.get(str(path.relative_to(PACKAGE)))
        assert package not in NEVER or package == extra, f"{path} imports {name}"
        late = package in LATE or package == extra or name.startswith("hpctem.learning")
        if unit(path) == "learning":
            late = package in LATE and package not in LEARNING
        assert not (at_once and late), f"{path} imports {name} at its head"
        if unit(path) in PHYSICS:
            assert package not in ("mpi4py", "h5py"), f"{path} imports {name}"


def run_python(code: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=True, cwd=ROOT
    )
    return answer.stdout


def test_the_command_is_light() -> None:
    """`hpctem --help` is asked for often, also on login nodes where MPI and CUDA do not start."""
    code = """
import sys
from hpctem.cli import main
sys.argv = ["hpctem", "--help"]
try:
    main()
finally:
    heavy = "mpi4py cupy tensorflow h5py numba numpy scipy ase pymatgen matplotlib pydantic".split()
    print("loaded:", *(name for name in heavy if name in sys.modules))
"""
    answer = run_python(code)
    assert "simulate" in answer
    assert answer.splitlines()[-1].split() == ["loaded:"]


@pytest.mark.alone
def test_help_comes_at_once() -> None:
    """In under half a second; the best of several, because other tests may be running beside."""
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        subprocess.run([HPCTEM, "--help"], check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
        if best < 0.5:
            return
    pytest.fail(f"hpctem --help takes {best:.2f} s")


def test_modules_stay_small() -> None:
    """A module is one thing that can be read at one sitting."""
    lengths = {str(path): len(path.read_text().splitlines()) for path in modules()}
    assert {path: length for path, length in lengths.items() if length > 500} == {}


def test_job_scripts_pass_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*(ROOT / "jobs").iterdir(), ROOT / ".ci/run"]
    subprocess.run(["shellcheck", "-x", *scripts], check=True, cwd=ROOT)


def test_job_scripts_can_be_run() -> None:
    for script in (ROOT / "jobs/quickstart", ROOT / "jobs/test", ROOT / ".ci/run"):
        assert script.stat().st_mode & 0o111, f"{script} lacks its run bit"
