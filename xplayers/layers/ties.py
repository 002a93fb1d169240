"""Tied parameters: the same array in two layers, or one the transpose of the other.

``b.W = a.W``, or ``Embedding(W)`` with ``Affine(W.T, b)``, whose arrays share their memory. A tied
parameter is listed once, under its first name, and has one gradient: the sum over its uses.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xplayers.arrays.namespaces import Array
from xplayers.arrays.packing import packed, unpacked
from xplayers.layers.variables import Variables, epoch

Arrays = dict[str, Array]


class Tie(NamedTuple):
    """A parameter that is an alias of another one, which comes before it."""

    name: str
    first: str
    transposed: bool
    variables: Variables
    key: str  # its name in them
    first_variables: Variables
    first_key: str

    def of(self, a: Array) -> Array:
        """Return this parameter, or its gradient, from that of the first one."""
        return a.T if self.transposed else a

    @property
    def arrays(self) -> tuple[Array, Array]:
        """The current arrays of both."""
        return self.first_variables.params.get(self.first_key), self.variables.params.get(self.key)


class Ties:
    """The ties between the parameters of some layers, found again after an array was replaced."""

    def __init__(self, all_variables: Mapping[str, Variables]) -> None:
        self._all_variables = all_variables
        self._epoch = -1
        self._rows: list[Tie] = []
        # The arrays of each tie when it was last synchronized. JAX has no views, so memory does not
        # tell that one was made from the other: a tie lasts while these arrays are in the layers.
        self._left: list[tuple[Array, Array]] = []

    def rows(self) -> list[Tie]:
        """Return the ties."""
        if self._epoch != epoch():
            self._find()
        return self._rows

    def expanded(self, arrays: Arrays, rows: list[Tie] | None = None) -> Arrays:
        """Return `arrays` with tied ones under all of their names."""
        rows = self.rows() if rows is None else rows
        return {**arrays, **{row.name: row.of(arrays[row.first]) for row in rows}}

    def gathered(self, grads: Mapping[str, Array], rows: list[Tie] | None = None) -> Arrays:
        """Return the gradients, summed over the uses of each tied parameter."""
        total = dict(grads)
        for row in self.rows() if rows is None else rows:
            if row.name in total:
                g = row.of(total.pop(row.name))
                total[row.first] = total[row.first] + g if row.first in total else g
        return total

    def synchronize(self) -> None:
        """Set the aliases after their first ones have been replaced."""
        for i, row in enumerate(self._rows):
            first, other = row.arrays
            if first is not self._left[i][0] or other is not self._left[i][1]:
                row.variables.params[row.key] = row.of(first)
                self._left[i] = row.arrays

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Preserve the ties while the arrays are moved one by one."""
        rows = self.rows()
        yield
        if rows:
            for row in rows:
                first, other = row.arrays
                same_kind = first.dtype == other.dtype and type(first) is type(other)
                if same_kind and tuple(row.of(first).shape) == tuple(other.shape):
                    row.variables.params[row.key] = row.of(first)
            self._left = [row.arrays for row in rows]

    def synchronize_gradients(self) -> None:
        """Set the gradients of the aliases to those of the first ones."""
        for row in self._rows:
            if row.first_key in row.first_variables.grads:
                row.variables.grads[row.key] = row.of(row.first_variables.grads[row.first_key])

    def _find(self) -> None:
        unchanged = {
            (id(row.variables), row.key): row
            for row, left in zip(self._rows, self._left, strict=True)
            if all(a is b for a, b in zip(row.arrays, left, strict=True))
        }
        self._rows, self._left, self._epoch = [], [], epoch()
        first: dict[Any, tuple[str, Variables, str]] = {}
        tied: dict[tuple[int, str], str] = {}
        for prefix, variables in self._all_variables.items():
            for key, a in variables.params.items():
                name = f"{prefix}.{key}" if prefix else key
                row = unchanged.get((id(variables), key))
                if row is not None and tied.get((id(row.first_variables), row.first_key)) is None:
                    self._add(row._replace(name=name))
                    continue
                layout = _memory_layout(a)
                for transposed, k in ((False, layout), (True, _transposed(layout))):
                    if k in first:
                        self._add(Tie(name, first[k][0], transposed, variables, key, *first[k][1:]))
                        tied[id(variables), key] = name
                        break
                else:
                    first[layout] = name, variables, key

    def _add(self, row: Tie) -> None:
        first, other = row.arrays
        if row.transposed and not _is_view(other, first):  # after unpickling or a move
            row.variables.params[row.key] = row.of(first)
        self._rows.append(row)
        self._left.append(row.arrays)

    def __getstate__(self) -> dict[str, Any]:
        left = [tuple(map(packed, arrays)) for arrays in self._left]
        return {**self.__dict__, "_left": left, "_epoch": -1}  # epochs belong to a process

    def __setstate__(self, state: dict[str, Any]) -> None:
        left = [tuple(map(unpacked, arrays)) for arrays in state["_left"]]
        self.__dict__.update({**state, "_left": left})


def _memory_layout(a: Array) -> Any:
    """Return address, dtype, shape and strides of an array: equal for tied ones."""
    if isinstance(a, np.ndarray) and a.size and a.dtype != object:
        return a.__array_interface__["data"][0], a.dtype.str, a.shape, a.strides
    other: Any = a
    if hasattr(a, "data_ptr") and other.numel():  # PyTorch
        return other.data_ptr(), other.dtype, tuple(other.shape), other.stride()
    pointer = getattr(getattr(a, "data", None), "ptr", None)  # CuPy
    if pointer is not None and other.size:
        return pointer, other.dtype.str, other.shape, other.strides
    return id(a), None, (), ()


def _transposed(layout: Any) -> Any:
    address, dtype, shape, strides = layout
    return (address, dtype, shape[::-1], strides[::-1]) if len(shape) == 2 else None


def _is_view(a: Array, of: Array) -> bool:
    return _memory_layout(a)[0] == _memory_layout(of)[0]


def overlap(arrays: Iterable[Array]) -> bool:
    """Whether elements of these arrays on the host may share memory."""
    bounds = []
    for a in arrays:
        if isinstance(a, np.ndarray):
            low, high = np.lib.array_utils.byte_bounds(a)
            item = a.itemsize
        elif hasattr(a, "data_ptr") and a.device.type == "cpu":
            low, item = a.data_ptr(), a.element_size()
            last = sum((n - 1) * s for n, s in zip(a.shape, a.stride(), strict=True))
            high = low + (last + 1) * item
        else:
            continue
        n = math.prod(a.shape)
        if n and high - low < n * item:  # its own elements overlap, as after `broadcast_to`
            return True
        if n:
            bounds.append((low, high))
    bounds.sort()
    return any(low < end for (_, end), (low, _) in itertools.pairwise(bounds))
