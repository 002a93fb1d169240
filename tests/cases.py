"""The tables: every layer, loss and optimizer, each with an independent reference.

A reference is written apart from the library, in NumPy, and in such operations that it takes
complex arguments too: the derivative of f along v is then Im f(x + i h v) / h, exact to the last
digits. Where PyTorch is there, its own function of that name is a second oracle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import xplayers as xl

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table of layers."""

    id: str
    make: Callable[[], xl.Layer]
    shape: tuple[int, ...]  # of the input; the first axis is the batch
    reference: Callable[[Any, Arrays], Any]
    torch: Callable[[Any, Any, Any], Any]  # (torch, x, parameters) -> y
    view: bool = False  # whether the results may be views of the inputs
    analytic: bool = True  # whether the reference takes complex arguments
    integers: int | None = None  # the input holds integers below this, and has no gradient
    idle: tuple[str, ...] = ()  # parameters whose gradient is 0 exactly, as the output ignores them
    training: bool = False  # whether training and inference compute different things


def _where(condition: Any, a: Any, b: Any) -> Any:
    return np.where(np.real(condition) > 0, a, b)


def _sigmoid(x: Any) -> Any:
    e = np.exp(_where(x, -x, x))  # of a negative real part
    return _where(x, 1 / (1 + e), e / (1 + e))


def _softplus(x: Any) -> Any:
    return _where(x, x, 0) + np.log1p(np.exp(_where(x, -x, x)))


def _gelu_tanh(x: Any) -> Any:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu(x: Any) -> Any:
    erfc = np.vectorize(math.erfc)
    return x * erfc(-x / math.sqrt(2)) / 2


