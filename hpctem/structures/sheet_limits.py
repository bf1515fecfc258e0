"""What a recipe of sheets can give at most, and whether it can be carried out at all."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Sequence

import numpy as np

from hpctem.errors import ConfigError, SampleError
from hpctem.sampling import Distribution
from hpctem.sections import stem as configs
from hpctem.structures.distortions import SHORTEST, WAVES
from hpctem.structures.materials import check_material, layer_distance, list_materials
from hpctem.structures.point_defects import ADATOM_SITES
from hpctem.structures.recipes import atomic_number
from hpctem.structures.sheet_crystals import (
    SheetCrystal,
    adatoms_of,
    defects_of_columns,
    describe_lack_of_room,
    load_crystal,
    match_sites,
    prepare_crystal,
    site_classes,
)
from hpctem.structures.unit_cells import HEAVIEST

WANDER = 6.0  # standard deviations that a count or a displacement is given
SPARE = 8  # rows beyond that, for rates near zero
APART = 0.3  # A, between atoms of a column that may then count as several


def check_sheet(config: configs.Structure, field: tuple[float, float]) -> None:
    """Check before any work what no sample could mend; raises ConfigError.

    field: lx, ly in A of the field of view. Tests the material (see `materials.check_material`), a
    field that holds a cell, islands on layers only, the sites, elements and counts of atoms of the
    defects, and that the greatest rates of the defects of a column sum to 1 at most.
    """
    check_material(config)
    crystals = _crystals(config)
    if not crystals:
        raise ConfigError(
            "structure.material: none of the selected materials of the database can be imaged; "
            "atoms of each coincide"
        )
    lacks = [describe_lack_of_room(crystal, field) for crystal in crystals]
    if all(lacks):
        raise ConfigError(lacks[0])
    if config.islands is not None and config.thickness is not None:
        raise ConfigError(
            "structure.islands lie on a two-dimensional material; a film of a bulk crystal has none"
        )
    for defect in config.defects:
        _check_defect(config, defect)
    if config.material.database is None:
        _check_hosts(config, crystals[0])
    _check_rates(config, crystals)


def list_elements(config: configs.Structure) -> list[int]:
    """Atomic numbers that structures of this recipe can hold, ascending."""
    found = {atomic_number(d.element) for d in config.defects if d.element is not None}
    materials = list_materials(config.material)
    if materials is None:
        numbers = load_crystal(config.material, config.zone_axis).unit.numbers
    else:
        numbers = materials.numbers
    return sorted(found.union(np.unique(numbers).tolist()))


def count_atoms(config: configs.Structure, field: tuple[float, float]) -> int:
    """Most atoms that a structure can have; field: lx, ly in A.

    The field, wider by what distortions bring in and a cell, over the area of a cell, at the
    greatest compression, thickness and number of layers that can be drawn.
    """
    counts = [
        _cells(config, crystal, field)
        * _repeats(config, crystal, field)
        * len(crystal.unit.numbers)
        for crystal in _crystals(config)
    ]
    return math.ceil(max(counts)) + _count_adatoms(config, field)


def count_columns(config: configs.Structure, field: tuple[float, float]) -> int:
    """Most atom columns that a structure can have; field: lx, ly in A.

    Where tilt, ripples or displacements can bring atoms of a column apart each atom counts.
    """
    tilt, slope = _tilt(config), _ripple_slope(config)
    columns = 0.0
    for crystal in _crystals(config):
        unit = crystal.unit
        high = crystal.material.height if config.thickness is None else config.thickness.support[1]
        apart = high * (math.tan(tilt) + slope) + WANDER * _most(config.displacement)
        each = len(unit.numbers) if apart > APART else unit.n_columns
        repeats = 1.0
        if config.thickness is None or apart > APART:
            repeats = _repeats(config, crystal, field)
        columns = max(columns, _cells(config, crystal, field) * repeats * each)
    return math.ceil(columns) + _count_adatoms(config, field)


def count_defects(config: configs.Structure, field: tuple[float, float]) -> int:
    """Most point defects that a structure can have; field: lx, ly in A.

    The mean of the binomial distribution at the greatest rates, six standard deviations, and 8.
    """
    kinds, names = defects_of_columns(config), site_classes(config)
    most = 0
    for crystal in _crystals(config) if kinds else ():
        unit = crystal.unit
        layers = 1.0 if config.thickness else _repeats(config, crystal, field)
        cells = _cells(config, crystal, field) * layers
        hosts = [
            len(np.unique(unit.columns[match_sites(kind, names, unit.classes, unit.numbers)]))
            for kind in kinds
        ]
        most = max(most, _most_of([cells * n for n in hosts], [k.rate.support[1] for k in kinds]))
    return most + _count_adatoms(config, field)


def _count_adatoms(config: configs.Structure, field: tuple[float, float]) -> int:
    kinds = adatoms_of(config)
    if not kinds:
        return 0
    cells = max(_cells(config, crystal, field) for crystal in _crystals(config))
    return _most_of([cells] * len(kinds), [kind.rate.support[1] for kind in kinds])


def _most_of(trials: Sequence[float], rates: Sequence[float]) -> int:
    """Upper bound of a sum of binomial counts."""
    mean = math.fsum(n * p for n, p in zip(trials, rates, strict=True))
    return math.ceil(mean + WANDER * math.sqrt(mean)) + SPARE


def _crystals(config: configs.Structure) -> tuple[SheetCrystal, ...]:
    """The crystals that structures can be of: of a database all that the campaign can image."""
    return _prepare_all(config.material, config.zone_axis, config.thickness is not None)


@functools.lru_cache(maxsize=4)
def _prepare_all(
    material: configs.Material, zone_axis: tuple[int, int, int], film: bool
) -> tuple[SheetCrystal, ...]:
    materials = list_materials(material)
    if materials is None:
        return (load_crystal(material, zone_axis),)
    fitting = np.flatnonzero(materials.periodic == (3 if film else 2))
    found = []
    for index in fitting.tolist():
        try:
            found.append(prepare_crystal(materials[index], zone_axis))
        except SampleError:  # it is quarantined when its turn comes
            continue
    return tuple(found)


def _cells(config: configs.Structure, crystal: SheetCrystal, field: tuple[float, float]) -> float:
    """Most unit cells, in projection, that have a site in the field."""
    unit, tilt = crystal.unit, _tilt(config)
    strain = config.strain
    xx, yy = (min(s.support) for s in (strain.xx, strain.yy))
    shear = _most(strain.xy)
    squeeze = max((1.0 + xx) * (1.0 + yy) - shear * shear, 0.1)
    stretch = 1.0 + max(_most(strain.xx), _most(strain.yy)) + shear
    flat = np.sqrt((unit.vectors[:, :2] ** 2).sum(axis=1)).sum()
    cell = stretch * float(flat) + math.sin(tilt) * float(np.abs(unit.vectors[:, 2]).sum())
    high = crystal.material.height if config.thickness is None else config.thickness.support[1]
    if config.thickness is None:
        high += _most(config.layers.count) * layer_distance(config, crystal.material)
    wider = cell + 2.0 * WANDER * _most(config.displacement)
    wider += 2.0 * _ripple_slope(config) * high + 2.0 * math.sin(tilt) * _ripple_height(config)
    if config.thickness is not None:
        wider += math.sin(tilt) * high
    area = (field[0] + wider) * (field[1] + wider)
    return area / (unit.area * squeeze * math.cos(tilt))


def _repeats(config: configs.Structure, crystal: SheetCrystal, field: tuple[float, float]) -> float:
    """Most times that a cell is repeated along the beam: layers with islands, or periods."""
    if config.thickness is not None:
        return config.thickness.support[1] / crystal.unit.vectors[2, 2] + 1.0
    layers = config.layers.count.support[1]
    if config.islands is None:
        return layers
    # A rough outline exceeds its circle; twice the area is beyond what the roughness gives.
    count, radius = config.islands.count.support[1], config.islands.radius.support[1]
    share = 2.0 * count * math.pi * (radius + 5.0) ** 2 / (field[0] * field[1])
    return layers + min(1.0, share)


def _most(distribution: Distribution) -> float:
    """Greatest magnitude that can be drawn."""
    return max(abs(bound) for bound in distribution.support)


def _tilt(config: configs.Structure) -> float:
    """Greatest angle of the specimen's tilt, rad."""
    return min(math.hypot(_most(config.tilt.x), _most(config.tilt.y)), 1.4)


