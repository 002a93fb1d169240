"""``common.layers`` of both volumes, by layers of xplayers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import xplayers as xl
from xplayers.arrays.namespaces import is_floating
from xplayers.book.device import entered, left, place


class Held:
    """Descriptor of a parameter by name: an entry of the book's list `params`."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else layer.params[self.index]

    def __set__(self, layer: Any, value: Any) -> None:
        layer.params[self.index] = value
        layer._layer = None  # which has checked the array that it was made of


class Adapter:
    """A layer of xplayers behind the book's interface.

    A subclass makes the layer from the parameters, at the first pass. As in the book `params` are
    the reader's own arrays, only the last pass is remembered, and backward may repeat.
    """

    layer: Any = None  # the class of xplayers, of a layer with no other arguments
    vectors: tuple[str, ...] = ("b",)  # parameters that may be numbers too, or (1, n)

    def __init__(self, **params: Any) -> None:
        self._names, self.params = tuple(params), [*params.values()]
        self._layer: Any = None
        self._grads: list[Any] | None = None
        self._state: dict[str, Any] = {}  # buffers of the layer
        for name in params:
            setattr(self, f"d{name}", None)

    def make(self, *params: Any) -> Any:
        """Return the layer of xplayers."""
        return self.layer(*params)

    @property
    def grads(self) -> list[Any]:
        """Gradients in the order of `params`; volume 2 collects these arrays, which stay."""
        if self._grads is None:
            self._grads = [zeros_like(p) for p in self.params]
        return self._grads

    def length(self, x: Any, first: Any) -> int:
        """Return the length of `vectors`, from the input and the first parameter."""
        return first.shape[-1]

    def forward(self, x: Any) -> Any:
        """Return the output for training, and remember the pass."""
        self.x = x
        return self.train(*self.opened(x))

    def backward(self, dout: Any) -> Any:
        """Return the gradient of the input of the last pass; set those of the parameters."""
        dx, grads = self._layer.vjp(self.cache, self.gradient(dout))
        self.collect(grads)
        return self.closed(dx)

    def train(self, x: Any, arrays: dict[str, Any], *inputs: Any) -> Any:
        y, self.cache = self._layer.apply(arrays, x, *inputs)
        self._state.update(self._layer.updated_buffers(arrays, self.cache))
        self._like = y
        return self.closed(y)

    def opened(self, x: Any) -> tuple[Any, dict[str, Any]]:
        """Return the input, in the dtype of the parameters, and the arrays of the layer."""
        self._at = place(x, *self.params)
        x, *params = map(self.own, (x, *self.params))
        first = floating(params[0] if params else x)
        params = [as_type(p, first.dtype) for p in params]
        for i, p in enumerate(params):
            if self._names[i] in self.vectors and p.shape != (n := self.length(x, first),):
                xp = xl.namespace(p)
                params[i] = xp.broadcast_to(xp.reshape(p, (math.prod(p.shape),)), (n,))
        if self._layer is None:
            self._layer = self.make(*params)
            self._state = {k: xl.move(a, like=first) for k, a in self._layer.buffers.items()}
        if not getattr(self._layer, "integer_input", False):
            x = as_type(x, first.dtype)
        return x, {**dict(zip(self._names, params, strict=True)), **self._state}

    def gradient(self, dout: Any) -> Any:
        """Return a gradient of the output as one of its library, dtype and shape."""
        dout = as_type(self.own(dout), self._like.dtype)
        if dout.shape != self._like.shape:
            dout = xl.namespace(dout).broadcast_to(dout, self._like.shape)
        return dout

    def collect(self, grads: dict[str, Any]) -> None:
        """Set the gradients of the parameters."""
        for i, name in enumerate(self._names):
            gradient = self.closed(grads[name])
            setattr(self, f"d{name}", gradient)
            if self._grads is not None:
                self._grads[i][...] = gradient

    def own(self, a: Any) -> Any:
        """Return an array of the reader as one of its library."""
        return entered(a, self._at)

    def closed(self, y: Any) -> Any:
        """Return an array of the library as the reader gets it."""
        return None if y is None else left(y, self._at)


