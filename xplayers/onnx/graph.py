"""A graph of ONNX that layers write themselves into, and the examples that go through it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from xplayers.arrays.transfer import to_numpy
from xplayers.layers import Layer

OPSET, IR_VERSION = 21, 10  # which runtimes of 2024 read

Examples = dict[str, np.ndarray]  # "", and under the name of a dynamic axis one of another size
Rule = Callable[["Graph", Any, Mapping[str, np.ndarray], "Value"], "Value"]


class Fixed(Exception):
    """A dynamic axis of the input, by its name, cannot be one: its size is needed as a number."""


class Value:
    """An array in a graph: its name there and, of the inputs of layers, examples.

    Attributes
    ----------
    name : str
        Its name in the graph.
    examples : dict of str to array
        The array for the example under ``""``; for each dynamic axis of the input, under its name,
        the array for an input of another size there.

    Examples
    --------
    >>> import tempfile, numpy as np, xplayers as xl
    >>> from xplayers.onnx import Value, export
    >>> class Doubled(xl.Layer):
    ...     def apply(self, arrays, x):
    ...         return 2 * x, ()
    >>> def doubled(graph, layer, arrays, x: Value) -> Value:
    ...     print(x.name, x.rank)
    ...     return graph.node("Mul", x, np.float32(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     x = np.ones((1, 4), "float32")
    ...     model = export(Doubled(), f"{folder}/net.onnx", x, rules={Doubled: doubled})
    x 2
    >>> [node.op_type for node in model.graph.node]
    ['Mul']
    """

    def __init__(self, name: str, examples: Examples | None = None) -> None:
        self.name, self.examples = name, examples or {}

    @property
    def rank(self) -> int:
        """The number of axes."""
        return self.examples[""].ndim

    def sizes(self, x: Value) -> list[int | str]:
        """Return the size of each axis, a name where it depends on a dynamic axis of the input `x`.

        It is the name of that axis where it is as long.

        Parameters
        ----------
        x : Value
            The input.

        Returns
        -------
        list of int or str
        """
        names = {
            column: name
            for column in x._columns()
            for name, n in zip(x.examples, column, strict=True)
            if n != column[0]
        }
        return [
            column[0] if len({*column}) == 1 else names.get(column, f"{self.name}{axis}")
            for axis, column in enumerate(self._columns())
        ]

    def _columns(self) -> list[tuple[int, ...]]:
        """Return the sizes that each axis has in the examples."""
        return [*zip(*(a.shape for a in self.examples.values()), strict=True)]


class Graph:
    """What is written so far: nodes, and constants.

    A rule is a function ``rule(graph, layer, arrays, x)``, which writes the nodes of a layer for
    inference and returns its output, a `Value`. `arrays` has the layer's parameters and buffers by
    name, as NumPy arrays of float32.

    Parameters
    ----------
    rules : mapping of type to rule
        The rules, by the class of the layer.

    Examples
    --------
    >>> import xplayers as xl
    >>> def clipped(graph, layer, arrays, x):
    ...     return graph.node("Clip", x, np.float32(0), np.float32(layer.most))
    """

    def __init__(self, rules: Mapping[type, Rule]) -> None:
        self.rules = rules
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.opsets = {"": OPSET}
        self._values: dict[int, tuple[np.ndarray, Value]] = {}  # of constants
        self._scopes: list[str] = []
        self._names = {"x", "y", "probabilities"}  # of inputs and outputs
        self._titles: dict[int, str] = {}  # of arrays of the network

    def node(self, operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Write a node.

        Parameters
        ----------
        operator : str
            The name of an operator of ONNX, as ``"Relu"``.
        *inputs : Value, array or None
            Its inputs; arrays become constants, None is an input that is left out.
        outputs : int
            How many outputs it has.
        **attributes
            Its attributes.

        Returns
        -------
        Value or tuple of Value
            The output, or outputs.
        """
        name = self.unique(operator)
        names = [name] if outputs == 1 else [self.unique(f"{name}_{i}") for i in range(outputs)]
        values = [v if isinstance(v, Value | None) else self.constant(v) for v in inputs]
        input_names = ["" if v is None else v.name for v in values]
        self.nodes.append(helper.make_node(operator, input_names, names, name, **attributes))
        results = tuple(map(Value, names))
        return results[0] if outputs == 1 else results

    def constant(self, values: Any, name: str = "constant", *, exact: bool = False) -> Value:
        """Write a constant, once for each array.

        Parameters
        ----------
        values : array, or sequence of int
            Its values; floating-point ones become float32, a sequence int64.
        name : str
            Its name, which gets a number if there is one already.
        exact : bool
            Whether float64 stays so.

        Returns
        -------
        Value
        """
        array = np.asarray(values, np.int64) if isinstance(values, Sequence) else values
        if id(array) not in self._values:
            base = getattr(array, "base", None)
            if id(base) in self._values and np.shares_memory(array, base) and _is_transpose(array):
                value = self.node("Transpose", self._values[id(base)][1], perm=[1, 0])
            else:
                value = Value(self.unique(self._titles.get(id(array), name)))
                values = np.asarray(array if exact else as_float32(array), order="C")
                self.constants.append(numpy_helper.from_array(values, value.name))
            self._values[id(array)] = array, value
        return self._values[id(array)][1]

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Let constants be called as the arrays of the network.

        Parameters
        ----------
        arrays : mapping of str to array
            Parameters and buffers by name.
        """
        for name, array in arrays.items():
            self._titles.setdefault(id(array), name)

    def layer(self, layer: Layer, arrays: Mapping[str, np.ndarray], x: Value) -> Value:
        """Write the nodes of a layer.

        Parameters
        ----------
        layer : Layer
            The layer.
        arrays : mapping of str to array
            Its parameters and buffers by name.
        x : Value
            Its input.

        Returns
        -------
        Value
            Its output.
        """
        y = self._rule_of(layer)(self, layer, arrays, x)
        if not y.examples:
            y.examples = {name: inferred(layer, arrays, a) for name, a in x.examples.items()}
        return y

    def _rule_of(self, layer: Layer) -> Rule:
        """Return the rule of a layer: that of its class, or of one that computes the same."""
        kind = type(layer)
        for base in kind.__mro__:
            same = issubclass(base, Layer) and (base.apply, base.infer) == (kind.apply, kind.infer)
            if same and base in self.rules:
                return self.rules[base]
        try:
            from xplayers.onnx.tracing import trace
        except ImportError as error:
            message = (
                f"onnx.export: there is no rule for {kind.__name__}. Install ndonnx, with which it "
                f"is traced (pip install ndonnx), or pass rules={{{kind.__name__}: rule}}, see "
                "xplayers.onnx.Graph."
            )
            raise TypeError(message) from error
        return trace

    def inline(self, model: onnx.ModelProto) -> None:
        """Write the nodes of another model, whose inputs and outputs have names of this graph.

        Parameters
        ----------
        model : onnx.ModelProto
            The model.
        """
        prefix = f"{self.unique('traced')}/"
        graph = compose.add_prefix_graph(
            model.graph, prefix, rename_inputs=False, rename_outputs=False
        )
        self.nodes += graph.node
        self.constants += graph.initializer
        self.opsets |= {each.domain: each.version for each in model.opset_import}

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Begin the names of what is written here with that of a part.

        Parameters
        ----------
        name : str
            The name.
        """
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def model(
        self, inputs: Mapping[str, Value], outputs: Mapping[str, Value], metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Return the model of what is written.

        Parameters
        ----------
        inputs, outputs : mapping of str to Value
            By the names that they get.
        metadata : mapping of str to str
            What else the model says.

        Returns
        -------
        onnx.ModelProto
        """
        computed = {name for node in self.nodes for name in node.output}
        for name, y in outputs.items():
            if y.name in computed:
                self._rename(y.name, name)
            else:  # an input, or a constant
                self.nodes.append(helper.make_node("Identity", [y.name], [name], name))
        x = next(iter(inputs.values()))
        infos = [
            [helper.make_tensor_value_info(name, _kind(v), v.sizes(x)) for name, v in side.items()]
            for side in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "xplayers", *infos, initializer=self.constants)
        model = helper.make_model(
            graph,
            opset_imports=[*map(helper.make_opsetid, self.opsets, self.opsets.values())],
            ir_version=IR_VERSION,
            producer_name="xplayers",
        )
        helper.set_model_props(model, dict(metadata))
        return model

    def _rename(self, old: str, new: str) -> None:
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    def unique(self, name: str) -> str:
        """Return a name that nothing has yet, and keep it."""
        if "." not in name:  # as those of the arrays of the network have
            name = "/".join([*self._scopes, name])
        i, unique = 1, name
        while unique in self._names:
            i += 1
            unique = f"{name}_{i}"
        self._names.add(unique)
        return unique


def arrays_of(net: Layer) -> dict[str, np.ndarray]:
    """Return the arrays of a network as NumPy arrays of float32; ties stay ties."""
    converted: dict[tuple[Any, ...], np.ndarray] = {}
    arrays = {}
    for name, a in net.arrays.items():
        host = to_numpy(a)
        where = host.__array_interface__["data"][0]
        key, transposed = (where, host.shape, host.strides), host.T
        if (tie := (where, transposed.shape, transposed.strides)) in converted and host.ndim == 2:
            converted.setdefault(key, converted[tie].T)
        arrays[name] = converted.setdefault(key, as_float32(host))
    return arrays


def as_float32(a: np.ndarray) -> np.ndarray:
    """Return floating-point values as float32, others as they are."""
    return a.astype(np.float32, copy=False) if a.dtype.kind == "f" else a


def inferred(layer: Layer, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return what a layer makes of an example, whose values may be meaningless."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return layer.infer(arrays, x)


def _kind(value: Value) -> int:
    return helper.np_dtype_to_tensor_dtype(value.examples[""].dtype)


def _is_transpose(a: np.ndarray) -> bool:
    return (
        a.ndim == 2
        and a.base is not None
        and a.shape == a.base.shape[::-1]
        and (a.strides == a.base.strides[::-1])
    )
