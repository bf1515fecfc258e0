"""Site profiles: what a cluster is like, in a YAML file of a few lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

import hpctem
from hpctem.config import check_sections
from hpctem.errors import ConfigError, MachineError
from hpctem.marked_yaml import MarkedYaml, read_yaml
from hpctem.planning.prepare import parse_walltime
from hpctem.sections.common import Section, nearest
from hpctem.sections.stages import MEMORY, WORD

VARIABLE = "HPCTEM_SITE"
# Options of sbatch, srun and mpirun, and modules: words that no shell takes for anything else.
Option = Annotated[str, StringConstraints(pattern=r"^-{1,2}[A-Za-z0-9_.,:=@%/+{}-]{1,200}$")]
Module = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+/-]{0,99}$")]
LAUNCHER = r"^(none|(srun|mpirun|mpiexec)( [A-Za-z0-9_.,:=@/+-]+)*)$"
UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


# A name, or one that begins with the account that pays for all.
ACCOUNT = r"^(\{account\}|[A-Za-z0-9])[A-Za-z0-9_.-]{0,63}$"


class Partition(Section):
    """Nodes of one kind, and how long and how many of them a job may have."""

    walltime: str = Field(max_length=20, description="longest time of a job, as 48h or 2-00:00:00")
    cores: int = Field(ge=1, le=4096, description="cores of a node")
    nodes: int = Field(1, ge=1, le=10**5, description="most nodes of a job")
    gpus: int = Field(0, ge=0, le=64, description="GPUs of a node")
    memory: str | None = Field(None, pattern=MEMORY, description="memory of a node, as 256G")
    name: str | None = Field(
        None,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.,-]{0,99}|none)$",
        description="what sbatch is "
        "given as --partition; the key itself by default, 'none' for no such option",
    )
    account: str | None = Field(
        None,
        pattern=ACCOUNT,
        description="where it is another than the site's; {account} in it stands for that",
    )
    qos: str | None = Field(None, pattern=WORD, description="quality of service")
    constraint: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.,:|&*-]{1,100}$", description="features that nodes must have"
    )
    options: tuple[Option, ...] = Field((), description="further options of sbatch")

    @property
    def seconds(self) -> float:
        """The longest time of a job in seconds."""
        return parse_walltime(self.walltime)


class Site(Section):
    """A cluster: its partitions, and how ranks are started on it."""

    description: str = Field("", max_length=2000)
    """What it is, where that is documented, and whether it was tried."""
    account: str | None = Field(None, pattern=WORD, description="account that pays")
    account_needed: bool = Field(False, description="jobs without an account are refused")
    partitions: dict[str, Partition] = Field(min_length=1, description="by name")
    cpu_partition: str | None = Field(None, description="usual one of stages without GPUs")
    gpu_partition: str | None = Field(None, description="usual one of stages with GPUs")
    gpu_request: Option = Field(
        "--gpus-per-node={gpus}", description="how sbatch is asked for {gpus} GPUs on each node"
    )
    gpu_binding: tuple[Option, ...] = Field((), description="options of the launcher with GPUs")
    modules: tuple[Module, ...] = Field((), description="loaded before anything is run")
    setup: tuple[str, ...] = Field(
        (), description="lines of bash run after the modules are loaded, as they stand"
    )
    launcher: str = Field(
        "srun --mpi=pmix", pattern=LAUNCHER, description="what starts ranks, with its options"
    )
    scratch: str | None = Field(
        None, max_length=1000, description="folder for campaign folders; variables are expanded"
    )
    stripes: int | None = Field(
        None, ge=-1, le=2000, description="Lustre stripes of a campaign folder; -1 for all"
    )
    requeue: bool = Field(True, description="jobs may put themselves back into the queue")
    attempts: int = Field(
        3, ge=1, le=100, description="starts of a stage without progress before it has failed"
    )
    signal_seconds: int = Field(
        180, ge=10, le=65535, description="before the end of its time a job is asked to stop"
    )
    array_tasks: int = Field(100, ge=0, le=10**5, description="most tasks of an array; 0 for none")
    array_running: int | None = Field(None, ge=1, description="of these at once")

    @model_validator(mode="after")
    def _partitions(self) -> Site:
        for key in ("cpu_partition", "gpu_partition"):
            name = getattr(self, key)
            if name is not None and name not in self.partitions:
                raise ValueError(f"{key}: {unknown_partition(self, name)}")
        for name, partition in self.partitions.items():
            try:
                partition.seconds  # noqa: B018
            except ValueError as error:
                raise ValueError(f"partitions.{name}.walltime: {error}") from None
        if self.cpu_partition is None and self.gpu_partition is None:
            raise ValueError("cpu_partition or gpu_partition is needed: the usual one")
        return self


def account_of(partition: Partition, site: Site, given: str | None) -> str | None:
    """Who pays for a job in a partition; `given` on the command line instead of the profile's."""
    usual = given or site.account
    if partition.account is None or "{account}" not in partition.account:
        return given or partition.account or usual
    return partition.account.replace("{account}", usual) if usual else None


