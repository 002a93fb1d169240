"""The bodies of PyTorch: its own convolution, and NumPy's on the CPU where PyTorch takes longer.

A convolution is to images what a matrix product is to vectors: PyTorch has one for each of its
devices, and its two gradients. What is done here is to say which.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from xplayers.accelerate.compiled import Functions
from xplayers.accelerate.host import elementwise, embedding, normalization, pooling, softmax, sums
from xplayers.accelerate.host.roots import with_exact_root
from xplayers.accelerate.replay.replayed import Replayed
from xplayers.arrays.elementwise import as_it_stands
from xplayers.arrays.namespaces import Array, downcast_like, is_traced, namespace, upcast
from xplayers.arrays.operation import portable_body
from xplayers.layers import batch_normalization as layer
from xplayers.layers import normalization as portable
from xplayers.layers.windows import Sizes, Window

LARGEST = 16_384  # scores, up to which NumPy is faster than PyTorch and its threads; measured


def correlate(x: Array, W: Array, b: Array, window: Window, groups: int) -> Any:
    """Return the convolution of `x` ``(n, c, *sizes)`` with `W` ``(f, c / groups, *size)``."""
    if not x.numel():
        return NotImplemented
    from torch.nn import functional

    x, padding = _padded(x, window)
    convolution = getattr(functional, f"conv{window.axes}d")
    return convolution(x, W, b, window.stride, padding, window.dilation, groups)


def correlate_transposed(
    dy: Array, W: Array, b: Array, window: Window, groups: int, sizes: Sequence[int]
) -> Any:
    """Return the transpose of `correlate` applied to `dy`: an array of those sizes."""
    if not dy.numel():
        return NotImplemented
    padding, around = _symmetric(window)
    padded = [n + sum(p) for n, p in zip(sizes, around, strict=True)]
    x = dy.new_empty(1).expand(dy.shape[0], W.shape[1] * groups, *padded)  # for its shape
    dx = _gradients(dy, x, W, None, window, padding, groups, (True, False, False))[0]
    inner = (slice(p, p + n) for (p, _), n in zip(around, sizes, strict=True))
    dx = dx[(..., *inner)]
    return dx if b is None else dx + b.reshape(-1, *[1] * window.axes)


def filter_gradient(
    x: Array, dy: Array, shape: Sizes, window: Window, groups: int, bias: bool
) -> Any:
    """Return the gradient of `W` and, with `bias`, that of `b` in `correlate`."""
    if not x.numel() or not dy.numel():
        return NotImplemented
    x, padding = _padded(x, window)
    W, ends = x.new_empty(1).expand(shape), [shape[0]] if bias else None  # for their shapes
    _, dW, db = _gradients(dy, x, W, ends, window, padding, groups, (False, True, bias))
    return (dW, db) if bias else dW


def _gradients(
    dy: Array,
    x: Array,
    W: Array,
    ends: list[int] | None,
    window: Window,
    padding: Sizes,
    groups: int,
    wanted: tuple[bool, bool, bool],
) -> Any:
    """Return the gradients of input, filters and bias, as far as they are wanted."""
    torch: Any = sys.modules["torch"]
    zeros = [0] * window.axes
    return torch.ops.aten.convolution_backward(
        dy, x, W, ends, window.stride, padding, window.dilation, False, zeros, groups, wanted
    )


def _symmetric(window: Window) -> tuple[Sizes, list[tuple[int, int]]]:
    """Return the padding that PyTorch does, alike at both ends of an axis, and that around it."""
    if all(before == after for before, after in window.padding):
        return tuple(before for before, _ in window.padding), [(0, 0)] * window.axes
    return (0,) * window.axes, list(window.padding)


def _padded(x: Array, window: Window) -> tuple[Array, Sizes]:
    """Return `x` with the padding that PyTorch does not do, and that which it does."""
    padding, around = _symmetric(window)
    if any(map(any, around)):
        from torch.nn import functional

        x = functional.pad(x, [p for pair in reversed(around) for p in pair])
    return x, padding


def compiled(x: Array, step: Any) -> Any:
    """Return what takes the steps: replays on the CPU, or ``torch.compile`` where that is asked."""
    if step.gemm is not None or step.compile == "graph":
        return NotImplemented
    if step.compile is not True:
        return Replayed(step)
    torch: Any = sys.modules["torch"]
    return Functions(step, lambda step: torch.compile(step.pure), explicit=True)


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
    """By NumPy on the CPU where it is written in place and gives the same bits."""
    if not x.is_cpu or is_traced():
        return NotImplemented
    if out is not None and _through_numpy(function, operands, out, options):
        return out
    return as_it_stands(with_exact_root(namespace(x)), function, operands, out, options)


def _through_numpy(function: Any, operands: tuple, out: Any, options: dict[str, Any]) -> bool:
    outs = out if isinstance(out, tuple) else (out,)
    try:
        seen = {id(a): a.numpy() for a in (*operands, *outs) if hasattr(a, "numpy")}
    except (TypeError, RuntimeError):  # bfloat16; a transformation of torch.func
        return False
    values = tuple([seen.get(id(a), a) for a in operands])
    made = tuple([seen[id(o)] for o in outs])
    found = elementwise.in_one_pass(function, values, made, options, exact=True)
    return found is not NotImplemented


def zero_unless(a: Array, condition: Array, xp: Any) -> Any:
    """By NumPy on the CPU, which takes a tenth of the time."""
    seen, where = host_values(a), host_values(condition)
    if seen is None or where is None:
        return NotImplemented
    found = elementwise.zero_unless(seen, where, xp)
    return found if found is NotImplemented else as_tensor(found, a)


def rate_number(lr: Array) -> Any:
    """Return the number, where it can be looked at."""
    return lr if host_values(lr) is None or not lr.is_cpu else lr.item()


def batch_normalization(x: Array, gamma: Array, beta: Array, eps: float) -> Any:
    """With fewer calls on the CPU, and the squares where the output will be.

    A look shows that no square has overflowed, as mostly.
    """
    if not x.is_cpu or not x.numel():
        return NotImplemented
    xp, axes, column = namespace(x), portable.but_channels(x), (1, -1, *(1,) * (x.ndim - 2))
    wide = upcast(xp, x)
    mean = wide.mean(axes, keepdim=True)
    xh = wide - mean
    y = xh * xh
    var = y.mean(axes, keepdim=True)
    r = (var + eps).sqrt_().reciprocal_()
    seen = host_values(r)
    if seen is None or not normalization.least(seen) > 0.0:
        return portable_body(layer.batch_normalization)(x, gamma, beta, eps)
    xh *= r
    try:
        y = sys.modules["torch"].mul(xh, upcast(xp, gamma).reshape(column), out=y)
    except RuntimeError:  # gamma is on a tape, or in a transformation of torch.func
        y = xh * upcast(xp, gamma).reshape(column)
    y += upcast(xp, beta).reshape(column)
    return downcast_like(y, x), xh, r, mean, var


def normalized_rows(x: Array, axes: tuple[int, ...], eps: float, centred: bool = True) -> Any:
    """By NumPy on the CPU: so many passes over memory take PyTorch longer."""
    seen = host_values(x)
    if seen is None:
        return NotImplemented
    xh, r = normalization.normalized_rows(seen, axes, eps, centred)
    return as_tensor(xh, x), as_tensor(r, x)


def max_pooling_gradient(x: Array, y: Array, dy: Array, window: Window) -> Any:
    """By NumPy on the CPU."""
    seen: Any = [host_values(a) for a in (x, y, dy)]
    if any(a is None for a in seen):
        return NotImplemented
    with np.errstate(all="ignore"):  # tensors do not warn
        dx = pooling.max_pooling_gradient(*seen, window=window)
    return dx if dx is NotImplemented else as_tensor(dx, x)


def cross_entropy_of_labels(x: Array, labels: Array, out: Any = (None, None)) -> Any:
    """By NumPy on the CPU, where there are few."""
    scores, indices = host_values(x), host_values(labels)
    if scores is None or indices is None or scores.size > LARGEST:
        return NotImplemented
    given = [o if o is None else o.numpy() for o in out]
    found = softmax.cross_entropy_of_labels(scores, indices, given)
    if found is NotImplemented or given[0] is not None:
        return found if found is NotImplemented else out
    return tuple([as_tensor(a, x) for a in found])


def sum_of_squares(arrays: list[Array]) -> Any:
    """By NumPy on the CPU."""
    seen: Any = [host_values(a) for a in arrays]
    if any(a is None for a in seen):
        return NotImplemented
    return tuple([as_tensor(np.asarray(v), arrays[0]) for v in sums.sum_of_squares(seen)])


def taken(x: Array, at: Array) -> Array:
    """Without the time for negative indices and broadcasting."""
    return x.gather(-1, at)


def put(x: Array, at: Array, value: Array) -> Array:
    """Without a mask."""
    return x.scatter(-1, at, value)


BODIES = {
    "compiled": compiled,
    "evaluate": evaluate,
    "zero_unless": zero_unless,
    "host_values": host_values,
    "host_number": host_number,
    "rate_number": rate_number,
    "taken": taken,
    "put": put,
    "sum_of_squares": sum_of_squares,
    "sums_by_index": embedding.sums_by_index,
    "correlate": correlate,
    "correlate_transposed": correlate_transposed,
    "filter_gradient": filter_gradient,
    "max_pooling_gradient": max_pooling_gradient,
    "batch_normalization": batch_normalization,
    "normalized_rows": normalized_rows,
    "cross_entropy_of_labels": cross_entropy_of_labels,
    "cross_entropy_of_targets": softmax.cross_entropy_of_targets,
}
