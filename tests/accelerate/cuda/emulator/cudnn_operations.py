"""What operations of cuDNN compute, of arrays ``(n, c, *sizes)``.

The last arguments are the shape of the first result and, of a convolution, its window.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np


def _places(size: Any, outputs: Any, window: Any) -> Any:
    """Return each place of a window, and where all windows have it in padded inputs."""
    for place in itertools.product(*map(range, size)):
        yield (
            place,
            tuple(
                slice(k * d, k * d + s * (n - 1) + 1, s)
                for k, d, s, n in zip(
                    place, window["dilation"], window["stride"], outputs, strict=True
                )
            ),
        )


def _padded(x: np.ndarray, window: Any) -> np.ndarray:
    around = zip(window["pre_padding"], window["post_padding"], strict=True)
    return np.pad(x, [(0, 0), (0, 0), *around])


def _groups(channels: int, per_group: int, filters: int) -> Any:
    groups = channels // per_group
    for g in range(groups):
        yield (
            slice(g * per_group, (g + 1) * per_group),
            slice(g * filters // groups, (g + 1) * filters // groups),
        )


def fprop(x: np.ndarray, W: np.ndarray, shape: Any, window: Any) -> np.ndarray:
    y, x = np.zeros(shape), _padded(x, window)
    for c, f in _groups(x.shape[1], W.shape[1], W.shape[0]):
        for place, where in _places(W.shape[2:], shape[2:], window):
            seen = x[(slice(None), c, *where)]
            y[:, f] += np.einsum("nc...,fc->nf...", seen, W[(f, slice(None), *place)])
    return y


def dgrad(dy: np.ndarray, W: np.ndarray, shape: Any, window: Any) -> np.ndarray:
    dx = _padded(np.zeros(shape), window)
    for c, f in _groups(shape[1], W.shape[1], W.shape[0]):
        for place, where in _places(W.shape[2:], dy.shape[2:], window):
            given = np.einsum("nf...,fc->nc...", dy[:, f], W[(f, slice(None), *place)])
            dx[(slice(None), c, *where)] += given
    inner = zip(window["pre_padding"], shape[2:], strict=True)
    return dx[(..., *(slice(p, p + n) for p, n in inner))]


def wgrad(x: np.ndarray, dy: np.ndarray, shape: Any, window: Any) -> np.ndarray:
    dW, x = np.zeros(shape), _padded(x, window)
    for c, f in _groups(x.shape[1], shape[1], shape[0]):
        for place, where in _places(shape[2:], dy.shape[2:], window):
            seen = x[(slice(None), c, *where)]
            axes = [0, *range(2, dy.ndim)]
            dW[(f, slice(None), *place)] = np.tensordot(dy[:, f], seen, (axes, axes))
    return dW


def _normalized(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray, eps: np.ndarray, axes: Any
) -> Any:
    mean = x.mean(axis=axes, keepdims=True)
    r = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + eps)
    return (x - mean) * r * scale + bias, mean, r


def _normalized_vjp(
    dy: np.ndarray, x: np.ndarray, scale: np.ndarray, mean: np.ndarray, r: np.ndarray, axes: Any,
    rest: Any,
) -> Any:  # fmt: skip
    xh, h, total = (x - mean) * r, dy * scale, {"axis": axes, "keepdims": True}
    dx = r * (h - h.mean(**total) - xh * (h * xh).mean(**total))
    return dx, (dy * xh).sum(axis=rest, keepdims=True), dy.sum(axis=rest, keepdims=True)


def _but_channels(x: np.ndarray) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def batchnorm(x: Any, scale: Any, bias: Any, eps: Any, shape: Any) -> Any:
    return _normalized(x, scale, bias, eps, _but_channels(x))


def batchnorm_vjp(dy: Any, x: Any, scale: Any, mean: Any, r: Any, shape: Any) -> Any:
    return _normalized_vjp(dy, x, scale, mean, r, _but_channels(x), _but_channels(x))


def layernorm(x: Any, scale: Any, bias: Any, eps: Any, shape: Any) -> Any:
    return _normalized(x, scale, bias, eps, (1, 2, 3))


def layernorm_vjp(dy: Any, x: Any, scale: Any, mean: Any, r: Any, shape: Any) -> Any:
    return _normalized_vjp(dy, x, scale, mean, r, (1, 2, 3), 0)


def rmsnorm(x: Any, scale: Any, eps: Any, shape: Any) -> Any:
    r = 1 / np.sqrt((x * x).mean(axis=(1, 2, 3), keepdims=True) + eps)
    return x * r * scale, r


def rmsnorm_vjp(dy: Any, x: Any, scale: Any, r: Any, shape: Any) -> Any:
    xh, h = x * r, dy * scale
    dx = r * (h - xh * (h * xh).mean(axis=(1, 2, 3), keepdims=True))
    return dx, (dy * xh).sum(axis=0, keepdims=True)


def _attended(q: Any, k: Any, causal: bool) -> Any:
    """Return the weights of attention, and the logarithms of the sums that they are divided by."""
    scores = q @ k.mT
    if causal:
        past = np.tri(*scores.shape[-2:], dtype=bool)
        scores = np.where(past, scores, -np.inf)
    largest = scores.max(axis=-1, keepdims=True)
    sums = largest + np.log(np.exp(scores - largest).sum(axis=-1, keepdims=True))
    return np.exp(scores - sums), sums


def sdpa(q: Any, k: Any, v: Any, shape: Any, causal: bool = False) -> Any:
    a, sums = _attended(q, k, causal)
    return a @ v, sums


def sdpa_vjp(
    q: Any, k: Any, v: Any, o: Any, do: Any, sums: Any, shape: Any, causal: bool = False
) -> Any:
    a = _attended(q, k, causal)[0]
    ds = a * (do @ v.mT - (do * o).sum(axis=-1, keepdims=True))
    return ds @ k, ds.mT @ q, a.mT @ do


ATTENTION = {
    "sdpa": sdpa,
    "sdpa causal": functools.partial(sdpa, causal=True),
    "sdpa_backward": sdpa_vjp,
    "sdpa_backward causal": functools.partial(sdpa_vjp, causal=True),
}
