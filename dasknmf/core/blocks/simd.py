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
MOST = 4
"""Blocks of `LANES` columns that are worked on together: their sums fit into registers."""

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


def _walk(
    prepare: Callable[[Any, Any, list[Any]], Any], visit: Callable[..., None], finish: Callable[..., None]
) -> Callable[[int], Callable[..., Any]]:
    """Intrinsics that walk the nonzeros of one row for so many blocks of columns, up to `MOST`.

    Each is called as (F, i, block, q, columns, start, stop, G): row i of F, from `block` on, meets rows
    columns[e] of G, start ≤ e < stop, with the values q[e] between them.
    """

    def made(count: int) -> Callable[..., Any]:
        def typed(
            _: Any, F: Any, i: Any, block: Any, q: Any, columns: Any, start: Any, stop: Any, G: Any
        ) -> Any:
            def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                matrix, row, first, values, indices, low, high, others = arguments
                f = _Row(context, builder, signature.args[0], matrix, row)
                values = context.make_array(signature.args[3])(context, builder, values).data
                indices = context.make_array(signature.args[4])(context, builder, indices).data
                widths = [2 * LANES] * (count // 2) + [LANES] * (count % 2)
                places = [builder.add(first, ir.Constant(first.type, 2 * n)) for n in range(len(widths))]
                held = prepare(builder, f, list(zip(places, widths, strict=True)))
                one = ir.Constant(low.type, 1)
                with cgutils.for_range_slice(builder, low, high, one, low.type) as (e, _n):
                    column = builder.sext(builder.load(builder.gep(indices, [e])), low.type)
                    g = _Row(context, builder, signature.args[7], others, column)
                    visit(builder, g, held, builder.gep(values, [e]))
                finish(builder, f, held)
                return context.get_dummy_value()

            whole = types.int64
            return types.void(F, whole, whole, q, columns, whole, whole, G), generated

        return _generated(typed)

    return made


def _loaded(builder: Any, f: _Row, places: list[Any]) -> Any:
    return [(place, f.load(place, width)) for place, width in places]


def _summing(builder: Any, f: _Row, places: list[Any]) -> Any:
    return [(place, cgutils.alloca_once_value(builder, f.load(place, width))) for place, width in places]


def _add_row(builder: Any, g: _Row, held: Any, value: Any) -> None:
    q = builder.load(value)
    for place, total in held:
        here = builder.load(total)
        width = here.type.count
        product = builder.fmul(_every(builder, q, width), g.load(place, width), flags=_FLAGS)
        builder.store(builder.fadd(here, product, flags=_FLAGS), total)


def _store_sums(builder: Any, f: _Row, held: Any) -> None:
    for place, total in held:
        f.store(place, builder.load(total))


def _add_to_row(builder: Any, g: _Row, held: Any, value: Any) -> None:
    q = builder.load(value)
    for place, w in held:
        product = builder.fmul(_every(builder, q, w.type.count), w, flags=_FLAGS)
        g.store(place, builder.fadd(g.load(place, w.type.count), product, flags=_FLAGS))


def _add_dot(builder: Any, g: _Row, held: Any, value: Any) -> None:
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


def _nothing(builder: Any, f: _Row, held: Any) -> None:
    pass


_COUNTS = range(1, MOST + 1)
dots = tuple(map(_walk(_loaded, _add_dot, _nothing), _COUNTS))
"""q[e] += F[i] · G[columns[e]]."""
gathers = tuple(map(_walk(_summing, _add_row, _store_sums), _COUNTS))
"""F[i] += Σ_e q[e] G[columns[e]]: the sums stay in registers, where stores would wait for each other."""
scatters = tuple(map(_walk(_loaded, _add_to_row, _nothing), _COUNTS))
"""G[columns[e]] += q[e] F[i]."""
