"""Recurrent layers. Each implements one time step and its backward; the loop is in `scan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from xplayers._checks import flag
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.operation import operation
from xplayers.arrays.products import matmul
from xplayers.functional import sigmoid
from xplayers.initializers import Initializer, Rng, xavier_uniform
from xplayers.layers.base import Cache
from xplayers.layers.scan import Recurrent, blocks, step_rows
from xplayers.layers.variables import Gradient, Parameter


class Rnn(Recurrent):
    """Simple recurrent layer, ``h[t] = tanh(x[t] @ Wx + h[t-1] @ Wh + b)``; ``y[t] = h[t]``.

    Backward, from the last step to the first, with ``dh`` from the following step::

        da[t] = (dy[t] + dh) * (1 - h[t]**2);  dh = da[t] @ Wh.T;  dx[t] = da[t] @ Wx.T
        dWx = sum(x[t].T @ da[t]);  dWh = sum(h[t-1].T @ da[t]);  db = sum(da[t])

    Parameters
    ----------
    Wx : array of shape (n_in, n_hidden)
        Weights of the input.
    Wh : array of shape (n_hidden, n_hidden)
        Weights of the state.
    b : array of shape (n_hidden,)
        Bias. PyTorch has two, which add up to this one.
    Wx_reverse, Wh_reverse, b_reverse : array, optional
        Parameters of the reverse direction; with them the layer is bidirectional, and `y` has the
        concatenated outputs of both directions, as in PyTorch and Keras.

    Raises
    ------
    ValueError
        If the shapes of the parameters, or later of `x` or `h0`, do not fit.
    TypeError
        If the arrays are of different libraries, devices or dtypes.

    Notes
    -----
    `x` is ``(n, time, n_in)``, `y` is ``(n, time, n_hidden)``, or ``2 * n_hidden`` if
    bidirectional. ``forward(x, h0)`` starts from the state `h0` ``(n, n_hidden)``, or
    ``(n, 2 * n_hidden)``, and ``backward`` then returns ``(dx, dh0)``; without it from zeros, and
    ``backward`` returns ``dx``. In a `Sequential` the states start from zeros. `final_state` is
    the initial state for the next chunk of a long sequence; gradients do not cross chunks
    (truncated backpropagation through time). The book's ``TimeRNN(stateful=True)`` keeps the state
    in the layer.

    References
    ----------
    Elman, "Finding Structure in Time", Cognitive Science 14, 1990.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Rnn.init(3, 4, rng=0, dtype="float64")
    >>> x = np.random.default_rng(1).normal(size=(2, 6, 3))
    >>> state, outputs = (), []
    >>> for chunk in (x[:, :3], x[:, 3:]):
    ...     outputs.append(layer.forward(chunk, *state))
    ...     state = layer.final_state()
    ...     dx = layer.backward(np.ones((2, 3, 4)))
    >>> bool(np.allclose(np.concatenate(outputs, axis=1), layer(x)))
    True
    """

    @staticmethod
    def _step(xp, inputs, state, weights):
        (p,), (h,) = inputs, state
        a = matmul(h, weights[1])
        a += p
        after = xp.tanh(a)
        return (after,), (h, after)

    @staticmethod
    def _step_vjp(xp, inputs, dafter, weights):
        dy, _, after = inputs
        da = _rnn_vjp(dy, *dafter, after)
        return (matmul(da, weights[1].mT),), (da,)


@elementwise
def _rnn_vjp(xp, dy, dh, h):
    return (dy + dh) * (1.0 - h * h)


class Lstm(Recurrent):
    """Long short-term memory with a forget gate.

    With ``a[t] = x[t] @ Wx + h[t-1] @ Wh + b``, split into four blocks of `n_hidden` columns::

        i, f, g, o = sigmoid(a_i), sigmoid(a_f), tanh(a_g), sigmoid(a_o)
        c[t] = f * c[t-1] + i * g;   h[t] = o * tanh(c[t]);   y[t] = h[t]

    Backward, from the last step to the first, with ``dh`` and ``dc`` from the following step::

        dh = dh + dy[t];  dc = dc + dh * o * (1 - tanh(c[t])**2)
        da_i = dc * g * i * (1 - i);      da_f = dc * c[t-1] * f * (1 - f)
        da_g = dc * i * (1 - g**2);       da_o = dh * tanh(c[t]) * o * (1 - o)
        dx[t] = da @ Wx.T;  dh = da @ Wh.T;  dc = dc * f
        dWx = sum(x[t].T @ da);  dWh = sum(h[t-1].T @ da);  db = sum(da)

    Parameters
    ----------
    Wx : array of shape (n_in, 4 * n_hidden)
        Weights of the input. The blocks are i, f, g, o: input gate, forget gate, candidate, output
        gate. PyTorch and Keras have that order too (``Wx = weight_ih_l0.T``,
        ``Wh = weight_hh_l0.T``, ``b = bias_ih_l0 + bias_hh_l0``); the book has f, g, i, o.
    Wh : array of shape (n_hidden, 4 * n_hidden)
        Weights of the state.
    b : array of shape (4 * n_hidden,)
        Bias.
    Wx_reverse, Wh_reverse, b_reverse : array, optional
        As in `Rnn`.

    Raises
    ------
    ValueError, TypeError
        As `Rnn`.

    Notes
    -----
    Shapes are those of `Rnn`. The state is ``(h, c)``: ``forward(x, h0, c0)`` starts from it (one
    of them may be None, which is zeros), and ``backward`` then returns ``(dx, dh0, dc0)``; without
    a state it returns ``dx``. `final_state` returns ``(h, c)``.

    References
    ----------
    Hochreiter, Schmidhuber, "Long Short-Term Memory", Neural Computation 9, 1997; the forget gate:
    Gers, Schmidhuber, Cummins, "Learning to Forget", Neural Computation 12, 2000.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Lstm.init(3, 4, rng=0)
    >>> y = layer.forward(np.ones((2, 5, 3), "float32"))
    >>> h, c = layer.final_state()
    >>> y.shape, c.shape, bool(np.all(h == y[:, -1]))
    ((2, 5, 4), (2, 4), True)
    """

    _gates: ClassVar = {"i": 0.0, "f": 1.0, "g": 0.0, "o": 0.0}

    def apply(
        self,
        arrays: Mapping[str, Array],
        x: Array,
        h0: Array | None = None,
        c0: Array | None = None,
    ) -> tuple[Array, Cache]:
        return self._run(arrays, x, (h0, c0))

    @staticmethod
    def _step(xp, inputs, state, weights):
        (p,), (h, c) = inputs, state
        a = matmul(h, weights[1])
        a += p
        h_after, c_after, *gates = lstm_cell(a, c)
        return (h_after, c_after), (h, h_after, c, c_after, *gates)

    @staticmethod
    def _step_vjp(xp, inputs, dafter, weights):
        (dy, _, _, c, c_after, *gates), (dh, dc) = inputs, dafter
        da, dc = lstm_cell_gradient(dy, dh, dc, tuple(gates), c, c_after)
        return (matmul(da, weights[1].mT), dc), (da,)


@operation
def lstm_cell(a: Array, c: Array) -> tuple[Array, ...]:
    """Return hidden and cell state, and the gates i, f, g, o: four arrays, or columns of one."""
    return _lstm(*blocks(a, 4), c)


@operation
def lstm_cell_gradient(
    dy: Array, dh: Array, dc: Array, gates: tuple[Array, ...], c: Array, after: Array
) -> tuple[Array, Array]:
    """Return the gradients of `a` and `c`."""
    four = gates if len(gates) == 4 else blocks(gates[0], 4)
    *das, dc = _lstm_vjp(dy, dh, dc, *four, c, after)
    return namespace(dy).concat(das, axis=1), dc


@elementwise
def _lstm(xp, i, f, g, o, c):
    i, f, o = (sigmoid.function(xp, a) for a in (i, f, o))
    g = xp.tanh(g)
    c = f * c + i * g
    return o * xp.tanh(c), c, i, f, g, o


@elementwise
def _lstm_vjp(xp, dy, dh, dc, i, f, g, o, c, c_after):
    dh = dy + dh
    t = xp.tanh(c_after)
    dc = dc + dh * o * (1.0 - t * t)
    di, df = dc * g * (i * (1.0 - i)), dc * c * (f * (1.0 - f))
    return di, df, dc * i * (1.0 - g * g), dh * t * (o * (1.0 - o)), dc * f


class Gru(Recurrent):
    """Gated recurrent unit.

    With ``p = x[t] @ Wx + b``, ``q = h[t-1] @ Wh + bh``, each split into three blocks of `n_hidden`
    columns::

        r, z = sigmoid(p_r + q_r), sigmoid(p_z + q_z)
        n = tanh(p_n + r * q_n);   h[t] = (1 - z) * n + z * h[t-1];   y[t] = h[t]

    Without `bh`, the original form, which resets before the product:
    ``n = tanh(p_n + (r * h[t-1]) @ Wh_n)`` and ``q = h[t-1] @ Wh`` for r and z.

    Backward, from the last step to the first, with ``dh`` from the following step::

        dh = dh + dy[t];   dp_n = dh * (1 - z) * (1 - n**2)
        dp_z = dh * (h[t-1] - n) * z * (1 - z);   dp_r = dp_n * q_n * r * (1 - r)
        dq = dp_r, dp_z, dp_n * r;   dx[t] = dp @ Wx.T;   dh = dh * z + dq @ Wh.T
        dWx = sum(x[t].T @ dp);  dWh = sum(h[t-1].T @ dq);  db = sum(dp);  dbh = sum(dq)

    and without `bh`, with ``m = r * h[t-1]`` and ``dm = dp_n @ Wh_n.T``::

        dp_r = dm * h[t-1] * r * (1 - r);   dWh_n = sum(m.T @ dp_n)
        dh = dh * z + dm * r + dp_r @ Wh_r.T + dp_z @ Wh_z.T

    Parameters
    ----------
    Wx : array of shape (n_in, 3 * n_hidden)
        Weights of the input. The blocks are r, z, n: reset gate, update gate, candidate, the order
        of PyTorch (``Wx = weight_ih_l0.T``, ``Wh = weight_hh_l0.T``, ``b = bias_ih_l0``,
        ``bh = bias_hh_l0``); Keras has z, r, n.
    Wh : array of shape (n_hidden, 3 * n_hidden)
        Weights of the state.
    b : array of shape (3 * n_hidden,)
        Bias of the input.
    bh : array of shape (3 * n_hidden,), optional
        Bias of the recurrent product. With it the reset gate acts after the product, as in
        PyTorch, cuDNN and Keras; without it before, as in the paper (Keras:
        ``reset_after=False``).
    Wx_reverse, Wh_reverse, b_reverse, bh_reverse : array, optional
        As in `Rnn`.

    Raises
    ------
    ValueError, TypeError
        As `Rnn`.

    Notes
    -----
    Shapes, states and gradients of states are those of `Rnn`.

    References
    ----------
    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation", EMNLP 2014, equations 5 to 8.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> layer = xl.Gru.init(4, 3, rng=0)
    >>> y = layer.forward(np.ones((2, 10, 4), "float32"))
    >>> y.shape
    (2, 10, 3)
    >>> (state,) = layer.final_state()
    >>> bool((state == y[:, -1]).all())
    True
    >>> layer.backward(np.ones_like(y)).shape
    (2, 10, 4)
    """

    bh, dbh = Parameter(), Gradient()
    bh_reverse, dbh_reverse = Parameter(), Gradient()

    _gates: ClassVar = {"r": 0.0, "z": 0.0, "n": 0.0}

    def __init__(
        self, Wx: Array, Wh: Array, b: Array, bh: Array = None,
        Wx_reverse: Array = None, Wh_reverse: Array = None,
        b_reverse: Array = None, bh_reverse: Array = None,
    ) -> None:  # fmt: skip
        names, forward = ["Wx", "Wh", "b"], [Wx, Wh, b]
        reverse = [Wx_reverse, Wh_reverse, b_reverse]
        self.reset_after = bh is not None
        if self.reset_after:
            names, forward, reverse = [*names, "bh"], [*forward, bh], [*reverse, bh_reverse]
        elif bh_reverse is not None:
            message = "Gru: bh_reverse is passed without bh; both directions have to reset alike."
            raise ValueError(message)
        self._set_parameters(names, forward, reverse)

    @classmethod
    def init(
        cls,
        n_in: int,
        n_hidden: int,
        *,
        bidirectional: bool = False,
        reset_after: bool = True,
        initializer: Initializer = xavier_uniform,
        rng: Rng = None,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer as `Rnn.init` does; `reset_after` says whether there is a `bh`, zero too."""
        biases = ("b", "bh") if flag("Gru", "reset_after", reset_after) else ("b",)
        sizes = n_in, n_hidden, bidirectional
        return cls._initialized(*sizes, initializer, rng, dtype, biases)._materialize_at(like)

    @staticmethod
    def _step(xp, inputs, state, weights):
        (p,), (h,), Wh = inputs, state, weights[1]
        if len(weights) > 3:  # it resets after the product
            q = matmul(h, Wh)
            q += weights[3]
            after, *gates = _gru(*blocks(p, 3), *blocks(q, 3), h)
            return (after,), (h, after, *gates, blocks(q, 3)[2])
        Wr, Wz, Wn = blocks(Wh, 3)
        pr, pz, pn = blocks(p, 3)
        r, z, m = _gru_gates(pr + matmul(h, Wr), pz + matmul(h, Wz), h)
        after, n = _gru_original(pn + matmul(m, Wn), z, h)
        return (after,), (h, after, r, z, n, m)

    @staticmethod
    def _step_vjp(xp, inputs, dafter, weights):
        (dy, h, _, r, z, n, last), Wh = inputs, weights[1]
        if len(weights) > 3:
            dr, dz, dn, dqn, dh = _gru_vjp(dy, *dafter, r, z, n, last, h)
            dp, dq = xp.concat([dr, dz, dn], axis=1), xp.concat([dr, dz, dqn], axis=1)
            dh += matmul(dq, Wh.mT)
            return (dh,), (dp, dq)
        Wr, Wz, Wn = blocks(Wh, 3)
        dz, dn, dh = _gru_original_vjp(dy, *dafter, z, n, h)
        dr, dh = _gru_reset_vjp(matmul(dn, Wn.mT), dh, r, h)
        dh += matmul(dr, Wr.mT)
        dh += matmul(dz, Wz.mT)
        return (dh,), (xp.concat([dr, dz, dn], axis=1),)

    def _recurrent_grad(self, xp, results, dq):
        if self.reset_after:
            return super()._recurrent_grad(xp, results, dq)
        split = 2 * (dq.shape[1] // 3)
        h, m = step_rows(xp, results[0]), step_rows(xp, results[-1])
        return xp.concat([matmul(h.mT, dq[:, :split]), matmul(m.mT, dq[:, split:])], axis=1)


@elementwise
def _gru(xp, pr, pz, pn, qr, qz, qn, h):
    r, z = sigmoid.function(xp, pr + qr), sigmoid.function(xp, pz + qz)
    n = xp.tanh(pn + r * qn)
    return n + z * (h - n), r, z, n


@elementwise
def _gru_vjp(xp, dy, dh, r, z, n, qn, h):
    dh = dy + dh
    dn = dh * (1.0 - z) * (1.0 - n * n)
    return dn * qn * (r * (1.0 - r)), dh * (h - n) * (z * (1.0 - z)), dn, dn * r, dh * z


@elementwise
def _gru_gates(xp, ar, az, h):
    r, z = sigmoid.function(xp, ar), sigmoid.function(xp, az)
    return r, z, r * h


@elementwise
def _gru_original(xp, an, z, h):
    n = xp.tanh(an)
    return n + z * (h - n), n


@elementwise
def _gru_original_vjp(xp, dy, dh, z, n, h):
    dh = dy + dh
    return dh * (h - n) * (z * (1.0 - z)), dh * (1.0 - z) * (1.0 - n * n), dh * z


@elementwise
def _gru_reset_vjp(xp, dm, dh, r, h):
    return dm * h * (r * (1.0 - r)), dh + dm * r
