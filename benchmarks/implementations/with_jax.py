"""JAX as its users write it: a pure step, ``value_and_grad``, one jit, donated state.

A layer is a function ``(params, x, options) -> y, statistics``, and of all layers but one the
statistics are empty. Images are channels-last and attention is written out: on a CPU that is faster
than channels first and than ``jax.nn.dot_product_attention``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.implementations import Task, learnt


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
    # The maximum over two axes of a reshaped x is faster, but its gradient compares x with y, and
    # where XLA computes x once more with another rounding no place is equal: 0 / 0.
    window = (1, options["size"], options["size"], 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID"), {}


def flatten(p, x, options):
    return channels_first(x).reshape(len(x), -1), {}  # for the weights that all others have


LAYERS: dict[str, Callable[..., tuple[Any, dict[str, Any]]]] = {
    "affine": affine,
    "convolution": convolution,
    "batch_normalization": batch_normalization,
    "attention": attention,
    "max_pooling": max_pooling,
    "flatten": flatten,
    "relu": lambda p, x, options: (jax.nn.relu(x), {}),
    "sigmoid": lambda p, x, options: (jax.nn.sigmoid(x), {}),
}


def channels_first(x):
    return jnp.moveaxis(x, -1, 1) if x.ndim == 4 else x


def placed(x):
    """Bring an input over, images channels-last."""
    return jnp.asarray(np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x)


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
        layer = data["layer"]
        function, names = LAYERS[layer.kind], learnt(layer)
        params = jax.tree.map(jnp.asarray, layer.arrays)
        x, dy = placed(data["x"]), placed(data["dy"])

        # Forward and backward in one jitted function, so that XLA may fuse the two.
        @jax.jit
        def both(params, running, x, dy):
            y, vjp, batch = jax.vjp(
                lambda p, x: function(p, x, layer.options), params, x, has_aux=True
            )
            grads, dx = vjp(dy)
            return (y, dx, *(grads[name] for name in names)), moved(running, batch)

        running = jax.eval_shape(lambda p, x: function(p, x, layer.options)[1], params, x)
        running = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), running)

        def comparable(result):
            y, dx, *grads = result
            return channels_first(y), channels_first(dx), *grads

        return Task(
            lambda: both(params, running, x, dy)[0], jax.block_until_ready, comparable=comparable
        )

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        x, t = jnp.asarray(data["x"]), jnp.asarray(data["t"])
        both = jax.jit(jax.value_and_grad(cross_entropy))
        return Task(lambda: both(x, t), jax.block_until_ready)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        layers = [(LAYERS[layer.kind], layer.options) for layer in data["layers"]]

        def loss(params, x, t):
            statistics = []
            for (function, options), p in zip(layers, params, strict=True):
                x, found = function(p, x, options)
                statistics.append(found)
            return cross_entropy(x, t), statistics

        def function(params, running, state, x, t):
            (value, batch), grads = jax.value_and_grad(loss, has_aux=True)(params, x, t)
            return value, moved(running, batch), *adam(params, grads, state, lr)

        step = jax.jit(function, donate_argnums=(0, 1, 2))
        params = [jax.tree.map(jnp.asarray, layer.arrays) for layer in data["layers"]]
        state = zero_state(params)
        x, t = placed(data["x"]), jnp.asarray(data["t"])
        running = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(loss, params, x, t)[1]
        )

        def run():
            nonlocal params, running, state
            value, running, params, state = step(params, running, state, x, t)
            return (value,)

        # The parameters too: the loss is there before the update is.
        return Task(run, lambda result: jax.block_until_ready((result, params)))

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
