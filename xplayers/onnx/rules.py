"""How each layer is written in ONNX: one table, a row a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from xplayers import layers
from xplayers.onnx.graph import Graph, Rule, Value

Arrays = Mapping[str, np.ndarray]


def _operator(name: str, **attributes: str) -> Rule:
    """Return the rule of a layer that is one operator; `attributes` name those of the layer."""

    def rule(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
        return g.node(name, x, **{k: getattr(layer, own) for k, own in attributes.items()})

    return rule


def _silu(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("Mul", x, g.node("Sigmoid", x))


def _dropout(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return x


# Shapes


def _flatten(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("Flatten", x, axis=1)


def _reshape(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("Reshape", x, [0, *layer.shape])  # 0: as it is


def _transpose(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("Transpose", x, perm=[0, *layer.axes])


# Products


def _affine(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    if layer.flatten and x.rank > 2:
        x = g.node("Flatten", x, axis=1)
    return _times(g, x, arrays, "")


def _times(g: Graph, x: Value, arrays: Arrays, name: str) -> Value:
    """Write ``x @ W + b`` over the last axis, with the arrays of that name."""
    y = g.node("MatMul", x, arrays[f"W{name}"])
    return g.node("Add", y, arrays[f"b{name}"]) if f"b{name}" in arrays else y


def _convolution(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    window = layer._window
    return g.node(
        "Conv", x, arrays["W"], arrays.get("b"), group=layer.groups,
        dilations=window.dilation, **_geometry(window),
    )  # fmt: skip


def _convolution_transpose(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    more = {"output_padding": layer._more, **_geometry(layer._window)}
    return g.node("ConvTranspose", x, arrays["W"], arrays.get("b"), **more)


def _max_pooling(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("MaxPool", x, **_geometry(layer._window(str(layer), x.rank - 2)))


def _average_pooling(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    window = layer._window(str(layer), x.rank - 2)
    return g.node("AveragePool", x, count_include_pad=1, **_geometry(window))


def _geometry(window: Any) -> dict[str, Any]:
    pads = [side for sides in zip(*window.padding, strict=True) for side in sides]
    return {"kernel_shape": window.size, "strides": window.stride, "pads": pads}


def _global_average_pooling(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("ReduceMean", x, range(2, x.rank), keepdims=0)


# Normalizations


def _batch_normalization(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    statistics = (arrays[name] for name in ("gamma", "beta", "running_mean", "running_var"))
    return g.node("BatchNormalization", x, *statistics, epsilon=layer.eps)


def _group_normalization(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    options = {"num_groups": layer.groups, "epsilon": layer.eps}
    return g.node("GroupNormalization", x, arrays["gamma"], arrays["beta"], **options)


def _layer_normalization(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    gamma, beta = arrays["gamma"], arrays["beta"]
    return g.node("LayerNormalization", x, gamma, beta, axis=-gamma.ndim, epsilon=layer.eps)


def _rms_normalization(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    square = g.node("ReduceMean", g.node("Mul", x, x), range(-arrays["gamma"].ndim, 0))
    root = g.node("Sqrt", g.node("Add", square, np.float32(layer.eps)))
    return g.node("Mul", g.node("Div", x, root), arrays["gamma"])


def _standardize(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("Div", g.node("Sub", x, arrays["mean"]), arrays["scale"])


# Sequences


def _recurrent(name: str, order: tuple[int, ...]) -> Rule:
    """Return the rule of a recurrent layer, whose gates ONNX has in this order of ours."""

    def rule(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
        suffixes = ("", "_reverse") if layer.bidirectional else ("",)
        hidden = layer.Wh.shape[0]

        def ordered(name: str, suffix: str) -> np.ndarray:
            a = arrays.get(name + suffix)  # a Gru may have no `bh`
            a = np.zeros(len(order) * hidden, np.float32) if a is None else a
            gates = np.split(a, len(order), axis=-1)
            return np.concatenate([gates[i] for i in order], axis=-1)

        W, R = (np.stack([ordered(k, s).T for s in suffixes]) for k in ("Wx", "Wh"))
        b = [np.concatenate([ordered("b", s), ordered("bh", s)]) for s in suffixes]
        options: dict[str, Any] = {"hidden_size": hidden}
        if layer.bidirectional:
            options["direction"] = "bidirectional"
        if name == "GRU":
            options["linear_before_reset"] = int(layer.reset_after)
        x = g.node("Transpose", x, perm=[1, 0, 2])  # time first
        weights = (g.constant(a, k) for a, k in ((W, "W"), (R, "R"), (np.stack(b), "B")))
        y = g.node(name, x, *weights, **options)  # (time, directions, n, hidden)
        y = g.node("Transpose", y, perm=[2, 0, 1, 3])
        return g.node("Reshape", y, [0, 0, len(suffixes) * hidden])

    return rule


def _attention(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    features, n_heads = arrays["Wq"].shape[0], layer.n_heads
    size = features // n_heads

    def heads(name: str) -> Value:
        """Write projections as (n, time, heads, size)."""
        y, columns = _times(g, x, arrays, name), arrays[f"W{name}"].shape[1]
        y = g.node("Reshape", y, [0, 0, columns // size, size])
        if layer.rope_theta is not None and name != "v":
            turns = _turns(g, g.node("Shape", y, start=1, end=2), size, layer.rope_theta)
            y = _turned(g, y, *(g.node("Unsqueeze", a, [1]) for a in turns))
        if columns != features:  # each head of keys and values is that of a group
            y = g.node("Unsqueeze", y, [3])
            y = g.node("Expand", y, [1, 1, 1, features // columns, 1])
            y = g.node("Reshape", y, [0, 0, n_heads, size])
        return y

    q = g.node("Mul", heads("q"), np.float32(1.0 / math.sqrt(size)))
    q, k, v = (
        g.node("Transpose", a, perm=perm)
        for a, perm in ((q, [0, 2, 1, 3]), (heads("k"), [0, 2, 3, 1]), (heads("v"), [0, 2, 1, 3]))
    )
    scores = g.node("MatMul", q, k)
    if layer.causal:
        future = g.node("Expand", np.float32(-1e30), g.node("Shape", scores, start=2))
        scores = g.node("Add", scores, g.node("Trilu", future, np.int64(1)))
    o = g.node("MatMul", g.node("Softmax", scores), v)
    o = g.node("Reshape", g.node("Transpose", o, perm=[0, 2, 1, 3]), [0, 0, features])
    return _times(g, o, arrays, "o")


def _turns(g: Graph, time: Value, size: int, theta: float) -> tuple[Value, Value]:
    """Write the cosines and sines ``(time, size / 2)`` of rotary positions."""
    speeds = np.exp(np.arange(size // 2, dtype=np.float32) * (-2.0 * math.log(theta) / size))
    steps = g.node("Range", np.int64(0), g.node("Squeeze", time), np.int64(1))
    steps = g.node("Unsqueeze", g.node("Cast", steps, to=onnx.TensorProto.FLOAT), [1])
    angles = g.node("Mul", steps, speeds)
    return g.node("Cos", angles), g.node("Sin", angles)


def _turned(g: Graph, x: Value, cos: Value, sin: Value) -> Value:
    a, b = g.node("Split", x, outputs=2, axis=-1, num_outputs=2)
    first = g.node("Sub", g.node("Mul", a, cos), g.node("Mul", b, sin))
    second = g.node("Add", g.node("Mul", b, cos), g.node("Mul", a, sin))
    return g.node("Concat", first, second, axis=-1)


def _rotary_embedding(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    size = x.examples[""].shape[-1]
    return _turned(g, x, *_turns(g, g.node("Shape", x, start=-2, end=-1), size, layer.theta))


def _embedding(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("Gather", arrays["W"], x)


def _positional_embedding(g: Graph, layer: Any, arrays: Arrays, x: Value) -> Value:
    time = g.node("Shape", x, start=1, end=2)
    return g.node("Add", x, g.node("Slice", arrays["W"], [0], time, [0]))


# Containers


def _sequential(g: Graph, net: Any, arrays: Arrays, x: Value) -> Value:
    for part in net._parts:
        x = _part(g, part, arrays, x)
    return x


def _part(g: Graph, part: Any, arrays: Arrays, x: Value) -> Value:
    with g.scope(part.name):
        return g.layer(part.layer, part.pick(arrays), x)


def _residual(g: Graph, net: Any, arrays: Arrays, x: Value) -> Value:
    return g.node("Add", x, _sequential(g, net, arrays, x))


def _gated_mlp(g: Graph, net: Any, arrays: Arrays, x: Value) -> Value:
    gate, up, down, activation = net._parts
    a, b = _part(g, activation, arrays, _part(g, gate, arrays, x)), _part(g, up, arrays, x)
    h = g.node("Mul", a, b)
    h.examples = {name: each * b.examples[name] for name, each in a.examples.items()}
    return _part(g, down, arrays, h)


def _mapped(g: Graph, net: Any, arrays: Arrays, x: Value) -> Value:
    outer, inner = g.node("Shape", x, end=2), g.node("Shape", x, start=2)
    shape = g.node("Concat", g.node("ReduceProd", outer, [0]), inner, axis=0)
    merged = g.node("Reshape", x, shape, allowzero=1)
    merged.examples = {name: net._merged(a) for name, a in x.examples.items()}
    y = _sequential(g, net, arrays, merged)
    shape = g.node("Concat", outer, g.node("Shape", y, start=1), axis=0)
    return g.node("Reshape", y, shape, allowzero=1)


def _parallel(g: Graph, net: Any, arrays: Arrays, x: Value) -> Value:
    ys = [_part(g, part, arrays, x) for part in net._parts]
    if net.combine == "sum":
        return g.node("Sum", *ys)
    return g.node("Concat", *ys, axis=net.axis)


RULES: dict[type, Rule] = {
    layers.Relu: _operator("Relu"),
    layers.LeakyRelu: _operator("LeakyRelu", alpha="alpha"),
    layers.Elu: _operator("Elu", alpha="alpha"),
    layers.Gelu: _operator("Gelu", approximate="approximate"),
    layers.Sigmoid: _operator("Sigmoid"),
    layers.Tanh: _operator("Tanh"),
    layers.Softplus: _operator("Softplus"),
    layers.Softmax: _operator("Softmax", axis="axis"),
    layers.Silu: _silu,
    layers.Dropout: _dropout,
    layers.Flatten: _flatten,
    layers.Reshape: _reshape,
    layers.Transpose: _transpose,
    layers.Affine: _affine,
    layers.Convolution: _convolution,
    layers.ConvolutionTranspose: _convolution_transpose,
    layers.MaxPooling: _max_pooling,
    layers.AveragePooling: _average_pooling,
    layers.GlobalAveragePooling: _global_average_pooling,
    layers.BatchNormalization: _batch_normalization,
    layers.GroupNormalization: _group_normalization,
    layers.LayerNormalization: _layer_normalization,
    layers.RmsNormalization: _rms_normalization,
    layers.Standardize: _standardize,
    layers.Rnn: _recurrent("RNN", (0,)),
    layers.Lstm: _recurrent("LSTM", (0, 3, 1, 2)),  # i, o, f, c
    layers.Gru: _recurrent("GRU", (1, 0, 2)),  # z, r, h
    layers.MultiHeadAttention: _attention,
    layers.RotaryEmbedding: _rotary_embedding,
    layers.Embedding: _embedding,
    layers.PositionalEmbedding: _positional_embedding,
    layers.Sequential: _sequential,
    layers.Recompute: _sequential,
    layers.Residual: _residual,
    layers.GatedMlp: _gated_mlp,
    layers.Map: _mapped,
    layers.Parallel: _parallel,
}
