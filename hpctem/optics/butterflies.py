"""The stages of `line_transforms`: what one radix does to eight lines, forwards and backwards.

A stage takes `radix` parts of `part` numbers each, from place `begin` on, and its `twiddles` from
number `t` on.
"""

from __future__ import annotations

import math

import numpy as np

from hpctem.compiling import compile_lanes, inline_lanes
from hpctem.optics.lanes import LINE, load, splat, store

# Complex numbers are pairs (real, imaginary) of eight lanes. The inverse is the same arithmetic
# with real and imaginary parts exchanged, which `real` says: 0, or 8 for the inverse.


@inline_lanes
def _get(block, i, real):
    return load(block, i + real), load(block, i + 8 - real)


@inline_lanes
def _put(block, i, real, x):
    store(block, i + real, x[0])
    store(block, i + 8 - real, x[1])


@inline_lanes
def _turn(x, twiddles, t):
    c, s = splat(twiddles[t]), splat(twiddles[t + 1])
    return x[0] * c - x[1] * s, x[0] * s + x[1] * c


@inline_lanes
def _add(x, y):
    return x[0] + y[0], x[1] + y[1]


@inline_lanes
def _subtract(x, y):
    return x[0] - y[0], x[1] - y[1]


@inline_lanes
def _add_turned(x, y):
    """x - i y and x + i y."""
    return (x[0] + y[1], x[1] - y[0]), (x[0] - y[1], x[1] + y[0])


@inline_lanes
def _scale(x, factor):
    f = splat(factor)
    return x[0] * f, x[1] * f


@inline_lanes
def _four(a, b, c, d):
    """Transform of four numbers."""
    e, f, g, h = _add(a, c), _subtract(a, c), _add(b, d), _subtract(b, d)
    q, s = _add_turned(f, h)
    return _add(e, g), q, _subtract(e, g), s


_SIN_3 = np.float32(math.sqrt(3) / 2)
_COS_5, _SIN_5 = np.float32(math.cos(0.4 * math.pi)), np.float32(math.sin(0.4 * math.pi))
_COS_10, _SIN_10 = np.float32(math.cos(0.8 * math.pi)), np.float32(math.sin(0.8 * math.pi))
_HALF, _ROOT = np.float32(-0.5), np.float32(math.sqrt(0.5))


@inline_lanes
def _three(a, b, c):
    """Transform of three numbers."""
    total = _add(b, c)
    y, z = _add_turned(_add(a, _scale(total, _HALF)), _scale(_subtract(b, c), _SIN_3))
    return _add(a, total), y, z


@inline_lanes
def _five(a, b, c, d, e):
    """Transform of five numbers."""
    p, q, r, s = _add(b, e), _subtract(b, e), _add(c, d), _subtract(c, d)
    u = _add(_add(a, _scale(p, _COS_5)), _scale(r, _COS_10))
    v = _add(_scale(q, _SIN_5), _scale(s, _SIN_10))
    w = _add(_add(a, _scale(p, _COS_10)), _scale(r, _COS_5))
    x = _subtract(_scale(q, _SIN_10), _scale(s, _SIN_5))
    y1, y4 = _add_turned(u, v)
    y2, y3 = _add_turned(w, x)
    return _add(_add(a, p), r), y1, y2, y3, y4


@compile_lanes
def forward_4(block, begin, part, twiddles, t):
    """Four parts, turned afterwards."""
    d = part * LINE
    for i in range(begin * LINE, begin * LINE + d, LINE):
        a, b, c, e = _four(
            _get(block, i, 0), _get(block, i + d, 0), _get(block, i + 2 * d, 0),
            _get(block, i + 3 * d, 0),
        )  # fmt: skip
        _put(block, i, 0, a)
        _put(block, i + d, 0, _turn(b, twiddles, t))
        _put(block, i + 2 * d, 0, _turn(c, twiddles, t + 2))
        _put(block, i + 3 * d, 0, _turn(e, twiddles, t + 4))
        t += 6


@compile_lanes
def backward_4(block, begin, part, twiddles, t):
    """Undo `forward_4`, but for the factor 4."""
    d = part * LINE
    for i in range(begin * LINE, begin * LINE + d, LINE):
        a, b, c, e = _four(
            _get(block, i, 8),
            _turn(_get(block, i + d, 8), twiddles, t),
            _turn(_get(block, i + 2 * d, 8), twiddles, t + 2),
            _turn(_get(block, i + 3 * d, 8), twiddles, t + 4),
        )
        _put(block, i, 8, a)
        _put(block, i + d, 8, b)
        _put(block, i + 2 * d, 8, c)
        _put(block, i + 3 * d, 8, e)
        t += 6


@compile_lanes
def forward_5(block, begin, part, twiddles, t):
    """Five parts, turned afterwards."""
    d = part * LINE
    for i in range(begin * LINE, begin * LINE + d, LINE):
        a, b, c, e, f = _five(
            _get(block, i, 0), _get(block, i + d, 0), _get(block, i + 2 * d, 0),
            _get(block, i + 3 * d, 0), _get(block, i + 4 * d, 0),
        )  # fmt: skip
        _put(block, i, 0, a)
        _put(block, i + d, 0, _turn(b, twiddles, t))
        _put(block, i + 2 * d, 0, _turn(c, twiddles, t + 2))
        _put(block, i + 3 * d, 0, _turn(e, twiddles, t + 4))
        _put(block, i + 4 * d, 0, _turn(f, twiddles, t + 6))
        t += 8


