"""Time steps as one loop of XLA: of another number of them, only the time to compute differs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from xplayers.arrays.namespaces import Array, namespace


def scan(
    state: list[Array],
    step: Callable[..., Any],
    inputs: tuple[Array, ...],
    weights: tuple[Array, ...],
    reverse: bool,
) -> tuple[Any, Any]:
    """Return the last state, and the results of all steps, each as one array."""
    return _loop()(tuple(state), step, inputs, weights, reverse)


@functools.cache
def _loop() -> Callable[..., Any]:
    jax: Any = sys.modules["jax"]

    def loop(state: Any, step: Any, inputs: Any, weights: Any, reverse: bool) -> Any:
        xp = namespace(state[0])

        def body(state: Any, of_step: Any) -> Any:
            return step(xp, of_step, state, weights)

        return jax.lax.scan(body, state, inputs, reverse=reverse)

    # Else each loop of eager execution would be compiled anew.
    return jax.jit(loop, static_argnums=(1, 4))
