"""Products of two short rows as vector code.

A loop over n_components is too short for the compiler's own vector code: its sums run in strides of 32 and
more and leave the rest to scalars, measured at ten times the cost. Here rows are padded to whole vectors,
`padded`, and the vectors are written down, two blocks of 8 columns in one as long as there are two: the
compiler maps them to what the CPU has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

LANES = 8

cgutils: Any = _cgutils  # without types
_generated = cast(Callable[[Any], Callable[..., Any]], intrinsic)
_INDEX = ir.IntType(32)
_FLAGS = ("reassoc", "contract", "nsz")


def padded(k: int) -> int:
    """Columns of a row of k values in whole vectors."""
    return -(-k // LANES) * LANES


def filled(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rows with zeros up to whole vectors, C-contiguous: themselves where they are that already."""
    n, k = rows.shape
    if rows.dtype == dtype and k == padded(k) and rows.flags.c_contiguous:
        return rows
    wide = np.zeros((n, padded(k)), dtype)
    wide[:, :k] = rows
    return wide


class _Row:
    """A row of a C-contiguous matrix, as vectors."""

    def __init__(self, context: Any, builder: Any, kind: Any, matrix: Any, row: Any) -> None:
        array = context.make_array(kind)(context, builder, matrix)
        stride = cgutils.unpack_tuple(builder, array.strides, 2)[0]
        start = builder.ptrtoint(array.data, row.type)
        self._builder = builder
        self._first = builder.add(start, builder.mul(row, stride))
        self._size = kind.dtype.bitwidth // 8
        self.element = context.get_value_type(kind.dtype)

    def _at(self, block: Any, width: int) -> Any:
        step = ir.Constant(self._first.type, self._size * LANES)
        address = self._builder.add(self._first, self._builder.mul(block, step))
        return self._builder.inttoptr(address, ir.VectorType(self.element, width).as_pointer())

    def load(self, block: Any, width: int) -> Any:
        value = self._builder.load(self._at(block, width))
        value.align = self._size
        return value

    def store(self, block: Any, value: Any) -> None:
        self._builder.store(value, self._at(block, value.type.count)).align = self._size


def _zeros(element: Any, width: int) -> Any:
    return ir.Constant(ir.VectorType(element, width), [0.0] * width)


def _every(builder: Any, value: Any, width: int) -> Any:
    """A vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, undefined, _indices([0] * width))


def _indices(lanes: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_INDEX, len(lanes)), lanes)


def _over_blocks(builder: Any, blocks: Any, emit: Callable[[Any, int], None]) -> None:
    """Code for so many blocks: two at a time, then the one that is left."""
    one = ir.Constant(blocks.type, 1)
    with cgutils.for_range(builder, builder.lshr(blocks, one)) as loop:
        emit(builder.shl(loop.index, one), 2 * LANES)
    odd = builder.trunc(blocks, ir.IntType(1))
    with builder.if_then(odd):
        emit(builder.sub(blocks, one), LANES)


@_generated
def dot(_: Any, A: Any, i: Any, B: Any, j: Any, blocks: Any) -> Any:
    """A[i] · B[j], of so many blocks of `LANES` columns."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a = _Row(context, builder, signature.args[0], arguments[0], arguments[1])
        b = _Row(context, builder, signature.args[2], arguments[2], arguments[3])
        sums = {}
        for width in (LANES, 2 * LANES):
            sums[width] = cgutils.alloca_once_value(builder, _zeros(a.element, width))

        def emit(block: Any, width: int) -> None:
            product = builder.fmul(a.load(block, width), b.load(block, width), flags=_FLAGS)
            builder.store(builder.fadd(builder.load(sums[width]), product, flags=_FLAGS), sums[width])

        _over_blocks(builder, arguments[4], emit)
        total, wide = builder.load(sums[LANES]), builder.load(sums[2 * LANES])
        for lanes in (list(range(LANES)), list(range(LANES, 2 * LANES))):
            half = builder.shuffle_vector(wide, wide, _indices(lanes))
            total = builder.fadd(total, half, flags=_FLAGS)
        name = f"llvm.vector.reduce.fadd.v{LANES}{'f32' if A.dtype.bitwidth == 32 else 'f64'}"
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(a.element, [a.element, total.type]), name
        )
        return builder.call(reduce, [ir.Constant(a.element, -0.0), total], fastmath=_FLAGS)

    return A.dtype(A, types.int64, B, types.int64, types.int64), generated


@_generated
def add_scaled(_: Any, A: Any, i: Any, q: Any, B: Any, j: Any, blocks: Any) -> Any:
    """A[i] += q B[j], of so many blocks of `LANES` columns."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a = _Row(context, builder, signature.args[0], arguments[0], arguments[1])
        b = _Row(context, builder, signature.args[3], arguments[3], arguments[4])

        def emit(block: Any, width: int) -> None:
            scale = _every(builder, arguments[2], width)
            product = builder.fmul(scale, b.load(block, width), flags=_FLAGS)
            a.store(block, builder.fadd(a.load(block, width), product, flags=_FLAGS))

        _over_blocks(builder, arguments[5], emit)
        return context.get_dummy_value()

    return types.void(A, types.int64, A.dtype, B, types.int64, types.int64), generated


def _summed(count: int) -> Callable[..., Any]:
    """`count` blocks of A[i], from `block` on, += Σ_e q[e] B[columns[e]] for start ≤ e < stop.

    The sums stay in registers: each would wait for the store of the one before.
    """

    def typed(_: Any, A: Any, i: Any, block: Any, q: Any, columns: Any, start: Any, stop: Any, B: Any) -> Any:
        def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            matrix, row, first, values, indices, low, high, rows = arguments
            a = _Row(context, builder, signature.args[0], matrix, row)
            values = context.make_array(signature.args[3])(context, builder, values).data
            indices = context.make_array(signature.args[4])(context, builder, indices).data
            widths = [2 * LANES] * (count // 2) + [LANES] * (count % 2)
            places = [builder.add(first, ir.Constant(first.type, 2 * n)) for n in range(len(widths))]
            sums = [
                cgutils.alloca_once_value(builder, a.load(place, width))
                for place, width in zip(places, widths, strict=True)
            ]
            with cgutils.for_range_slice(builder, low, high, ir.Constant(low.type, 1), low.type) as (e, _n):
                column = builder.sext(builder.load(builder.gep(indices, [e])), low.type)
                value = builder.load(builder.gep(values, [e]))
                b = _Row(context, builder, signature.args[7], rows, column)
                for place, width, total in zip(places, widths, sums, strict=True):
                    product = builder.fmul(_every(builder, value, width), b.load(place, width), flags=_FLAGS)
                    builder.store(builder.fadd(builder.load(total), product, flags=_FLAGS), total)
            for place, total in zip(places, sums, strict=True):
                a.store(place, builder.load(total))
            return context.get_dummy_value()

        whole = types.int64
        return types.void(A, whole, whole, q, columns, whole, whole, B), generated

    return _generated(typed)


add_sum_1, add_sum_2, add_sum_3, add_sum_4 = (_summed(count) for count in (1, 2, 3, 4))
