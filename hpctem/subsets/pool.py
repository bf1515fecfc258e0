"""The rows to draw from: their strata, the units that can be drawn, and their random numbers."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hpctem.collection.collection import Collection
from hpctem.database.reader import Database
from hpctem.database.schema import ATOMS_DIGEST
from hpctem.errors import ConfigError
from hpctem.subsets.draws import Chance, Units, number_units, single_rows
from hpctem.subsets.request import STRUCTURE, Request, Step, parse_stratum
from hpctem.subsets.strata import Strata, cut, number_values, parse_edges

# Of n strata 2^n - 1 combinations can be made.
MOST_COMBINED = 10


@dataclass(frozen=True)
class Pool:
    """Rows of a collection; `pool[places]` are some of them.

    places    (n,) int64 place of each row in the collection, ascending
    chance    their random numbers
    units     column -> units of rows that share its value; '' for single rows
    strata    those over which all drawing is spread, by stratify first, then by balance
    balance   columns of the strata that are balanced
    """

    places: np.ndarray
    chance: Chance
    units: Mapping[str, Units]
    strata: tuple[Strata, ...]
    balance: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, places: np.ndarray) -> Pool:
        return replace(
            self,
            places=self.places[places],
            chance=self.chance[places],
            units={name: units[places] for name, units in self.units.items()},
            strata=tuple(strata[places] for strata in self.strata),
        )

    @property
    def structures(self) -> Units:
        """The structures: rows that show the same atoms."""
        return self.units[STRUCTURE]

    def spread_over(self, units: Units, groups: Units | None = None) -> list[Strata]:
        """The strata that do not cut through units and, with groups, are several in a group."""
        return [
            item
            for item in self.strata
            if not units.are_cut_by(item.codes)
            and (groups is None or groups.are_cut_by(item.codes))
        ]

    def inside(self) -> Pool:
        """The rows that are in a stratum of every column."""
        outside = np.zeros(len(self), bool)
        for item in self.strata:
            outside |= item.codes < 0
        return self[np.flatnonzero(~outside)] if outside.any() else self

    def combinations(
        self, column: str | None
    ) -> Iterator[tuple[tuple[int, ...], tuple[str, ...], Pool]]:
        """Numbers and names of strata of a column and the rows in them, for every choice of strata.

        Without a column, all rows once.

        Raises ConfigError where the strata are too many.
        """
        if column is None:
            yield (), (), self
            return
        number = next(i for i, item in enumerate(self.strata) if item.column == column)
        item = self.strata[number]
        if item.count > MOST_COMBINED:
            raise ConfigError(
                f"combinations of {column}: it has {item.count} strata, {2**item.count - 1} "
                f"combinations; {MOST_COMBINED} strata are the most"
            )
        for size in range(1, item.count + 1):
            for chosen in itertools.combinations(range(item.count), size):
                kept = item.keep(chosen)
                strata = (*self.strata[:number], kept, *self.strata[number + 1 :])
                yield chosen, kept.names, replace(self, strata=strata).inside()


def make_pool(selection: Collection, request: Request, steps: Iterable[Step]) -> Pool:
    """The rows of a selection as a pool for the steps of a request.

    Raises ConfigError for strata that do not fit their column, for a column that is unknown or that
    not all databases have, and for databases that hold the same images.
    """
    wanted = {name for step in steps for name in (step.unit, step.group)}
    if request.split or request.folds:
        wanted.add(request.group)
    units = {name: encode_column(selection, name) for name in wanted - {"", STRUCTURE}}
    stratify = dict(map(parse_stratum, request.stratify))
    balance = dict(map(parse_stratum, request.balance))
    # A balanced column has the strata that it was given by stratify, unless it brings its own.
    given = stratify | {c: edges for c, edges in balance.items() if edges or c not in stratify}
    return Pool(
        np.arange(len(selection)),
        number_rows(selection),
        units | {STRUCTURE: identify_structures(selection), "": single_rows(len(selection))},
        tuple(make_strata(selection, column, edges) for column, edges in given.items()),
        tuple(balance),
    )


def make_strata(selection: Collection, name: str, edges: str | None) -> Strata:
    """The strata of a column: between edges, or one for each of its values.

    Raises ConfigError for an unknown column and for edges that do not fit it.
    """
    column = selection.find(name)
    if edges is None:
        units = encode_column(selection, name)
        return number_values(units.codes, units.values, name)
    _require(selection, name)
    if not column.numeric:
        raise ConfigError(f"edges of {name}: its values are texts; leave out the edges")
    return cut(selection.column(name), parse_edges(edges, column.units, name), name)


def encode_column(selection: Collection, name: str) -> Units:
    """Rows that share a value of a column as units, numbered by ascending value.

    Raises ConfigError for a column that is unknown or has no single value in some row.
    """
    if name == STRUCTURE:
        return identify_structures(selection)
    _require(selection, name)
    if selection.find(name).numeric:
        return number_units(selection.column(name), name)
    encoded = selection.arrow(name).combine_chunks().dictionary_encode()
    texts = np.array(encoded.dictionary.to_pylist(), dtype=object)
    units = number_units(texts, name)
    return replace(units, codes=units.codes[encoded.indices.to_numpy()])


def _require(selection: Collection, name: str) -> None:
    column = selection.find(name)
    if column.shape:
        raise ConfigError(f"the column {name} has {column.shape[0]} values for each image, not one")
    if column.missing:
        raise ConfigError(f"the column {name} is missing in {', '.join(column.missing)}")


def identify_structures(selection: Collection) -> Units:
    """Structures as units: the same atoms are the same structure, in whatever database.

    Named by the structure_id in the first database that has it.
    """
    keys, names, codes = [], [], np.empty(len(selection), np.int64)
    count = 0
    for number, database in enumerate(selection.databases):
        own = selection.sources == number
        codes[own] = count + database.structure_of("images", selection.rows[own])
        keys.append(name_structures(database))
        names.append(np.arange(database.layout.structures) + database.layout.first_structure)
        count += database.layout.structures
    present, codes = np.unique(codes, return_inverse=True)
    _, first, same = np.unique(
        np.concatenate(keys)[present], return_index=True, return_inverse=True
    )
    return Units(
        same.reshape(-1)[codes.reshape(-1)],
        np.concatenate(names)[present][first],
        STRUCTURE,
        "structures",
    )


def name_structures(database: Database) -> np.ndarray:
    """16 bytes for each structure of a file: its atoms' digest, its place where there is none."""
    layout = database.layout
    place = np.empty((layout.structures, 2), "<u8")
    campaign = hashlib.blake2b(name_campaign(database).encode(), digest_size=8).digest()
    place[:, 0] = np.frombuffer(campaign, "<u8")
    place[:, 1] = np.arange(layout.structures) + layout.first_structure
    if any(item.path == ATOMS_DIGEST for item in layout.fields):
        digests = np.array(database.mapped(ATOMS_DIGEST)).view("<u8")
        known = digests.any(axis=1)
        place[known] = digests[known]
    return place.view("S16").reshape(-1)


def name_campaign(database: Database) -> str:
    """What a campaign's volumes have in common and other campaigns have not."""
    return database.campaign.get("config_hash") or database.key.hex()


def number_rows(selection: Collection) -> Chance:
    """Rows as they are counted in their campaigns, which makes their chance in every draw.

    Raises ConfigError when two databases hold the same images of one campaign.
    """
    campaigns, rows = [], np.empty(len(selection), np.int64)
    held: dict[str, list[tuple[range, Database]]] = {}
    for number, database in enumerate(selection.databases):
        layout = database.layout
        own = selection.sources == number
        first = layout.first_structure
        rows[own] = selection.rows[own] + first * layout.rows_per_structure["images"]
        campaigns.append(name_campaign(database))
        mine = range(first, first + layout.structures)
        for other, holder in held.setdefault(campaigns[-1], []):
            if max(mine.start, other.start) < min(mine.stop, other.stop):
                raise ConfigError(
                    f"{holder.path} and {database.path} hold the same images of one campaign: name "
                    "one of them"
                )
        held[campaigns[-1]].append((mine, database))
    return Chance("", rows, selection.sources, tuple(campaigns))
