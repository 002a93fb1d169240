"""JAX as its users write it: a pure step, ``value_and_grad``, one jit, donated state.

A layer is a function ``(params, x, options) -> y, statistics``, and of all layers but one the
statistics are empty. Of several forms that a user might write each has the fastest on a CPU: images
are channels-last, attention is written out (not ``jax.nn.dot_product_attention``), the product of
the inputs of an LSTM is outside of its loop, which is not unrolled, and dropout has the default
generator of JAX.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.implementations import Task, epoch_sums
from benchmarks.networks import LayerData


def affine(p, x, options):
    return x @ p["W"] + p["b"], {}


def convolution(p, x, options):
    y = lax.conv_general_dilated(
        x, p["W"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC")
    )
    return y + p["b"], {}


def batch_normalization(p, x, options):
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    var = jnp.mean(x * x, axes) - mean * mean  # in one pass, as Flax has it
    y = (x - mean) * (lax.rsqrt(var + 1e-5) * p["gamma"]) + p["beta"]
    return y, {"mean": mean, "var": var}


def layer_normalization(p, x, options):
    centred = x - jnp.mean(x, -1, keepdims=True)
    var = jnp.mean(centred * centred, -1, keepdims=True)
    return centred * (lax.rsqrt(var + 1e-5) * p["gamma"]) + p["beta"], {}


def lstm(p, x, options):
    def step(state, a):
        h, c = state
        i, f, g, o = jnp.split(a + h @ p["Wh"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((len(x), len(p["Wh"])), x.dtype)
    return lax.scan(step, (zeros, zeros), x.swapaxes(0, 1) @ p["Wx"] + p["b"])[1].swapaxes(0, 1), {}


def embedding(p, x, options):
    return p["W"].at[x].get(mode="promise_in_bounds"), {}


def dropout(key, x, rate):
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def normalization_of_inference(p, x, options):
    return (x - p["mean"]) * (lax.rsqrt(p["var"] + 1e-5) * p["gamma"]) + p["beta"], {}


def attention(p, x, options):
    n, time, features = x.shape
    heads = options["n_heads"]
    q, k, v = (
        (x @ p[f"W{name}"] + p[f"b{name}"]).reshape(n, time, heads, -1).swapaxes(1, 2)
        for name in "qkv"
    )
    past = jnp.tril(jnp.ones((time, time), bool))
    scores = jnp.where(past, q @ k.mT / math.sqrt(features // heads), -jnp.inf)
    y = jax.nn.softmax(scores) @ v
    return y.swapaxes(1, 2).reshape(x.shape) @ p["Wo"] + p["bo"], {}


def max_pooling(p, x, options):
    # Faster on a CPU than `reduce_window`, the gradient of which is slow, and than a maximum over
    # two axes of a reshaped x. The gradient is that of the first of equal values, as elsewhere.
    size = options["size"]
    height, width = (n // size * size for n in x.shape[1:3])
    parts = (x[:, i:height:size, j:width:size] for i in range(size) for j in range(size))
    return functools.reduce(lambda a, b: jnp.where(b > a, b, a), parts), {}


def flatten(p, x, options):
    return channels_first(x).reshape(len(x), -1), {}  # for the weights that all others have


LAYERS: dict[str, Callable[..., tuple[Any, dict[str, Any]]]] = {
    "affine": affine,
    "convolution": convolution,
    "batch_normalization": batch_normalization,
    "normalization_of_inference": normalization_of_inference,
    "layer_normalization": layer_normalization,
    "attention": attention,
    "lstm": lstm,
    "embedding": embedding,
    "max_pooling": max_pooling,
    "flatten": flatten,
    "relu": lambda p, x, options: (jax.nn.relu(x), {}),
    "sigmoid": lambda p, x, options: (jax.nn.sigmoid(x), {}),
    "gelu": lambda p, x, options: (jax.nn.gelu(x), {}),
}


def build(layer: LayerData) -> tuple[Callable[[Any, Any], tuple[Any, Any]], Any]:
    """Return the function ``(params, x) -> y, statistics`` of a layer, and its parameters."""
    if not layer.parts:
        function = functools.partial(LAYERS[layer.kind], options=layer.options)
        return function, jax.tree.map(jnp.asarray, layer.arrays)
    functions, params = zip(*map(build, layer.parts), strict=True)

    def container(params, x):
        y, statistics = x, []
        for function, p in zip(functions, params, strict=True):
            y, of_part = function(p, y)
            statistics.append(of_part)
        return (x + y if layer.kind == "residual" else y), statistics

    return container, params


def for_inference(layer: LayerData) -> LayerData:
    """Return a layer as it is after training; running statistics have their first values."""
    if layer.kind != "batch_normalization":
        return layer
    beta = layer.arrays["beta"]
    running = {"mean": np.zeros_like(beta), "var": np.ones_like(beta)}
    return replace(layer, kind="normalization_of_inference", arrays=layer.arrays | running)


def by_name(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the arrays of `build` by the names that xplayers gives them."""
    if isinstance(tree, dict):
        return {f"{prefix}{name}": array for name, array in tree.items()}
    parts = (by_name(part, f"{prefix}{i}.") for i, part in enumerate(tree))
    return {name: array for part in parts for name, array in part.items()}


