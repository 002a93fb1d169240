"""JAX as its users write it: a pure step, ``value_and_grad``, one jit, donated state."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.implementations import Task


def cross_entropy(logits, t):
    logs = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(logs, t[:, None], axis=1))


def affine(params, x):
    return x @ params["W"] + params["b"]


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
    def both_ways(self, function: Any, data: dict[str, Any]) -> Task:
        # Forward and backward in one jitted function, so that XLA may fuse the two.
        x, dy = jnp.asarray(data["x"]), jnp.asarray(data["dy"])

        @jax.jit
        def both(x, dy):
            y, vjp = jax.vjp(function, x)
            return y, *vjp(dy)

        return Task(lambda: both(x, dy), jax.block_until_ready)

    def relu(self, data: dict[str, Any], lr: float) -> Task:
        return self.both_ways(jax.nn.relu, data)

    def sigmoid(self, data: dict[str, Any], lr: float) -> Task:
        return self.both_ways(jax.nn.sigmoid, data)

    def affine(self, data: dict[str, Any], lr: float) -> Task:
        x, dy = jnp.asarray(data["x"]), jnp.asarray(data["dy"])
        params = {name: jnp.asarray(data[name]) for name in ("W", "b")}

        @jax.jit
        def both(params, x, dy):
            y, vjp = jax.vjp(affine, params, x)
            grads, dx = vjp(dy)
            return y, dx, grads["W"], grads["b"]

        return Task(lambda: both(params, x, dy), jax.block_until_ready)

    def softmax_with_loss(self, data: dict[str, Any], lr: float) -> Task:
        x, t = jnp.asarray(data["x"]), jnp.asarray(data["t"])
        both = jax.jit(jax.value_and_grad(cross_entropy))
        return Task(lambda: both(x, t), jax.block_until_ready)

    def step(self, data: dict[str, Any], lr: float) -> Task:
        def loss(params, x, t):
            for layer in params[:-1]:
                x = jax.nn.relu(affine(layer, x))
            return cross_entropy(affine(params[-1], x), t)

        def function(params, state, x, t):
            value, grads = jax.value_and_grad(loss)(params, x, t)
            return value, *adam(params, grads, state, lr)

        step = jax.jit(function, donate_argnums=(0, 1))
        params = jax.tree.map(jnp.asarray, data["layers"])
        state = zero_state(params)
        x, t = jnp.asarray(data["x"]), jnp.asarray(data["t"])

        def run():
            nonlocal params, state
            value, params, state = step(params, state, x, t)
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
