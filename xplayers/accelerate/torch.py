"""The bodies of PyTorch: its own kernels, and NumPy's on the CPU where PyTorch takes longer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers.accelerate.compiled import Functions
from xplayers.accelerate.host import dropout, elementwise, sums
from xplayers.accelerate.host import normalization as host_normalization
from xplayers.accelerate.host import pooling as host_pooling
from xplayers.accelerate.host import softmax as host_softmax
from xplayers.accelerate.host.roots import with_exact_root
from xplayers.accelerate.pytorch import (
    adam,
    attention,
    compilation,
    convolution,
    embedding,
    normalization,
    pooling,
    recurrence,
    softmax,
)
from xplayers.accelerate.pytorch.activations import kernel_of
from xplayers.accelerate.replay.replayed import Replayed
from xplayers.arrays.elementwise import as_it_stands
from xplayers.arrays.namespaces import Array, is_traced, namespace

LARGEST = 16_384  # scores, up to which NumPy is faster than PyTorch and its threads; measured


def compiled(x: Array, step: Any) -> Any:
    """Return what takes the steps: replays on the CPU, or ``torch.compile`` where that is asked."""
    if step.gemm is not None or step.compile == "graph":
        return NotImplemented
    if step.compile is not True:
        return Replayed(step)
    return Functions(step, compilation.compiled_step, explicit=True)


def host_values(a: Array) -> np.ndarray | None:
    """Return a tensor on the CPU as NumPy sees it."""
    try:
        return None if is_traced() else a.numpy()
    except _UNSEEN:
        return None


# What tensors raise that NumPy cannot see: a device, bfloat16, a transformation of torch.func; and
# tracers.
_UNSEEN = (TypeError, RuntimeError, AttributeError)


def host_number(a: Array) -> Any:
    """Return the value of a 0-d tensor on the CPU."""
    if not a.is_cpu or is_traced():
        return None
    try:
        return a.item()
    except RuntimeError:  # of torch.func, which has no value to look at
        return None


def as_tensor(a: np.ndarray, like: Any) -> Any:
    """Return what was computed from the host values of `like` as an array of its library."""
    return a if isinstance(like, np.ndarray) else sys.modules["torch"].from_numpy(a)


def evaluate(x: Array, function: Any, operands: tuple, out: Any, options: dict[str, Any]) -> Any:
    """By a kernel of PyTorch, or on the CPU by NumPy in one pass where that gives the same bits."""
    kernel = kernel_of(function, operands, out, options)
    if kernel is not None:
        return kernel(*operands, out=out)
    if adam.is_fused(function, operands, options):
        return adam.updated(operands, out, options)
    if not x.is_cpu or is_traced():
        return NotImplemented
    if out is not None or x.numel() > elementwise.PLAIN:
        results = _through_numpy(function, operands, out, options)
        if results is not NotImplemented:
            return results
    return as_it_stands(with_exact_root(namespace(x)), function, operands, out, options)


def _through_numpy(function: Any, operands: tuple, out: Any, options: dict[str, Any]) -> Any:
    outs = out if isinstance(out, tuple) else () if out is None else (out,)
    try:
        seen = {id(a): a.numpy() for a in (*operands, *outs) if hasattr(a, "numpy")}
    except (TypeError, RuntimeError):  # bfloat16; a transformation of torch.func
        return NotImplemented
    values = tuple([seen.get(id(a), a) for a in operands])
    memory = tuple([seen[id(o)] for o in outs]) or None
    results = elementwise.in_one_pass(function, values, memory, options, exact=True)
    if results is NotImplemented or outs:
        return results if results is NotImplemented else out
    if isinstance(results, tuple):
        return tuple([as_tensor(a, operands[0]) for a in results])
    return as_tensor(results, operands[0])


def _by_numpy(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return a body that computes by one of NumPy on the CPU, where PyTorch takes longer."""

    def by_numpy(*args: Any, **options: Any) -> Any:
        tensor = sys.modules["torch"].Tensor
        seen = [host_values(a) if isinstance(a, tensor) else a for a in args]
        if any(a is None for a in seen):
            return NotImplemented
        with np.errstate(all="ignore"):  # tensors do not warn
            results = body(*seen, **options)
        if results is NotImplemented:
            return results
        if isinstance(results, tuple):
            return tuple([as_tensor(a, args[0]) for a in results])
        return as_tensor(results, args[0])

    return by_numpy


