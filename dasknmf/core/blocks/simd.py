"""Products of short rows as vector code, written in LLVM's intermediate language.

The compiler's own vector code is for long loops: it takes 32 numbers or more at once and the rest one by one.
For rows of n_components numbers that costs ten times as much as the code here. Rows are padded with zeros to
blocks of 8 columns, and two blocks make one vector, as long as there are two; the compiler maps vectors to
the registers of the CPU. `dasknmf.core.blocks.nonzeros` has the same operations by SciPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

LANES = 8
MOST = 4
"""Largest number of blocks of `LANES` columns that are summed together, in registers."""

Untyped: TypeAlias = Any
"""An object of numba's code generation, which has no types of its own."""
Held: TypeAlias = list[tuple[ir.Value, ir.Value]]
"""Vectors of a row: pairs of the vector's first block, and the vector or a pointer to it."""

cgutils: Untyped = _cgutils
_generated = cast(Callable[[Callable[..., Untyped]], Callable[..., None]], intrinsic)
_INDEX = ir.IntType(32)
_FLAGS = ("reassoc", "contract", "nsz")


def padded(k: int) -> int:
    """Number of columns of a row of k values, padded to whole vectors."""
    return -(-k // LANES) * LANES


def filled(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """C-contiguous rows padded with zeros to whole vectors; the same array if no change is needed."""
    n, k = rows.shape
    if rows.dtype == dtype and k == padded(k) and rows.flags.c_contiguous:
        return rows
    wide = np.zeros((n, padded(k)), dtype)
    wide[:, :k] = rows
    return wide


class _Row:
    """A row of a C-contiguous matrix, as vectors."""

    def __init__(
        self, context: Untyped, builder: ir.IRBuilder, kind: Untyped, matrix: ir.Value, row: ir.Value
    ) -> None:
        array = context.make_array(kind)(context, builder, matrix)
        stride = cgutils.unpack_tuple(builder, array.strides, 2)[0]
        start = builder.ptrtoint(array.data, row.type)
        self._builder = builder
        self._first = builder.add(start, builder.mul(row, stride))
        self._size = kind.dtype.bitwidth // 8
        self.element = context.get_value_type(kind.dtype)

    def _at(self, block: ir.Value, width: int) -> ir.Value:
        step = ir.Constant(self._first.type, self._size * LANES)
        address = self._builder.add(self._first, self._builder.mul(block, step))
        return self._builder.inttoptr(address, ir.VectorType(self.element, width).as_pointer())

    def load(self, block: ir.Value, width: int) -> ir.Value:
        value = self._builder.load(self._at(block, width))
        value.align = self._size
        return value

    def store(self, block: ir.Value, value: ir.Value) -> None:
        self._builder.store(value, self._at(block, value.type.count)).align = self._size


def _every(builder: ir.IRBuilder, value: ir.Value, width: int) -> ir.Value:
    """A vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, undefined, _indices([0] * width))


def _indices(lanes: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INDEX, len(lanes)), lanes)


def _walk(
    prepare: Callable[[ir.IRBuilder, _Row, list[tuple[ir.Value, int]]], Held],
    visit: Callable[[ir.IRBuilder, _Row, Held, ir.Value], None],
    finish: Callable[[ir.IRBuilder, _Row, Held], None],
) -> Callable[..., None]:
    """A numba intrinsic: a loop over the nonzeros of one row, for at most `MOST` blocks of columns.

    The intrinsic is called as (F, (i, block, left), (q, columns, start, stop), G). For each nonzero e, start
    ≤ e < stop, `visit` combines row i of F, value q[e] and row columns[e] of G, from column block `block` on;
    `left` blocks are left. `prepare` loads the row of F before the loop, and `finish` may store it.
    """

    def typed(_: Untyped, F: Untyped, place: Untyped, nonzeros: Untyped, G: Untyped) -> Untyped:
        def generated(
            context: Untyped, builder: ir.IRBuilder, signature: Untyped, arguments: list[ir.Value]
        ) -> ir.Value:
            matrix, where, held, others = arguments
            row, first, left = cgutils.unpack_tuple(builder, where, 3)
            values, indices, low, high = cgutils.unpack_tuple(builder, held, 4)
            values = context.make_array(nonzeros[0])(context, builder, values).data
            indices = context.make_array(nonzeros[1])(context, builder, indices).data
            f = _Row(context, builder, F, matrix, row)
            one = ir.Constant(low.type, 1)
            for count in range(1, MOST + 1):
                sign = ">=" if count == MOST else "=="
                with builder.if_then(builder.icmp_signed(sign, left, ir.Constant(left.type, count))):
                    widths = [2 * LANES] * (count // 2) + [LANES] * (count % 2)
                    places = [builder.add(first, ir.Constant(first.type, 2 * n)) for n in range(len(widths))]
                    vectors = prepare(builder, f, list(zip(places, widths, strict=True)))
                    with cgutils.for_range_slice(builder, low, high, one, low.type) as (e, _n):
                        column = builder.sext(builder.load(builder.gep(indices, [e])), low.type)
                        g = _Row(context, builder, G, others, column)
                        visit(builder, g, vectors, builder.gep(values, [e]))
                    finish(builder, f, vectors)
            return context.get_dummy_value()

        return types.void(F, place, nonzeros, G), generated

    return _generated(typed)


def _loaded(builder: ir.IRBuilder, f: _Row, places: list[tuple[ir.Value, int]]) -> Held:
    return [(place, f.load(place, width)) for place, width in places]


def _summing(builder: ir.IRBuilder, f: _Row, places: list[tuple[ir.Value, int]]) -> Held:
    return [(place, cgutils.alloca_once_value(builder, f.load(place, width))) for place, width in places]


def _add_row(builder: ir.IRBuilder, g: _Row, held: Held, value: ir.Value) -> None:
    q = builder.load(value)
    for place, total in held:
        here = builder.load(total)
        width = here.type.count
        product = builder.fmul(_every(builder, q, width), g.load(place, width), flags=_FLAGS)
        builder.store(builder.fadd(here, product, flags=_FLAGS), total)


def _store_sums(builder: ir.IRBuilder, f: _Row, held: Held) -> None:
    for place, total in held:
        f.store(place, builder.load(total))


def _add_to_row(builder: ir.IRBuilder, g: _Row, held: Held, value: ir.Value) -> None:
    q = builder.load(value)
    for place, w in held:
        product = builder.fmul(_every(builder, q, w.type.count), w, flags=_FLAGS)
        g.store(place, builder.fadd(g.load(place, w.type.count), product, flags=_FLAGS))


def _add_dot(builder: ir.IRBuilder, g: _Row, held: Held, value: ir.Value) -> None:
    halves = []
    for place, w in held:
        product = builder.fmul(w, g.load(place, w.type.count), flags=_FLAGS)
        parts = [product]
        if w.type.count > LANES:
            lanes = list(range(2 * LANES))
            parts = [
                builder.shuffle_vector(product, product, _indices(lanes[n : n + LANES])) for n in (0, LANES)
            ]
        halves += parts
    total = halves[0]
    for half in halves[1:]:
        total = builder.fadd(total, half, flags=_FLAGS)
    name = f"llvm.vector.reduce.fadd.v{LANES}{'f32' if isinstance(g.element, ir.FloatType) else 'f64'}"
    kind = ir.FunctionType(g.element, [g.element, total.type])
    reduce = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.store(builder.call(reduce, [builder.load(value), total], fastmath=_FLAGS), value)


def _nothing(builder: ir.IRBuilder, f: _Row, held: Held) -> None:
    pass


dots = _walk(_loaded, _add_dot, _nothing)
"""q[e] += F[i] · G[columns[e]]."""
gathers = _walk(_summing, _add_row, _store_sums)
"""F[i] += Σ_e q[e] G[columns[e]]; the sums stay in registers until the end, as stores would be slower."""
scatters = _walk(_loaded, _add_to_row, _nothing)
"""G[columns[e]] += q[e] F[i]."""
