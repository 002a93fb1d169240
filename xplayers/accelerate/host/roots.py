"""Square roots of PyTorch's tensors on the CPU, rounded to the nearest.

All other operations of an optimizer's rule are exactly rounded everywhere, so NumPy, machine code
and PyTorch agree on them. PyTorch's root comes from a library whose last bit depends on the maker
of the processor: on some every fifth root of float32 is another one than IEEE 754 asks for.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import Namespace, is_traced


@functools.cache
def with_exact_root(xp: Namespace) -> Namespace:
    """Return the namespace of PyTorch with this ``sqrt``, for functions of tensors on the CPU."""
    exact: Any = types.ModuleType(xp.__name__)
    vars(exact).update(vars(xp))
    exact.sqrt = root
    return exact


def root(x: Any) -> Any:
    """Return the square root, rounded to the nearest where NumPy can see the tensor."""
    torch = sys.modules["torch"]
    if x.dtype not in (torch.float32, torch.float64) or is_traced():
        return torch.sqrt(x)
    try:
        seen = x.numpy()
    except RuntimeError:  # gradients are recorded, or a transformation of torch.func
        return torch.sqrt(x)
    result = torch.empty_like(x)
    with np.errstate(invalid="ignore"):  # PyTorch does not warn
        np.sqrt(seen, out=result.numpy())
    return result
