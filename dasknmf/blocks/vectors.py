"""Products of two short rows as vector code.

A loop over n_components is too short for the compiler's own vector code: its sums run in strides of 32 and
more and leave the rest to scalars, measured at ten times the cost. Here rows are padded to whole vectors,
`padded`, and the vectors are written down: <8 x T>, which the compiler maps to what the CPU has.
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
        self.vector = ir.VectorType(self.element, LANES)

    def _at(self, block: Any) -> Any:
        step = ir.Constant(self._first.type, self._size * LANES)
        address = self._builder.add(self._first, self._builder.mul(block, step))
        return self._builder.inttoptr(address, self.vector.as_pointer())

    def load(self, block: Any) -> Any:
        value = self._builder.load(self._at(block))
        value.align = self._size
        return value

    def store(self, block: Any, value: Any) -> None:
        self._builder.store(value, self._at(block)).align = self._size


@_generated
def dot(_: Any, A: Any, i: Any, B: Any, j: Any, blocks: Any) -> Any:
    """A[i] · B[j], of so many blocks of `LANES` columns."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a = _Row(context, builder, signature.args[0], arguments[0], arguments[1])
        b = _Row(context, builder, signature.args[2], arguments[2], arguments[3])
        sums = cgutils.alloca_once(builder, a.vector)
        builder.store(ir.Constant(a.vector, [0.0] * LANES), sums)
        with cgutils.for_range(builder, arguments[4]) as loop:
            product = builder.fmul(a.load(loop.index), b.load(loop.index), flags=_FLAGS)
            builder.store(builder.fadd(builder.load(sums), product, flags=_FLAGS), sums)
        name = f"llvm.vector.reduce.fadd.v{LANES}{'f32' if A.dtype.bitwidth == 32 else 'f64'}"
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(a.element, [a.element, a.vector]), name
        )
        return builder.call(reduce, [ir.Constant(a.element, -0.0), builder.load(sums)], fastmath=_FLAGS)

    return A.dtype(A, types.int64, B, types.int64, types.int64), generated


@_generated
def add_scaled(_: Any, A: Any, i: Any, q: Any, B: Any, j: Any, blocks: Any) -> Any:
    """A[i] += q B[j], of so many blocks of `LANES` columns."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a = _Row(context, builder, signature.args[0], arguments[0], arguments[1])
        b = _Row(context, builder, signature.args[3], arguments[3], arguments[4])
        undefined = ir.Constant(a.vector, ir.Undefined)
        int32 = ir.IntType(32)
        first = builder.insert_element(undefined, arguments[2], ir.Constant(int32, 0))
        every = ir.Constant(ir.VectorType(int32, LANES), [0] * LANES)
        scale = builder.shuffle_vector(first, undefined, every)
        with cgutils.for_range(builder, arguments[5]) as loop:
            product = builder.fmul(scale, b.load(loop.index), flags=_FLAGS)
            a.store(loop.index, builder.fadd(a.load(loop.index), product, flags=_FLAGS))
        return context.get_dummy_value()

    return types.void(A, types.int64, A.dtype, B, types.int64, types.int64), generated