def floating(a: Any) -> Any:
    """Return integers as float64."""
    return a if is_floating(a) else as_type(a, xl.namespace(a).float64)


def as_type(a: Any, dtype: Any) -> Any:
    """Return an array in a dtype of its library."""
    return a if a.dtype == dtype else xl.namespace(a).astype(a, dtype)


def zeros_like(a: Any) -> Any:
    """Return zeros where an array of the reader is."""
    zeros = a.copy()
    zeros[...] = 0
    return zeros


class Relu(Adapter):
    """``Relu()``."""

    layer = xl.Relu

    @property
    def mask(self) -> Any:
        """Where the input was not positive."""
        return self.closed(self._like <= 0)


class Sigmoid(Adapter):
    """``Sigmoid()``."""

    layer = xl.Sigmoid

    @property
    def out(self) -> Any:
        """The output."""
        return self.closed(self._like)


class Softmax(Sigmoid):
    """``Softmax()``, along the last axis."""

    layer = xl.Softmax


class Affine(Adapter):
    """``Affine(W, b)``; inputs of more than two axes are flattened."""

    W, b = Held(0), Held(1)
    layer = xl.Affine

    def __init__(self, W: Any, b: Any) -> None:
        super().__init__(W=W, b=b)


class MatMul(Adapter):
    """``MatMul(W)``, a product without a bias."""

    W = Held(0)

    def __init__(self, W: Any) -> None:
        super().__init__(W=W)

    def make(self, *params: Any) -> Any:
        return xl.Affine(*params, flatten=False)


class Convolution(Adapter):
    """``Convolution(W, b, stride=1, pad=0)``."""

    W, b = Held(0), Held(1)

    def __init__(self, W: Any, b: Any, stride: Any = 1, pad: Any = 0) -> None:
        super().__init__(W=W, b=b)
        self.stride, self.pad = stride, pad

    def length(self, x: Any, first: Any) -> int:
        """Return the number of filters."""
        return first.shape[0]

    def make(self, *params: Any) -> Any:
        return xl.Convolution(*params, stride=self.stride, padding=self.pad)


class Pooling(Adapter):
    """``Pooling(pool_h, pool_w, stride=2, pad=0)``, of maxima."""

    def __init__(self, pool_h: int, pool_w: int, stride: Any = 2, pad: Any = 0) -> None:
        super().__init__()
        self.pool_h, self.pool_w, self.stride, self.pad = pool_h, pool_w, stride, pad

    def make(self, *params: Any) -> Any:
        return xl.MaxPooling((self.pool_h, self.pool_w), self.stride, self.pad)


class BatchNormalization(Adapter):
    """``BatchNormalization(gamma, beta, momentum=0.9, running_mean=None, running_var=None)``.

    As in the book eps is 1e-6, the running statistics start at 0, and images are flattened, so that
    they are per pixel.
    """

    gamma, beta = Held(0), Held(1)
    vectors = ("gamma", "beta")

    def __init__(
        self, gamma: Any, beta: Any, momentum: float = 0.9,
        running_mean: Any = None, running_var: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, beta=beta)
        self.momentum, self._statistics = momentum, (running_mean, running_var)

    def length(self, x: Any, first: Any) -> int:
        """Return the number of features."""
        return x.shape[1]

    def make(self, *params: Any) -> Any:
        return xl.BatchNormalization(*params, momentum=self.momentum, eps=1e-6)

    def forward(self, x: Any, train_flg: bool = True) -> Any:
        """Normalize by the batch, or in inference by the running statistics."""
        self.input_shape, is_new = x.shape, self._layer is None
        x, arrays = self.opened(x.reshape(x.shape[0], -1))
        if is_new:
            for name, a in zip(("running_mean", "running_var"), self._statistics, strict=True):
                start = xl.namespace(x).zeros_like(arrays["gamma"])
                self._state[name] = start if a is None else as_type(self.own(a), x.dtype)
            arrays.update(self._state)
        y = self.train(x, arrays) if train_flg else self.closed(self._layer.infer(arrays, x))
        return y.reshape(*self.input_shape)

    def backward(self, dout: Any) -> Any:
        """Return the gradient of the input."""
        return super().backward(dout.reshape(dout.shape[0], -1)).reshape(*self.input_shape)

    @property
    def running_mean(self) -> Any:
        """The mean for inference; None before the first pass, unless it was passed."""
        return self.closed(self._state["running_mean"]) if self._state else self._statistics[0]

    @property
    def running_var(self) -> Any:
        """The variance for inference."""
        return self.closed(self._state["running_var"]) if self._state else self._statistics[1]


