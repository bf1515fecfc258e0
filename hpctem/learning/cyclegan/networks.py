"""The networks of a CycleGAN by name, and what trains them."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from hpctem.learning.cyclegan.patches import DOMAINS
from hpctem.learning.networks.generator import generator
from hpctem.learning.networks.patchgan import patchgan
from hpctem.sections.training import CycleganConfig

HALF = "mixed_float16"
TO_EXPERIMENT, TO_SIMULATION = "to_experiment", "to_simulation"


def build_networks(config: CycleganConfig) -> dict[str, keras.Model]:
    """The networks with their weights at the beginning, in 16 bit where that is asked for."""
    before, seed = keras.config.dtype_policy(), config.training.seed
    if config.schedule.mixed_precision:
        keras.config.set_dtype_policy(HALF)
    try:
        section = config.generator
        networks = {
            name: generator(section.width, section.levels, seed=seed, name=name)
            for name in (TO_EXPERIMENT, TO_SIMULATION)
        }
        kinds = ("image", "power") if config.discriminators.fourier else ("image",)
        for name in (f"{domain}_{kind}" for domain in DOMAINS for kind in kinds):
            networks[name] = patchgan(config.discriminators.width, seed=seed, name=name)
        return networks
    finally:
        keras.config.set_dtype_policy(before)


def build_optimiser(
    config: CycleganConfig, networks: Mapping[str, keras.Model]
) -> keras.optimizers.Optimizer:
    """Adam for all networks: it treats each weight by itself, so that one serves all of them."""
    optimiser = keras.optimizers.Adam(beta_1=config.optimiser.beta_1)
    if config.schedule.mixed_precision:
        optimiser = keras.optimizers.LossScaleOptimizer(optimiser)
    optimiser.build([w for network in networks.values() for w in network.trainable_variables])
    return optimiser
