"""What layers compute, written apart from the library, in NumPy and in PyTorch.

The operations are such that they take complex arguments too: the derivative of f along v is then
Im f(x + i h v) / h, exact to the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import xplayers as xl

Arrays = dict[str, np.ndarray]


def where(condition: Any, a: Any, b: Any) -> Any:
    return np.where(np.real(condition) > 0, a, b)


def sigmoid(x: Any) -> Any:
    e = np.exp(where(x, -x, x))  # of a negative real part
    return where(x, 1 / (1 + e), e / (1 + e))


def softplus(x: Any) -> Any:
    return where(x, x, 0) + np.log1p(np.exp(where(x, -x, x)))


def gelu_tanh(x: Any) -> Any:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x: Any) -> Any:
    erfc = np.vectorize(math.erfc)
    return x * erfc(-x / math.sqrt(2)) / 2


def softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x - np.max(np.real(x), axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def affine(x: Any, p: Arrays) -> Any:
    return x.reshape(x.shape[0], -1) @ p["W"] + p["b"]


def mlp(x: Any, p: Arrays) -> Any:
    h = x @ p["0.W"] + p["0.b"]
    return np.tanh(h) @ p["2.W"] + p["2.b"]


def torch_mlp(torch: Any, x: Any, p: Any) -> Any:
    return torch.tanh(x @ p["0.W"] + p["0.b"]) @ p["2.W"] + p["2.b"]


def shared() -> xl.Layer:
    """One affine map at two places, one of them in a container of its own."""
    square = xl.Affine.init(6, 6, rng=3)
    return xl.Sequential(fc=square, act=xl.Sigmoid(), inner=xl.Sequential(square, xl.Tanh()))


def shared_reference(x: Any, p: Arrays) -> Any:
    h = sigmoid(x @ p["fc.W"] + p["fc.b"])
    return np.tanh(h @ p["fc.W"] + p["fc.b"])


def torch_shared(torch: Any, x: Any, p: Any) -> Any:
    return torch.tanh(torch.sigmoid(x @ p["fc.W"] + p["fc.b"]) @ p["fc.W"] + p["fc.b"])


def normalized(x: Any, axes: tuple[int, ...], eps: float = 1e-5) -> Any:
    c = x - x.mean(axis=axes, keepdims=True)
    return c / np.sqrt((c * c).mean(axis=axes, keepdims=True) + eps)


def channels(a: Any, x: Any) -> Any:
    return a.reshape(1, -1, *[1] * (x.ndim - 2))


def batch_norm(x: Any, p: Arrays) -> Any:
    xh = normalized(x, tuple(a for a in range(x.ndim) if a != 1))
    return channels(p["gamma"], x) * xh + channels(p["beta"], x)


def group_norm(x: Any, p: Arrays) -> Any:
    xh = normalized(x.reshape(x.shape[0], 2, -1), (2,)).reshape(x.shape)
    return channels(p["gamma"], x) * xh + channels(p["beta"], x)


def scaled(layer: xl.Layer) -> xl.Layer:
    """Give gamma and beta values that are not 1 and 0."""
    rng = np.random.default_rng(11)
    for name, a in layer.params.items():
        layer.params[name] = rng.normal(1.0, 0.5, a.shape).astype(a.dtype)
    return layer


def standardize() -> xl.Layer:
    """Make the layer, for 5 features, with values that are not 0 and 1."""
    layer = xl.Standardize.init(5)
    layer.buffers["mean"] = np.linspace(-1, 1, 5, dtype="float32")
    layer.buffers["scale"] = np.linspace(0.5, 2, 5, dtype="float32")
    return layer


def keep(shape: tuple[int, ...], rate: float, seed: int, count: int = 0) -> np.ndarray:
    """The mask of Dropout, by unsigned arithmetic in Python integers."""

    def mix(h: int) -> int:
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16)

    key = mix((count * 0x9E3779B9 + seed * 0x85EBCA77) % 2**32)
    n = math.prod(shape)
    bits = [mix(mix((i + key) % 2**32) ^ key) % 2**24 for i in range(n)]
    return (np.asarray(bits) >= round(rate * 2**24)).reshape(shape)


def kept(shape: tuple[int, ...], rate: float, seed: int) -> np.ndarray:
    """What Dropout multiplies by."""
    return keep(shape, rate, seed) / (1 - rate)


def dropped(rate: float, seed: int) -> Callable[..., Any]:
    return lambda x, p: x * kept(x.shape, rate, seed)


def torch_dropped(rate: float, seed: int) -> Callable[..., Any]:
    return lambda t, x, p: x * t.tensor(keep(tuple(x.shape), rate, seed)) / (1 - rate)


def parallel_reference(x: Any, p: Arrays) -> Any:
    return np.concatenate([x @ p["0.W"] + p["0.b"], np.tanh(x)], axis=1)


def residual_reference(x: Any, p: Arrays) -> Any:
    return x + np.tanh(x @ p["0.W"] + p["0.b"])


def functional(torch: Any) -> Any:
    return torch.nn.functional


def step(kind: str, a: Any, h: Any, c: Any, p: Arrays, s: str) -> tuple[Any, Any]:
    """One step in time: `a` is the input's part of the gates, `s` the suffix of the names."""
    Wh, n = p["Wh" + s], len(h)
    if kind == "Rnn":
        return np.tanh(a + h @ Wh), c
    if kind == "Lstm":
        a = a + h @ Wh
        i, f, o = (sigmoid(a[k * n : (k + 1) * n]) for k in (0, 1, 3))
        c = f * c + i * np.tanh(a[2 * n : 3 * n])
        return o * np.tanh(c), c
    q = h @ Wh + p.get("bh" + s, 0)
    r, z = (sigmoid(a[k * n : (k + 1) * n] + q[k * n : (k + 1) * n]) for k in (0, 1))
    last = r * q[2 * n :] if "bh" + s in p else (r * h) @ Wh[:, 2 * n :]
    return (1 - z) * np.tanh(a[2 * n :] + last) + z * h, c


