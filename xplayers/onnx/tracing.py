"""Functions of arrays as nodes of ONNX: they run once, on arrays that write down what is done.

A traced array is an array of ``ndonnx``, which writes, and beside it examples as NumPy arrays, of
which each has another size along one axis of the input. So a size that differs between the examples
is known to depend on the input, and is computed in the graph. Where it is needed as a number, as by
a loop, the axis is `Fixed`.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

try:
    import ndonnx as ndx
except ImportError as error:
    message = "onnx: tracing needs ndonnx: pip install ndonnx"
    raise ImportError(message) from error

from xplayers.arrays.namespaces import introduce
from xplayers.layers import Layer
from xplayers.onnx.graph import Fixed, Graph, Value

FILLED = {"zeros": 0, "ones": 1, "empty": 0}
# Of which nothing is written.
PLAIN = ("isdtype", "finfo", "iinfo", "result_type", "can_cast", "__array_namespace_info__")


class Size:
    """A size that depends on the input: its value in each example, and in the graph."""

    def __init__(self, examples: tuple[int, ...], lazy: Any) -> None:
        self.examples, self.lazy = examples, lazy

    def __index__(self) -> int:
        raise Fixed(next(i for i, n in enumerate(self.examples) if n != self.examples[0]))

    __int__ = __float__ = __index__

    def __hash__(self) -> int:
        return hash(self.examples)

    def __truediv__(self, other: Any) -> Any:
        return int(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / int(self)

    def __neg__(self) -> Any:
        return self._combined(operator.mul, -1)

    def as_array(self, dtype: Any) -> Traced:
        """Return the number as an array, of the dtype of one that it meets."""
        return _made([np.asarray(n, dtype) for n in self.examples], self.lazy)

    def _combined(self, function: Callable[[Any, Any], Any], other: Any) -> Any:
        if not isinstance(other, int | Size):
            return function(int(self), other) if isinstance(other, float) else NotImplemented
        examples = tuple(map(function, self.examples, _examples(other, len(self.examples))))
        return _size(examples, function(self.lazy, getattr(other, "lazy", other)))

    def _compared(self, function: Callable[[Any, Any], Any], other: Any) -> Any:
        """Return the result of a comparison, as in a check of shapes, which is that of all."""
        results = [*map(function, self.examples, _examples(other, len(self.examples)))]
        return results[0] if len({*results}) == 1 else function(int(self), other)


class Traced:
    """An array that writes down what is done with it."""

    __array_ufunc__ = None  # NumPy's arrays leave operators to it
    device = "onnx"

    def __init__(self, examples: tuple[np.ndarray, ...], lazy: Any) -> None:
        self.examples, self.lazy = examples, lazy

    @property
    def dtype(self) -> Any:
        return self.examples[0].dtype

    @property
    def ndim(self) -> int:
        return self.examples[0].ndim

    @property
    def shape(self) -> tuple[Any, ...]:
        columns = [*zip(*(a.shape for a in self.examples), strict=True)]
        if all(len({*column}) == 1 for column in columns):
            return self.examples[0].shape
        return tuple([_size(c, self.lazy.dynamic_shape[i]) for i, c in enumerate(columns)])

    @property
    def mT(self) -> Traced:
        return _call(np.matrix_transpose, ndx.matrix_transpose, self)

    T = mT  # of matrices

    def __array_namespace__(self, **_: Any) -> Any:
        return NAMESPACE

    def __bool__(self) -> Any:
        message = (
            "onnx: the value of an array is asked for, which is not known until the file is used; "
            "compute with arrays, as with xp.where."
        )
        raise TypeError(message)

    __float__ = __int__ = __index__ = __iter__ = __len__ = __bool__

    def _operated(self, function: Callable[..., Any], *others: Any) -> Any:
        others = tuple([b.as_array(self.dtype) if isinstance(b, Size) else b for b in others])
        return _call(function, function, self, *others)

    def __getitem__(self, key: Any) -> Traced:
        if isinstance(key, tuple | int | slice) and key is not Ellipsis:
            key = key if isinstance(key, tuple) else (key,)
            key = key if any(part is Ellipsis for part in key) else (*key, ...)
        return _call(operator.getitem, operator.getitem, self, key)


def _add_operators() -> None:
    """Let sizes and arrays have the operators of Python."""

    def add(kind: type, way: str, name: str) -> None:
        function = getattr(operator, name)
        forward = lambda self, *others: getattr(self, way)(function, *others)  # noqa: E731
        setattr(kind, f"__{name.strip('_')}__", forward)

    def add_swapped(kind: type, way: str, name: str) -> None:
        function = getattr(operator, name)
        swapped = lambda a, b: function(b, a)  # noqa: E731
        setattr(kind, f"__r{name.strip('_')}__", lambda a, b: getattr(a, way)(swapped, b))

    both, compared = ("add", "sub", "mul", "floordiv", "mod"), ("eq", "ne", "lt", "le", "gt", "ge")
    further = ("truediv", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift")
    for name in both:
        add(Size, "_combined", name)
        add_swapped(Size, "_combined", name)
    for name in (*both, *further):
        add_swapped(Traced, "_operated", name)
    for name in compared:
        add(Size, "_compared", name)
    for name in (*both, *further, *compared, "neg", "pos", "abs", "invert"):
        add(Traced, "_operated", name)


_add_operators()


class _Namespace:
    """The functions of the standard."""

    __name__ = "onnx"

    def __getattr__(self, name: str) -> Any:
        plain = getattr(np, name)
        if name in PLAIN or not callable(plain) or isinstance(plain, type):
            return plain

        def call(*args: Any, **options: Any) -> Any:
            options.pop("device", None)
            return _call(plain, _writing(name), *args, **options)

        return call


NAMESPACE = _Namespace()
introduce(Traced, NAMESPACE)


def _writing(name: str) -> Callable[..., Any]:
    """Return the function of that name in ``ndonnx``, for arguments as they are here."""
    if name in FILLED:
        return lambda shape, **options: ndx.full(shape, FILLED[name], **options)
    return getattr(ndx, name)


def _call(plain: Any, writing: Any, *args: Any, **options: Any) -> Any:
    """Call a function on all examples, and let it be written down."""
    if plain is np.unstack:
        return _unstacked(*args, **options)
    n = max((len(leaf.examples) for leaf in _leaves((args, options))), default=1)
    results = [plain(*_replaced(args, i), **_replaced(options, i)) for i in range(n)]
    options.pop("copy", None)
    return _made(results, writing(*_written(args), **_written(options)))


def _unstacked(x: Traced, axis: int = 0) -> tuple[Traced, ...]:
    lead = (slice(None),) * (axis % x.ndim)
    return tuple([x[*lead, i] for i in range(x.shape[axis])])


def _made(results: Sequence[Any], lazy: Any) -> Traced:
    examples = tuple(map(np.asarray, results))
    dtype = ndx.from_numpy_dtype(examples[0].dtype)
    return Traced(examples, lazy if lazy.dtype == dtype else lazy.astype(dtype))


def _size(examples: tuple[int, ...], lazy: Any) -> int | Size:
    return Size(examples, lazy) if len({*examples}) > 1 else examples[0]


def _examples(value: Any, n: int) -> tuple[Any, ...]:
    """Return what `value` is in each of `n` examples; what is one for all has one or none."""
    examples = value.examples if isinstance(value, Size | Traced) else (value,)
    return examples if len(examples) == n else examples * n


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the sizes and arrays among arguments."""
    if isinstance(value, Size | Traced):
        yield value
    for part in _parts(value):
        yield from _leaves(part)


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    if isinstance(value, Mapping):
        return [*value.values()]
    return value if isinstance(value, tuple | list) else ()


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return arguments with a function applied to their parts; what has none is returned itself."""
    if isinstance(value, slice):
        return slice(*map(function, _parts(value)))
    if isinstance(value, Mapping):
        return {k: function(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(function, value))
    return value


def _replaced(value: Any, i: int) -> Any:
    """Return arguments with those of an example."""
    if isinstance(value, Size | Traced):
        return value.examples[i if len(value.examples) > 1 else 0]
    return _mapped(value, lambda part: _replaced(part, i))


def _written(value: Any) -> Any:
    """Return arguments as ``ndonnx`` takes them."""
    if isinstance(value, Size | Traced):
        return value.lazy
    if isinstance(value, np.ndarray | np.generic):
        return ndx.asarray(np.asarray(value))
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return ndx.from_numpy_dtype(np.dtype(value))
    if isinstance(value, tuple | list):
        sizes = [isinstance(n, Size) for n in value]
        if any(sizes) and all(isinstance(n, int | Size) for n in value):  # a shape
            return ndx.stack([ndx.asarray(_written(n), dtype=ndx.int64) for n in value])
    return _mapped(value, _written)


def argument(examples: Sequence[np.ndarray]) -> Traced:
    """Return an array that is an input of what is traced."""
    columns = zip(*(a.shape for a in examples), strict=True)
    sizes = tuple([c[0] if len({*c}) == 1 else None for c in columns])
    dtype = ndx.from_numpy_dtype(examples[0].dtype)
    return Traced(tuple(examples), ndx.argument(shape=sizes, dtype=dtype))


def constant(examples: Sequence[np.ndarray]) -> Traced:
    """Return an array whose values are written."""
    return Traced(tuple(examples), ndx.asarray(examples[0]))


def trace(g: Graph, layer: Layer, arrays: Mapping[str, np.ndarray], x: Value) -> Value:
    """Write the inference of a layer that has no rule."""
    own = {name: argument([a]) for name, a in arrays.items()}
    first = argument([*x.examples.values()])
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y = layer.infer(own, first)
    except Fixed as error:
        raise Fixed([*x.examples][error.args[0]]) from error
    inputs = {g.constant(arrays[name]).name: a for name, a in own.items()} | {x.name: first}
    (name,) = write(g, inputs, {"": y})
    return Value(name, dict(zip(x.examples, _examples(y, len(x.examples)), strict=True)))


def write(g: Graph, inputs: Mapping[str, Traced], outputs: Mapping[str, Traced]) -> list[str]:
    """Write what was traced into a graph, and return the names of the outputs there."""
    names = [g.unique(name or "traced") for name in outputs]
    results = dict(zip(names, (y.lazy for y in outputs.values()), strict=True))
    arguments = {name: a.lazy for name, a in inputs.items()}
    g.inline(ndx.build(arguments, results, drop_unused=True))
    return names
