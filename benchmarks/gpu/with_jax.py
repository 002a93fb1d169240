"""JAX: a step written by hand, jitted, with donated state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.workloads import Workload, data

_PRECISION = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}


def scores(workload: Workload, params: list[dict[str, Any]], x: Any) -> Any:
    if workload.filters:
        dims = ("NHWC", "OIHW", "NHWC")
        for i, layer in enumerate(params[:-1]):
            x = jax.lax.conv_general_dilated(x, layer["W"], (1, 1), "SAME", dimension_numbers=dims)
            x = jax.nn.relu(x + layer["b"])
            if i:
                window = (1, 2, 2, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)  # rows as in the data
        return x @ params[-1]["W"] + params[-1]["b"]
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["W"] + layer["b"])
    return x @ params[-1]["W"] + params[-1]["b"]


def adam(params: Any, grads: Any, state: Any, lr: float) -> tuple[Any, Any]:
    beta1, beta2, eps = 0.9, 0.999, 1e-7
    count = state["count"] + 1
    rate = lr * jnp.sqrt(1 - beta2**count) / (1 - beta1**count)
    m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state["m"], grads)
    v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state["v"], grads)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + eps), params, m, v)
    return params, {"count": count, "m": m, "v": v}


def jitted(workload: Workload, device: str) -> Callable[[], Any]:
    host = data(workload)
    half = workload.precision == "bfloat16"

    def loss(params: Any, x: Any, t: Any) -> Any:
        if half:
            params, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
        logs = jax.nn.log_softmax(scores(workload, params, x).astype(jnp.float32))
        return -jnp.mean(jnp.take_along_axis(logs, t[:, None], axis=1))

    def function(params: Any, state: Any, x: Any, t: Any) -> Any:
        with jax.default_matmul_precision(_PRECISION[workload.precision]):
            value, grads = jax.value_and_grad(loss)(params, x, t)
        return value, *adam(params, grads, state, workload.lr)

    step = jax.jit(function, donate_argnums=(0, 1))
    x = host["x"].transpose(0, 2, 3, 1) if workload.filters else host["x"]
    with jax.default_device(jax.devices("cpu" if device == "cpu" else "gpu")[0]):
        x, t = jnp.asarray(x), jnp.asarray(host["t"])
        params = jax.tree.map(jnp.asarray, host["layers"])
        zeros = jax.tree.map(jnp.zeros_like, params)
        state = {"count": jnp.zeros(()), "m": zeros, "v": jax.tree.map(jnp.copy, zeros)}

    def run() -> Any:
        nonlocal params, state
        value, params, state = step(params, state, x, t)
        return value, params  # the loss is there before the update is

    return run


def wait(device: str) -> Callable[[Any], Any]:
    return jax.block_until_ready