def recurrent(kind: str, x: Any, p: Arrays) -> Any:
    """A recurrent layer, sample by sample and step by step."""
    n_hidden = p["Wh"].shape[0]
    ys = []
    for s in ["", "_reverse"] if "Wx_reverse" in p else [""]:
        y: dict[tuple[int, int], Any] = {}
        for i in range(x.shape[0]):
            h = c = np.zeros(n_hidden)
            for t in range(x.shape[1])[:: -1 if s else 1]:
                h, c = step(kind, x[i, t] @ p["Wx" + s] + p["b" + s], h, c, p, s)
                y[i, t] = h
        ys.append([[y[i, t] for t in range(x.shape[1])] for i in range(x.shape[0])])
    return np.concatenate([np.asarray(y) for y in ys], axis=-1)


def torch_recurrent(name: str) -> Any:
    """torch.lstm, torch.gru, torch.rnn_tanh: what the modules of torch.nn call."""

    def run(torch: Any, x: Any, p: Any) -> Any:
        weights = []
        suffixes = ["", "_reverse"] if "Wx_reverse" in p else [""]
        for s in suffixes:
            bias = p.get("bh" + s, torch.zeros_like(p["b" + s]))
            weights += [p["Wx" + s].T, p["Wh" + s].T, p["b" + s], bias]
        zeros = torch.zeros(len(suffixes), x.shape[0], p["Wh"].shape[0], dtype=x.dtype)
        state = (zeros, zeros) if name == "lstm" else zeros
        options = (True, 1, 0.0, False, len(suffixes) == 2, True)
        return getattr(torch, name)(x, state, weights, *options)[0]

    return run


def torch_published_gru(torch: Any, x: Any, p: Any) -> Any:
    h, hs = torch.zeros(x.shape[0], p["Wh"].shape[0], dtype=x.dtype), []
    Wr, Wz, Wn = p["Wh"].chunk(3, 1)
    for t in range(x.shape[1]):
        r, z, n = (x[:, t] @ p["Wx"] + p["b"]).chunk(3, 1)
        r, z = torch.sigmoid(r + h @ Wr), torch.sigmoid(z + h @ Wz)
        h = (1 - z) * torch.tanh(n + (r * h) @ Wn) + z * h
        hs.append(h)
    return torch.stack(hs, 1)


