"""Attention by PyTorch's flash attention for the CPU, which holds no weights of time squared.

Dao, Fu, Ermon, Rudra, Ré, "FlashAttention", NeurIPS 2022: blocks of keys one after the other, with
the logarithm of the sum of exponentials of each row in the place of the weights.
"""

from __future__ import annotations

from typing import Any

from xplayers.accelerate.pytorch.plain import aten
from xplayers.arrays.namespaces import Array, is_traced


def attention(q: Array, k: Array, v: Array, key_mask: Array | None, causal: bool) -> Any:
    """Return `o`, None for the weights, and the logarithms of the sums."""
    if key_mask is not None or not q.is_cpu or is_traced() or 0 in (q.numel(), k.numel()):
        return NotImplemented
    forward = aten()._scaled_dot_product_flash_attention_for_cpu.default
    if not q.stride(-1) == k.stride(-1) == v.stride(-1) == 1:
        q, k, v = _dense(q, k, v)
    o, log_sums = forward(q, k, v, 0.0, causal, scale=1.0)
    return o, None, log_sums


def attention_gradient(
    do: Array, q: Array, k: Array, v: Array, a: Array | None, o: Array, log_sums: Any, causal: bool
) -> Any:
    """Return the gradients of `q`, `k` and `v`."""
    if a is not None or do.dtype != q.dtype or is_traced():
        return NotImplemented
    backward = aten()._scaled_dot_product_flash_attention_for_cpu_backward.default
    if not do.stride(-1) == q.stride(-1) == k.stride(-1) == v.stride(-1) == o.stride(-1) == 1:
        do, q, k, v, o = _dense(do, q, k, v, o)
    return backward(do, q, k, v, o, log_sums, 0.0, causal, scale=1.0)


def _dense(*arrays: Array) -> list[Array]:
    """Return arrays whose last axis is dense in memory: past the end of others kernels read on."""
    return [a.contiguous() for a in arrays]