def _ripple_height(config: configs.Structure) -> float:
    """Greatest height of ripples, A."""
    if config.ripples is None:
        return 0.0
    return math.sqrt(2.0 * WAVES) * config.ripples.amplitude.support[1]


def _ripple_slope(config: configs.Structure) -> float:
    """Greatest sine of a ripple's slope."""
    if config.ripples is None:
        return 0.0
    shortest = SHORTEST * config.ripples.wavelength.support[0]
    slope = 2.0 * math.pi * _ripple_height(config) / shortest
    return slope / math.sqrt(1.0 + slope * slope)


def _check_defect(config: configs.Structure, defect: configs.PointDefect) -> None:
    """Raise ConfigError for a site or an element that the campaign does not know."""
    where = f"structure.defects {defect.label}:"
    if defect.element is not None and atomic_number(defect.element) > HEAVIEST:
        raise ConfigError(f"{where} {defect.element} lies beyond element {HEAVIEST}; none scatters")
    known: tuple[str, ...] = ADATOM_SITES
    if defect.kind != "adatom":
        known = (*site_classes(config), *_symbols(config))
    if defect.site in known:
        return
    match = difflib.get_close_matches(defect.site, known, n=1)
    hint = f"; did you mean {match[0]!r}?" if match else ""
    what = "an adatom settles" if defect.kind == "adatom" else "sites of this material are"
    raise ConfigError(
        f"{where} unknown site {defect.site!r}{hint} ({what}: {', '.join(dict.fromkeys(known))})"
    )