def _softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x - np.max(np.real(x), axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _affine(x: Any, p: Arrays) -> Any:
    return x.reshape(x.shape[0], -1) @ p["W"] + p["b"]


def _mlp(x: Any, p: Arrays) -> Any:
    h = x @ p["0.W"] + p["0.b"]
    return np.tanh(h) @ p["2.W"] + p["2.b"]


def _torch_mlp(torch: Any, x: Any, p: Any) -> Any:
    return torch.tanh(x @ p["0.W"] + p["0.b"]) @ p["2.W"] + p["2.b"]


def _shared() -> xl.Layer:
    """One affine map at two places, one of them in a container of its own."""
    square = xl.Affine.init(6, 6, rng=3)
    return xl.Sequential(fc=square, act=xl.Sigmoid(), inner=xl.Sequential(square, xl.Tanh()))


def _shared_reference(x: Any, p: Arrays) -> Any:
    h = _sigmoid(x @ p["fc.W"] + p["fc.b"])
    return np.tanh(h @ p["fc.W"] + p["fc.b"])


def _torch_shared(torch: Any, x: Any, p: Any) -> Any:
    return torch.tanh(torch.sigmoid(x @ p["fc.W"] + p["fc.b"]) @ p["fc.W"] + p["fc.b"])


def _normalized(x: Any, axes: tuple[int, ...], eps: float = 1e-5) -> Any:
    c = x - x.mean(axis=axes, keepdims=True)
    return c / np.sqrt((c * c).mean(axis=axes, keepdims=True) + eps)


def _channels(a: Any, x: Any) -> Any:
    return a.reshape(1, -1, *[1] * (x.ndim - 2))


def _batch_norm(x: Any, p: Arrays) -> Any:
    xh = _normalized(x, tuple(a for a in range(x.ndim) if a != 1))
    return _channels(p["gamma"], x) * xh + _channels(p["beta"], x)


def _group_norm(x: Any, p: Arrays) -> Any:
    xh = _normalized(x.reshape(x.shape[0], 2, -1), (2,)).reshape(x.shape)
    return _channels(p["gamma"], x) * xh + _channels(p["beta"], x)


def _scaled(layer: xl.Layer) -> xl.Layer:
    """Give gamma and beta values that are not 1 and 0."""
    rng = np.random.default_rng(11)
    for name, a in layer.params.items():
        layer.params[name] = rng.normal(1.0, 0.5, a.shape).astype(a.dtype)
    return layer


def _keep(shape: tuple[int, ...], rate: float, seed: int, count: int = 0) -> np.ndarray:
    """The mask of Dropout, by unsigned arithmetic in Python integers."""

    def mix(h: int) -> int:
        h = (h ^ (h >> 16)) * 0x85EBCA6B % 2**32
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % 2**32
        return h ^ (h >> 16)

    key = mix((count * 0x9E3779B9 + seed * 0x85EBCA77) % 2**32)
    n = math.prod(shape)
    bits = [mix(mix((i + key) % 2**32) ^ key) % 2**24 for i in range(n)]
    return (np.asarray(bits) >= round(rate * 2**24)).reshape(shape)


def _dropped(rate: float, seed: int) -> Callable[..., Any]:
    return lambda x, p: x * _keep(x.shape, rate, seed) / (1 - rate)


def _torch_dropped(rate: float, seed: int) -> Callable[..., Any]:
    return lambda t, x, p: x * t.tensor(_keep(tuple(x.shape), rate, seed)) / (1 - rate)


def _parallel_reference(x: Any, p: Arrays) -> Any:
    return np.concatenate([x @ p["0.W"] + p["0.b"], np.tanh(x)], axis=1)


def _residual_reference(x: Any, p: Arrays) -> Any:
    return x + np.tanh(x @ p["0.W"] + p["0.b"])


def _functional(torch: Any) -> Any:
    return torch.nn.functional


def _step(kind: str, a: Any, h: Any, c: Any, p: Arrays, s: str) -> tuple[Any, Any]:
    """One step in time: `a` is the input's part of the gates, `s` the suffix of the names."""
    Wh, n = p["Wh" + s], len(h)
    if kind == "Rnn":
        return np.tanh(a + h @ Wh), c
    if kind == "Lstm":
        a = a + h @ Wh
        i, f, o = (_sigmoid(a[k * n : (k + 1) * n]) for k in (0, 1, 3))
        c = f * c + i * np.tanh(a[2 * n : 3 * n])
        return o * np.tanh(c), c
    q = h @ Wh + p.get("bh" + s, 0)
    r, z = (_sigmoid(a[k * n : (k + 1) * n] + q[k * n : (k + 1) * n]) for k in (0, 1))
    last = r * q[2 * n :] if "bh" + s in p else (r * h) @ Wh[:, 2 * n :]
    return (1 - z) * np.tanh(a[2 * n :] + last) + z * h, c


def _recurrent(kind: str, x: Any, p: Arrays) -> Any:
    """A recurrent layer, sample by sample and step by step."""
    n_hidden = p["Wh"].shape[0]
    ys = []
    for s in ["", "_reverse"] if "Wx_reverse" in p else [""]:
        y: dict[tuple[int, int], Any] = {}
        for i in range(x.shape[0]):
            h = c = np.zeros(n_hidden)
            for t in range(x.shape[1])[:: -1 if s else 1]:
                h, c = _step(kind, x[i, t] @ p["Wx" + s] + p["b" + s], h, c, p, s)
                y[i, t] = h
        ys.append([[y[i, t] for t in range(x.shape[1])] for i in range(x.shape[0])])
    return np.concatenate([np.asarray(y) for y in ys], axis=-1)


def _torch_recurrent(name: str) -> Any:
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


def _torch_published_gru(torch: Any, x: Any, p: Any) -> Any:
    h, hs = torch.zeros(x.shape[0], p["Wh"].shape[0], dtype=x.dtype), []
    Wr, Wz, Wn = p["Wh"].chunk(3, 1)
    for t in range(x.shape[1]):
        r, z, n = (x[:, t] @ p["Wx"] + p["b"]).chunk(3, 1)
        r, z = torch.sigmoid(r + h @ Wr), torch.sigmoid(z + h @ Wz)
        h = (1 - z) * torch.tanh(n + (r * h) @ Wn) + z * h
        hs.append(h)
    return torch.stack(hs, 1)


def _places(shape: Any, size: Any, stride: Any, padding: Any, dilation: Any = 1) -> Any:
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


def _windows(shape: Any, *geometry: Any) -> tuple[list[Any], tuple[int, ...]]:
    found = list(_places(shape, *geometry))
    return found, tuple(o + 1 for o in found[-1][0])


def _padded(x: Any, padding: Any, value: float = 0.0) -> Any:
    """Pad the last axes; `padding` is a pair for each: before and after."""
    return np.pad(x, [(0, 0), (0, 0), *padding], constant_values=value)


def _convolution(
    x: Any, p: Arrays, padding: Any, stride: Any = 1, dilation: Any = 1, groups: int = 1
) -> Any:
    """Convolution position by position, filter by filter."""
    W, more = p["W"], [sum(pair) for pair in padding]
    windows, sizes = _windows(x.shape, W.shape[2:], stride, more, dilation)
    y = np.zeros((x.shape[0], W.shape[0], *sizes), np.result_type(x, W))
    x, depth = _padded(x, padding), W.shape[1]
    for f in range(W.shape[0]):
        first = f * groups // W.shape[0] * depth  # of the channels of its group
        for o, place in windows:
            window = x[(slice(None), slice(first, first + depth), *place)]
            y[(slice(None), f, *o)] = np.sum(window * W[f], axis=tuple(range(1, x.ndim)))
    return y + _per_channel(p, y)


def _per_channel(p: Arrays, y: Any) -> Any:
    return p["b"].reshape(-1, *(1,) * (y.ndim - 2)) if "b" in p else 0.0


def _transposed(x: Any, p: Arrays, stride: int, padding: int = 0, more: int = 0) -> Any:
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
    return y + _per_channel(p, y)


def _pooled(x: Any, size: Any, stride: Any, padding: int, fill: float, combine: Any) -> Any:
    windows, sizes = _windows(x.shape, size, stride, 2 * padding)
    y = np.zeros((*x.shape[:2], *sizes), x.dtype)
    x = _padded(x, [(padding, padding)] * len(size), fill)
    for o, place in windows:
        window = x[(slice(None), slice(None), *place)]
        y[(slice(None), slice(None), *o)] = combine(window.reshape(*x.shape[:2], -1))
    return y


def _largest(rows: Any) -> Any:
    """Return the largest of the last axis, by its real part."""
    where = np.argmax(rows.real, axis=-1)
    return np.take_along_axis(rows, where[..., None], -1)[..., 0]


def _mean(rows: Any) -> Any:
    return np.sum(rows, axis=-1) / rows.shape[-1]


def _attention(x: Any, p: Arrays, heads: int, causal: bool) -> Any:
    """Attention, sample by sample, head by head and query by query."""
    n, time, features = x.shape
    size = features // heads
    q, k, v = (x @ p["W" + s] + p["b" + s] for s in "qkv")
    o: Any = np.zeros((n, time, features), (q + k + v).dtype)
    for i in range(n):
        for j in range(heads):
            f = slice(j * size, (j + 1) * size)
            for t in range(time):
                seen = t + 1 if causal else time
                scores = k[i, :seen, f] @ q[i, t, f] / math.sqrt(size)
                o[i, t, f] = _softmax(scores) @ v[i, :seen, f]
    return o @ p["Wo"] + p["bo"]


def _torch_attention(heads: int, causal: bool) -> Any:
    def run(torch: Any, x: Any, p: Any) -> Any:
        q, k, v = (
            (x @ p["W" + s] + p["b" + s]).unflatten(-1, (heads, -1)).transpose(1, 2) for s in "qkv"
        )
        o = _functional(torch).scaled_dot_product_attention(q, k, v, is_causal=causal)
        return o.transpose(1, 2).flatten(2) @ p["Wo"] + p["bo"]

    return run


def _rows(x: Any, p: Arrays) -> Any:
    return p["W"][np.real(x).astype(int)]


LAYERS = [
    Case("Relu", xl.Relu, (7, 5), lambda x, p: _where(x, x, 0), lambda t, x, p: t.relu(x)),
    Case(
        "LeakyRelu",
        lambda: xl.LeakyRelu(0.2),
        (7, 5),
        lambda x, p: _where(x, x, 0.2 * x),
        lambda t, x, p: _functional(t).leaky_relu(x, 0.2),
    ),
    Case(
        "Elu",
        lambda: xl.Elu(1.3),
        (7, 5),
        lambda x, p: _where(x, x, 1.3 * np.expm1(_where(x, 0, x))),
        lambda t, x, p: _functional(t).elu(x, 1.3),
    ),
    Case("Sigmoid", xl.Sigmoid, (7, 5), lambda x, p: _sigmoid(x), lambda t, x, p: t.sigmoid(x)),
    Case("Tanh", xl.Tanh, (7, 5), lambda x, p: np.tanh(x), lambda t, x, p: t.tanh(x)),
    Case(
        "Softplus",
        xl.Softplus,
        (7, 5),
        lambda x, p: _softplus(x),
        lambda t, x, p: _functional(t).softplus(x, threshold=1e9),
    ),
    Case(
        "Silu",
        xl.Silu,
        (7, 5),
        lambda x, p: x * _sigmoid(x),
        lambda t, x, p: _functional(t).silu(x),
    ),
    Case(
        "Gelu-tanh",
        xl.Gelu,
        (7, 5),
        lambda x, p: _gelu_tanh(x),
        lambda t, x, p: _functional(t).gelu(x, approximate="tanh"),
    ),
    Case(
        "Gelu-none",
        lambda: xl.Gelu("none"),
        (7, 5),
        lambda x, p: _gelu(x),
        lambda t, x, p: _functional(t).gelu(x),
        analytic=False,
    ),
    Case("Softmax", xl.Softmax, (7, 5), lambda x, p: _softmax(x), lambda t, x, p: t.softmax(x, -1)),
    Case(
        "Softmax-axis",
        lambda: xl.Softmax(axis=1),
        (3, 5, 2),
        lambda x, p: _softmax(x, 1),
        lambda t, x, p: t.softmax(x, 1),
    ),
    Case(
        "Affine",
        lambda: xl.Affine.init(5, 3, rng=0),
        (7, 5),
        _affine,
        lambda t, x, p: x @ p["W"] + p["b"],
    ),
    Case(
        "Affine-no-bias",
        lambda: xl.Affine.init(5, 3, bias=False, rng=0),
        (7, 5),
        lambda x, p: x @ p["W"],
        lambda t, x, p: x @ p["W"],
    ),
    Case(
        "Affine-images",
        lambda: xl.Affine.init(24, 3, rng=0),
        (7, 2, 3, 4),
        _affine,
        lambda t, x, p: x.flatten(1) @ p["W"] + p["b"],
    ),
    Case(
        "Affine-sequences",
        lambda: xl.Affine.init(5, 3, flatten=False, rng=0),
        (4, 6, 5),
        lambda x, p: np.einsum("nti,io->nto", x, p["W"]) + p["b"],
        lambda t, x, p: x @ p["W"] + p["b"],
    ),
    Case(
        "Flatten",
        xl.Flatten,
        (4, 2, 3),
        lambda x, p: x.reshape(x.shape[0], -1),
        lambda t, x, p: x.flatten(1),
        view=True,
    ),
    Case("Sequential", lambda: xl.mlp([5, 8, 3], xl.Tanh, rng=0), (7, 5), _mlp, _torch_mlp),
    Case("Sequential-shared", _shared, (7, 6), _shared_reference, _torch_shared),
    Case(
        "Sequential-empty",
        xl.Sequential,
        (4, 3),
        lambda x, p: x * 1,
        lambda t, x, p: x * 1,
        view=True,
    ),
    Case(
        "BatchNormalization",
        lambda: _scaled(xl.BatchNormalization.init(5)),
        (7, 5),
        _batch_norm,
        lambda t, x, p: _functional(t).batch_norm(x, None, None, p["gamma"], p["beta"], True),
        training=True,
    ),
    Case(
        "BatchNormalization-images",
        lambda: _scaled(xl.BatchNormalization.init(3)),
        (4, 3, 2, 5),
        _batch_norm,
        lambda t, x, p: _functional(t).batch_norm(x, None, None, p["gamma"], p["beta"], True),
        training=True,
    ),
    Case(
        "LayerNormalization",
        lambda: _scaled(xl.LayerNormalization.init(6)),
        (3, 4, 6),
        lambda x, p: p["gamma"] * _normalized(x, (-1,)) + p["beta"],
        lambda t, x, p: _functional(t).layer_norm(x, (6,), p["gamma"], p["beta"]),
    ),
    Case(
        "LayerNormalization-2",
        lambda: _scaled(xl.LayerNormalization.init(4, 6)),
        (3, 4, 6),
        lambda x, p: p["gamma"] * _normalized(x, (-2, -1)) + p["beta"],
        lambda t, x, p: _functional(t).layer_norm(x, (4, 6), p["gamma"], p["beta"]),
    ),
    Case(
        "GroupNormalization",
        lambda: _scaled(xl.GroupNormalization.init(4, 2)),
        (3, 4, 2, 5),
        _group_norm,
        lambda t, x, p: _functional(t).group_norm(x, 2, p["gamma"], p["beta"]),
    ),
    Case(
        "RmsNormalization",
        lambda: _scaled(xl.RmsNormalization.init(6)),
        (3, 4, 6),
        lambda x, p: p["gamma"] * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6),
        lambda t, x, p: _functional(t).rms_norm(x, (6,), p["gamma"], 1e-6),
    ),
    Case(
        "Dropout",
        lambda: xl.Dropout(0.3, seed=5),
        (7, 5),
        _dropped(0.3, 5),
        _torch_dropped(0.3, 5),
        training=True,
    ),
    Case(
        "Dropout-none",
        lambda: xl.Dropout(0.0),
        (7, 5),
        lambda x, p: x * 1,
        lambda t, x, p: x * 1,
    ),
    Case(
        "Reshape",
        lambda: xl.Reshape(3, -1),
        (4, 2, 6),
        lambda x, p: x.reshape(x.shape[0], 3, 4),
        lambda t, x, p: x.reshape(-1, 3, 4),
        view=True,
    ),
    Case(
        "Transpose",
        lambda: xl.Transpose(3, 1, 2),
        (4, 2, 3, 5),
        lambda x, p: x.transpose(0, 3, 1, 2),
        lambda t, x, p: x.permute(0, 3, 1, 2),
        view=True,
    ),
    Case(
        "Residual",
        lambda: xl.Residual(xl.Affine.init(5, 5, rng=0), xl.Tanh()),
        (7, 5),
        _residual_reference,
        lambda t, x, p: x + t.tanh(x @ p["0.W"] + p["0.b"]),
    ),
    Case(
        "Recompute",
        lambda: xl.Recompute(xl.Affine.init(5, 4, rng=0), xl.Tanh(), xl.Affine.init(4, 3, rng=1)),
        (7, 5),
        _mlp,
        _torch_mlp,
    ),
    Case(
        "Map",
        lambda: xl.Map(xl.Affine.init(6, 3, rng=0)),
        (2, 4, 2, 3),
        lambda x, p: x.reshape(*x.shape[:2], 6) @ p["0.W"] + p["0.b"],
        lambda t, x, p: x.flatten(2) @ p["0.W"] + p["0.b"],
    ),
    Case(
        "Parallel",
        lambda: xl.Parallel(xl.Affine.init(5, 3, rng=0), xl.Tanh(), combine="concatenate"),
        (7, 5),
        _parallel_reference,
        lambda t, x, p: t.cat([x @ p["0.W"] + p["0.b"], t.tanh(x)], 1),
    ),
    Case(
        "Parallel-sum",
        lambda: xl.Parallel(xl.Relu(), xl.Tanh(), xl.Sigmoid()),
        (7, 5),
        lambda x, p: _where(x, x, 0) + np.tanh(x) + _sigmoid(x),
        lambda t, x, p: t.relu(x) + t.tanh(x) + t.sigmoid(x),
    ),
    Case(
        "Rnn",
        lambda: xl.Rnn.init(4, 3, rng=0),
        (2, 3, 4),
        lambda x, p: _recurrent("Rnn", x, p),
        _torch_recurrent("rnn_tanh"),
    ),
    Case(
        "Lstm",
        lambda: xl.Lstm.init(4, 3, bidirectional=True, rng=0),
        (2, 3, 4),
        lambda x, p: _recurrent("Lstm", x, p),
        _torch_recurrent("lstm"),
    ),
    Case(
        "Gru",
        lambda: xl.Gru.init(4, 3, rng=0),
        (2, 3, 4),
        lambda x, p: _recurrent("Gru", x, p),
        _torch_recurrent("gru"),
    ),
    Case(
        "Gru-published",
        lambda: xl.Gru.init(4, 3, reset_after=False, rng=0),
        (2, 3, 4),
        lambda x, p: _recurrent("Gru", x, p),
        _torch_published_gru,
    ),
    Case(
        "Convolution",  # the last row and column of x are not seen
        lambda: xl.Convolution.init(2, 3, (3, 2), stride=(2, 3), padding=(1, 0), rng=0),
        (3, 2, 6, 6),
        lambda x, p: _convolution(x, p, [(1, 1), (0, 0)], (2, 3)),
        lambda t, x, p: _functional(t).conv2d(x, p["W"], p["b"], (2, 3), (1, 0)),
    ),
    Case(
        "Convolution-same",
        lambda: xl.Convolution.init(2, 3, (2, 1), padding="same", bias=False, rng=0),
        (3, 2, 4, 3),
        lambda x, p: _convolution(x, p, [(0, 1), (0, 0)]),
        lambda t, x, p: _functional(t).conv2d(_functional(t).pad(x, (0, 0, 0, 1)), p["W"]),
    ),
    Case(
        "Convolution-groups",
        lambda: xl.Convolution.init(4, 6, (2, 1), dilation=2, groups=2, rng=0),
        (3, 4, 5, 4),
        lambda x, p: _convolution(x, p, [(0, 0), (0, 0)], 1, 2, 2),
        lambda t, x, p: _functional(t).conv2d(x, p["W"], p["b"], 1, 0, 2, 2),
    ),
    Case(
        "Convolution-sequences",
        lambda: xl.Convolution.init(2, 3, (3,), padding=2, dilation=2, rng=0),
        (3, 2, 7),
        lambda x, p: _convolution(x, p, [(2, 2)], 1, 2),
        lambda t, x, p: _functional(t).conv1d(x, p["W"], p["b"], 1, 2, 2),
    ),
    Case(
        "ConvolutionTranspose",
        lambda: xl.ConvolutionTranspose.init(
            2, 3, (3, 2), stride=2, padding=1, output_padding=1, rng=0
        ),
        (3, 2, 4, 3),
        lambda x, p: _transposed(x, p, 2, 1, 1),
        lambda t, x, p: _functional(t).conv_transpose2d(x, p["W"], p["b"], 2, 1, 1),
    ),
    Case(
        "ConvolutionTranspose-sequences",
        lambda: xl.ConvolutionTranspose.init(2, 3, (2,), stride=3, bias=False, rng=0),
        (3, 2, 4),
        lambda x, p: _transposed(x, p, 3),
        lambda t, x, p: _functional(t).conv_transpose1d(x, p["W"], None, 3),
    ),
    Case(
        "MaxPooling",
        lambda: xl.MaxPooling(2),
        (3, 2, 5),
        lambda x, p: _pooled(x, (2,), 2, 0, 0.0, _largest),
        lambda t, x, p: _functional(t).max_pool1d(x, 2),
    ),
    Case(
        "MaxPooling-padding",
        lambda: xl.MaxPooling((3, 2), stride=(2, 1), padding=1),
        (3, 2, 5, 4),
        lambda x, p: _pooled(x, (3, 2), (2, 1), 1, -np.inf, _largest),
        lambda t, x, p: _functional(t).max_pool2d(x, (3, 2), (2, 1), 1),
    ),
    Case(
        "AveragePooling",
        lambda: xl.AveragePooling(3, stride=2, padding=1),
        (3, 2, 5, 4),
        lambda x, p: _pooled(x, (3, 3), 2, 1, 0.0, _mean),
        lambda t, x, p: _functional(t).avg_pool2d(x, 3, 2, 1),
    ),
    Case(
        "AveragePooling-sequences",
        lambda: xl.AveragePooling(3, stride=1),
        (3, 2, 6),
        lambda x, p: _pooled(x, (3,), 1, 0, 0.0, _mean),
        lambda t, x, p: _functional(t).avg_pool1d(x, 3, 1),
    ),
    Case(
        "GlobalAveragePooling",
        xl.GlobalAveragePooling,
        (3, 2, 3, 4),
        lambda x, p: x.reshape(*x.shape[:2], -1).sum(-1) / 12,
        lambda t, x, p: x.mean((2, 3)),
    ),
    Case(
        "MultiHeadAttention",
        lambda: xl.MultiHeadAttention.init(4, 2, rng=0),
        (2, 3, 4),
        lambda x, p: _attention(x, p, 2, causal=False),
        _torch_attention(2, causal=False),
        idle=("bk",),
    ),
    Case(
        "MultiHeadAttention-causal",
        lambda: xl.MultiHeadAttention.init(6, 3, causal=True, rng=0),
        (2, 4, 6),
        lambda x, p: _attention(x, p, 3, causal=True),
        _torch_attention(3, causal=True),
        idle=("bk",),
    ),
    Case(
        "Embedding",
        lambda: xl.Embedding.init(5, 3, rng=0),
        (4, 3),
        _rows,
        lambda t, x, p: _functional(t).embedding(x, p["W"]),
        integers=5,
    ),
    Case(
        "Embedding-large",
        lambda: xl.Embedding.init(600, 2, rng=0),
        (40, 3),
        _rows,
        lambda t, x, p: _functional(t).embedding(x, p["W"]),
        integers=30,
    ),
    Case(
        "PositionalEmbedding",
        lambda: xl.PositionalEmbedding.init(5, 3, rng=0),
        (2, 4, 3),
        lambda x, p: x + p["W"][: x.shape[1]],
        lambda t, x, p: x + p["W"][: x.shape[1]],
    ),
]


