"""The keys of a training file: what a network learns from, how it is built, how it is trained.

Every number with a dimension carries its unit; unknown keys are errors that name the nearest one.
Files are named relative to the training file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpctem.distributions import Quantity
from hpctem.sections.common import Section

Share = Annotated[float, Quantity(None, 0.0, 1.0)]
Kind = Literal["segmentation", "defects", "cyclegan"]


class Training(Section):
    """What is trained, and what it is called."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$", description="name of the model's folder"
    )
    kind: Kind
    """What the network learns: particles or other areas, defects, or to change one kind of image
    into another."""
    seed: int = Field(0, ge=0, lt=2**63, description="draws rows, augmentations and weights")
    description: str = Field("", max_length=2000)
    """What the model is for; goes into its card."""
    licence: str = Field("not stated", max_length=200, description="licence of the trained weights")


class Preparation(Section):
    """What is done to an image before a network sees it, in training and ever after."""

    median: bool = Field(False, description="3 x 3 median")
    scale: Literal["image", "group"] = "image"
    """Each image by its own minimum and maximum to 0...1; or all images by the mean and standard
    deviation of the group, saturated, to -1...1."""
    saturation: Annotated[float, Quantity(None, 0.5, 100.0)] = Field(
        3.5, description="of a group: standard deviations from its mean that become -1 and 1"
    )


class Source(Section):
    """Images of databases: those of a subset, or those that fulfil a condition."""

    databases: tuple[str, ...] = Field((), description="files of databases")
    subset: str | None = Field(None, description="subset file; its databases may then be left out")
    draw: int = Field(0, ge=0, description="which draw of the subset")
    training_part: str = Field("train", description="part of the subset that is learnt from")
    validation_part: str = Field("validation", description="part of the subset that is held out")
    where: str | None = Field(None, description="SQL condition on the images")
    most: int | None = Field(None, ge=1, description="at most so many images, drawn at random")
    validation: Share = Field(
        0.25, description="without subset: share of images held out, structures kept apart"
    )
    patch: int | None = Field(
        None, ge=8, le=16384, description="side in pixels of the squares cut at random from images"
    )
    patches_per_image: int = Field(
        1, ge=1, le=10**6, description="squares cut from each image in an epoch"
    )
    preparation: Preparation = Preparation()

    @model_validator(mode="after")
    def _something(self) -> Source:
        if not self.databases and self.subset is None:
            raise ValueError("names no images: give databases or a subset")
        if self.subset is not None and self.where is not None:
            raise ValueError("where: a subset has had its condition: give it to 'hpctem subset'")
        return self


class Experiment(Section):
    """Experimental images that are learnt from, cut into squares."""

    images: tuple[str, ...] = Field(
        min_length=1, description="micrographs (DM3, EMD, TIFF ...), or patterns as day_a/*.tif"
    )
    rows: tuple[int, int] | None = Field(
        None, description="only the rows from the first to before the last, of every image"
    )
    frame: int | Literal["mean"] | None = Field(None, description="of stacks, which image")
    pixel_size: Annotated[float, Quantity("length", 1e-3, 1e3)] | None = Field(
        None, description="where the files do not say it, or say it wrongly"
    )
    preparation: Preparation = Preparation(scale="group")


class Target(Section):
    """Which label maps make the classes of pixels; all other pixels are background."""

    classes: dict[str, str | tuple[str, ...]] = Field(
        min_length=1,
        max_length=250,
        description="name of a class: label map, or label.class of a map of several classes, or "
        "several of them; a pixel of two classes is of the later one",
    )


class Augmentation(Section):
    """How images and labels are varied, alike, each time they are seen."""

    rotations: bool = Field(True, description="by multiples of 90 degrees")
    flips: bool = True
    """Mirrored or not, with equal odds."""
    scaling: Share = Field(0.0, description="size between 1 - s and 1 + s times its own")
    brightness: Share = Field(0.0, description="added: between -s and s of the prepared range")
    contrast: Share = Field(0.0, description="multiplied about the mean: between 1 - s and 1 + s")
    noise: Annotated[float, Quantity(None, 0.0, 10.0)] = Field(
        0.0, description="standard deviation of Gaussian noise, of the prepared image"
    )


class Network(Section):
    """A network that says of every pixel what it is."""

    name: Literal["unet_resnet18", "residual_unet"]
    """U-Net with a ResNet-18 encoder and three poolings (Rangel DaCosta et al. 2024), or residual
    U-Net (Khan et al. 2023)."""
    width: int | None = Field(
        None, ge=1, le=1024, description="filters of the first level; the paper's by default"
    )
    dropout: Annotated[float, Quantity(None, 0.0, 0.95)] | None = Field(
        None, description="share of features left out; the paper's by default"
    )


