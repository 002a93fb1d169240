"""The namespace of PyTorch's tensors: that of ``array_api_compat``, with numbers made once.

There ``maximum(x, 0.0)`` makes a tensor of the number in every call, of a dtype that it asks in a
way that `torch.compile` cannot follow. A floating-point tensor gives the number its own dtype.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from array_api_compat import torch as compat

from xplayers.arrays.namespaces import introduce_tensors, is_traced

torch: Any = sys.modules["torch"]


def maximum(a: Any, b: Any, /, **options: Any) -> Any:
    """Return the larger one of two tensors, or of a tensor and a number."""
    if type(b) in _NUMBERS and isinstance(a, torch.Tensor) and a.is_floating_point():
        return torch.maximum(a, _like(a, b), **options)
    return compat.maximum(a, b, **options)


def minimum(a: Any, b: Any, /, **options: Any) -> Any:
    """Return the smaller one of two tensors, or of a tensor and a number."""
    if type(b) in _NUMBERS and isinstance(a, torch.Tensor) and a.is_floating_point():
        return torch.minimum(a, _like(a, b), **options)
    return compat.minimum(a, b, **options)


_NUMBERS = (float, int)


def _like(a: Any, number: float) -> Any:
    """Return a number as a 0-d tensor that meets `a`."""
    if a.is_cpu and not is_traced():
        return _on_host(number, str(number), a.dtype)
    return torch.full((), number, dtype=a.dtype, device=a.device)


@functools.lru_cache(maxsize=64)
def _on_host(number: float, text: str, dtype: Any) -> Any:
    with torch.inference_mode(False):  # `text` tells -0.0 from 0.0
        return torch.tensor(number, dtype=dtype, device="cpu")


# Named as the one that it stands for. The functions are in this module, where a compiler looks up
# what they mention.
NAMESPACE: Any = types.ModuleType(compat.__name__)
vars(NAMESPACE).update({**vars(compat), "maximum": maximum, "minimum": minimum})
for _kind in (torch.Tensor, torch.nn.Parameter):
    introduce_tensors(_kind, NAMESPACE)
