"""Splits into parts that share no group: fractions as near as the sizes of the groups allow."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from hpctem.errors import ConfigError, DatabaseError

# Each exchange brings two parts nearer to their fractions; a few make them as near as can be.
MOST_EXCHANGES = 200


def split_groups(
    sizes: np.ndarray, strata: np.ndarray, chance: np.ndarray, fractions: Sequence[Fraction]
) -> np.ndarray:
    """Give every group to a part so that the parts get their fractions of the rows.

    Groups come in random order within their stratum, each goes to the part that lacks most, so that
    every stratum is shared in the same way; then groups change places while that brings parts
    nearer to their fractions.

    sizes      (groups,) int64 rows of each group, > 0
    strata     (groups,) int64 stratum of each group
    chance     (groups,) uint64
    fractions  one for each part, sum 1
    returns    (groups,) int64 number of the part

    Raises ConfigError when a part would get no group.
    """
    # Strata in random order too: one of few groups would always stand where the same part lacks.
    lowest = np.full(int(strata.max()) + 1, 2**64 - 1, np.uint64)
    np.minimum.at(lowest, strata, chance)
    order = np.lexsort((chance, strata, lowest[strata]))
    # Whole numbers throughout: a part lacks numerator * rows seen - denominator * rows it has.
    scale = int(np.lcm.reduce([f.denominator for f in fractions]))
    shares = [int(f * scale) for f in fractions]
    parts = np.empty(len(sizes), np.int64)
    lacks = [0] * len(shares)
    numbers = range(len(shares))
    given = []
    for size in sizes[order].tolist():
        # Before the group's own size is seen, so that large groups have the same chances.
        part = max(numbers, key=lacks.__getitem__)
        lacks = [lack + share * size for lack, share in zip(lacks, shares, strict=True)]
        lacks[part] -= scale * size
        given.append(part)
    parts[order] = given
    _exchange_groups(sizes, strata, order, parts, lacks, scale)
    empty = np.flatnonzero(np.bincount(parts, minlength=len(shares)) == 0)
    if len(empty):
        raise ConfigError(
            f"{len(sizes)} groups cannot be split into {len(shares)} parts with rows in each: "
            f"part {empty[0] + 1} would have none; take more structures or fewer parts"
        )
    return parts


def _exchange_groups(
    sizes: np.ndarray,
    strata: np.ndarray,
    order: np.ndarray,
    parts: np.ndarray,
    lacks: list[int],
    scale: int,
) -> None:
    """Move or swap groups between the fullest and the emptiest part while that helps both.

    A swap is between groups of one stratum, a move is of a single group; `parts` and `lacks` are
    changed in place.
    """
    width = int(sizes.max(initial=0)) + 1
    for _ in range(MOST_EXCHANGES):
        full = min(range(len(lacks)), key=lacks.__getitem__)
        empty = max(range(len(lacks)), key=lacks.__getitem__)
        # Rows that should go over; an exchange of d rows helps where 0 < d < 2 * wish.
        wish = (lacks[empty] - lacks[full]) / (2 * scale)
        here, there = order[parts[order] == full], order[parts[order] == empty]
        if wish <= 0 or len(here) == 0:
            return
        moved = sizes[here].astype(np.float64) if len(here) > 1 else np.full(1, np.inf)
        one = int(np.argmin(np.abs(moved - wish)))
        best, pair = abs(float(moved[one]) - wish), (int(here[one]), -1)
        if len(there):
            keys = strata[there] * width + sizes[there]
            by_key = np.argsort(keys, kind="stable")
            target = strata[here] * width + np.maximum(sizes[here] - round(wish), 0)
            near = np.searchsorted(keys[by_key], target)
            for shift in (-1, 0):
                other = there[by_key[np.clip(near + shift, 0, len(there) - 1)]]
                differ = np.abs(sizes[here] - sizes[other] - wish)
                differ[strata[here] != strata[other]] = np.inf
                least = int(np.argmin(differ))
                if differ[least] < best:
                    best, pair = float(differ[least]), (int(here[least]), int(other[least]))
        if not best < wish:
            return
        passed = int(sizes[pair[0]])
        parts[pair[0]] = empty
        if pair[1] >= 0:
            parts[pair[1]] = full
            passed -= int(sizes[pair[1]])
        lacks[full] += scale * passed
        lacks[empty] -= scale * passed


def check_apart(parts: np.ndarray, groups: np.ndarray, what: str) -> None:
    """Check that no group has rows in two parts.

    parts    (n,) int64 part of each row
    groups   (n,) int64 >= 0 group of each row

    Raises DatabaseError when one has.
    """
    first = np.full(int(groups.max(initial=-1)) + 1, -1, np.int64)
    first[groups] = parts
    shared = np.flatnonzero(first[groups] != parts)
    if len(shared):
        raise DatabaseError(
            f"{len(np.unique(groups[shared]))} {what} are in two parts of the split"
        )


def parse_fractions(text: str) -> dict[str, Fraction]:
    """Parts and their fractions, 'train=0.75,validation=0.25' or 'train=2/3,validation=1/3'.

    Raises ConfigError for anything else: fractions outside 0 to 1, or whose sum is not 1.
    """
    found: dict[str, Fraction] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        try:
            fraction = Fraction(number.replace(" ", ""))
        except (ValueError, ZeroDivisionError):
            fraction = Fraction(0)
        if not name.isidentifier() or not 0 < fraction < 1:
            raise ConfigError(
                f"split: {part.strip()!r} is no NAME=FRACTION with a fraction between 0 and 1; "
                "write train=0.75,validation=0.25"
            )
        if name in found:
            raise ConfigError(f"split: part {name!r} is named twice")
        found[name] = fraction
    if sum(found.values()) != 1:
        raise ConfigError(
            f"split: the fractions of {text!r} sum to {float(sum(found.values())):g}, not to 1; "
            "thirds are written 1/3"
        )
    return found
