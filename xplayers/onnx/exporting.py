"""Networks and models of the command as ONNX files, for inference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from xplayers._checks import instance
from xplayers.arrays.namespaces import Array, dtype_name, namespace
from xplayers.layers import Layer
from xplayers.models import Model
from xplayers.onnx.graph import Fixed, Graph, Rule, Value, arrays_of, inferred
from xplayers.onnx.rules import RULES
from xplayers.saving.files import AnyPath, in_full, replacing
from xplayers.saving.network import check_layer

LARGEST = 2**31 - 1  # bytes of a file


def export(
    net: Layer | Model,
    path: AnyPath,
    example: Array | None = None,
    *,
    rules: Mapping[type, Rule] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Write the inference of a network to an ONNX file.

    Parameters
    ----------
    net : Layer or Model
        The network; its arrays may be of any library and on any device. Of a `Model` the file has
        the standardisation of the samples too, the final softmax, and the names of the classes.
    path : str or path-like
        The file, as ``net.onnx``; ``~`` is the home directory. It is replaced atomically.
    example : array
        An input, of any library, of which only shape and dtype are used. A `Model` needs none: by
        default its samples are float32.
    rules : mapping of type to function, optional
        How layers of your own are written, by their classes; see `Graph`. Layers without a rule
        are traced, where ``ndonnx`` is installed.
    metadata : mapping of str to str, optional
        What else to write into the file.

    Returns
    -------
    onnx.ModelProto
        What the file has.

    Raises
    ------
    TypeError
        If `net` is not a layer, or there is no rule for one of its layers.
    ValueError
        If the network does not take the example, or is too large for a file (2 GiB).
    OSError
        If the file cannot be written.

    Notes
    -----
    The input is called ``x``, the output ``y``, of a `Model` ``probabilities``. Floating-point
    numbers are float32, whatever those of the network are; the opset is 21.

    Axes of the input along which the network takes other sizes are dynamic: the batch, ``N``; the
    time of recurrent layers and attention; height and width of convolutions without `Affine`
    layers. A traced layer that loops over an axis fixes it. Further inputs, as the context of
    `MultiHeadAttention`, are left out. Of a network whose outputs are scores,
    ``Sequential(net, Softmax())`` gives probabilities.

    Examples
    --------
    >>> import tempfile, numpy as np, xplayers as xl
    >>> from xplayers.onnx import export
    >>> net = xl.mlp([4, 8, 3], rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = export(net, f"{folder}/net.onnx", np.ones((1, 4), "float32"))
    >>> [node.op_type for node in model.graph.node]
    ['MatMul', 'Add', 'Relu', 'MatMul', 'Add']
    """
    if not isinstance(net, Model):
        check_layer("onnx.export", net, "The order is export(net, path, example).")
    path = in_full(path, "onnx.export")
    if not isinstance(net, Model) and example is None:
        message = "onnx.export: example is missing; pass an input, as x[:1]."
        raise TypeError(message)
    instance("onnx.export", "rules", rules or {}, Mapping, "rules by the class of a layer")
    table = {**RULES, **(rules or {})}
    metadata = dict(metadata or {})
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        message = "onnx.export: metadata has what is no string; expected strings by name."
        raise TypeError(message)
    arrays = arrays_of(net.net if isinstance(net, Model) else net)
    if isinstance(net, Model):
        x = _sample(net, arrays, example)
        if net.classes:
            metadata = {"classes": json.dumps(net.classes), **metadata}
    else:
        x = _input(example, lambda x: inferred(net, arrays, x))
    while True:
        graph = Graph(table)
        graph.take(arrays)
        try:
            if isinstance(net, Model):
                name = "probabilities" if net.classes else "values"
                outputs = {name: _of_model(graph, net, arrays, x)}
            else:
                outputs = {"y": graph.layer(net, arrays, x)}
        except Fixed as error:
            del x.examples[error.args[0]]
        else:
            break
    model = graph.model({"x": x}, outputs, metadata)
    write(path, model)
    return model


def write(path: str, model: onnx.ModelProto) -> None:
    """Check a model and write it, atomically."""
    size = model.ByteSize()
    if size > LARGEST:
        message = f"onnx: the model has {size} bytes; an ONNX file has at most {LARGEST}."
        raise ValueError(message)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as file:
        file.write(model.SerializeToString())