class Optimiser(Section):
    """Adam, and how its rate changes."""

    learning_rate: Annotated[float, Quantity(None, 1e-8, 10.0)] = 1e-3
    """At the beginning, for one rank."""
    decay: Annotated[float, Quantity(None, 1e-3, 1.0)] = Field(
        1.0, description="factor of the rate from one epoch to the next"
    )
    scale_with_ranks: bool = Field(False, description="multiply the rate by the number of ranks")
    warm_up: Annotated[float, Quantity(None, 0.0, 1e4)] = Field(
        0.0, description="epochs in which the rate rises linearly to its value"
    )


class Schedule(Section):
    """How long is trained, and in which portions."""

    epochs: int = Field(ge=1, le=10**6)
    """Passes through the images."""
    batch: int = Field(ge=1, le=65536, description="images of a step on each rank")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="steps of an epoch; by default once through all images"
    )
    mixed_precision: bool = Field(False, description="compute in 16 bit, on GPUs that gain by it")
    synchronise: bool = Field(True, description="batch normalisation over all ranks")


class SegmentationConfig(Section):
    """A training of a network that says of every pixel what it is: segmentation and defects."""

    training: Training
    data: Source
    target: Target
    augmentation: Augmentation = Augmentation()
    network: Network
    loss: Literal["cross_entropy", "cross_entropy_f1"] = "cross_entropy_f1"
    """Cross entropy alone (Khan et al. 2023), or with 1 - F1 of soft counts added (Rangel DaCosta
    et al. 2024)."""
    optimiser: Optimiser = Optimiser()
    schedule: Schedule

    @model_validator(mode="after")
    def _kind(self) -> SegmentationConfig:
        if self.training.kind == "cyclegan":
            raise ValueError("training.kind: these are the sections of a segmentation")
        return self


class Generator(Section):
    """The U-Net of pix2pix with instance normalisation (Khan et al. 2023)."""

    width: int = Field(64, ge=1, le=512, description="filters of the first level")
    levels: int = Field(8, ge=3, le=10, description="halvings of the image; 2^levels divides it")


class Discriminators(Section):
    """PatchGANs of images and of their power spectra."""

    width: int = Field(64, ge=1, le=512, description="filters of the first level")
    fourier: bool = Field(True, description="power spectra are judged as well")


class Losses(Section):
    """Weights of equation 7 of Khan et al. 2023."""

    cycle: Annotated[float, Quantity(None, 0.0, 1e4)] = 10.0
    """Of images that came back."""
    identity: Annotated[float, Quantity(None, 0.0, 1e4)] = 5.0
    """Of images that were of the right kind already."""


class CycleOptimiser(Section):
    """Adam for all six networks: constant, then linearly to zero."""

    learning_rate: Annotated[float, Quantity(None, 1e-8, 1.0)] = 2e-4
    """While it is constant."""
    beta_1: Annotated[float, Quantity(None, 0.0, 0.999)] = 0.5
    """Memory of the first moment."""
    constant_epochs: int | None = Field(
        None, ge=0, description="epochs before the rate falls; half of all by default"
    )
    scale_with_ranks: bool = Field(False, description="multiply the rate by the number of ranks")
    warm_up: Annotated[float, Quantity(None, 0.0, 1e4)] = Field(
        0.0, description="epochs in which the rate rises linearly to its value"
    )


class CycleganConfig(Section):
    """A training of two generators: of experimental images from simulated ones, and back."""

    training: Training
    simulation: Source
    experiment: Experiment
    augmentation: Augmentation = Augmentation()
    simulation_noise: Annotated[float, Quantity(None, 0.0, 10.0)] = Field(
        0.1, description="standard deviation of Gaussian noise added to simulated patches"
    )
    generator: Generator = Generator()
    discriminators: Discriminators = Discriminators()
    losses: Losses = Losses()
    optimiser: CycleOptimiser = CycleOptimiser()
    schedule: Schedule

    @model_validator(mode="after")
    def _agree(self) -> CycleganConfig:
        if self.training.kind != "cyclegan":
            raise ValueError("training.kind: these are the sections of a cyclegan")
        if self.simulation.patch is None:
            raise ValueError("simulation.patch is needed: the side of the squares that are learnt")
        if not self.schedule.synchronise:
            raise ValueError(
                "schedule.synchronise: false changes nothing here: a cyclegan has no batch "
                "normalisation, its networks look at one image at a time; leave it out"
            )
        if self.simulation.patch % 2**self.generator.levels:
            raise ValueError(
                f"simulation.patch: {self.simulation.patch} is no multiple of "
                f"{2**self.generator.levels} = 2^generator.levels"
            )
        return self


TrainingConfig = SegmentationConfig | CycleganConfig