class Dropout(Adapter):
    """``Dropout(dropout_ratio=0.5)``, which scales in inference, with masks of xplayers."""

    _seeds = itertools.count()

    def __init__(self, dropout_ratio: float = 0.5) -> None:
        super().__init__()
        self.dropout_ratio, self._seed = dropout_ratio, next(Dropout._seeds)

    def make(self, *params: Any) -> Any:
        return xl.Dropout(self.dropout_ratio, self._seed)

    def forward(self, x: Any, train_flg: bool = True) -> Any:
        """Drop, or in inference scale."""
        share = 1.0 - self.dropout_ratio
        return super().forward(x) * share if train_flg else x * share

    def backward(self, dout: Any) -> Any:
        """Return the gradient of the input."""
        return super().backward(dout) * (1.0 - self.dropout_ratio)

    @property
    def mask(self) -> Any:
        """Where the last pass kept values."""
        return self.closed(self.cache[0])


class Embedding(Adapter):
    """``Embedding(W)``."""

    W = Held(0)
    layer = xl.Embedding

    def __init__(self, W: Any) -> None:
        super().__init__(W=W)

    @property
    def idx(self) -> Any:
        """The last input."""
        return self.x


class SoftmaxWithLoss(Adapter):
    """``SoftmaxWithLoss()``: the exact loss, without the book's 1e-7 in the logarithm."""

    layer = xl.SoftmaxWithLoss

    def forward(self, x: Any, t: Any) -> Any:  # type: ignore[override]
        """Return the mean loss of labels, or of one-hot or soft targets."""
        self.t, (x, _) = t, self.opened(x)
        self._scores, t = x, self.target(x, self.own(t))
        self._layer.check(x, t)
        loss, self.cache = self._layer.apply({}, x, t)
        self.loss = self.closed(loss)
        return self.loss

    def target(self, x: Any, t: Any) -> Any:
        """Return the target in a shape that the layer takes."""
        shape = tuple(x.shape)
        same = math.prod(t.shape) == math.prod(shape)
        return xl.namespace(t).reshape(t, shape if same else shape[:-1])

    def backward(self, dout: Any = 1) -> Any:
        """Return the gradient of the scores, times `dout`."""
        dx = self._layer.vjp(self.cache, float(dout))
        return self.closed(xl.namespace(dx).asarray(dx, copy=True))  # the reader may change it

    @property
    def y(self) -> Any:
        """The probabilities."""
        return self.closed(xl.functional.softmax(self._scores))


class SigmoidWithLoss(SoftmaxWithLoss):
    """``SigmoidWithLoss()``: the exact loss."""

    layer = xl.SigmoidWithLoss

    def target(self, x: Any, t: Any) -> Any:
        """Return the target in the shape and dtype of the scores."""
        return as_type(xl.namespace(t).reshape(t, x.shape), x.dtype)

    @property
    def y(self) -> Any:
        """The probabilities."""
        return self.closed(xl.functional.sigmoid(self._scores))
