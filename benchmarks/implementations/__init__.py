"""Who is measured. An implementation is a class with a method for each kind of workload.

``method(data, lr) -> Task`` builds the workload from host arrays (see ``workloads.data``). What
``Task.run`` returns is compared between implementations:

    layer               y, dx (but of integers), and the gradients of its `learnt` parameters
    softmax_with_loss   loss, dx
    step                loss
    inference           y
    loading             what `epoch_sums` returns
    adam                every parameter

A class without a method does not take part in that kind of workload; one that lacks a layer raises
`NotRun`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

IMPLEMENTATIONS = {
    "xplayers-numpy": "benchmarks.implementations.ours:Plain",
    "xplayers-numpy-step": "benchmarks.implementations.ours:Step",
    "xplayers-numba": "benchmarks.implementations.ours:Numba",
    "xplayers-torch-plain": "benchmarks.implementations.ours:TorchPlain",
    "xplayers-torch": "benchmarks.implementations.ours:Torch",
    "xplayers-torch-numba": "benchmarks.implementations.ours:TorchNumba",
    "xplayers-torch-compile": "benchmarks.implementations.ours:TorchCompiled",
    "xplayers-jax": "benchmarks.implementations.ours:Jax",
    "book": "benchmarks.implementations.book:Book",
    "book-float64": "benchmarks.implementations.book:BookFloat64",
    "torch-eager": "benchmarks.implementations.with_torch:Eager",
    "torch-compile": "benchmarks.implementations.with_torch:Compiled",
    "jax": "benchmarks.implementations.with_jax:Jitted",
    "scikit-learn": "benchmarks.implementations.with_sklearn:Perceptron",
}
OTHER_LIBRARIES = {"torch": "torch", "jax": "jax", "sklearn": "scikit-learn"}  # by module
# What a step of affine layers would take if it were its matrix products alone: no peers.
LIMITS = {
    "products-numpy": "benchmarks.implementations.products:NumPy",
    "products-torch": "benchmarks.implementations.products:Torch",
}
NOT_QUICK = {  # left out by --quick: slow to start, or close to another one
    "torch-compile", "book-float64", "xplayers-numpy-step", "xplayers-torch-plain",
    "xplayers-torch-numba", "xplayers-torch-compile", *LIMITS,
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


def epoch_sums(batches: Iterable[tuple[Any, Any]]) -> tuple[Any, ...]:
    """Return what is the same in every order of the samples of an epoch.

    The number of batches, the sums of the features, and those weighted by the labels: each sample
    is there once, and with its label.
    """
    xs, ts = zip(*((np.asarray(x), np.asarray(t)) for x, t in batches), strict=True)
    x, t = np.concatenate(xs), np.concatenate(ts)
    return len(xs), np.sum(x, axis=0), t.astype(x.dtype) @ x


def load(name: str) -> type:
    """Return the class of an implementation: of the lists above, or ``module:Class``."""
    module, _, attribute = (IMPLEMENTATIONS | LIMITS).get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name in OTHER_LIBRARIES:
            message = f"{OTHER_LIBRARIES[error.name]} is not installed"
            raise NotRun(message) from error
        raise