def places(shape: Any, size: Any, stride: Any, padding: Any, dilation: Any = 1) -> Any:
    """Yield each output position, and where its window lies in the padded array."""
    each = (np.resize(v, len(size)) for v in (size, stride, padding, dilation))
    axes = [
        [
            slice(s * o, s * o + d * (k - 1) + 1, d)
            for o in range((n + p - d * (k - 1) - 1) // s + 1)
        ]
        for n, k, s, p, d in zip(shape[2:], *each, strict=True)
    ]
    for position in np.ndindex(*map(len, axes)):
        yield position, tuple(axis[o] for axis, o in zip(axes, position, strict=True))


def windows_of(shape: Any, *geometry: Any) -> tuple[list[Any], tuple[int, ...]]:
    found = list(places(shape, *geometry))
    return found, tuple(o + 1 for o in found[-1][0])


def padded(x: Any, padding: Any, value: float = 0.0) -> Any:
    """Pad the last axes; `padding` is a pair for each: before and after."""
    return np.pad(x, [(0, 0), (0, 0), *padding], constant_values=value)


def convolution(
    x: Any, p: Arrays, padding: Any, stride: Any = 1, dilation: Any = 1, groups: int = 1
) -> Any:
    """Convolution position by position, filter by filter."""
    W, more = p["W"], [sum(pair) for pair in padding]
    windows, sizes = windows_of(x.shape, W.shape[2:], stride, more, dilation)
    y = np.zeros((x.shape[0], W.shape[0], *sizes), np.result_type(x, W))
    x, depth = padded(x, padding), W.shape[1]
    for f in range(W.shape[0]):
        first = f * groups // W.shape[0] * depth  # of the channels of its group
        for o, place in windows:
            window = x[(slice(None), slice(first, first + depth), *place)]
            y[(slice(None), f, *o)] = np.sum(window * W[f], axis=tuple(range(1, x.ndim)))
    return y + per_channel(p, y)


def per_channel(p: Arrays, y: Any) -> Any:
    return p["b"].reshape(-1, *(1,) * (y.ndim - 2)) if "b" in p else 0.0


def transposed(x: Any, p: Arrays, stride: int, padding: int = 0, more: int = 0) -> Any:
    """Transposed convolution: every input adds its filter to the output."""
    W = p["W"]
    whole = [(n - 1) * stride + k + more for n, k in zip(x.shape[2:], W.shape[2:], strict=True)]
    y = np.zeros((x.shape[0], W.shape[1], *whole), np.result_type(x, W))
    for o in np.ndindex(*x.shape[2:]):
        place = tuple(
            slice(stride * i, stride * i + k) for i, k in zip(o, W.shape[2:], strict=True)
        )
        y[(slice(None), slice(None), *place)] += np.tensordot(x[(..., *o)], W, 1)
    inner = [slice(padding, n - padding) for n in whole]
    y = y[(slice(None), slice(None), *inner)]
    return y + per_channel(p, y)


def pooled(x: Any, size: Any, stride: Any, padding: int, fill: float, combine: Any) -> Any:
    windows, sizes = windows_of(x.shape, size, stride, 2 * padding)
    y = np.zeros((*x.shape[:2], *sizes), x.dtype)
    x = padded(x, [(padding, padding)] * len(size), fill)
    for o, place in windows:
        window = x[(slice(None), slice(None), *place)]
        y[(slice(None), slice(None), *o)] = combine(window.reshape(*x.shape[:2], -1))
    return y


def largest(rows: Any) -> Any:
    """Return the largest of the last axis, by its real part."""
    where = np.argmax(rows.real, axis=-1)
    return np.take_along_axis(rows, where[..., None], -1)[..., 0]


def mean(rows: Any) -> Any:
    return np.sum(rows, axis=-1) / rows.shape[-1]


def attention(
    x: Any, p: Arrays, heads: int, causal: bool, theta: float = 0.0, m: Any = None
) -> Any:
    """Attention, sample by sample, head by head and query by query; `m` is what drops weights."""
    n, time, features = x.shape
    size = features // heads
    q, k, v = (x @ p["W" + s] + p.get("b" + s, 0) for s in "qkv")
    o: Any = np.zeros((n, time, features), np.result_type(q, k, v))
    group = features // k.shape[2]
    for i in range(n):
        for j in range(heads):
            f, g = (slice(at * size, (at + 1) * size) for at in (j, j // group))
            turned = [rotary(a, theta) if theta else a for a in (q[i, :, f], k[i, :, g])]
            for t in range(time):
                seen = t + 1 if causal else time
                a = softmax(turned[1][:seen] @ turned[0][t] / math.sqrt(size))
                o[i, t, f] = (a if m is None else a * m[i, j, t, :seen]) @ v[i, :seen, g]
    return o @ p["Wo"] + p.get("bo", 0)


def torch_attention(heads: int, causal: bool, theta: float = 0.0, m: Any = None) -> Any:
    def run(torch: Any, x: Any, p: Any) -> Any:
        size = x.shape[-1] // heads
        q, k, v = (
            (x @ p["W" + s] + p.get("b" + s, 0)).unflatten(-1, (-1, size)).transpose(1, 2)
            for s in "qkv"
        )
        if theta:
            q, k = (torch_rotary(torch, a, theta) for a in (q, k))
        attend = functional(torch).scaled_dot_product_attention
        if m is None:
            o = attend(q, k, v, is_causal=causal, enable_gqa=True)
        else:  # the weights are what comes of one-hot values
            o = attend(q, k, torch.eye(k.shape[2], dtype=x.dtype).expand(*k.shape[:3], -1))
            o = (o * torch.tensor(m)) @ v
        return o.transpose(1, 2).flatten(2) @ p["Wo"] + p.get("bo", 0)

    return run


def rotary(x: Any, theta: float) -> Any:
    """Turn each pair of features of each position of (..., time, size) by a matrix."""
    y, half = np.zeros_like(x), x.shape[-1] // 2
    for t in range(x.shape[-2]):
        for i in range(half):
            angle = t * theta ** (-i / half)
            c, s = math.cos(angle), math.sin(angle)
            turn = np.asarray([[c, s], [-s, c]])
            y[..., t, i::half] = x[..., t, i::half] @ turn
    return y


def torch_rotary(torch: Any, x: Any, theta: float) -> Any:
    """The same by a product of complex numbers."""
    a, b = x.chunk(2, -1)
    speeds = theta ** (-torch.arange(a.shape[-1], dtype=x.dtype) / a.shape[-1])
    angles = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype), speeds)
    y = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([y.real, y.imag], -1)


def gated(x: Any, p: Arrays) -> Any:
    g = x @ p["gate.W"]
    return (g * sigmoid(g) * (x @ p["up.W"])) @ p["down.W"]


def torch_gated(torch: Any, x: Any, p: Any) -> Any:
    return (functional(torch).silu(x @ p["gate.W"]) * (x @ p["up.W"])) @ p["down.W"]


def rows_of(x: Any, p: Arrays) -> Any:
    return p["W"][np.real(x).astype(int)]