def unknown_partition(site: Site, name: str) -> str:
    """What is said of a partition that the profile does not have."""
    known = ", ".join(site.partitions)
    return f"there is no partition {name!r}{nearest(name, site.partitions)} (known: {known})"


def memory_bytes(text: str) -> float:
    """Bytes of '256G'."""
    return float(text[:-1]) * UNITS[text[-1]]


def find_templates() -> Path:
    """The folder that holds slurm/ and jobs/: the checkout, else what a wheel has installed.

    Raises MachineError when neither is there.
    """
    for root in (Path(hpctem.__file__).parents[1], Path(sys.prefix, "share", "hpctem")):
        if (root / "slurm" / "simulate.sbatch").is_file() and (root / "jobs").is_dir():
            return root
    raise MachineError(
        f"the job scripts of hpctem (slurm/, jobs/) are neither beside {Path(hpctem.__file__)} nor "
        f"in {Path(sys.prefix, 'share', 'hpctem')}: install hpctem again"
    )


def read_site(named: str | None, folder: Path | None = None) -> tuple[str, Site, Path]:
    """Name, profile and file of a site.

    named    path of a profile or its name, here or in ~/.config/hpctem; None for HPCTEM_SITE, else
             what the file site there names
    folder   of the profiles; slurm/sites by default

    Raises ConfigError that names the nearest profile, or points at the line that is wrong.
    """
    folder = folder or find_templates() / "slurm" / "sites"
    said, whence = (named, "--site") if named else _usual_site()
    if not said:
        raise ConfigError(
            f"which cluster is this? Name its profile with --site, in {VARIABLE} or in "
            f"{_site_file()}; known: {', '.join(_known(folder))}; or write one of your own"
        )
    path = _locate(said, whence, folder)
    document = read_yaml(path)
    return path.stem, check_site(document), path


def check_site(document: MarkedYaml) -> Site:
    """The profile of a parsed document; raises ConfigError with every mistake and its line."""
    if not isinstance(document.data, dict):
        raise ConfigError(document.error((), "a site profile is a mapping of keys"))
    return check_sections(document, Site)


def _site_file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home, "hpctem", "site")


def _usual_site() -> tuple[str, str]:
    if os.environ.get(VARIABLE):
        return os.environ[VARIABLE], VARIABLE
    try:
        return _site_file().read_text(encoding="utf-8").strip(), str(_site_file())
    except OSError:
        return "", ""


def _known(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _locate(said: str, whence: str, folder: Path) -> Path:
    if said.endswith((".yaml", ".yml")) or os.sep in said:
        path = Path(said).expanduser()
        if not path.is_file():
            raise ConfigError(f"{whence}: there is no site profile {path}")
        return path
    own = _site_file().with_name(f"{said}.yaml")
    if own.is_file():
        return own
    known = _known(folder)
    if said not in known:
        raise ConfigError(
            f"{whence}: there is no site {said!r}{nearest(said, known)} (known: "
            f"{', '.join(known)}); a path names a profile of your own"
        )
    return folder / f"{said}.yaml"
