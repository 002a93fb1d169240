"""PyTorch's kernels, and what they can be given."""

from __future__ import annotations

import sys
from typing import Any

from xplayers.arrays.namespaces import Array, is_traced


def aten() -> Any:
    """Return the kernels of PyTorch by name."""
    return sys.modules["torch"].ops.aten


def in_order(a: Array) -> Array:
    """Return a tensor, if it is contiguous with the strides that its shape has.

    PyTorch calls a tensor contiguous whatever the strides of its axes of length 1 are, but they say
    to some kernels that channels come last, which round otherwise.
    """
    return a.view(-1).view(a.shape) if 1 in a.shape and a.is_contiguous() else a


def laid_as(a: Array, x: Array) -> Array:
    """Return `a` in the order in memory of `x`, of the same shape, so that it chooses no kernel."""
    if a.stride() == x.stride() or not (is_plain(a) and is_plain(x)):
        return a
    return aten().empty_like(x).copy_(a)


def is_plain(x: Array) -> bool:
    """Whether a tensor has memory of its own here, and nobody records gradients of it.

    A tensor of ``torch.func`` and what a compiler traces have none.
    """
    if x.requires_grad or is_traced():
        return False
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return True
