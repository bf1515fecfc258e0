"""The chain of a campaign: each stage as a job with its arguments, files and share of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctem.database.schema import volume_path
from hpctem.errors import ConfigError
from hpctem.marked_yaml import MarkedYaml
from hpctem.planning.prepare import parse_walltime
from hpctem.sections.common import nearest
from hpctem.sections.stages import (
    ORDER,
    USUAL,
    Evaluate,
    Resources,
    Simulate,
    Stages,
    Subset,
    Train,
)
from hpctem.slurm.sites import Site, memory_bytes, unknown_partition

CAMPAIGN, SUBSET = "campaign.yaml", "subset.json"
TRANSLATED_SUBSET = "translated.subset.json"
EVALUATION, TRANSLATED = "evaluation", "translated"
# Stages whose network wants a GPU, and those that are one process.
LEARNING = ("train", "translate", "train_translated", "evaluate")
SINGLE = ("report", "subset")
# One rank for each core reads faster than a disk gives long before a node is full.
MOST_READERS = 16
ONE_PROCESS = "8G"
# Hours of a job where neither file nor partition say less.
HOURS = {
    **{"simulate": 8, "train": 8, "train_translated": 8, "translate": 4},
    **{"verify": 1, "report": 1, "subset": 0.5, "evaluate": 2},
}


@dataclass(frozen=True)
class Inside:
    """A file of the campaign folder by its name there; '*' stands for the number of the volume."""

    name: str


Argument = str | Inside


@dataclass(frozen=True)
class Share:
    """What a job has of a cluster; seconds of its time, memory of a node as '8G'."""

    partition: str
    nodes: int
    ranks_per_node: int
    threads: int
    gpus: int
    memory: str | None
    seconds: float


@dataclass(frozen=True)
class Job:
    """A stage as it is submitted.

    number     its place among all stages, so that it stays the same when others come
    volumes    tasks of its array; 0 where it is one job
    arguments  of jobs/STAGE
    watch      what tells its progress: 'database', 'model' or nothing
    outputs    files or folders that it makes, in the campaign folder; one for each volume
    drawn      arguments of jobs/subset, which draws beforehand what it trains on
    """

    number: int
    stage: str
    share: Share
    volumes: int
    arguments: tuple[Argument, ...]
    watch: str
    outputs: tuple[str, ...]
    drawn: tuple[Argument, ...] = ()

    @property
    def name(self) -> str:
        """'1-simulate': of its script, log and state."""
        return f"{self.number}-{self.stage}"

    @property
    def program(self) -> str:
        """The script in jobs/ that does it."""
        return "train" if self.stage == "train_translated" else self.stage

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the state files of its tasks."""
        numbers = range(1, self.volumes + 1)
        return tuple(f"{self.name}.{n}" for n in numbers) if self.volumes else (self.name,)


@dataclass(frozen=True)
class Network:
    """A training of the chain: its file in the campaign folder, what it trains, its folder, and
    whether it holds out images by itself, where no subset does."""

    file: str
    kind: str
    folder: str
    holds_out: bool


def choose_stages(
    stages: Stages, asked: Sequence[str], before: Sequence[str] = ()
) -> dict[str, Resources]:
    """The stages that are run, with their settings, in their order.

    asked    names given on the command line; without them those of the file, else the usual ones
    before   stages that the chain has done, and keeps

    Raises ConfigError for an unknown name, or a stage whose predecessor is left out.
    """
    for name in asked:
        if name not in ORDER:
            raise ConfigError(
                f"--stages: there is no stage {name!r}{nearest(name, ORDER)} "
                f"(known: {', '.join(ORDER)})"
            )
    named = asked or [name for name in ORDER if name in stages.model_fields_set] or USUAL
    usual = {name: Resources for name in ORDER} | {
        **{"simulate": Simulate, "subset": Subset, "evaluate": Evaluate},
        **{"train": Train, "train_translated": Train},
    }
    wanted = {*named, *before}
    chosen = {name: getattr(stages, name) or usual[name]() for name in ORDER if name in wanted}
    for stage, needed in (("translate", "train"), ("train_translated", "translate")):
        if stage in chosen and needed not in chosen:
            raise ConfigError(f"stages: {stage} needs the stage {needed} before it")
    if "evaluate" in chosen and not {"train", "train_translated"} & set(chosen):
        raise ConfigError("stages: evaluate needs the stage train before it")
    if {"translate", "evaluate"} <= set(chosen) and "train_translated" not in chosen:
        raise ConfigError(
            "stages: evaluate needs the stage train_translated: a CycleGAN alone is not judged"
        )
    return chosen


