"""Chains of jobs for the test cluster: a campaign of seconds, submitted, followed, compared.

Also a disk on which they take minutes, for as long as something is to happen to them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from cluster import Cluster, wait_for
from small_campaigns import SMALL, simulate, write_campaign

SITE = Path(__file__).with_name("site.yaml")
STRUCTURES = 84
# A structure is computed in some hundredths of a second, and is a segment of its own.
CHANGES = (
    ("name: small", "name: tiny"),
    ("structures: 6", f"structures: {STRUCTURES}"),
    ("[3.2 nm, 3.2 nm]", "[2 nm, 2 nm]"),
    ("count: {choice: [1, 1, 2]}", "count: 1"),
    ("configurations: 2", "configurations: 1"),
    ("crop: 96", "crop: 64"),
    ("foci: 2", "foci: 1"),
    ("storage: {exit_waves: true, store_atoms: true}\n", ""),
)
TWO_NODES = {"nodes": 2, "ranks_per_node": 1}


@dataclass(frozen=True)
class SlowDisk:
    """Every fdatasync of a job takes `seconds` until `end` is called."""

    library: Path
    switch: Path

    def begin(self, seconds: float) -> SlowDisk:
        self.switch.write_text(f"{seconds}\n")
        return self

    def end(self) -> None:
        self.switch.unlink()

    @property
    def setup(self) -> list[str]:
        """Lines of bash that put a job onto this disk."""
        return [f"export SLOW_DISK='{self.switch}' LD_PRELOAD='{self.library}'"]


def compile_slow_disk(folder: Path) -> None:
    """Compile slow_disk.c; RuntimeError where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler: install gcc")
    source = Path(__file__).with_name("slow_disk.c")
    options = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, "-o", folder / "slow_disk.so", source, "-ldl"], check=True)


def write_tiny(folder: Path, *changes: tuple[str, str], **stages: dict) -> Path:
    """The campaign file in a folder, with the settings of its stages: by default simulate on two
    nodes, and verify. The text is kept in the database, so other settings give other bytes."""
    path = write_campaign(folder, *CHANGES, *changes, of=SMALL, name="tiny.yaml")
    stages = stages or {"simulate": TWO_NODES, "verify": {"partition": "short"}}
    path.write_text(path.read_text() + yaml.safe_dump({"stages": stages}, sort_keys=False))
    return path


def write_site(folder: Path, **keys: object) -> Path:
    """The profile of the test cluster with other keys; without those that are None."""
    path = folder / "site.yaml"
    profile = yaml.safe_load(SITE.read_text()) | keys
    path.write_text(yaml.safe_dump({k: v for k, v in profile.items() if v is not None}))
    return path


def hpctem(
    slurm: Cluster, *arguments: object, folder: Path | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `hpctem ...` where the cluster is."""
    return slurm.run("hpctem", *arguments, cwd=folder, timeout=timeout)


def submit(slurm: Cluster, campaign: Path, site: Path = SITE, *options: object) -> Path:
    """Submit a campaign; its campaign folder, which has the campaign's name."""
    # The time is not estimated: the clock of a busy test machine says little.
    words = ("submit", campaign.name, "--site", site, "--no-plan", *options)
    done = hpctem(slurm, *words, folder=campaign.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return campaign.parent / campaign.stem


def look(slurm: Cluster, chain: Path) -> dict[str, dict]:
    """What `hpctem status` says of each stage."""
    done = hpctem(slurm, "status", chain, "--json")
    assert done.returncode in (0, 1), done.stderr
    return {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}


def read_state(chain: Path, name: str) -> dict:
    """What a stage, as '1-simulate', has written of itself; {} before it has."""
    path = chain / "state" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def count_commits(chain: Path, name: str = "tiny.hdf5") -> int:
    """A number that grows with every segment that ranks commit: bytes of the journals."""
    journals = (chain / f"{name}.journal").glob("*.journal")
    return sum(path.stat().st_size for path in journals if "merged" not in path.name)


def await_commits(slurm: Cluster, chain: Path, name: str = "tiny.hdf5") -> None:
    """Wait until the run at hand has committed two structures: three records each."""
    enough = count_commits(chain, name) + 6 * 64
    wait_for(lambda: count_commits(chain, name) >= enough, 240, lambda: tell(slurm, chain))


def await_state(
    slurm: Cluster,
    chain: Path,
    name: str,
    fulfils: Callable[[dict], bool],
    timeout: float = 240,
) -> dict:
    """Wait until the state that a stage writes of itself fulfils something."""

    def state() -> dict | None:
        found = read_state(chain, name)
        return found if found and fulfils(found) else None

    return wait_for(state, timeout, lambda: tell(slurm, chain))


def await_done(slurm: Cluster, chain: Path, last: str, timeout: float = 240) -> None:
    """Wait until the last stage, as '2-verify', is done and `status` calls all complete."""
    await_state(slurm, chain, last, lambda state: state["state"] == "done", timeout)
    status = hpctem(slurm, "status", chain)
    said = status.stdout + status.stderr
    assert status.returncode == 0 and "everything is done" in said, said


def tell(slurm: Cluster, chain: Path) -> str:
    """Status, queue and logs, for the message of a failure."""
    parts = [hpctem(slurm, "status", chain).stdout, slurm.run("squeue").stdout]
    for path in sorted((chain / "logs").rglob("*.log")):
        end = path.read_text(errors="replace").splitlines()[-20:]
        parts.append("\n".join([f"--- {path.relative_to(chain)}", *end]))
    return "\n".join(parts)


def job_of(chain: Path, stage: str) -> str:
    """The number of a stage's job."""
    return json.loads((chain / "jobs.json").read_text())["jobs"][stage]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def simulate_alone(folder: Path) -> None:
    """The database of the campaign by one process that nothing disturbs."""
    simulate(write_tiny(folder), folder)
