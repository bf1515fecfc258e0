"""The rows of a translated database: images cut, translated by a generator, checked, labelled."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpctem.collection.columns import IMAGE
from hpctem.database.finish import compare_digests, read_rows
from hpctem.database.schema import ERROR_PATH, QUARANTINED, STATUS_PATH
from hpctem.database.segment import StructureRows, quarantine
from hpctem.errors import DatabaseError, SampleError
from hpctem.learning.data.preparation import Prepare, filter_recorded, find_limits, rescale
from hpctem.learning.translation.fidelity import FATES, IS_KEPT, Fidelity, check_patch, find_vectors
from hpctem.learning.translation.tiles import Cut, cut_images, cut_rows, is_statistic
from hpctem.sampling import Streams
from hpctem.structures.scenes import Column
from hpctem.tables import measure_image

Generate = Callable[[np.ndarray], np.ndarray]

VERDICT_COLUMNS = (
    Column("accepted", "uint8", "", "1 where the tile shows what its input shows, 0 where not"),
    Column("reason", "S32", "", "why it is not accepted: unlike, offset, defects, parent"),
    Column("offset_x", "float64", "px", "displacement against the input, to the right"),
    Column("offset_y", "float64", "px", "displacement against the input, downwards"),
    Column("likeness", "float64", "", "correlation with the input, of what is as large as columns"),
    Column("defects_judged", "int32", "", "defects whose contrast could be told from the noise"),
    Column("defects_kept", "int32", "", "of these, those that kept it"),
    Column("defects_contrast", "float64", "", "of all defects together, over that expected"),
)
DEFECT_COLUMNS = (
    Column("contrast", "float64", "", "in the translated image, over that expected"),
    Column("fate", "uint8", "", "what has become of the defect", FATES),
)
# These do not apply where there is nothing to measure.
MAY_BE_NAN = ("offset_x", "offset_y", "defects_contrast", "contrast")
PIXEL_SIZE = "/entry/metadata/pixel_size"
_ACCEPTED = "/entry/metadata/accepted"


@dataclass(frozen=True)
class Recipe:
    """What makes translated images, whatever is translated.

    model        digest of the weights, in hexadecimal
    name         of the model
    command      'translate' or 'denoise'
    patch        side of a tile, that of the training, in pixels
    pixel_sizes  smallest and largest of the training, A; None where they are not known
    prepare      what an image goes through before
    result       how the images that the generator imitates were prepared: what -1 and 1 mean
    noise        standard deviation of the Gaussian noise that is added to a prepared image
    seed         of that noise
    generate     opens the generator: tiles float32 (n, patch, patch), prepared, to the same;
                 picklable
    """

    model: str
    name: str
    command: str
    patch: int
    pixel_sizes: tuple[float, float] | None
    prepare: Prepare
    result: Prepare
    noise: float
    seed: int
    generate: Callable[[], Generate]

    @property
    def description(self) -> dict[str, Any]:
        """All that decides the images, as plain data."""
        return {
            "command": self.command,
            "model": self.model,
            "name": self.name,
            "patch": self.patch,
            "noise": self.noise,
            "seed": self.seed,
            "prepare": self.prepare.as_dict(),
            "result": self.result.as_dict(),
        }


@dataclass
class TranslateRows:
    """Structure index -> the rows of its tiles; picklable, opens the generator when first needed.

    parent   file that is translated, `offsets` of its datasets
    median   its images are medians already, so that none is taken again
    """

    recipe: Recipe
    parent: Path
    cut: Cut
    offsets: Mapping[str, int]
    median: bool
    _generate: Generate | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_generate": None}

    @property
    def generate(self) -> Generate:
        """The generator, opened once."""
        if self._generate is None:
            self._generate = self.recipe.generate()
        return self._generate

    def __call__(self, index: int) -> StructureRows:
        """Read, cut, translate and check; what fails by its own nature comes back quarantined."""
        block = self._read(index)
        if block[STATUS_PATH][0] == QUARANTINED:
            reason = bytes(block[ERROR_PATH][0]).rstrip(b"\0").decode("utf-8", "replace")
            return quarantine(f"quarantined in the parent: {reason}")
        try:
            return StructureRows(self._translate(index, block))
        except SampleError as error:
            return quarantine(str(error))

    def _read(self, index: int) -> dict[str, np.ndarray]:
        layout = self.cut.parent
        place = index - layout.first_structure
        structure = range(place, place + 1)
        descriptor = os.open(self.parent, os.O_RDONLY)
        try:
            block = read_rows(descriptor, layout, self.offsets, structure)
        finally:
            os.close(descriptor)
        bad, _ = compare_digests(layout, block, structure)
        if bad:
            table, row = bad[0]
            raise DatabaseError(
                f"{self.parent} is damaged: row {row} of {table} is not what was written; 'hpctem "
                f"verify {self.parent}' names all such rows and how to have them computed again"
            )
        return block

    def _translate(self, index: int, block: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        cut, recipe = self.cut, self.recipe
        images = np.stack([self._prepare(image) for image in block[cut.signal.path]])
        before = cut_images(images, cut.patch)
        after = self.generate(self._add_noise(before, index * len(before)))
        if not np.isfinite(after).all():
            raise SampleError(f"the generator of {recipe.name} gives NaN or infinity")
        rows = cut_rows(cut, block, (index - cut.parent.first_structure) * cut.images)
        rows[cut.signal.path] = after
        rows |= _measure(cut, after)
        found = [find_vectors(image) for image in images]
        return rows | _judge(cut, rows, before, found)

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        how = self.recipe.prepare
        recorded = image if self.median else filter_recorded(image, how)
        return rescale(recorded, find_limits(recorded, how), how)

    def _add_noise(self, tiles: np.ndarray, first: int) -> np.ndarray:
        """Tiles with noise of their own; `first`: number of the first one in the campaign."""
        if not self.recipe.noise:
            return tiles
        streams = Streams(self.recipe.seed)
        noisy = tiles.copy()
        for number, tile in enumerate(noisy, first):
            draws = streams(f"{self.recipe.command}/noise", number)
            tile += draws.normal(0.0, self.recipe.noise, tile.shape).astype(np.float32)
        return noisy


def _measure(cut: Cut, after: np.ndarray) -> dict[str, np.ndarray]:
    """The columns that tell of the pixels' values, for tiles (n, patch, patch)."""
    measured = [measure_image(tile) | {"saturated": 0.0} for tile in after]
    return {
        item.path: np.array([of[item.name] for of in measured], item.dtype)
        for item in cut.fields
        if is_statistic(item)
    }


