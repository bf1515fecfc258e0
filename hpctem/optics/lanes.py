"""Eight float32 numbers that Numba computes with at once: one AVX register, or two of NEON.

Compiled loops over plain arrays are vectorised only where the compiler can prove that no two
arrays overlap, which it rarely can in a transform. Here every operation on eight lanes is written
down, so the machine code and the order of its sums do not depend on what a compiler can prove.

`load` and `store` move eight neighbours of a flat float32 array, `splat` repeats one number,
`prefetch` asks for a cache line that is needed soon, `nearest` rounds to whole numbers, `+`, `-`
and `*` work lane by lane (a product and a sum may be contracted to one fused operation),
`transpose` turns eight rows of eight into columns.
"""

from __future__ import annotations

import hpctem.processor  # isort: skip  # noqa: F401  sets Numba's target before Numba is read

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 8
LINE = 2 * LANES
"""Numbers in a cache line: the real and imaginary parts of eight lanes."""
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_CONTRACT = ("contract", "nsz", "nnan", "ninf")


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend: Any) -> None:
        super().__init__(manager, frontend, _VECTOR)


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _read(builder: Any, place: Any) -> Any:
    value = builder.load(place)
    value.align = 4
    return value


def _write(builder: Any, value: Any, place: Any) -> None:
    builder.store(value, place).align = 4


@intrinsic
def load(typing, array, index):
    """Eight lanes from the float32 array at `index`."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments)
        return _read(builder, place)

    return _lanes(array, types.intp), generate


@intrinsic
def store(typing, array, index, value):
    """Put eight lanes into the float32 array at `index`."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments[:2])
        _write(builder, arguments[2], place)
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes), generate


@intrinsic
def splat(typing, number):
    """One float32 in all lanes."""

    def generate(context, builder, signature, arguments):
        nothing = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(nothing, arguments[0], ir.IntType(32)(0))
        every = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(first, nothing, every)

    return _lanes(types.float32), generate


@intrinsic
def nearest(typing, value):
    """Round to the nearest whole number, a half to even."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        function = builder.module.declare_intrinsic("llvm.rint.v8f32", fnty=kind)
        return builder.call(function, arguments)

    return _lanes(_lanes), generate


@intrinsic
def prefetch(typing, array, index):
    """Ask for the cache line of the float32 array at `index`, which is needed soon."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [place, number(0), number(2), number(1)])  # read, into L2, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _shuffle(builder: Any, a: Any, b: Any, order: tuple[int, ...]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), LANES), order))


# Of lanes a (0-7) and b (8-15): single lanes, pairs and halves of both, woven together.
_SINGLES = ((0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15))
_PAIRS = ((0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15))
_HALVES = ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))


@intrinsic
def transpose(typing, source, begin, step, target, start, stride):
    """Eight rows of eight, `step` numbers apart in `source`, to columns `stride` apart."""

    def generate(context, builder, signature, arguments):
        source, begin, step, target, start, stride = arguments
        kinds = signature.args[0], signature.args[3]

        def nth(first, apart, n):
            return builder.add(first, builder.mul(apart, apart.type(n)))

        rows = [
            _read(builder, _place(context, builder, kinds[0], source, nth(begin, step, n)))
            for n in range(LANES)
        ]
        for distance, orders in ((1, _SINGLES), (2, _PAIRS), (4, _HALVES)):
            woven = list(rows)
            for n in range(LANES):
                if not n & distance:
                    pair = rows[n], rows[n + distance]
                    woven[n] = _shuffle(builder, *pair, orders[0])
                    woven[n + distance] = _shuffle(builder, *pair, orders[1])
            rows = woven
        for n, row in enumerate(rows):
            # lanes were woven in pairs of 128 bits, so the columns come with bits 0 and 1 swapped
            column = (n & 4) | (n & 1) << 1 | (n & 2) >> 1
            place = _place(context, builder, kinds[1], target, nth(start, stride, column))
            _write(builder, row, place)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, target, integer, integer), generate


def _define(operation: Any, name: str) -> None:
    @infer_global(operation)
    class _Typed(AbstractTemplate):
        def generic(self, args, kws):
            return signature(_lanes, _lanes, _lanes) if args == (_lanes, _lanes) else None

    @lower_builtin(operation, _lanes, _lanes)
    def _lower(context, builder, signature, arguments):
        return getattr(builder, name)(*arguments, flags=_CONTRACT)


for _operation, _name in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define(_operation, _name)
