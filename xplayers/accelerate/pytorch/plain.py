"""PyTorch's kernels, and what they can be given."""

from __future__ import annotations

import sys
from typing import Any

from xplayers.arrays.namespaces import Array, is_traced


def aten() -> Any:
    """Return the kernels of PyTorch by name."""
    return sys.modules["torch"].ops.aten


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
