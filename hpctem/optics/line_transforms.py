"""Discrete Fourier transforms of eight lines at once, in place, one line in each lane.

A block of eight lines of n complex numbers is a flat float32 array of 16 n: number i of all lines
fills one cache line, eight real parts before eight imaginary ones. Nothing is shuffled inside a
register, and both directions may be split between passes over a field that do other work too.

`transform` (decimation in frequency; Gentleman & Sande 1966) leaves the frequencies in the order
of their digits reversed, `Plan.order`; `invert` (decimation in time; Cooley & Tukey 1965) takes
them in that order and is unscaled. So neither has to sort, and what multiplies the transform is
put into that order once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hpctem.compiling import compile_lanes
from hpctem.optics.butterflies import (
    backward_3,
    backward_4,
    backward_5,
    backward_prime,
    forward_3,
    forward_4,
    forward_5,
    forward_prime,
    last_stage,
)
from hpctem.optics.lanes import LINE


class Plan(NamedTuple):
    """How a length is split: `radices` int64 (S,), the first stage first; `twiddles` float32, the
    factors of stage s from `offsets[s]` on; `order` int64 (n,): the frequency at each place."""

    radices: np.ndarray
    offsets: np.ndarray
    twiddles: np.ndarray
    order: np.ndarray


@lru_cache(maxsize=32)
def plan_lines(n: int) -> Plan:
    """Split a length `n` into radices 8, 5, 4, 3 and 2 and, more slowly, any other prime."""
    radices = _split(n)
    twiddles, offsets, length, start = [], [], n, 0
    order = [np.arange(n)]
    for radix in radices:
        part = length // radix
        turns = np.arange(part)[:, None] * np.arange(1, radix) / length
        roots = np.arange(radix) / radix if radix > 5 and radix != 8 else np.zeros(0)
        phases = -2 * np.pi * np.concatenate([turns.ravel(), roots])
        offsets.append(start)
        twiddles.append(np.stack([np.cos(phases), np.sin(phases)], axis=1).ravel())
        start += twiddles[-1].size
        order = [place[p::radix] for place in order for p in range(radix)]
        length = part
    factors = np.concatenate(twiddles).astype(np.float32)
    return Plan(np.array(radices), np.array(offsets), factors, np.concatenate(order))


def _split(n: int) -> list[int]:
    twos = (n & -n).bit_length() - 1
    rest, odd, prime = n >> twos, [], 3
    while rest > 1:
        if prime * prime > rest:
            prime = max(prime, rest)
        while rest % prime == 0:
            odd.append(prime)
            rest //= prime
        prime += 2
    if twos == 1:
        return [*reversed(odd), 2]
    last = [8] if twos % 2 else []
    return [*reversed(odd), *[4] * ((twos - 3 * len(last)) // 2), *last]


@compile_lanes
def transform(block, plan, work):
    """Transform the eight lines of `block`; `work`: float32, as long as `block`."""
    radices, offsets, twiddles = plan[0], plan[1], plan[2]
    n = block.size // LINE
    length = n // radices[0]
    _forward(block, np.int64(0), n, length, radices[0], twiddles, offsets[0], work)
    for first in range(0, n if radices.size > 1 else 0, length):
        part = length  # one part after the other through all its stages, while it is in the cache
        for stage in range(1, radices.size):
            part //= radices[stage]
            end = first + length
            _forward(block, first, end, part, radices[stage], twiddles, offsets[stage], work)


@compile_lanes
def invert(block, plan, work):
    """Undo `transform`, but for the factor n; `work`: float32, as long as `block`."""
    radices, offsets, twiddles = plan[0], plan[1], plan[2]
    n = block.size // LINE
    length = n // radices[0]
    for first in range(0, n if radices.size > 1 else 0, length):
        part = np.int64(1)
        for stage in range(radices.size - 1, 0, -1):
            end = first + length
            _backward(block, first, end, part, radices[stage], twiddles, offsets[stage], work)
            part *= radices[stage]
    _backward(block, np.int64(0), n, length, radices[0], twiddles, offsets[0], work)


@compile_lanes
def _forward(block, first, end, part, radix, twiddles, offset, work):
    """One stage on the places `first` to `end`: sub-blocks of radix parts each."""
    if part == 1 and radix in (2, 4, 8):
        last_stage(block, first, end, radix, np.int64(0))
        return
    for begin in range(first, end, part * radix):
        if radix == 4:
            forward_4(block, begin, part, twiddles, offset)
        elif radix == 5:
            forward_5(block, begin, part, twiddles, offset)
        elif radix == 3:
            forward_3(block, begin, part, twiddles, offset)
        else:
            forward_prime(block, begin, part, radix, twiddles, offset, work)


@compile_lanes
def _backward(block, first, end, part, radix, twiddles, offset, work):
    if part == 1 and radix in (2, 4, 8):
        last_stage(block, first, end, radix, np.int64(8))
        return
    for begin in range(first, end, part * radix):
        if radix == 4:
            backward_4(block, begin, part, twiddles, offset)
        elif radix == 5:
            backward_5(block, begin, part, twiddles, offset)
        elif radix == 3:
            backward_3(block, begin, part, twiddles, offset)
        else:
            backward_prime(block, begin, part, radix, twiddles, offset, work)