@compile_lanes
def backward_5(block, begin, part, twiddles, t):
    """Undo `forward_5`, but for the factor 5."""
    d = part * LINE
    for i in range(begin * LINE, begin * LINE + d, LINE):
        a, b, c, e, f = _five(
            _get(block, i, 8),
            _turn(_get(block, i + d, 8), twiddles, t),
            _turn(_get(block, i + 2 * d, 8), twiddles, t + 2),
            _turn(_get(block, i + 3 * d, 8), twiddles, t + 4),
            _turn(_get(block, i + 4 * d, 8), twiddles, t + 6),
        )
        _put(block, i, 8, a)
        _put(block, i + d, 8, b)
        _put(block, i + 2 * d, 8, c)
        _put(block, i + 3 * d, 8, e)
        _put(block, i + 4 * d, 8, f)
        t += 8


@compile_lanes
def forward_3(block, begin, part, twiddles, t):
    """Three parts, turned afterwards."""
    d = part * LINE
    for i in range(begin * LINE, begin * LINE + d, LINE):
        a, b, c = _three(_get(block, i, 0), _get(block, i + d, 0), _get(block, i + 2 * d, 0))
        _put(block, i, 0, a)
        _put(block, i + d, 0, _turn(b, twiddles, t))
        _put(block, i + 2 * d, 0, _turn(c, twiddles, t + 2))
        t += 4


@compile_lanes
def backward_3(block, begin, part, twiddles, t):
    """Undo `forward_3`, but for the factor 3."""
    d = part * LINE
    for i in range(begin * LINE, begin * LINE + d, LINE):
        a, b, c = _three(
            _get(block, i, 8),
            _turn(_get(block, i + d, 8), twiddles, t),
            _turn(_get(block, i + 2 * d, 8), twiddles, t + 2),
        )
        _put(block, i, 8, a)
        _put(block, i + d, 8, b)
        _put(block, i + 2 * d, 8, c)
        t += 4


@compile_lanes
def forward_prime(block, begin, part, radix, twiddles, t, work):
    """Any number of parts, turned afterwards; the roots of unity stand behind the twiddles."""
    roots = t + 2 * part * (radix - 1)
    for j in range(part):
        _any(block, (begin + j) * LINE, part * LINE, radix, np.int64(0), twiddles, roots, work)
        for p in range(1, radix):
            i = (begin + j + p * part) * LINE
            _put(block, i, 0, _turn(_get(block, i, 0), twiddles, t))
            t += 2


@compile_lanes
def backward_prime(block, begin, part, radix, twiddles, t, work):
    """Undo `forward_prime`, but for the factor `radix`."""
    roots = t + 2 * part * (radix - 1)
    for j in range(part):
        for p in range(1, radix):
            i = (begin + j + p * part) * LINE
            _put(block, i, 8, _turn(_get(block, i, 8), twiddles, t))
            t += 2
        _any(block, (begin + j) * LINE, part * LINE, radix, np.int64(8), twiddles, roots, work)


@compile_lanes
def _any(block, i, d, radix, real, twiddles, roots, work):
    """Transform `radix` numbers by its definition."""
    for p in range(radix):
        total = _get(block, i, real)
        for q in range(1, radix):
            root = roots + 2 * (p * q % radix)
            total = _add(total, _turn(_get(block, i + q * d, real), twiddles, root))
        _put(work, p * LINE, 0, total)
    for p in range(radix):
        _put(block, i + p * d, real, _get(work, p * LINE, 0))


@inline_lanes
def _last_2(block, begin):
    i = begin * LINE
    a, b = _get(block, i, 0), _get(block, i + LINE, 0)
    _put(block, i, 0, _add(a, b))
    _put(block, i + LINE, 0, _subtract(a, b))


@inline_lanes
def _last_4(block, begin, real):
    i = begin * LINE
    a, b, c, d = _four(
        _get(block, i, real), _get(block, i + LINE, real), _get(block, i + 2 * LINE, real),
        _get(block, i + 3 * LINE, real),
    )  # fmt: skip
    _put(block, i, real, a)
    _put(block, i + LINE, real, b)
    _put(block, i + 2 * LINE, real, c)
    _put(block, i + 3 * LINE, real, d)


@inline_lanes
def _last_8(block, begin, real):
    """Eight numbers as two times four, the odd ones turned by eighths."""
    i = begin * LINE
    a0, a1, a2, a3 = _four(
        _get(block, i, real), _get(block, i + 2 * LINE, real), _get(block, i + 4 * LINE, real),
        _get(block, i + 6 * LINE, real),
    )  # fmt: skip
    b0, b1, b2, b3 = _four(
        _get(block, i + LINE, real), _get(block, i + 3 * LINE, real),
        _get(block, i + 5 * LINE, real), _get(block, i + 7 * LINE, real),
    )  # fmt: skip
    b1 = _scale((b1[0] + b1[1], b1[1] - b1[0]), _ROOT)
    b3 = _scale((b3[0] - b3[1], b3[1] + b3[0]), _ROOT)  # by -exp(-3/4 i pi): see the signs below
    _put(block, i, real, _add(a0, b0))
    _put(block, i + 4 * LINE, real, _subtract(a0, b0))
    _put(block, i + LINE, real, _add(a1, b1))
    _put(block, i + 5 * LINE, real, _subtract(a1, b1))
    c2, c6 = _add_turned(a2, b2)
    _put(block, i + 2 * LINE, real, c2)
    _put(block, i + 6 * LINE, real, c6)
    _put(block, i + 3 * LINE, real, _subtract(a3, b3))
    _put(block, i + 7 * LINE, real, _add(a3, b3))


@compile_lanes
def last_stage(block, first, end, radix, real):
    """The stage without twiddles, which ends a transform and begins its inverse."""
    for begin in range(first, end, radix):
        if radix == 8:
            _last_8(block, begin, real)
        elif radix == 4:
            _last_4(block, begin, real)
        else:
            _last_2(block, begin)