def share_of(stage: str, wanted: Resources, site: Site, document: MarkedYaml) -> Share:
    """What a stage has of a cluster, with what its file leaves out.

    Raises ConfigError that points at what is more than the partition has.
    """

    def refuse(key: str, message: str) -> ConfigError:
        return ConfigError(document.error(("stages", stage, key), message))

    on_gpus = wanted.gpus_per_node != 0 and (
        bool(wanted.gpus_per_node) or (stage in LEARNING and site.gpu_partition is not None)
    )
    usual = (site.cpu_partition, site.gpu_partition)[:: -1 if on_gpus else 1]
    name = wanted.partition or usual[0] or usual[1] or ""
    if name not in site.partitions:
        raise refuse("partition", unknown_partition(site, name))
    partition = site.partitions[name]
    gpus = wanted.gpus_per_node
    if gpus is None:
        # A partition that was chosen for its GPUs, or whose nodes are no plain ones.
        chosen = on_gpus or name != site.cpu_partition
        gpus = partition.gpus if chosen and stage in ("simulate", *LEARNING) else 0
    if gpus > partition.gpus:
        had = f"has {partition.gpus} GPUs" if partition.gpus else "has no GPUs"
        raise refuse("gpus_per_node", f"{gpus}: a node of partition {name} {had}")
    ranks, threads = wanted.ranks_per_node, wanted.threads_per_rank
    if ranks is None:
        if stage in SINGLE or (stage in LEARNING and not gpus):
            ranks = 1
        else:
            ranks = gpus or max(1, partition.cores // (threads or 1))
            ranks = min(ranks, MOST_READERS) if stage == "verify" else ranks
    if threads is None:
        alone = stage in SINGLE or stage == "verify" or not (gpus or stage in LEARNING)
        # Who takes half of a node's GPUs takes half of its cores.
        cores = partition.cores * gpus // partition.gpus if gpus else partition.cores
        threads = 1 if alone else max(1, cores // ranks)
    if stage in SINGLE and (wanted.nodes, ranks) != (1, 1):
        raise refuse("nodes", f"{stage} is one process: one node and one rank")
    if ranks * threads > partition.cores:
        raise refuse(
            "ranks_per_node",
            f"{ranks} rank(s) of {threads} core(s) are more than the {partition.cores} cores of a "
            f"node of partition {name}",
        )
    if gpus and ranks > gpus and stage in LEARNING:
        raise refuse("ranks_per_node", f"{ranks}: a rank needs a GPU of its own, there are {gpus}")
    if wanted.memory and partition.memory:
        if memory_bytes(wanted.memory) > memory_bytes(partition.memory):
            raise refuse(
                "memory",
                f"{wanted.memory}: a node of partition {name} has {partition.memory}",
            )
    seconds = min(3600.0 * HOURS[stage], partition.seconds)
    if wanted.walltime is not None:
        try:
            seconds = parse_walltime(wanted.walltime)
        except ValueError as error:
            raise refuse("walltime", str(error)) from None
        if seconds > partition.seconds:
            raise refuse(
                "walltime",
                f"{wanted.walltime} is longer than the {partition.walltime} that partition {name} "
                "allows; jobs go on where they stopped, so a shorter time loses nothing",
            )
    memory = wanted.memory
    if memory is None and stage in SINGLE and partition.memory:
        # One core's share of a node is little for the columns of a million images.
        memory = min(ONE_PROCESS, partition.memory, key=memory_bytes)
    return Share(name, wanted.nodes, ranks, threads, gpus, memory, seconds)


def name_databases(name: str, volumes: int) -> tuple[str, ...]:
    """The files of a campaign's database, one for each volume."""
    path = Path(f"{name}.hdf5")
    if not volumes:
        return (path.name,)
    return tuple(volume_path(path, n, volumes).name for n in range(1, volumes + 1))


def _numbered(name: str, volumes: int) -> Inside:
    """A database of the chain as a task of an array names it."""
    return Inside(f"{name}.v*of{volumes}.hdf5" if volumes else f"{name}.hdf5")


def build_jobs(
    campaign: str,
    chosen: Mapping[str, Resources],
    shares: Mapping[str, Share],
    networks: Mapping[str, Network],
    volumes: int,
    judged: Sequence[Argument],
) -> tuple[Job, ...]:
    """The jobs of a chain, in their order.

    networks   of the stages that train
    volumes    files of the database; 0 for one
    judged     databases and subset files that `evaluate` is given; the chain's own without any
    """
    databases = name_databases(campaign, volumes)
    translated = name_databases(TRANSLATED, volumes)
    every = tuple(Inside(name) for name in databases)
    own, other = _numbered(campaign, volumes), _numbered(TRANSLATED, volumes)
    count = max(volumes, 1)
    jobs: list[Job] = []
    for stage, wanted in chosen.items():
        number = ORDER.index(stage) + 1
        arguments: tuple[Argument, ...]
        outputs: tuple[str, ...] = ()
        drawn: tuple[Argument, ...] = ()
        watch, array = "", 0
        if stage == "simulate":
            device = "cuda" if shares[stage].gpus else "cpu"
            arguments = (Inside(CAMPAIGN), "-o", Inside(f"{campaign}.hdf5"), "--device", device)
            if volumes:
                arguments += ("--volume", Inside(f"*/{volumes}"))
            watch, outputs, array = "database", databases, volumes
        elif stage == "verify":
            arguments = every
        elif stage == "report":
            outputs = (f"{campaign}.report.html",)
            arguments = (*every, "-o", Inside(outputs[0]))
        elif stage == "subset":
            assert isinstance(wanted, Subset)
            outputs = (SUBSET,)
            arguments = (*every, "-o", Inside(SUBSET), *_subset_options(wanted))
        elif stage == "translate":
            arguments = (Inside(networks["train"].folder), own, "-o", other)
            watch, outputs, array = "database", translated, volumes
        elif stage == "evaluate":
            assert isinstance(wanted, Evaluate)
            network = networks.get("train_translated") or networks["train"]
            outputs = (EVALUATION,)
            images, part = tuple(judged), wanted.part
            if not images:
                images, held_out = _judge_on(chosen, every)
                part = part or held_out
            arguments = (Inside(network.folder), *images, "-o", Inside(EVALUATION))
            arguments += ("--part", part) if part else ()
            arguments += tuple(word for column in wanted.by for word in ("--by", column))
        else:
            assert isinstance(wanted, Train)
            network = networks[stage]
            watch, outputs = "model", (network.folder,)
            arguments = (network.kind, Inside(network.file), "-o", Inside(network.folder))
            arguments += ("--transport", wanted.transport)
            if stage == "train_translated":
                files = tuple(Inside(name) for name in translated)
                options = _translated_options(chosen.get("subset"))
                drawn = (*files, "-o", Inside(TRANSLATED_SUBSET), *options)
        assert len(outputs) in (0, 1, count)
        share = shares[stage]
        jobs.append(Job(number, stage, share, array, arguments, watch, outputs, drawn))
    return tuple(jobs)


def _subset_options(wanted: Subset) -> tuple[str, ...]:
    words: list[str] = []
    for key in ("where", "combinations", "group"):
        if getattr(wanted, key) is not None:
            words += [f"--{key}", getattr(wanted, key)]
    for key in ("stratify", "sample", "per", "balance"):
        for value in getattr(wanted, key):
            words += [f"--{key}", value]
    if wanted.split:
        words += ["--split", ",".join(f"{name}={part!r}" for name, part in wanted.split.items())]
    words += ["--seed", str(wanted.seed)]
    return (*words, *(["--allow-fewer"] if wanted.allow_fewer else []))


def _translated_options(wanted: Resources | None) -> tuple[str, ...]:
    """What of a subset of the simulation is asked of translated images too: condition and split."""
    subset = wanted if isinstance(wanted, Subset) else Subset()
    accepted = "accepted = 1"
    where = f"({subset.where}) AND {accepted}" if subset.where else accepted
    return _subset_options(
        Subset(where=where, split=subset.split, group=subset.group, seed=subset.seed)
    )


def _judge_on(
    chosen: Mapping[str, Resources], databases: tuple[Inside, ...]
) -> tuple[tuple[Inside, ...], str | None]:
    """What a network of the chain is judged on: what was held out, where a subset tells it."""
    wanted = chosen.get("subset")
    names = list((wanted if isinstance(wanted, Subset) else Subset()).split)
    held_out = "validation" if "validation" in names else None
    if "train_translated" in chosen:
        return (Inside(TRANSLATED_SUBSET),), held_out
    return ((Inside(SUBSET),), held_out) if "subset" in chosen else (databases, None)
