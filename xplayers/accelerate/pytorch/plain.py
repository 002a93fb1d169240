"""PyTorch's kernels, and what they can be given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from xplayers.arrays.namespaces import Array, dtype_name, is_traced

FEW = 4  # channels of pictures


def aten() -> Any:
    """Return the kernels of PyTorch by name."""
    return sys.modules["torch"].ops.aten


def in_order(a: Array) -> Array:
    """Return a tensor, if it is contiguous with the strides that its shape has.

    PyTorch calls a tensor contiguous whatever the strides of its axes of length 1 are, but they say
    to some kernels that channels come last, which round otherwise.
    """
    return a.view(-1).view(a.shape) if 1 in a.shape and a.is_contiguous() else a


def has_channels_last(a: Array) -> bool:
    """Whether a tensor of images lies in row-major order but for channels, which are last."""
    if a.ndim != 4 or a.is_contiguous():
        return False
    return a.is_contiguous(memory_format=sys.modules["torch"].channels_last)


def are_best_last(a: Array) -> bool:
    """Whether images are best computed with channels last: on the CPU, where they lie so.

    PyTorch takes less time over such. Few channels of float32 are laid so: a convolution of one
    takes a tenth of the time, and gives such images to all further layers of a network.
    """
    if a.ndim != 4 or not a.is_cpu:
        return False
    few = a.shape[1] <= FEW and dtype_name(a.dtype) == "float32"
    return (few or has_channels_last(a)) and is_plain(a)


def channels_last(a: Array) -> Array:
    """Return images with channels last in memory, and strides that say so.

    They do where axes of length 1 would leave open which order it is.
    """
    strides = _channels_last(a.shape)
    if a.stride() == strides:
        return a
    last = a.contiguous(memory_format=sys.modules["torch"].channels_last)
    return last.as_strided(a.shape, strides, last.storage_offset())


def empty_channels_last(shape: Sequence[int], like: Array) -> Array:
    """Return memory for images that is not initialized."""
    return sys.modules["torch"].empty_strided(shape, _channels_last(shape), dtype=like.dtype)


def _channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of images whose channels are last in memory."""
    _, c, h, w = shape
    return c * h * w, 1, c * w, c


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
