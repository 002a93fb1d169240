"""The operation that says how a step is compiled, by the library of its arrays."""

from __future__ import annotations

from typing import Any

from xplayers.arrays.namespaces import Array, library
from xplayers.arrays.operation import operation


@operation
def compiled(x: Array, step: Any) -> Any:
    """Return the compiled `step` for arrays like `x`: ``f(x, t, lr) -> loss``, with ``f.close()``.

    None: eager execution.
    """
    name = library(x)
    if step.compile == "graph":
        message = f"TrainStep: compile='graph' is for cupy arrays, not {name}; use 'auto'."
        raise ValueError(message)
    if step.gemm is not None:
        message = f"TrainStep: gemm is for cupy arrays, not {name}; use None."
        raise ValueError(message)
    if step.compile is True:
        message = f"TrainStep: there is no compiler for {name} arrays; use compile='auto'."
        raise ValueError(message)
    return None
