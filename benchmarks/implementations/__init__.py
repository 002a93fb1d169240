"""Who is measured. An implementation is a class with a method for each kind of workload.

``method(data, lr) -> Task`` builds the workload from host arrays (see ``workloads.data``). What
``Task.run`` returns is compared between implementations:

    layer               y, dx, and the gradients of its `learnt` parameters
    softmax_with_loss   loss, dx
    step                loss
    adam                every parameter

A class without a method does not take part in that kind of workload; one that lacks a layer raises
`NotRun`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.networks import LayerData

IMPLEMENTATIONS = {
    "xplayers-numpy": "benchmarks.implementations.ours:Plain",
    "xplayers-numpy-step": "benchmarks.implementations.ours:Step",
    "xplayers-numba": "benchmarks.implementations.ours:Numba",
    "xplayers-torch-plain": "benchmarks.implementations.ours:TorchPlain",
    "xplayers-torch": "benchmarks.implementations.ours:Torch",
    "xplayers-torch-numba": "benchmarks.implementations.ours:TorchNumba",
    "xplayers-jax": "benchmarks.implementations.ours:Jax",
    "book": "benchmarks.implementations.book:Book",
    "book-float64": "benchmarks.implementations.book:BookFloat64",
    "torch-eager": "benchmarks.implementations.with_torch:Eager",
    "torch-compile": "benchmarks.implementations.with_torch:Compiled",
    "jax": "benchmarks.implementations.with_jax:Jitted",
}
# What a step of affine layers would take if it were its matrix products alone: no peers.
LIMITS = {
    "products-numpy": "benchmarks.implementations.products:NumPy",
    "products-torch": "benchmarks.implementations.products:Torch",
}
NOT_QUICK = {  # left out by --quick: slow to start, or close to another one
    "torch-compile", "book-float64", "xplayers-numpy-step", "xplayers-torch-plain",
    "xplayers-torch-numba", *LIMITS,
}  # fmt: skip


class NotRun(Exception):
    """The implementation cannot run here; the message says why."""


@dataclass
class Task:
    """One repetition, and how to wait for its result where the library computes asynchronously."""

    run: Callable[[], Any]
    wait: Callable[[Any], Any] = lambda result: None
    figures: Callable[[int], dict[str, float]] | None = None  # of a task that times itself
    # The result as all others have it; None: it is compared with no other.
    comparable: Callable[[Any], Any] | None = lambda result: result


def learnt(layer: LayerData) -> list[str]:
    """Return the parameters whose gradients are compared.

    The gradient of the bias of the keys is 0, and what a library has in its place is rounding.
    """
    return [name for name in layer.arrays if name != "bk"]


def load(name: str) -> type:
    """Return the class of an implementation: of the lists above, or ``module:Class``."""
    module, _, attribute = (IMPLEMENTATIONS | LIMITS).get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "jax"):
            message = f"{error.name} is not installed"
            raise NotRun(message) from error
        raise
