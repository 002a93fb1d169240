"""What a kernel can be given."""

from __future__ import annotations

from xplayers.arrays.namespaces import Array, is_traced


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