def _sample(model: Model, arrays: Mapping[str, np.ndarray], example: Array | None) -> Value:
    """Return the input of a model."""
    if example is None:
        example = np.zeros((1, *(model.shape or model.architecture.sample)), np.float32)
    return _input(example, lambda x: inferred(model.net, arrays, _prepared(model, x)), exact=True)


def _prepared(model: Model, x: np.ndarray) -> np.ndarray:
    """Return an example of what the network of a model gets for an example of samples."""
    model.check(x, "onnx.export: example")
    return np.zeros((len(x), *model.architecture.sample), np.float32)


def _of_model(g: Graph, model: Model, arrays: Mapping[str, np.ndarray], x: Value) -> Value:
    """Write standardisation, network and softmax, or of a regression the scale of its targets."""
    mean, scale, _ = model.standard
    y = x
    if not (mean == 0.0 and scale == 1.0):  # in float64, as the command does
        y = g.node("Cast", y, to=onnx.TensorProto.DOUBLE)
        y = g.node("Sub", y, g.constant(np.asarray(mean, np.float64), "mean", exact=True))
        y = g.node("Div", y, g.constant(np.asarray(scale, np.float64), "scale", exact=True))
    y = g.node("Cast", y, to=onnx.TensorProto.FLOAT)
    y = g.node("Reshape", y, [0, *model.architecture.sample])
    y.examples = {name: _prepared(model, a) for name, a in x.examples.items()}
    scores = g.layer(model.net, arrays, y)
    if model.targets is None:
        y = g.node("Softmax", scores)
    else:
        mean, scale = (np.asarray(a, np.float64) for a in model.targets[:2])
        y = g.node("Cast", scores, to=onnx.TensorProto.DOUBLE)
        y = g.node("Mul", y, g.constant(scale, "target_scale", exact=True))
        y = g.node("Add", y, g.constant(mean, "target_mean", exact=True))
        y = g.node("Cast", y, to=onnx.TensorProto.FLOAT)
    y.examples = scores.examples
    return y


def as_input(owner: str, example: Any, *, exact: bool = False) -> np.ndarray:
    """Return zeros like an example, as integers (which are indices) or float32 if not `exact`."""
    namespace(example, owner, "example")
    dtype = dtype_name(example.dtype)
    if not exact:
        dtype = dtype if dtype in ("int32", "int64") else "int64" if "int" in dtype else "float32"
    return np.zeros(tuple(example.shape), dtype)


def _input(
    example: Any, infer: Callable[[np.ndarray], np.ndarray], *, exact: bool = False
) -> Value:
    """Return the input, with an example for each axis along which `infer` takes other sizes."""
    first = as_input("onnx.export", example, exact=exact)
    shape, dtype = first.shape, first.dtype
    infer(first)
    others: dict[int, np.ndarray] = {}
    for axis, n in enumerate(shape):
        for sizes in ((2 * n, n + 1), (n - 1, (n + 1) // 2)):  # one alone may fit by chance
            resized = [
                np.zeros((*shape[:axis], m, *shape[axis + 1 :]), dtype)
                for m in sizes
                if m not in (0, n)
            ]
            if axis not in others and resized and all(_is_taken(infer, x) for x in resized):
                others[axis] = resized[0]
    names = _axis_names(len(shape), str(dtype), [*others])
    return Value("x", {"": first, **{names[axis]: x for axis, x in others.items()}})


def _is_taken(infer: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> bool:
    try:
        infer(x)
    except Exception:  # of layers of people's own, anything
        return False
    return True


def _axis_names(rank: int, dtype: str, axes: list[int]) -> dict[int, str]:
    """Return names of the dynamic axes of an input."""
    further = [axis for axis in axes if axis]
    if len(further) == 1 and (rank == 3 or "int" in dtype):
        names = ["time"]
    elif rank == 4 and further == [2, 3]:
        names = ["height", "width"]
    else:
        names = [f"size{axis}" for axis in further]
    return {0: "N", **dict(zip(further, names, strict=True))}
