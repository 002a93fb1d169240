"""``common.time_layers`` of volume 2, by layers of xplayers."""

from __future__ import annotations

from typing import Any

import xplayers as xl
from xplayers.book import layers
from xplayers.book.layers import Adapter, Affine, Held


class Recurrent(Adapter):
    """A recurrent layer that keeps its state, ``h`` and of an LSTM ``c``, if it is `stateful`.

    `blocks` are the blocks of columns of our weights as those of the book: number and sign.
    """

    Wx, Wh, b = Held(0), Held(1), Held(2)
    blocks: tuple[tuple[int, int], ...] = ((0, 1),)
    states: tuple[str, ...] = ("h",)
    dh = None

    def __init__(self, Wx: Any, Wh: Any, b: Any, stateful: bool = False) -> None:
        super().__init__(Wx=Wx, Wh=Wh, b=b)
        self.stateful = stateful
        self.reset_state()

    def make(self, *params: Any) -> Any:
        return self.layer(*map(self.ordered, params))

    def ordered(self, a: Any, back: bool = False) -> Any:
        """Return weights with the blocks of columns in our order, or `back` in the book's."""
        if len(self.blocks) == 1:
            return a
        n, blocks = a.shape[-1] // len(self.blocks), self.blocks
        if back:
            numbers = [i for i, _ in blocks]
            blocks = [(numbers.index(i), blocks[numbers.index(i)][1]) for i in range(len(blocks))]
        parts = [sign * a[..., i * n : (i + 1) * n] for i, sign in blocks]
        return xl.namespace(a).concat(parts, axis=-1)

    def forward(self, x: Any) -> Any:
        """Return the outputs of all steps."""
        x, arrays = self.opened(x)
        like = xl.namespace(x).zeros_like(x[:, 0, :1])  # in its library
        n_hidden = arrays["Wh"].shape[0]
        start = []
        for name in self.states:
            state = getattr(self, name) if self.stateful else None
            zeros = xl.namespace(x).broadcast_to(like, (x.shape[0], n_hidden))
            start.append(zeros if state is None else layers.as_type(self.own(state), x.dtype))
        y = self.train(x, {name: self.ordered(a) for name, a in arrays.items()}, *start)
        for name, state in zip(self.states, self._layer.final_state(self.cache), strict=True):
            setattr(self, name, self.closed(state))
        return y

    def backward(self, dout: Any) -> Any:
        """Return the gradient of the inputs; that of the first ``h`` is ``dh``."""
        (dx, dh, *_), grads = self._layer.vjp(self.cache, self.gradient(dout))
        self.collect({name: self.ordered(g, back=True) for name, g in grads.items()})
        self.dh = self.closed(dh)
        return self.closed(dx)

    def set_state(self, *states: Any) -> None:
        """Set the state that the next pass starts from."""
        for name, state in zip(self.states, (*states, None), strict=False):
            setattr(self, name, state)

    def reset_state(self) -> None:
        """Let the next pass start from zeros."""
        self.set_state(None)


class TimeRNN(Recurrent):
    """``TimeRNN(Wx, Wh, b, stateful=False)``."""

    layer = xl.Rnn


class TimeLSTM(Recurrent):
    """``TimeLSTM(Wx, Wh, b, stateful=False)``, whose gates are f, g, i, o."""

    layer = xl.Lstm
    blocks = ((2, 1), (0, 1), (1, 1), (3, 1))  # i, f, g, o
    states = ("h", "c")


class TimeGRU(Recurrent):
    """``TimeGRU(Wx, Wh, b, stateful=False)``, whose gates are z, r, h, with z for the new state.

    Ours are r, z, n, with z for the old state: the sigmoid of the opposite number.
    """

    layer = xl.Gru
    blocks = ((1, 1), (0, -1), (2, 1))


class TimeEmbedding(layers.Embedding):
    """``TimeEmbedding(W)``."""


class TimeAffine(Affine):
    """``TimeAffine(W, b)``, of the last axis."""

    make = layers.MatMul.make


class TimeDropout(layers.Dropout):
    """``TimeDropout(dropout_ratio=0.5)``, which scales in training, where `train_flg` is set."""

    train_flg = True

    def forward(self, x: Any) -> Any:  # type: ignore[override]
        """Drop, or in inference return `x`."""
        return Adapter.forward(self, x) if self.train_flg else x

    backward = Adapter.backward


class TimeSoftmaxWithLoss(layers.SoftmaxWithLoss):
    """``TimeSoftmaxWithLoss()``: the mean over the steps whose label is not -1."""

    ignore_label = -1

    def make(self, *params: Any) -> Any:
        return xl.SoftmaxWithLoss(ignore_index=self.ignore_label)

    def target(self, x: Any, t: Any) -> Any:
        """Return labels."""
        xp = xl.namespace(t)
        return xp.argmax(t, axis=2) if len(t.shape) == 3 else t
