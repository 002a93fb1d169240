"""Summary of a network: a table of its layers, output shapes and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplayers._calls import explained
from xplayers._checks import instance, integer, shown
from xplayers._drawing import table
from xplayers._text import aligned
from xplayers.arrays.namespaces import dtype_name, itemsize, namespace, size
from xplayers.arrays.transfer import asarray
from xplayers.layers.base import Layer
from xplayers.layers.containers import Container
from xplayers.reports.layer_outputs import layer_outputs

__all__ = ["Summary", "summary"]


class Row(NamedTuple):
    """A layer of a `Summary`."""

    name: str  # dotted path of the layer
    layer: str  # its description
    shape: tuple[int, ...]  # of its output for a batch of one sample
    parameters: int  # 0 at further occurrences of a layer that is used more than once
    bytes: int  # of parameters and buffers, counted the same way


@dataclasses.dataclass(frozen=True)
class Summary:
    """The result of `summary`; its `str` is a table.

    Attributes
    ----------
    rows : tuple of Row
        The layers in order of computation, without containers.
    parameters, bytes : int
        Totals of the network.
    """

    rows: tuple[Row, ...]
    parameters: int
    bytes: int

    def _table(self) -> list[tuple[str, ...]]:
        rows = [("name", "layer", "output", "parameters", "bytes")]
        for row in self.rows:
            first, *rest = row.shape or (1,)
            shape = ", ".join(("n" if first == 1 else f"{first}n", *map(str, rest)))
            rows.append(
                (row.name, row.layer, f"({shape})", f"{row.parameters:,}", f"{row.bytes:,}")
            )
        rows.append(("", "", "total", f"{self.parameters:,}", f"{self.bytes:,}"))
        return rows

    def __str__(self) -> str:
        return "\n".join(aligned(self._table(), lefts=3))

    def _repr_html_(self) -> str:
        return table(self._table(), lefts=3)

    __repr__ = __str__


@explained()
def summary(net: Layer, input_shape: Sequence[int] | None = None) -> Summary:
    """Return a table of the layers of a network, with output shapes, parameters and bytes.

    Parameters
    ----------
    net : Layer
        The network. One sample of zeros is passed through it by inference, in its dtype and on its
        device; it is not changed, and initial values still move to their first input.
    input_shape : sequence of int
        Shape of one sample, without the batch axis: ``(784,)``, ``(1, 28, 28)``. It is required:
        it does not follow from the layers.

    Returns
    -------
    Summary
        Its `repr` is the table. ``n`` is the number of samples.

    Raises
    ------
    ValueError
        If the input does not fit the network.
    TypeError
        If `net` is not a layer, or `input_shape` not a shape.

    Examples
    --------
    >>> import xplayers as xl
    >>> summary(xl.mlp([784, 50, 10], rng=0), (784,))
    name  layer              output   parameters    bytes
    0     Affine(784 -> 50)  (n, 50)      39,250  157,000
    1     Relu               (n, 50)           0        0
    2     Affine(50 -> 10)   (n, 10)         510    2,040
                             total        39,760  159,040
    """
    instance("summary", "net", net, Layer, "a network: summary(net, input_shape)")
    shape = _checked_shape(input_shape)
    like = next(iter(net.params.values()), np.empty(0, np.float32))
    x = asarray(np.zeros((1, *shape)), like)
    if net.integer_input:
        xp = namespace(x)
        x = xp.astype(x, xp.int32)
    counted: set[int] = set()
    rows = []
    for name, layer, y in layer_outputs(net, x):
        if not isinstance(layer, Container):
            stores = [store for store in layer._all_variables.values() if id(store) not in counted]
            counted |= {id(store) for store in stores}
            parameters = [a for store in stores for a in store.params.values()]
            arrays = parameters + [a for store in stores for a in store.buffers.values()]
            sizes = [size(a) * itemsize(dtype_name(a.dtype)) for a in arrays]
            count = sum(map(size, parameters))
            rows.append(Row(name, layer._owner, tuple(y.shape), count, sum(sizes)))
    total = sum(row.parameters for row in rows), sum(row.bytes for row in rows)
    return Summary(tuple(rows), *total)


def _checked_shape(shape: Any) -> tuple[int, ...]:
    expected = "that of one sample, without the batch axis, as (784,) or (1, 28, 28)"
    if shape is None:
        message = f"summary: input_shape is missing; expected {expected}."
    elif hasattr(shape, "shape") and len(shape.shape) > 1:
        message = (
            f"summary: input_shape is an array of shape {tuple(shape.shape)}; expected {expected}. "
            "Pass x.shape[1:]."
        )
    elif isinstance(shape, str) or not isinstance(shape, Iterable):
        message = f"summary: input_shape is {shown(shape)}; expected {expected}."
        if isinstance(shape, int):
            message += f" Pass ({shape},)."
    else:
        return tuple(integer("summary", "input_shape", n, least=0) for n in shape)
    raise TypeError(message)
