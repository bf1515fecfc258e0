"""The script of each job: the template of its stage, with what the site and the chain decide."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctem.errors import ConfigError, MachineError
from hpctem.slurm.chain import Argument, Inside, Job
from hpctem.slurm.files import LOGS
from hpctem.slurm.sites import Site, account_of

END = "# End of what depends on the cluster.\n"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Places:
    """Where things lie on the cluster, all absolute.

    root       of hpctem, with jobs/ and slurm/
    programs   folder of the hpctem command and its Python
    folder     of the campaign
    """

    root: Path
    programs: Path
    folder: Path


def render(job: Job, campaign: str, site: Site, account: str | None, places: Places) -> str:
    """The whole script of a job.

    Everything that comes from a file or the command line is quoted for the shell or checked against
    the letters that Slurm's names have. Raises ConfigError for a folder that no line of a script
    can name, or a name that is none.
    """
    for word in (campaign, account_of(site.partitions[job.share.partition], site, account)):
        if word is not None and not NAME.fullmatch(word):
            raise ConfigError(f"{word!r} is no name for Slurm: letters, digits, '_', '.' and '-'")
    for path in (places.root, places.programs, places.folder):
        if not str(path).isprintable():
            raise ConfigError(f"the folder {str(path)!r} has a letter that no script can name")
    template = (places.root / "slurm" / f"{job.program}.sbatch").read_text(encoding="utf-8")
    head, found, body = template.partition(END)
    if not found:
        raise MachineError(
            f"{places.root}/slurm/{job.program}.sbatch lacks the line {END.strip()!r}"
        )
    directives = "".join(f"#SBATCH {one}\n" for one in _directives(job, campaign, site, account))
    settings = "".join(f"{line}\n" for line in _settings(job, campaign, site, places))
    return f"{head.splitlines()[0]}\n{directives}\n{settings}{END}{body}"


def _directives(job: Job, campaign: str, site: Site, account: str | None) -> Iterator[str]:
    share, partition = job.share, site.partitions[job.share.partition]
    yield f"--job-name={campaign[:80]}.{job.name}"
    account = account_of(partition, site, account)
    if account:
        yield f"--account={account}"
    if partition.name != "none":
        yield f"--partition={partition.name or share.partition}"
    if partition.qos:
        yield f"--qos={partition.qos}"
    if partition.constraint:
        yield f"--constraint={partition.constraint}"
    yield f"--nodes={share.nodes}"
    yield f"--ntasks-per-node={share.ranks_per_node}"
    yield f"--cpus-per-task={share.threads}"
    if share.gpus:
        yield site.gpu_request.replace("{gpus}", str(share.gpus))
    if share.memory:
        yield f"--mem={share.memory}"
    yield f"--time={format_time(share.seconds)}"
    if job.volumes:
        at_once = f"%{site.array_running}" if site.array_running else ""
        yield f"--array=1-{job.volumes}{at_once}"
    yield "--requeue" if site.requeue else "--no-requeue"
    yield "--open-mode=append"
    # Relative to the campaign folder, where it is submitted: whatever that is called.
    yield f"--output={log_of(job, '%a')}"
    yield f"--signal=B:USR1@{site.signal_seconds}"
    yield from partition.options


def _settings(job: Job, campaign: str, site: Site, places: Places) -> Iterator[str]:
    share = job.share
    yield f"# Written by 'hpctem submit' for the stage {job.stage} of {campaign}. By hand:"
    yield f"#   cd CAMPAIGN_FOLDER && sbatch scripts/{job.name}.sbatch"
    yield ""
    for module in site.modules:
        yield f"module load {module} || unprepared='the module {module} cannot be loaded'"
    yield from site.setup
    yield f"export PATH={quote(places.programs)}:$PATH"
    yield f"root={quote(places.root)}"
    yield f"folder={quote(places.folder)}"
    requeue = "yes" if site.requeue else "no"
    yield f"stage={job.stage} number={job.number} attempts={site.attempts} requeue={requeue}"
    yield f"signal_seconds={site.signal_seconds} threads={share.threads}"
    yield f"launcher={quote(_launcher(job, site))}"
    if job.volumes:
        width = len(str(job.volumes))
        yield f"printf -v volume '%0{width}d' \"$SLURM_ARRAY_TASK_ID\""
    name = job.outputs[0] if job.outputs else ""
    if job.volumes:
        name = re.sub(r"\.v\d+of", ".v*of", name)
    yield f"watched=({quote_argument(Inside(name)) if job.watch else ''})"
    if job.drawn:
        yield f'beforehand=("$root/jobs/subset" {quote_all(job.drawn)})'
    yield f"set -- {quote_all(job.arguments)}"


def _launcher(job: Job, site: Site) -> str:
    if site.launcher == "none" or job.stage in ("report", "subset"):
        return "none"
    return " ".join([site.launcher, *(site.gpu_binding if job.share.gpus else ())])


def log_of(job: Job, task: object = "") -> str:
    """The log of a job, or of one task of its array, in the campaign folder."""
    return f"{LOGS}/{job.name}{f'.{task}' if job.volumes else ''}.log"


def quote(value: object) -> str:
    """A word that the shell reads as it stands; shellcheck takes a bare comma for a mistake."""
    text = str(value)
    return f"'{text}'" if "," in text and "'" not in text else shlex.quote(text)


def quote_argument(argument: Argument) -> str:
    """An argument as the script writes it; files of the campaign folder by its variable."""
    if not isinstance(argument, Inside):
        return quote(argument)
    parts = [quote(part) if part else "" for part in argument.name.split("*")]
    if parts[1:] == ["/" + argument.name.partition("/")[2]]:  # the number of a volume, not a file
        return f'"$volume"{parts[1]}'
    return '"$folder"/' + '"$volume"'.join(parts)


def quote_all(arguments: Sequence[Argument]) -> str:
    """Arguments in one line."""
    return " ".join(map(quote_argument, arguments))


def format_time(seconds: float) -> str:
    """Slurm's days-hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours:02d}:{minutes:02d}:{rest:02d}"
    return f"{days}-{clock}" if days else clock