def _symbols(config: configs.Structure) -> list[str]:
    """Symbols of the elements of the campaign's materials."""
    from ase.data import chemical_symbols

    found = {int(n) for crystal in _crystals(config) for n in np.unique(crystal.unit.numbers)}
    return [chemical_symbols[number] for number in sorted(found)]


def _check_hosts(config: configs.Structure, crystal: SheetCrystal) -> None:
    """Raise ConfigError for a defect that no column of the material can bear."""
    unit, names = crystal.unit, site_classes(config)
    symbols = _symbols(config)
    for defect in defects_of_columns(config):
        where = f"structure.defects {defect.label}:"
        if defect.kind == "antisite" and defect.element not in symbols:
            raise ConfigError(
                f"{where} an antisite holds another element of the crystal, one of "
                f"{', '.join(symbols)}, not {defect.element}; a foreign one is a substitution"
            )
        match = match_sites(defect, names, unit.classes, unit.numbers)
        if not match.any():
            raise ConfigError(f"{where} the sites of {defect.site!r} hold {defect.element} already")
        held = int(np.bincount(unit.columns[match]).max())
        if config.thickness is None and held < defect.atoms:
            raise ConfigError(
                f"{where} a column of {defect.site!r} holds {held} atom{'s' * (held > 1)} that "
                f"can be taken, not {defect.atoms}; lower 'atoms'"
            )


def _check_rates(config: configs.Structure, crystals: Sequence[SheetCrystal]) -> None:
    """Raise ConfigError where the rates of the defects of one column, or cell, exceed 1."""
    kinds, names = defects_of_columns(config), site_classes(config)
    groups = [adatoms_of(config)]
    if kinds:
        distinct = {
            pair
            for crystal in crystals
            for pair in zip(
                crystal.unit.classes.tolist(), crystal.unit.numbers.tolist(), strict=True
            )
        }
        groups += [
            [kind for kind in kinds if match_sites(kind, names, *(np.array([x]) for x in pair))[0]]
            for pair in sorted(distinct)
        ]
    for group in groups:
        total = math.fsum(kind.rate.support[1] for kind in group)
        if total > 1.0 + 1e-9:
            raise ConfigError(
                f"structure.defects: the greatest rates of {', '.join(k.label for k in group)} sum "
                f"to {total:g}; a column bears one defect at most, so that they sum to 1 at most"
            )