@dataclasses.dataclass(frozen=True)
class LossCase:
    """A row of the table of losses."""

    id: str
    make: Callable[[], xl.Loss]
    shape: tuple[int, ...]  # of the scores
    target: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    reference: Callable[[Any, np.ndarray], Any]
    torch: Callable[[Any, Any, Any], Any]  # (torch, x, t) -> loss


def _labels(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, shape[-1], shape[:-1])


def _one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.eye(shape[-1])[_labels(rng, shape)]


def _soft(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def _unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(size=shape)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


_WEIGHTS = [0.5, 2.0, 1.0, 3.0, 0.25]


def _cross_entropy(
    x: Any,
    t: np.ndarray,
    weights: Any = None,
    ignore: int | None = None,
    smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Cross entropy sample by sample, in loops, as the formula says it."""
    c = x.shape[-1]
    w = np.ones(c) if weights is None else np.asarray(weights)
    rows, norm = [], 0.0
    flat = x.reshape(-1, c)
    targets = t.reshape(-1) if t.ndim < x.ndim else t.reshape(-1, c)
    for scores, target in zip(flat, targets, strict=True):
        top = np.max(scores.real)
        logs = scores - top - np.log(np.sum(np.exp(scores - top)))
        if t.ndim < x.ndim:
            if target == ignore:
                rows.append(0.0 * logs[0])
                continue
            q = np.zeros(c)
            q[target] = 1.0
            norm += w[target]
        else:
            q = target
            norm += 1.0
        q = (1 - smoothing) * q + smoothing / c
        rows.append(-sum(w[j] * q[j] * logs[j] for j in range(c)))
    if reduction == "none":
        return np.asarray(rows).reshape(x.shape[:-1])
    return sum(rows) / (norm if reduction == "mean" else 1.0)


def _softmax_case(
    id: str, target: Any, shape: tuple[int, ...] = (6, 5), **options: Any
) -> LossCase:
    names = {"class_weights": "weights", "ignore_index": "ignore", "label_smoothing": "smoothing"}
    torch_names = {"class_weights": "weight"}

    def torch_loss(torch: Any, x: Any, t: Any) -> Any:
        given = {torch_names.get(k, k): v for k, v in options.items()}
        if "weight" in given:
            given["weight"] = torch.tensor(given["weight"], dtype=x.dtype)
        channels_second = torch.movedim(x, -1, 1)
        t = torch.movedim(t.to(x.dtype), -1, 1) if t.ndim == x.ndim else t
        return _functional(torch).cross_entropy(channels_second, t, **given)

    return LossCase(
        f"SoftmaxWithLoss-{id}",
        lambda: xl.SoftmaxWithLoss(**options),
        shape,
        target,
        lambda x, t: _cross_entropy(x, t, **{names.get(k, k): v for k, v in options.items()}),
        torch_loss,
    )


def _binary(x: Any, t: np.ndarray, p: Any = 1.0) -> Any:
    return p * t * _softplus(-x) + (1 - t) * _softplus(x)


def _abs(r: Any) -> Any:
    return _where(r, r, -r)


LOSSES = [
    _softmax_case("labels", _labels),
    _softmax_case("one-hot", _one_hot),
    _softmax_case("soft", _soft),
    _softmax_case("sum", _labels, reduction="sum"),
    _softmax_case("none", _labels, reduction="none"),
    _softmax_case("none-soft", _soft, reduction="none"),
    _softmax_case("weights", _labels, class_weights=_WEIGHTS),
    _softmax_case("weights-soft", _soft, class_weights=_WEIGHTS),
    _softmax_case("ignore", _labels, ignore_index=0),
    _softmax_case("smoothing", _labels, label_smoothing=0.1),
    _softmax_case("smoothing-soft", _soft, label_smoothing=0.1),
    _softmax_case(
        "everything", _labels, class_weights=_WEIGHTS, ignore_index=0, label_smoothing=0.2
    ),
    _softmax_case(
        "everything-none",
        _labels,
        class_weights=_WEIGHTS,
        ignore_index=0,
        label_smoothing=0.2,
        reduction="none",
    ),
    _softmax_case("sequences", _labels, (3, 4, 5)),
    _softmax_case("sequences-weights", _labels, (3, 4, 5), class_weights=_WEIGHTS, ignore_index=1),
    _softmax_case("sequences-soft", _soft, (3, 4, 5)),
    LossCase(
        "SigmoidWithLoss",
        xl.SigmoidWithLoss,
        (6, 5),
        _unit,
        lambda x, t: np.mean(_binary(x, t)),
        lambda torch, x, t: _functional(torch).binary_cross_entropy_with_logits(x, t),
    ),
    LossCase(
        "SigmoidWithLoss-weights",
        lambda: xl.SigmoidWithLoss(pos_weight=_WEIGHTS, reduction="sum"),
        (6, 5),
        _unit,
        lambda x, t: np.sum(_binary(x, t, np.asarray(_WEIGHTS))),
        lambda torch, x, t: _functional(torch).binary_cross_entropy_with_logits(
            x, t, pos_weight=torch.tensor(_WEIGHTS, dtype=x.dtype), reduction="sum"
        ),
    ),
    LossCase(
        "MeanSquaredError",
        xl.MeanSquaredError,
        (6, 5),
        _normal,
        lambda x, t: np.mean((x - t) ** 2),
        lambda torch, x, t: _functional(torch).mse_loss(x, t),
    ),
    LossCase(
        "MeanSquaredError-none",
        lambda: xl.MeanSquaredError(reduction="none"),
        (6, 5),
        _normal,
        lambda x, t: (x - t) ** 2,
        lambda torch, x, t: _functional(torch).mse_loss(x, t, reduction="none"),
    ),
    LossCase(
        "MeanAbsoluteError",
        xl.MeanAbsoluteError,
        (6, 5),
        _normal,
        lambda x, t: np.mean(_abs(x - t)),
        lambda torch, x, t: _functional(torch).l1_loss(x, t),
    ),
    LossCase(
        "Huber",
        lambda: xl.Huber(0.7, reduction="sum"),
        (6, 5),
        _normal,
        lambda x, t: np.sum(
            np.where(np.abs((x - t).real) <= 0.7, (x - t) ** 2 / 2, 0.7 * (_abs(x - t) - 0.7 / 2))
        ),
        lambda torch, x, t: _functional(torch).huber_loss(x, t, delta=0.7, reduction="sum"),
    ),
]


@dataclasses.dataclass(frozen=True)
class OptimizerCase:
    """A row of the table of optimizers."""

    id: str
    make: Callable[[], xl.Optimizer]
    reference: Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]
    torch: Callable[[Any, Any], Any] | None = None  # (torch, parameters) -> optimizer


def _sgd(p, g, s, t):
    return p - 0.01 * g


def _sgd_decay(p, g, s, t):
    return p - 0.1 * (g + 0.5 * p)


def _momentum(p, g, s, t):
    s["v"] = 0.9 * s.get("v", 0) - 0.01 * g
    return p + s["v"]


def _nesterov(p, g, s, t):
    # in the order of the book: with the velocity before the step
    v = s.get("v", 0.0 * p)
    p = p + 0.9 * 0.9 * v - (1 + 0.9) * 0.01 * g
    s["v"] = 0.9 * v - 0.01 * g
    return p


def _adagrad(p, g, s, t):
    s["h"] = s.get("h", 0) + g**2
    return p - 0.01 * g / (np.sqrt(s["h"]) + 1e-7)


def _rmsprop(p, g, s, t):
    s["h"] = 0.99 * s.get("h", 0) + 0.01 * g**2
    return p - 0.01 * g / (np.sqrt(s["h"]) + 1e-7)


def _adam_moments(g, s):
    s["m"] = s.get("m", 0) + 0.1 * (g - s.get("m", 0))
    s["v"] = s.get("v", 0) + 0.001 * (g**2 - s.get("v", 0))
    return s["m"], s["v"]


def _adam(p, g, s, t):
    m, v = _adam_moments(g, s)
    lr_t = 0.001 * math.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
    return p - lr_t * m / (np.sqrt(v) + 1e-7)


def _adam_algorithm_1(p, g, s, t):
    m, v = _adam_moments(g, s)
    return p - 0.001 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def _adamw(p, g, s, t):
    return _adam(p - 0.001 * 0.01 * p, g, s, t)


def _adamw_algorithm_1(p, g, s, t):
    return _adam_algorithm_1(p - 0.001 * 0.3 * p, g, s, t)


OPTIMIZERS = [
    OptimizerCase("SGD", xl.SGD, _sgd, lambda t, p: t.optim.SGD(p, lr=0.01)),
    OptimizerCase(
        "SGD-weight_decay",
        lambda: xl.SGD(lr=0.1, weight_decay=0.5),
        _sgd_decay,
        lambda t, p: t.optim.SGD(p, lr=0.1, weight_decay=0.5),
    ),
    OptimizerCase(
        "Momentum", xl.Momentum, _momentum, lambda t, p: t.optim.SGD(p, lr=0.01, momentum=0.9)
    ),
    OptimizerCase(
        "Nesterov",
        xl.Nesterov,
        _nesterov,
        lambda t, p: t.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    ),
    OptimizerCase(
        "AdaGrad", xl.AdaGrad, _adagrad, lambda t, p: t.optim.Adagrad(p, lr=0.01, eps=1e-7)
    ),
    OptimizerCase(
        "RMSprop", xl.RMSprop, _rmsprop, lambda t, p: t.optim.RMSprop(p, lr=0.01, eps=1e-7)
    ),
    OptimizerCase("Adam", xl.Adam, _adam),
    OptimizerCase(
        "Adam-algorithm-1",
        lambda: xl.Adam(eps=1e-8, eps_hat=False),
        _adam_algorithm_1,
        lambda t, p: t.optim.Adam(p, lr=0.001, eps=1e-8),
    ),
    OptimizerCase("AdamW", xl.AdamW, _adamw),
    OptimizerCase(
        "AdamW-algorithm-1",
        lambda: xl.AdamW(eps=1e-8, eps_hat=False, weight_decay=0.3),
        _adamw_algorithm_1,
        lambda t, p: t.optim.AdamW(p, lr=0.001, eps=1e-8, weight_decay=0.3),
    ),
]