def channels_first(x):
    return jnp.moveaxis(x, -1, 1) if x.ndim == 4 else x


def on_device(x):
    """Return an array of JAX, of images channels-last."""
    return jnp.asarray(np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x)


def zeros(shapes):
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def sequential(data):
    return LayerData("sequential", parts=tuple(data["layers"]))


def cross_entropy(logits, t):
    logs = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(logs, t[:, None], axis=1))


def moved(running, batch):
    return jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, running, batch)


def adam(params, grads, state, lr, beta1=0.9, beta2=0.999, eps=1e-7):
    count = state["count"] + 1
    rate = lr * jnp.sqrt(1 - beta2**count) / (1 - beta1**count)
    m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state["m"], grads)
    v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state["v"], grads)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + eps), params, m, v)
    return params, {"count": count, "m": m, "v": v}


def zero_state(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return {"count": jnp.zeros(()), "m": zeros, "v": jax.tree.map(jnp.copy, zeros)}


class Jitted:
    def layer(self, data: dict[str, Any], lr: float) -> Task:
        if data["layer"].kind == "dropout":
            return self._dropout(data)
        (function, params), names = build(data["layer"]), data["layer"].learnt
        x, dy = on_device(data["x"]), on_device(data["dy"])
        differentiable = (x,) if jnp.issubdtype(x.dtype, jnp.floating) else ()

        # Forward and backward in one jitted function, so that XLA may fuse the two.
        @jax.jit
        def both(params, running, x, differentiable, dy):
            y, vjp, batch = jax.vjp(
                lambda p, *inputs: function(p, *(inputs or (x,))),
                params, *differentiable, has_aux=True,
            )  # fmt: skip
            grads, *dx = vjp(dy)
            grads = by_name(grads)
            return (y, *dx, *(grads[name] for name in names)), moved(running, batch)

        running = zeros(jax.eval_shape(lambda p, x: function(p, x)[1], params, x))

        def comparable(result):
            n = 1 + len(differentiable)
            return *map(channels_first, result[:n]), *result[n:]

        return Task(
            lambda: both(params, running, x, differentiable, dy)[0],
            jax.block_until_ready,
            comparable=comparable,
        )

    def _dropout(self, data: dict[str, Any]) -> Task:
        x, dy, rate = jnp.asarray(data["x"]), jnp.asarray(data["dy"]), data["layer"].options["rate"]
        key = jax.random.key(0)

        @functools.partial(jax.jit, donate_argnums=0)
        def both(key, x, dy):
            key, of_mask = jax.random.split(key)
            y, vjp = jax.vjp(lambda x: dropout(of_mask, x, rate), x)
            return key, y, *vjp(dy)

        def run():
            nonlocal key
            key, *results = both(key, x, dy)
            return results

        return Task(run, jax.block_until_ready)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        x, t = jnp.asarray(data["x"]), jnp.asarray(data["t"])
        both = jax.jit(jax.value_and_grad(cross_entropy))
        return Task(lambda: both(x, t), jax.block_until_ready)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        net, params = build(sequential(data))

        def loss(params, x, t):
            y, statistics = net(params, x)
            return cross_entropy(y, t), statistics

        def function(params, running, state, x, t):
            (value, batch), grads = jax.value_and_grad(loss, has_aux=True)(params, x, t)
            return value, moved(running, batch), *adam(params, grads, state, lr)

        step = jax.jit(function, donate_argnums=(0, 1, 2))
        state = zero_state(params)
        x, t = on_device(data["x"]), jnp.asarray(data["t"])
        running = zeros(jax.eval_shape(loss, params, x, t)[1])

        def run():
            nonlocal params, running, state
            value, running, params, state = step(params, running, state, x, t)
            return (value,)

        # The parameters too: the loss is there before the update is.
        return Task(run, lambda result: jax.block_until_ready((result, params)))

    def inference(self, data: dict[str, Any], lr: float) -> Task:
        net, params = build(sequential({"layers": map(for_inference, data["layers"])}))
        x, function = on_device(data["x"]), jax.jit(lambda params, x: net(params, x)[0])
        return Task(lambda: (function(params, x),), jax.block_until_ready)

    def loading(self, data: dict[str, Any], lr: float) -> Task:
        x, t, batch_size = jnp.asarray(data["x"]), jnp.asarray(data["t"]), data["batch_size"]
        take = jax.jit(lambda x, t, index: (x[index], t[index]))
        key = jax.random.key(0)

        def epoch():
            for index in jax.random.permutation(key, len(x)).reshape(-1, batch_size):
                yield take(x, t, index)

        def run():
            for batch in epoch():
                last = batch
            return last

        return Task(run, jax.block_until_ready, comparable=lambda _: epoch_sums(epoch()))

    def adam(self, data: dict[str, Any], lr: float) -> Task:
        params = {name: jnp.asarray(p) for name, p in data["params"].items()}
        grads = {name: jnp.asarray(g) for name, g in data["grads"].items()}
        state = zero_state(params)
        step = jax.jit(functools.partial(adam, lr=lr), donate_argnums=(0, 2))

        def run():
            nonlocal params, state
            params, state = step(params, grads, state)
            return tuple(params.values())

        return Task(run, jax.block_until_ready)