def _judge(
    cut: Cut,
    rows: Mapping[str, np.ndarray],
    before: np.ndarray,
    vectors: list[np.ndarray | None],
) -> dict[str, np.ndarray]:
    """The verdicts on all tiles of a structure, and the fates of its defects."""
    after = rows[cut.signal.path]
    listed = f"/entry/defects/{IMAGE}" in rows
    places, owner = np.empty((0, 2)), np.empty(0, np.int64)
    if listed:
        places = np.stack([rows[f"/entry/defects/{n}"] for n in ("pixel_x", "pixel_y")], axis=1)
        owner = rows[f"/entry/defects/{IMAGE}"]
    contrasts, fates = np.full(len(places), np.nan), np.zeros(len(places), np.uint8)
    verdicts = []
    for number, pair in enumerate(zip(before, after, strict=True)):
        mine = owner == number
        pixel_size = float(rows[PIXEL_SIZE][number])
        found = check_patch(*pair, pixel_size, places[mine], vectors[number // cut.tiles])
        contrasts[mine], fates[mine] = found.contrasts, found.fates
        failed_before = _ACCEPTED in rows and not rows[_ACCEPTED][number]
        verdicts.append(_tell(found, ("parent",) if failed_before else ()))
    judged = {
        f"/entry/metadata/{column.name}": np.array([v[column.name] for v in verdicts], column.dtype)
        for column in VERDICT_COLUMNS
    }
    if listed:
        judged |= {"/entry/defects/contrast": contrasts, "/entry/defects/fate": fates}
    return judged


def _tell(found: Fidelity, further: tuple[str, ...]) -> dict[str, Any]:
    """The columns of one tile; `further`: reasons that lie elsewhere."""
    reasons = (*further, *found.reasons)
    return {
        "accepted": not reasons,
        "reason": ", ".join(reasons),
        "offset_x": found.offset[0],
        "offset_y": found.offset[1],
        "likeness": found.likeness,
        "defects_judged": np.count_nonzero(found.fates),
        "defects_kept": np.count_nonzero(found.fates == IS_KEPT),
        "defects_contrast": found.together,
    }
