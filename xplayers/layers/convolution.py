"""Convolution and transposed convolution of sequences, images and volumes, channels first.

The computation is in `correlation`; this file has the layers, their options and checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from xplayers._checks import flag, integer
from xplayers.arrays.checks import check_parameter
from xplayers.arrays.namespaces import Array
from xplayers.arrays.products import channel_sums
from xplayers.initializers import Initializer, Rng, documented, drawn, he_normal
from xplayers.layers.base import Cache, Layer
from xplayers.layers.correlation import correlate, correlate_transposed, filter_gradient
from xplayers.layers.variables import Gradient, Parameter
from xplayers.layers.windows import (
    Numbers,
    Sizes,
    Window,
    format_size,
    geometry,
    named_axes,
    per_axis,
    plain,
)


class _Filters(Layer):
    """Base of layers with filters `W` and a bias: their names and checks."""

    W, dW = Parameter(), Gradient()
    b, db = Parameter(), Gradient()

    _channels: tuple[int, int]  # of input and output
    _window: Window

    @property
    def _sizes(self) -> tuple[Any, ...]:
        size = tuple(self.W.shape[2:])
        square = len(size) == 2 and size[0] == size[1]
        return *self._channels, size[0] if square else size

    def __str__(self) -> str:
        n_in, n_out = self._channels
        return f"{type(self).__name__}({n_in} -> {n_out}, {format_size(self.W.shape[2:])})"

    def _set_filters(self, W: Array, b: Array, axes: tuple[str, str], filters: int) -> None:
        """Set `W`, whose first two axes have these names, and `b`, of the length of one of them."""
        self.W, self.b = W, b
        owner = type(self).__name__
        if not 3 <= len(W.shape) <= 5 or 0 in W.shape:
            message = (
                f"{owner}: W has shape {tuple(W.shape)}; expected ({', '.join(axes)}, height, "
                "width), or (..., length) for sequences."
            )
            raise ValueError(message)
        if b is not None:
            check_parameter(owner, "b", b, W, "W", (W.shape[filters],), " for W")

    def _check_input(self, x: Array) -> None:
        """Raise an error if `x` has other axes or channels."""
        (n_in, _), axes = self._channels, self._window.axes
        if len(x.shape) != axes + 2 or x.shape[1] != n_in:
            hint = _hint(tuple(x.shape), n_in, axes)
            message = (
                f"{self}: x has shape {tuple(x.shape)}; "
                f"expected (n, {n_in}, {named_axes(axes)}).{hint}"
            )
            raise ValueError(message)


class Convolution(_Filters):
    """Convolution as in neural networks: the filters are not flipped (cross-correlation).

    For images ``y[n, f, i, j] = b[f] + sum over c, k, l of
    W[f, c, k, l] * xp[n, c, s * i + d * k, s * j + d * l]`` with the stride s, the dilation d and
    `xp`, which is `x` with zero padding. Along each axis there are as many outputs as windows
    fit: ``(size + padding before and after - d * (kernel - 1) - 1) // s + 1``; a remainder at the
    end is ignored.

    Backward: ``dW`` is the sum over samples and positions of `dy` times the window of `x`, ``db``
    that of `dy`, and `dx` is ``W`` times `dy` for every window, summed where windows overlap.

    Parameters
    ----------
    W : array of shape (n_out, n_in / groups, height, width)
        Filters, for images `x` of shape ``(n, n_in, h, w)``. With one axis fewer, ``(n_out,
        n_in / groups, length)``, for sequences ``(n, n_in, l)``; with one more for volumes.
    b : array of shape (n_out,), optional
        Bias, of the library, device and dtype of `W`. None: no bias.
    stride : int or tuple of int
        Step between windows, for all axes or one per axis.
    padding : int, tuple of int or "same"
        Zeros on either side of each axis. ``"same"``: as many outputs as inputs, for stride 1; if
        the number of zeros is odd, the extra one is at the end, as in PyTorch and Keras.
    dilation : int or tuple of int
        Step between the elements of a window.
    groups : int
        Number of groups of channels, each with a convolution of its own; `n_in` groups make a
        depthwise convolution.

    Raises
    ------
    ValueError
        If the shapes of `W` and `b`, or later of `x`, or the options do not fit.
    TypeError
        If the arrays are of different libraries, devices or dtypes.

    See Also
    --------
    Convolution.init : creates `W` and `b`.

    Notes
    -----
    On NumPy, 3x3 filters with stride 1 and 16 channels or more are computed by Winograd's F(2, 3),
    whose sums of neighbouring inputs have slightly larger rounding errors, and which turns an
    infinity into NaN in two rows of the output instead of one. PyTorch and JAX have
    convolutions of their own, which may do the same.

    The bias is ``(n_out,)`` and the options are called `padding` and `dilation`, as in PyTorch;
    *Deep Learning from Scratch* calls it `pad`, and has no dilation, groups or "same".

    References
    ----------
    Chellapilla, Puri, Simard, "High Performance Convolutional Neural Networks for Document
    Processing", 2006 (im2col). Dumoulin, Visin, arXiv:1603.07285 (the sizes).

    Examples
    --------
    >>> import numpy as np
    >>> edges = Convolution(np.asarray([[[-1.0, 1.0]]]))
    >>> edges.forward(np.asarray([[[0.0, 0.0, 5.0, 5.0]]]))
    array([[[0., 5., 0.]]])
    >>> edges.backward(np.asarray([[[0.0, 1.0, 0.0]]]))
    array([[[ 0., -1.,  1.,  0.]]])
    >>> edges.dW
    array([[[0., 5.]]])
    """

    def __init__(
        self,
        W: Array,
        b: Array = None,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
    ) -> None:
        self._set_filters(W, b, ("n_out", "n_in / groups"), filters=0)
        self.stride, self.padding, self.dilation = plain(stride), plain(padding), plain(dilation)
        (self.groups,) = per_axis("Convolution", "groups", groups, 1, 1)
        if W.shape[0] % self.groups:
            message = (
                f"Convolution: groups is {groups}, W has {W.shape[0]} filters; "
                "the number of filters must be a multiple of groups."
            )
            raise ValueError(message)
        self._channels = W.shape[1] * self.groups, W.shape[0]
        self._window = geometry("Convolution", W.shape[2:], stride, padding, dilation)

    @classmethod
    @documented
    def init(
        cls,
        n_in: int,
        n_out: int,
        size: Numbers,
        *,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        initializer: Initializer = he_normal,
        rng: Rng = None,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer with initial values: `W` from `initializer`, `b` zero.

        Parameters
        ----------
        n_in, n_out : int
            Channels.
        size : int or tuple of int
            Size of the filters. An int is a square for images; ``(5,)`` is for sequences.
        stride, padding, dilation, groups
            As in `Convolution`.
        bias : bool
            Whether there is a bias.
        initializer, rng, dtype, like
            As in every `init`.
        """
        owner = "Convolution"
        n_in, n_out = integer(owner, "n_in", n_in), integer(owner, "n_out", n_out)
        size, (groups,) = _filter_size(owner, size), per_axis(owner, "groups", groups, 1, 1)
        if n_in % groups:
            message = (
                f"Convolution: groups is {groups}, n_in is {n_in}; "
                "the number of channels must be a multiple of groups."
            )
            raise ValueError(message)
        W = drawn(owner, initializer, (n_out, n_in // groups, *size), rng, dtype)
        b = np.zeros(n_out, W.dtype) if flag(owner, "bias", bias) else None
        return cls(W, b, stride, padding, dilation, groups)._materialize_at(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        W = arrays["W"]
        self._check(x)
        return correlate(x, W, arrays.get("b"), self._window, self.groups), (x, W)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        return self._input_grad(cache, dy), self.param_grads(cache, dy)

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        grads = self._filter_grads(cache, dy, bias=self.b is not None)
        return {"W": grads} if self.b is None else dict(zip(("W", "b"), grads, strict=True))

    # Also used where this layer is fused with others.

    def _check(self, x: Array) -> None:
        """Raise an error if `x` does not fit."""
        self._check_input(x)
        self._window.check(self, x)

    def _input_grad(self, cache: Cache, dy: Array) -> Array:
        """Return ``dx``."""
        x, W = cache
        return correlate_transposed(dy, W, None, self._window, self.groups, x.shape[2:])

    def _filter_grads(self, cache: Cache, dy: Array, *, bias: bool = False) -> Any:
        """Return ``dW``, or with `bias` ``dW`` and ``db``."""
        x, W = cache
        return filter_gradient(x, dy, W.shape, self._window, self.groups, bias)


class ConvolutionTranspose(_Filters):
    """Transposed convolution: forward is the backward of `Convolution` for its input.

    It upsamples: every input adds its filter, times its value, to its window of the output. Along
    each axis the output has ``(size - 1) * stride + kernel - 2 * padding + output_padding``
    elements. It is not the inverse of a convolution; it restores the shape. Also called
    fractionally strided convolution and, incorrectly, deconvolution.

    Backward: `dx` is the convolution of `dy` with `W`, ``dW`` the sum over samples and positions
    of `x` times the window of `dy`, and ``db`` the sum of `dy`.

    Parameters
    ----------
    W : array of shape (n_in, n_out, height, width)
        Filters, for images `x` of shape ``(n, n_in, h, w)``: those of the convolution from `n_out`
        to `n_in` channels of which this is the transpose, as in PyTorch. With one axis fewer for
        sequences, with one more for volumes.
    b : array of shape (n_out,), optional
        Bias. None: no bias.
    stride : int or tuple of int
        Step between windows of the output.
    padding : int or tuple of int
        Elements to crop on either side of each axis of the output.
    output_padding : int or tuple of int
        Additional elements at the end of each axis, fewer than `stride`: a strided convolution
        maps several sizes to one, and this selects one of them.

    Raises
    ------
    ValueError
        If the shapes of `W` and `b`, or later of `x`, or the options do not fit.
    TypeError
        If the arrays are of different libraries, devices or dtypes.

    See Also
    --------
    ConvolutionTranspose.init : creates `W` and `b`.

    References
    ----------
    Dumoulin, Visin, arXiv:1603.07285, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> double = ConvolutionTranspose(np.asarray([[[1.0, 1.0]]]), stride=2)
    >>> double(np.asarray([[[3.0, 4.0]]]))
    array([[[3., 3., 4., 4.]]])
    """

    def __init__(
        self,
        W: Array,
        b: Array = None,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
    ) -> None:
        owner = "ConvolutionTranspose"
        self._set_filters(W, b, ("n_in", "n_out"), filters=1)
        self.stride, self.padding = plain(stride), plain(padding)
        self.output_padding = plain(output_padding)
        if isinstance(padding, str) and padding == "same":
            message = f"{owner}: padding is 'same'; expected numbers, as (kernel - 1) // 2."
            raise ValueError(message)
        self._channels = W.shape[0], W.shape[1]
        self._window = geometry(owner, W.shape[2:], stride, padding)
        self._more = per_axis(owner, "output_padding", output_padding, self._window.axes, 0)
        if any(extra >= s for extra, s in zip(self._more, self._window.stride, strict=True)):
            message = (
                f"{owner}: output_padding is {output_padding}, stride is {stride}; "
                "output_padding must be smaller than stride."
            )
            raise ValueError(message)

    @classmethod
    @documented
    def init(
        cls,
        n_in: int,
        n_out: int,
        size: Numbers,
        *,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        bias: bool = True,
        initializer: Initializer = he_normal,
        rng: Rng = None,
        dtype: str = "float32",
        like: Array = None,
    ) -> Self:
        """Make a layer with initial values: `W` from `initializer`, `b` zero.

        Parameters
        ----------
        n_in, n_out : int
            Channels.
        size : int or tuple of int
            Size of the filters. An int is a square for images; ``(5,)`` is for sequences.
        stride, padding, output_padding
            As in `ConvolutionTranspose`.
        bias : bool
            Whether there is a bias.
        initializer : callable
            ``initializer((n_out, n_in, *size), rng)``: the shape of a convolution, so that the
            fan-in is `n_in` filters, whatever the stride; the first two axes are swapped
            afterwards. (PyTorch takes `n_out` as the fan-in.)
        rng, dtype, like
            As in every `init`.
        """
        owner = "ConvolutionTranspose"
        n_in, n_out = integer(owner, "n_in", n_in), integer(owner, "n_out", n_out)
        shape = (n_out, n_in, *_filter_size(owner, size))
        values = drawn(owner, initializer, shape, rng, dtype)
        W = np.ascontiguousarray(values.swapaxes(0, 1))
        b = np.zeros(n_out, W.dtype) if flag(owner, "bias", bias) else None
        return cls(W, b, stride, padding, output_padding)._materialize_at(like)

    def apply(self, arrays: Mapping[str, Array], x: Array) -> tuple[Array, Cache]:
        W = arrays["W"]
        self._check_input(x)
        sizes = self._outputs(x)
        return correlate_transposed(x, W, arrays.get("b"), self._window, 1, sizes), (x, W)

    def vjp(self, cache: Cache, dy: Array) -> tuple[Array, dict[str, Array]]:
        _, W = cache
        return correlate(dy, W, None, self._window, 1), self.param_grads(cache, dy)

    def param_grads(self, cache: Cache, dy: Array) -> dict[str, Array]:
        x, W = cache
        dW = filter_gradient(dy, x, W.shape, self._window, 1, bias=False)
        return {"W": dW} if self.b is None else {"W": dW, "b": channel_sums(dy)}

    def _outputs(self, x: Array) -> Sizes:
        window = self._window
        sizes = tuple(
            (n - 1) * s + k - sum(p) + extra
            for n, s, k, p, extra in zip(
                x.shape[2:], window.stride, window.size, window.padding, self._more, strict=True
            )
        )
        if min(sizes) < 1 or min(x.shape[2:]) < 1:
            message = (
                f"{self}: x has shape {tuple(x.shape)}, so the output would be "
                f"{format_size(sizes)}. Use larger inputs or less padding."
            )
            raise ValueError(message)
        return sizes


def _hint(shape: tuple[int, ...], n_in: int, axes: int) -> str:
    """Return the probable fix for an input of a wrong shape."""
    if len(shape) == axes + 1:
        if n_in == 1 and shape[0] != 1:
            return " Add a channel axis: x[:, None, ...]."
        return " A single sample is x[None, ...]."
    if len(shape) == axes + 2 and shape[-1] == n_in:
        order = (0, axes + 1, *range(1, axes + 1))
        return f" Channels come second: xp.permute_dims(x, {order})."
    return ""


def _filter_size(owner: str, size: Any) -> Sizes:
    """Return the size of the filters; an int is a square."""
    axes = len(size) if isinstance(size, Sequence) else 2
    return per_axis(owner, "size", size, axes, 1)