def rate_number(lr: Array) -> Any:
    """Return the number, where it can be looked at."""
    return lr if host_values(lr) is None or not lr.is_cpu else lr.item()


def cross_entropy_of_labels(x: Array, labels: Array, out: Any = (None, None)) -> Any:
    """By NumPy on the CPU where there are few, or a kernel; else by PyTorch."""
    scores, indices = host_values(x), host_values(labels)
    if scores is None or indices is None:
        return softmax.cross_entropy_of_labels(x, labels, out)
    if scores.size > LARGEST and not host_softmax.is_for_kernels(scores):
        return softmax.cross_entropy_of_labels(x, labels, out)
    memory = [o if o is None else o.numpy() for o in out]
    results = host_softmax.cross_entropy_of_labels(scores, indices, memory)
    if results is NotImplemented or memory[0] is not None:
        return results if results is NotImplemented else out
    return tuple([as_tensor(a, x) for a in results])


def total(values: Array, divisor: Any) -> Any:
    """By NumPy on the CPU where there are few."""
    few = values.numel() <= LARGEST and isinstance(divisor, int | float)
    seen = host_values(values) if few else None
    if seen is None:
        return NotImplemented
    return as_tensor(np.asarray(np.add.reduce(seen, None) / divisor), values)


def scaled(dx: Array, factor: float) -> Any:
    """By NumPy on the CPU where there are few, with the same bits."""
    seen = host_values(dx) if dx.numel() <= LARGEST else None
    return NotImplemented if seen is None else as_tensor(seen * factor, dx)


def sum_of_squares(arrays: list[Array]) -> Any:
    """By NumPy on the CPU."""
    seen: Any = [host_values(a) for a in arrays]
    if any(a is None for a in seen):
        return NotImplemented
    return tuple([as_tensor(np.asarray(v), arrays[0]) for v in sums.sum_of_squares(seen)])


def max_pooling_gradient(
    x: Array,
    y: Array,
    dy: Array,
    window: Any,
    places: Array | None = None,
    out: Array | None = None,
) -> Any:
    """By PyTorch where its forward was, else by NumPy on the CPU."""
    if places is not None:
        return pooling.max_pooling_gradient(x, y, dy, window, places, out)
    dx = _max_pooling_gradient(x, y, dy, window)
    return dx if out is None or dx is NotImplemented else out.copy_(dx)


_max_pooling_gradient = _by_numpy(host_pooling.max_pooling_gradient)


def taken(x: Array, at: Array) -> Array:
    """Without the time for negative indices and broadcasting."""
    return x.gather(-1, at)


def put(x: Array, at: Array, value: Array) -> Array:
    """Without a mask."""
    return x.scatter(-1, at, value)


BODIES = {
    "compiled": compiled,
    "evaluate": evaluate,
    "zero_unless": _by_numpy(elementwise.zero_unless),
    "host_values": host_values,
    "host_number": host_number,
    "rate_number": rate_number,
    "taken": taken,
    "put": put,
    "total": total,
    "scaled": scaled,
    "sum_of_squares": sum_of_squares,
    "sums_by_index": embedding.sums_by_index,
    "correlate": convolution.correlate,
    "correlate_transposed": convolution.correlate_transposed,
    "filter_gradient": convolution.filter_gradient,
    "attention": attention.attention,
    "attention_gradient": attention.attention_gradient,
    "recurrence": recurrence.recurrence,
    "recurrence_gradient": recurrence.recurrence_gradient,
    "drop": _by_numpy(dropout.drop),
    "masked": _by_numpy(dropout.masked),
    "max_pooling_with_places": pooling.max_pooling_with_places,
    "max_pooling_gradient": max_pooling_gradient,
    "batch_normalization": normalization.batch_normalization,
    "batch_normalization_gradient": normalization.batch_normalization_gradient,
    "layer_normalization": normalization.layer_normalization,
    "layer_normalization_gradient": normalization.layer_normalization_gradient,
    "group_normalization": normalization.group_normalization,
    "group_normalization_gradient": normalization.group_normalization_gradient,
    "normalized_rows": _by_numpy(host_normalization.normalized_rows),
    "cross_entropy_of_labels": cross_entropy_of_labels,
    "cross_entropy_of_targets": host_softmax.cross_entropy_of_targets,
}
