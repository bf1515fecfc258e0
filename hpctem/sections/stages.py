"""The stages of a chain of jobs on a cluster, and what each asks for: `stages` of a campaign file.

Nothing here changes what a database holds, so it is no part of what identifies a campaign.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpctem.distributions import Quantity
from hpctem.sections.common import Section

# What Slurm takes as a name; nothing that a shell would read otherwise.
WORD = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
MEMORY = r"^[1-9][0-9]{0,6}[MGT]$"
Share = Annotated[float, Quantity(None, 0.0, 1.0)]
Threads = Field(None, ge=1, le=1024, description="cores of a rank")


class Resources(Section):
    """What a stage asks the cluster for; what is left out, the site's profile decides."""

    partition: str | None = Field(
        None, pattern=WORD, description="partition of the site's profile; its usual one by default"
    )
    nodes: int = Field(1, ge=1, le=10**5, description="nodes of a job")
    ranks_per_node: int | None = Field(
        None, ge=1, le=4096, description="MPI ranks on a node; as many as it holds by default"
    )
    threads_per_rank: int | None = Threads
    gpus_per_node: int | None = Field(
        None, ge=0, le=64, description="GPUs on a node; all by default where the partition has any"
    )
    memory: str | None = Field(
        None, pattern=MEMORY, description="of a node, as 8G; what Slurm gives by default"
    )
    walltime: str | None = Field(
        None, max_length=20, description="longest time of a job, as 90min, 8h or 1-12:00:00"
    )


class Simulate(Resources):
    """The stage that fills the database."""

    volumes: int | Literal["auto"] = Field(
        "auto", description="files that the campaign is cut into, each a task of an array of jobs"
    )
    """'auto' takes one file unless the site or the plan speaks against it."""

    @model_validator(mode="after")
    def _some(self) -> Simulate:
        if isinstance(self.volumes, int) and not 1 <= self.volumes <= 10**5:
            raise ValueError(f"volumes: {self.volumes} is not between 1 and 100000")
        return self


class Subset(Resources):
    """The stage that draws a subset; its keys are the options of `hpctem subset`."""

    where: str | None = Field(None, max_length=2000, description="SQL condition on the images")
    stratify: tuple[str, ...] = Field((), description="COLUMN or COLUMN:EDGES, one or more")
    combinations: str | None = Field(None, description="COLUMN of which all combinations are drawn")
    sample: tuple[str, ...] = Field((), description="N or N:COLUMN, one or more")
    per: tuple[str, ...] = Field((), description="COLUMN:K or COLUMN:K:UNIT, one or more")
    balance: tuple[str, ...] = Field((), description="COLUMN or COLUMN:EDGES, one or more")
    split: dict[str, Share] = Field(
        default_factory=lambda: {"train": 0.75, "validation": 0.25},
        description="share of each part; parts share no structure",
    )
    group: str | None = Field(None, description="COLUMN that a split keeps together")
    seed: int = Field(0, ge=0, lt=2**63, description="of the draws")
    allow_fewer: bool = Field(False, description="take what there is where there are too few")


class Train(Resources):
    """A stage that trains a network on what the chain has made."""

    file: str | None = Field(
        None, max_length=1000, description="training file, relative to the campaign file"
    )
    transport: Literal["auto", "horovod", "mpi4py", "single"] = "auto"
    """What carries gradients between ranks."""


class Evaluate(Resources):
    """The stage that judges the last network of the chain."""

    images: tuple[str, ...] = Field(
        (), description="databases or subset files to judge it on, relative to the campaign file"
    )
    part: str | None = Field(None, pattern=WORD, description="part of a subset file")
    by: tuple[str, ...] = Field((), description="COLUMN or COLUMN:EDGES to score over")


class Stages(Section):
    """The stages of a chain, by name; those that are named are run, in this order."""

    simulate: Simulate | None = None
    """Fills the database."""
    verify: Resources | None = None
    """Reads every byte back."""
    report: Resources | None = None
    """Writes the page that tells what was drawn."""
    subset: Subset | None = None
    """Draws what is learnt from and what is held out."""
    train: Train | None = None
    """Trains a network: one that is judged, or a CycleGAN that translates."""
    translate: Resources | None = None
    """Makes the images look recorded, by the CycleGAN that 'train' has trained."""
    train_translated: Train | None = None
    """Trains a network on the translated images."""
    evaluate: Evaluate | None = None
    """Judges the last network."""


class StagesFile(Section):
    """The part of a campaign file that tells its stages."""

    stages: Stages = Stages()


ORDER = tuple(Stages.model_fields)
"""The stages in the order in which they depend on one another."""
USUAL = ("simulate", "verify", "report")
"""The stages of a campaign that names none."""
