"""Seeds of weights and dropout: of the training's seed and the layer's name, of nothing else."""

from __future__ import annotations

from hpctem.sampling import Streams


def derive_seed(seed: int, name: str) -> int:
    """Seed of one layer: 0...2^31 - 1, from the training's seed and the name of the layer.

    A layer added or left out elsewhere changes the weights of no other; repeats with different
    seeds are independent. Keras' global seed plays no part.
    """
    return int(Streams(seed)(f"network/{name}", 0).integers(2**31))
