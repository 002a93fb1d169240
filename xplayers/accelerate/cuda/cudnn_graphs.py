"""Operations as graphs of cuDNN's frontend: tensors, layouts and attributes, functions of a key.

Tensors have their channels last in memory (NHWC), but for attention. cuDNN begins with two axes
after the channels: sequences are images of height 1, rows of features images of one place.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from xplayers.layers.windows import Sizes, Window

TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}


class Tensor(NamedTuple):
    """What a graph knows of an array.

    Parameters
    ----------
    name : str
        Of the argument, as the frontend calls it; results go by their order.
    shape : tuple of int
        Samples, channels, sizes.
    dtype : str
        One of `TYPES`.
    """

    name: str
    shape: Sizes
    dtype: str


class Key(NamedTuple):
    """What a plan depends on.

    Parameters
    ----------
    operation : str
        As the frontend calls it.
    inputs, results : tuple of Tensor
        Their numbers in the graph are 1, 2 and so on, inputs first.
    options : tuple of (str, value)
        The other arguments: tuples of int are lists, a string is a member of the enumeration of
        that name, a float is a tensor of one value that the host passes. These have the numbers
        after the results. None and truth values are passed on.
    device : int
        The number of the GPU.
    after : tuple of str
        What is done to the one result before it is written: ``"bias"``, which adds the input of
        that name, ``"relu"``.
    """

    operation: str
    inputs: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    options: tuple[tuple[str, Any], ...]
    device: int
    after: tuple[str, ...] = ()

    def __str__(self) -> str:
        inputs = ", ".join(f"{t.name} {t.shape} of {t.dtype}" for t in self.inputs)
        return f"{' + '.join([self.operation, *self.after])} ({inputs})"


def window_options(window: Window) -> dict[str, Sizes]:
    """Return the options of a convolution."""
    short = window.axes == 1
    before = tuple(p for p, _ in window.padding)
    after = tuple(p for _, p in window.padding)
    return {
        "pre_padding": (0, *before) if short else before,
        "post_padding": (0, *after) if short else after,
        "stride": (1, *window.stride) if short else window.stride,
        "dilation": (1, *window.dilation) if short else window.dilation,
    }


def memory_order(operation: str, shape: Sizes) -> Sizes:
    """Return the axes of an array of an operation, from the outermost in memory to the innermost.

    Channels are last. Of attention arrays are ``(n, heads, time, size)``: heads are parts of the
    features of a time; statistics, of size 1, lie in rows.
    """
    if operation.startswith("sdpa"):
        return (0, 1, 2, 3) if shape[3] == 1 else (0, 2, 1, 3)
    return 0, *range(2, len(shape)), 1


def laid(operation: str, shape: Sizes, axes: int) -> dict[str, list[int]]:
    """Return dimensions and strides, in elements, of a dense array in that order."""
    dim = [*shape[:2], *[1] * (axes - len(shape)), *shape[2:]]
    stride, step = [0] * axes, 1
    for axis in reversed(memory_order(operation, tuple(dim))):
        stride[axis], step = step, step * dim[axis]
    return {"dim": dim, "stride": stride}


def build(cudnn: Any, graph: Any, key: Key) -> dict[int, float]:
    """Write an operation into a graph; return the values that the host passes, by number."""
    numbers = itertools.count(1)
    axes = max(4, *(len(t.shape) for t in key.inputs))

    def kind(dtype: str) -> Any:
        return getattr(cudnn.data_type, TYPES[dtype])

    arguments: dict[str, Any] = {
        t.name: graph.tensor(
            uid=next(numbers), data_type=kind(t.dtype), **laid(key.operation, t.shape, axes)
        )
        for t in key.inputs
    }
    outs = [(next(numbers), t) for t in key.results]
    passed: dict[int, float] = {}
    for name, value in key.options:
        if isinstance(value, float):
            one, number = [1] * axes, next(numbers)
            passed[number] = value
            arguments[name] = graph.tensor(
                uid=number, dim=one, stride=one, data_type=kind("float32"), is_pass_by_value=True
            )
        elif isinstance(value, str):
            arguments[name] = getattr(getattr(cudnn, name), value)
        else:
            arguments[name] = list(value) if isinstance(value, tuple) else value
    of_after = {name: arguments.pop(name) for name in key.after if name in arguments}
    results = getattr(graph, key.operation)(**arguments)
    for name in key.after:
        results = getattr(graph, name)(
            input=results, **({name: of_after[name]} if name in of_after else {})
        )
    # What an operation can return and is not asked for comes last, as None.
    for tensor, (number, t) in zip(results if len(outs) > 1 else [results], outs, strict=False):
        at = laid(key.operation, t.shape, axes)
        tensor.set_uid(number).set_output(True).set_data_type(kind(t.dtype))
        tensor.set_dim(at["dim"]).set_stride(at["stride"])
    return passed
