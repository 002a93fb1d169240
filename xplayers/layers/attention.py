"""Multi-head attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from xplayers._checks import Option, flag, generator, integer, number, optional, positive
from xplayers.arrays.checks import check_dtypes, check_parameter, check_same
from xplayers.arrays.namespaces import (
    Array,
    Namespace,
    device,
    downcast_like,
    is_integer,
    namespace,
    upcast,
)
from xplayers.arrays.operation import operation
from xplayers.arrays.products import matmul, product, product_and_sums
from xplayers.arrays.writing import writable
from xplayers.initializers import Initializer, Rng, documented, drawn, xavier_uniform
from xplayers.layers.activations import softmax_gradient
from xplayers.layers.affine import as_matrix
from xplayers.layers.base import Cache, Layer
from xplayers.layers.dropout import drop, keep_scale, masked
from xplayers.layers.rotary import rotated, turns
from xplayers.layers.variables import Buffer, Gradient, Parameter

# The score of a masked key: finite, because a row of infinite ones would be inf - inf = NaN.
_MASKED = -1e30


class MultiHeadAttention(Layer):
    """Attention of every position of `x` to the positions of a sequence, in several heads.

    With ``q = x @ Wq + bq``, ``k = s @ Wk + bk``, ``v = s @ Wv + bv``, where ``s`` is `context`, or
    `x` itself, each cut along the features into `n_heads` heads of size ``d``::

        a = softmax(q @ k.T / sqrt(d));   o = a @ v;   y = concatenate(heads of o) @ Wo + bo

    Backward::

        do = dy @ Wo.T;   dv = a.T @ do;   da = do @ v.T;   ds = a * (da - sum(da * a, axis=-1))
        dq = ds @ k / sqrt(d);   dk = ds.T @ q / sqrt(d);   dx = dq @ Wq.T
        dcontext = dk @ Wk.T + dv @ Wv.T, which without a context is part of dx
        dWq = x.T @ dq;  dWk = s.T @ dk;  dWv = s.T @ dv;  dWo = o.T @ dy
        dbq = sum(dq);   dbk = 0;         dbv = sum(dv);   dbo = sum(dy)

    `bk` adds a constant to all scores of a row, which the softmax cancels: its gradient is 0,
    unless `rope_theta` turns the keys.

    Parameters
    ----------
    Wq, Wk, Wv, Wo : array of shape (n_features, n_features)
        Weights of queries, keys, values and output; one row per input, the transpose of PyTorch's.
        With `n_kv_heads`, `Wk` and `Wv` have ``n_kv_heads * d`` columns.
    bq, bk, bv, bo : array of shape (n_features,), or None
        Biases, one for each column of the weights; None: no bias, for all four.
    n_heads : int
        Number of heads; a divisor of `n_features`.
    causal : bool
        Whether position t attends only to positions 0 to t (also of a context).
    n_kv_heads : int, optional
        Number of heads that keys and values have, a divisor of `n_heads`: each is that of
        ``n_heads / n_kv_heads`` heads of queries (grouped-query attention; with 1 multi-query
        attention). Their gradients are sums over the group. By default `n_heads`.
    rope_theta : float, optional
        Turn queries and keys by their positions, as `RotaryEmbedding` with this `theta`, before
        the product. By default they are not turned.
    dropout : float
        Probability in training of setting a weight of `a` to 0; the others are divided by
        ``1 - dropout``. The masks are those of `Dropout`.
    seed : int
        Seed of the masks, as that of `Dropout`.

    Raises
    ------
    ValueError
        If the heads do not divide the features, or the shapes do not fit.
    TypeError
        If the arrays are of different libraries, devices or dtypes.

    Notes
    -----
    ``forward(x, context=None, key_mask=None)``: `x` is ``(n, time, n_features)``, `context`
    ``(n, keys, n_features)``, `key_mask` ``(n, keys)`` of bool or integers, True for keys to attend
    to (as in Keras; ``key_padding_mask`` of PyTorch is the opposite). ``backward`` returns ``dx``,
    with a context ``(dx, dcontext)``. For self-attention with a mask:
    ``forward(x, key_mask=mask)``.

    A query whose keys are all masked gets ``o = 0`` and ``y = bo``, with gradient 0, where PyTorch
    gives NaN. For 16-bit arrays scores and softmax are computed in float32.

    With `dropout` there is a buffer `count`, which every training forward increments. With a mask
    ``m``, 0 or ``1 / (1 - dropout)``: ``o = (a * m) @ v``, ``dv = (a * m).T @ do``, and
    ``da = (do @ v.T) * m``.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 1 and section 3.2.2.
    Groups: Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from
    Multi-Head Checkpoints", EMNLP 2023, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> layer = MultiHeadAttention.init(8, 2, causal=True, rng=0)
    >>> x = np.ones((1, 5, 8), "float32")
    >>> layer.forward(x).shape
    (1, 5, 8)
    >>> layer.backward(x).shape
    (1, 5, 8)
    """

    Wq, dWq = Parameter(), Gradient()
    bq, dbq = Parameter(), Gradient()
    Wk, dWk = Parameter(), Gradient()
    bk, dbk = Parameter(), Gradient()
    Wv, dWv = Parameter(), Gradient()
    bv, dbv = Parameter(), Gradient()
    Wo, dWo = Parameter(), Gradient()
    bo, dbo = Parameter(), Gradient()
    count = Buffer()
    n_heads, causal = Option(integer, least=None), Option(flag)
    n_kv_heads = Option(optional, check=integer, least=None)
    rope_theta = Option(optional, check=positive)
    dropout, seed = Option(number, least=0, most=1), Option(integer, least=None)

    def __init__(
        self, Wq: Array, bq: Array | None, Wk: Array, bk: Array | None, Wv: Array,
        bv: Array | None, Wo: Array, bo: Array | None, n_heads: int, causal: bool = False,
        n_kv_heads: int | None = None, rope_theta: float | None = None, dropout: float = 0.0,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.Wq, self.bq, self.Wk, self.bk = Wq, bq, Wk, bk
        self.Wv, self.bv, self.Wo, self.bo = Wv, bv, Wo, bo
        self.n_heads, self.causal, self.n_kv_heads = n_heads, causal, n_kv_heads
        self.rope_theta, self.dropout, self.seed = rope_theta, dropout, seed
        for name in ("Wq", "Wk", "Wv", "Wo"):
            namespace(getattr(self, name), "MultiHeadAttention", name)  # none is optional
        if len(missing := [f"b{name}" for name in "qkvo" if f"b{name}" not in self.params]) % 4:
            message = f"MultiHeadAttention: {' and '.join(missing)} missing; expected all or none."
            raise ValueError(message)
        features = (*Wq.shape, 0)[0]
        columns = _columns(features, self.n_heads, self.n_kv_heads)
        for name, a in self.params.items():
            shape = (features, columns[name[1]])[name[0] == "b" :]
            check_parameter("MultiHeadAttention", name, a, Wq, "Wq", shape)
        if self.rope_theta is not None and features // self.n_heads % 2:
            message = f"MultiHeadAttention: heads of size {features // self.n_heads} have no halves"
            raise ValueError(message + ", which rope_theta turns; expected an even size.")
        if self.dropout:
            xp = namespace(Wq)
            self.count = xp.zeros(1, dtype=xp.int32, device=device(Wq))

    @classmethod
    @documented
    def init(
        cls,
        n_features: int,
        n_heads: int,
        *,
        causal: bool = False,
        n_kv_heads: int | None = None,
        rope_theta: float | None = None,
        dropout: float = 0.0,
        seed: int = 0,
        bias: bool = True,
        initializer: Initializer = xavier_uniform,
        rng: Rng = None,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer with initial values: weights from `initializer`, biases zero.

        Parameters
        ----------
        n_features : int
            Size of the last axis of `x`, of the context and of `y`.
        n_heads : int
            Number of heads; a divisor of `n_features`.
        causal, n_kv_heads, rope_theta, dropout, seed
            As in `MultiHeadAttention`.
        bias : bool
            Whether there are biases.
        initializer, rng, dtype, like
            As in every `init`.
        """
        owner = "MultiHeadAttention"
        n_features = integer(owner, "n_features", n_features)
        n_heads = integer(owner, "n_heads", n_heads, least=None)
        n_kv_heads = optional(owner, "n_kv_heads", n_kv_heads, check=integer, least=None)
        columns = _columns(n_features, n_heads, n_kv_heads)
        rng, bias = generator(owner, "rng", rng), flag(owner, "bias", bias)
        params: dict[str, Any] = {}
        for name, n in columns.items():
            W = drawn(owner, initializer, (n_features, n), rng, dtype)
            params |= {f"W{name}": W, f"b{name}": np.zeros_like(W[0]) if bias else None}
        layer = cls(**params, n_heads=n_heads, causal=causal, n_kv_heads=n_kv_heads,
                    rope_theta=rope_theta, dropout=dropout, seed=seed)  # fmt: skip
        return layer._materialize_at(like)

    def apply(
        self,
        arrays: Mapping[str, Array],
        x: Array,
        context: Array | None = None,
        key_mask: Array | None = None,
    ) -> tuple[Array, Cache]:
        xp = namespace(x)
        q, k, v, turned = self._projected(xp, arrays, x, context, key_mask)
        if self.dropout:
            o, *saved = self._dropped(q, k, v, key_mask, arrays["count"])
        else:
            o, *saved = attention(q, k, v, key_mask, self.causal)
        o = self._merged(xp, o)
        y = self._affine(arrays, "o", o)
        weights = tuple([arrays[f"W{name}"] for name in "qkvo"])
        further = () if context is None else (context,)
        return y, (x, further, q, k, v, o, tuple(saved), turned, weights)

    def infer(
        self,
        arrays: Mapping[str, Array],
        x: Array,
        context: Array | None = None,
        key_mask: Array | None = None,
    ) -> Array:
        xp = namespace(x)
        q, k, v, _ = self._projected(xp, arrays, x, context, key_mask)
        o = attention(q, k, v, key_mask, self.causal)[0]
        return self._affine(arrays, "o", self._merged(xp, o))

    def _projected(
        self, xp: Namespace, arrays: Mapping[str, Array], x: Array, context: Array | None,
        key_mask: Array | None,
    ) -> tuple[Array, Array, Array, tuple[Array, ...]]:  # fmt: skip
        """Return queries (scaled), keys and values of each head, and what they are turned by."""
        self._check_shapes(x, context, key_mask)
        source = x if context is None else context
        heads = self.n_heads
        kv_heads = heads if self.n_kv_heads is None else self.n_kv_heads
        q, k, v = [
            self._heads(xp, self._affine(arrays, name, s), n)
            for name, s, n in (("q", x, heads), ("k", source, kv_heads), ("v", source, kv_heads))
        ]
        turned = ()
        if self.rope_theta is not None:
            turned = turns(q if q.shape[2] >= k.shape[2] else k, self.rope_theta)
            q, k = rotated(q, *turned), rotated(k, *turned)
        q = q * (1.0 / math.sqrt(q.shape[-1]))
        if kv_heads != heads:
            k, v = self._repeated(xp, k), self._repeated(xp, v)
        return q, k, v, turned

    def vjp(self, cache: Cache, dy: Array) -> tuple[Any, dict[str, Array]]:
        context, (Wq, Wk, Wv, _) = cache[1], cache[-1]
        dq, dk, dv, grads = self._backward(cache, dy)
        dx, dsource = self._times(dq, Wq.mT), self._times(dk, Wk.mT)
        dsource += self._times(dv, Wv.mT)
        if context:
            return (dx, dsource), grads
        dx += dsource
        return dx, grads

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        return self._backward(cache, dy)[3]

    def updated_buffers(self, arrays: Mapping[str, Array], cache: Cache) -> dict[str, Array]:
        return {"count": arrays["count"] + 1} if self.dropout else {}

    def _backward(self, cache: Cache, dy: Array) -> tuple[Array, Array, Array, dict[str, Array]]:
        """Return the gradients of queries, keys and values, and those of the parameters."""
        x, context, q, k, v, o, saved, turned, (_, Wk, _, Wo) = cache
        xp = namespace(dy)
        source = context[0] if context else x
        do = self._heads(xp, self._times(dy, Wo.mT), self.n_heads)
        if self.dropout:
            dq, dk, dv = self._dropped_gradient(do, q, k, v, *saved)
        else:
            a, statistics = saved
            heads = self._heads(xp, o, self.n_heads)
            dq, dk, dv = attention_gradient(do, q, k, v, a, heads, statistics, self.causal)
        dq = dq * (1.0 / math.sqrt(q.shape[-1]))  # q is scaled already
        if self.n_kv_heads is not None:
            dk, dv = self._summed(xp, dk), self._summed(xp, dv)
        if turned:
            cos, sin = turned
            dq, dk = rotated(dq, cos, -sin), rotated(dk, cos, -sin)
        dq, dk, dv = (self._merged(xp, d) for d in (dq, dk, dv))
        grads, has_bias = {}, "bk" in self._variables.params
        for name, s, d in (("q", x, dq), ("k", source, dk), ("v", source, dv), ("o", o, dy)):
            s, d = as_matrix(s).mT, as_matrix(d)
            if not has_bias:
                grads[f"W{name}"] = product(s, d)
            elif (
                name == "k" and self.rope_theta is None
            ):  # its sum would be noise, which Adam turns into steps
                bq = grads["bq"] if self.n_kv_heads is None else Wk[0, :]  # of its shape
                grads["Wk"], grads["bk"] = product(s, d), xp.zeros_like(bq)
            else:
                grads[f"W{name}"], grads[f"b{name}"] = product_and_sums(s, d)
        return dq, dk, dv, grads

    def _dropped(
        self, q: Array, k: Array, v: Array, key_mask: Array | None, count: Array
    ) -> tuple[Array, Array, Array]:
        """Return what `attention` does, with dropout: the output, the weights, and the mask."""
        a = _weights(q, k, key_mask, self.causal)
        left, keep = drop(a, count, self.seed, self.dropout, keep_scale(self.dropout))
        return matmul(left, v), a, keep

    def _dropped_gradient(
        self, do: Array, q: Array, k: Array, v: Array, a: Array, keep: Array
    ) -> tuple[Array, Array, Array]:
        scale = keep_scale(self.dropout)
        ds = softmax_gradient(masked(matmul(do, v.mT), keep, scale), a, -1)
        return matmul(ds, k), matmul(ds.mT, q), matmul(masked(a, keep, scale).mT, do)

    def _affine(self, arrays: Mapping[str, Array], name: str, x: Array) -> Array:
        """Return ``x @ W + b``."""
        return self._times(x, arrays[f"W{name}"], arrays.get(f"b{name}"))

    def _times(self, x: Array, W: Array, b: Array | None = None) -> Array:
        """Return ``x @ W``, plus a bias, as one product of matrices."""
        y = product(as_matrix(x), W, b)
        return namespace(y).reshape(y, (*x.shape[:-1], y.shape[1]))

    def _heads(self, xp: Namespace, x: Array, heads: int) -> Array:
        """Return ``(n, time, heads * size)`` as ``(n, heads, time, size)``."""
        n, time, columns = x.shape
        split = xp.reshape(x, (n, time, heads, columns // heads))
        return xp.permute_dims(split, (0, 2, 1, 3))

    def _merged(self, xp: Namespace, x: Array) -> Array:
        """Return the inverse of `_heads`."""
        n, heads, time, size = x.shape
        return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (n, time, heads * size))

    def _repeated(self, xp: Namespace, x: Array) -> Array:
        """Return each head of keys or values as often as there are queries' in its group."""
        n, heads, time, size = x.shape
        groups = xp.broadcast_to(x[:, :, None, ...], (n, heads, self.n_heads // heads, time, size))
        return xp.reshape(groups, (n, self.n_heads, time, size))

    def _summed(self, xp: Namespace, d: Array) -> Array:
        """Return the gradient of what was `_repeated`, summed over each group."""
        n, heads, time, size = d.shape
        kv = self.n_kv_heads or heads
        group = xp.reshape(upcast(xp, d), (n, kv, heads // kv, time, size))
        return downcast_like(xp.sum(group, axis=2), d)

    def _check_shapes(self, x: Array, context: Array | None, key_mask: Array | None) -> None:
        features = self.Wq.shape[0]
        shapes = {"x": tuple(x.shape)}
        if context is not None:
            check_same(self, "context", context, x)
            shapes["context"] = tuple(context.shape)
            check_dtypes(self, "context", context, x)
        for name, shape in shapes.items():
            if len(shape) != 3 or shape[2] != features or not shape[1]:
                message = f"{self}: {name} has shape {shape}; expected (n, time, {features})"
                message += " with one time step or more." if 0 in shape[1:2] else "."
                raise ValueError(message)
            if shape[0] != x.shape[0]:
                message = f"{self}: {name} has {shape[0]} samples, x has {x.shape[0]}."
                raise ValueError(message)
        if key_mask is None:
            return
        check_same(self, "key_mask", key_mask, x)
        keys = (context if context is not None else x).shape[1]
        if tuple(key_mask.shape) != (x.shape[0], keys):
            message = f"{self}: key_mask has shape {tuple(key_mask.shape)};"
            raise ValueError(message + f" expected {(x.shape[0], keys)}.")
        if not (is_integer(key_mask) or key_mask.dtype == namespace(key_mask).bool):
            message = f"{self}: key_mask is {key_mask.dtype}; expected bool or integers."
            raise TypeError(message)

    def __str__(self) -> str:
        causal = ", causal" if self.causal else ""
        return "MultiHeadAttention({}, {} heads{})".format(*self._sizes, causal)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.Wq.shape[0], self.n_heads


@operation
def attention(
    q: Array, k: Array, v: Array, key_mask: Array | None, causal: bool
) -> tuple[Array, Array | None, Array | None]:
    """Return ``o = a @ v``, the weights ``a = softmax(q @ k.T)``, and what a body keeps in place.

    Arrays are ``(n, heads, time, size)``; `q` is scaled already. A body that has no `a`, which
    takes memory of time squared, keeps statistics of the rows for its gradient.
    """
    a = _weights(q, k, key_mask, causal)
    return matmul(a, v), a, None


@operation
def attention_gradient(
    do: Array, q: Array, k: Array, v: Array, a: Array | None, o: Array, statistics: Any,
    causal: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return the gradients of `q`, `k` and `v`; without an `a` there was no mask of keys."""
    weights: Any = _weights(q, k, None, causal) if a is None else a
    ds = softmax_gradient(matmul(do, v.mT), weights, -1)
    return matmul(ds, k), matmul(ds.mT, q), matmul(weights.mT, do)


def _weights(q: Array, k: Array, key_mask: Array | None, causal: bool) -> Array:
    xp = namespace(q)
    scores = matmul(upcast(xp, q), upcast(xp, k).mT)
    return downcast_like(attention_weights(scores, key_mask, causal), q)


@operation
def attention_weights(scores: Array, key_mask: Array | None, causal: bool) -> Array:
    """Return the softmax of the scores ``(n, heads, time, keys)``; 0 where all keys are masked."""
    xp = namespace(scores)
    mask = _mask(scores, key_mask, causal)
    if mask is None:
        e = writable(xp.exp(scores - xp.max(scores, axis=-1, keepdims=True)))
        e /= xp.sum(e, axis=-1, keepdims=True)
    else:
        scores = xp.where(mask, scores, _MASKED)
        e = writable(xp.exp(scores - xp.max(scores, axis=-1, keepdims=True)))
        e *= xp.astype(mask, e.dtype)
        # The largest score adds 1 to the sum, which is below 1 only where all keys are masked.
        e /= xp.maximum(xp.sum(e, axis=-1, keepdims=True), 1.0)
    return e


def _mask(scores: Array, key_mask: Array | None, causal: bool) -> Array | None:
    """Return the mask, True for keys to attend to, to be broadcast to `scores`; None: all."""
    xp, mask = namespace(scores), None
    if key_mask is not None:
        mask = key_mask != 0 if is_integer(key_mask) else key_mask
        mask = mask[:, None, None, :]
    if causal:
        time, keys = scores.shape[-2:]
        t = xp.arange(time, device=device(scores))
        s = xp.arange(keys, device=device(scores))
        past = xp.reshape(s, (1, keys)) <= xp.reshape(t, (time, 1))
        past = xp.reshape(past, (1, 1, time, keys))
        mask = past if mask is None else mask & past
    return mask


def _columns(n_features: int, n_heads: int, n_kv_heads: int | None) -> dict[str, int]:
    """Return the columns that the weights of queries, keys, values and output have."""
    if n_heads < 1 or n_features % n_heads:
        message = (
            f"MultiHeadAttention: {n_heads} heads do not divide {n_features} features; "
            "each head has n_features / n_heads of them."
        )
        raise ValueError(message)
    if n_kv_heads is None:
        n_kv_heads = n_heads
    if n_kv_heads < 1 or n_heads % n_kv_heads:
        message = (
            f"MultiHeadAttention: n_kv_heads is {n_kv_heads}; expected a divisor of the {n_heads} "
            "heads."
        )
        raise ValueError(message)
    of_kv = n_features // n_heads * n_kv_heads
    return {"q": n_features, "k": of_kv, "v": of_kv, "o": n_features}
