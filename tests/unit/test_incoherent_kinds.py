"""Pictures of several kinds of atoms at once: the sum of each kind's own."""

from __future__ import annotations

import numpy as np
import pytest

from hpctem.backend import select_backend
from hpctem.optics.incoherent import form_picture
from hpctem.optics.point_spread import gaussian_transfer

EXTENT = (24.0, 20.0)
SHAPES = [gaussian_transfer(width) for width in (0.1, 0.25, 0.4)]


@pytest.mark.parametrize("with_blurs", [False, True])
@pytest.mark.parametrize("with_shapes", [False, True])
def test_every_atom_has_its_own_blur_and_shape(with_blurs: bool, with_shapes: bool) -> None:
    """Also where not every blur meets every shape, and the first shape has no atom."""
    generator, backend = np.random.default_rng(2), select_backend("cpu")
    positions, weights = generator.uniform(4, 16, (60, 2)), generator.uniform(0.5, 1.5, 60)
    kinds = generator.integers(1, 3, 60)
    blurs = np.where(kinds == 1, 0.3, np.where(np.arange(60) % 2, 0.0, 0.1))
    probe = gaussian_transfer(0.5)

    def picture(chosen: np.ndarray) -> np.ndarray:
        return form_picture(
            positions[chosen], weights[chosen], EXTENT, probe, backend,
            blurs[chosen] if with_blurs else None,
            (kinds[chosen], SHAPES) if with_shapes else None,
        ).values  # fmt: skip

    alone = sum(picture(np.array([atom])).astype(np.float64) for atom in range(60))
    together = picture(np.arange(60))
    assert np.abs(together - alone).max() < 2e-6 * np.abs(alone).max()
