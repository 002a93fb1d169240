"""Layers of CuPy arrays through cuDNN, by NVIDIA's ``nvidia-cudnn-frontend``.

Graphs, layouts and keys of plans are tested against an emulated cuDNN, which computes the graphs,
and where cuDNN is installed its frontend has to find them valid. The portable body is what CuPy
arrays get unless a `Cudnn` is asked for.

cuDNN is fastest where the channels of a place are side by side in memory (NHWC). So arrays are laid
out that way on the way in, unless they are so already, and results have that layout: as always
their shape is ``(n, c, *sizes)``, only the strides are others.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from xplayers.accelerate.cuda.convolution_fusion import ConvolutionFusion
from xplayers.accelerate.cuda.cudnn_graphs import TYPES, window_options
from xplayers.accelerate.cuda.cudnn_plans import Plans, Runtime
from xplayers.accelerate.cuda.fusion import fusing
from xplayers.arrays.namespaces import Array, dtype_name
from xplayers.arrays.operation import laid
from xplayers.arrays.products import channel_sums
from xplayers.layers.windows import Sizes, Window

__all__ = ["Cudnn"]

MOST_AXES = 5  # of a batch: a volume with samples and channels


class Cudnn(Plans):
    """Convolutions, normalizations and attention through cuDNN, each planned once.

    A plan is made when an operation is met for the first time, and not while a CUDA graph is
    captured: the steps before it, as they stand, do that.

    Parameters
    ----------
    tf32 : bool
        Whether float32 is multiplied in TF32, which rounds factors to 10 bits of mantissa. PyTorch
        does so by default in convolutions. 16-bit arrays have float32 sums either way.
    deterministic : bool
        Leave out the algorithms that add up in an order of chance.
    autotune : bool
        Time some algorithms when an operation is met for the first time, which takes a second or
        less, and take the fastest: results may then round otherwise from one `Cudnn` to the next.
        False: the one that cuDNN names first.
    runtime : optional
        Where calls go, for tests; by default CuPy and ``cudnn``.

    Raises
    ------
    ImportError
        If nvidia-cudnn-frontend or cuDNN is not installed.

    Notes
    -----
    Supported are float16, bfloat16 and float32; what cuDNN has no algorithm for is computed by the
    portable body.

    Convolutions: sequences, images and volumes, and all options of `xplayers.Convolution` and
    `ConvolutionTranspose`. A bias is added where cuDNN writes a convolution, and in a `Sequential`
    the ReLU that follows is computed there too, see `convolution_fusion`. The bias of a
    transpose is a pass of its own. Gradients of biases are sums of CuPy, or of kernels of our own
    within `xplayers.cuda.fused`. Algorithms may be those of Winograd, as on NumPy; not of Fourier.
    What such a `Sequential` returns is what its backward looks at: do not write over it before.

    `BatchNormalization`, forward in training and backward: cuDNN 9.28 plans it where the channels
    of a place are a multiple of 16 bytes, 4 channels of float32 and 8 of 16 bits. It has no
    inference by itself, so `predict` is portable. The running statistics are ours, of the biased
    variance, which is taken from the ``1 / sqrt(var + eps)`` that cuDNN gives: it is off by less
    than ``1e-6 * (var + eps)``.

    `LayerNormalization` and `RmsNormalization`, forward and backward: rows of any length. cuDNN has
    nothing for `GroupNormalization`.

    `MultiHeadAttention`, of float16 and bfloat16 and without a mask of keys, forward and backward:
    without the weights, which take memory of the time squared.

    References
    ----------
    NVIDIA, "cuDNN Frontend", chapters "Convolutions" and "Normalizations".

    Examples
    --------
    >>> def train(step, batches):
    ...     with Cudnn().layers():
    ...         for x, t in batches:
    ...             step(x, t)
    """

    def __init__(
        self,
        *,
        tf32: bool = False,
        deterministic: bool = True,
        autotune: bool = True,
        runtime: Any = None,
    ) -> None:
        super().__init__(tf32, deterministic, autotune, Runtime() if runtime is None else runtime)

    def layers(self) -> contextlib.AbstractContextManager[None]:
        """Let layers of CuPy arrays go through this object, in this context."""
        bodies = {name: getattr(self, name) for name in NAMES}
        return fusing(self._runtime.array, _joiner, {**bodies, "cudnn": self})

    def correlate(
        self,
        x: Array,
        W: Array,
        b: Array,
        window: Window,
        groups: int,
        *,
        relu: bool = False,
    ) -> Any:
        """Return the convolution of `x` with the filters `W`; NotImplemented where it has none.

        With `relu` its ReLU, if cuDNN has both in one.
        """
        shape = (x.shape[0], W.shape[0], *window.outputs(x.shape[2:]))
        operands = {"image": x, "weight": W}
        after = ("relu",) if relu else ()
        if b is not None:
            after = ("bias", *after)
            operands["bias"] = b.reshape(1, -1, *[1] * window.axes)
        y = self._convolution("conv_fprop", shape, window, after, **operands)
        if y is None and not relu and b is not None:
            y = self._biased(self._convolution("conv_fprop", shape, window, image=x, weight=W), b)
        return NotImplemented if y is None else y

    def correlate_transposed(
        self,
        dy: Array,
        W: Array,
        b: Array,
        window: Window,
        groups: int,
        sizes: Sequence[int],
    ) -> Any:
        """Return the transpose of `correlate` applied to `dy`; NotImplemented as there."""
        shape = (dy.shape[0], W.shape[1] * groups, *sizes)
        dx = self._biased(self._convolution("conv_dgrad", shape, window, loss=dy, filter=W), b)
        return NotImplemented if dx is None else dx

    def filter_gradient(
        self, x: Array, dy: Array, shape: Sizes, window: Window, groups: int, bias: bool
    ) -> Any:
        """Return the gradient of the filters and, with `bias`, that of the bias, as sums."""
        dW = self._convolution("conv_wgrad", shape, window, image=x, loss=dy)
        if dW is None:
            return NotImplemented
        dW = self._runtime.copied(dW)  # as the filters are
        return (dW, channel_sums(dy)) if bias else dW

    def _convolution(
        self,
        operation: str,
        shape: Sizes,
        window: Window,
        after: tuple[str, ...] = (),
        **inputs: Array,
    ) -> Array | None:
        a, *rest = inputs.values()
        if not _fit(a, *rest) or 0 in shape:
            return None
        results = self.run(operation, inputs, [(shape, a.dtype)], after, **window_options(window))
        return results and results[0]

    def _biased(self, y: Array | None, b: Array | None) -> Array | None:
        """Return `y`, which is ours, with `b` added to its channels."""
        if y is not None and b is not None:
            self._runtime.add(y, b.reshape(-1, *[1] * (y.ndim - 2)))
        return y

    def batch_normalization(self, x: Array, gamma: Array, beta: Array, eps: float) -> Any:
        """Return ``y``, None for ``xh``, ``r``, mean and variance of each channel."""
        alone = x.size == x.shape[1]  # one value in each channel: nothing varies
        if not _fit(x) or alone or x.ndim > MOST_AXES or dtype_name(gamma.dtype) not in TYPES:
            return NotImplemented
        of_channel = ((1, x.shape[1]), "float32")
        results = self.run(
            "batchnorm",
            {"input": x, "scale": self._row(gamma), "bias": self._row(beta)},
            [(x.shape, x.dtype), of_channel, of_channel],
            epsilon=float(eps),
            # cuDNN's running variance divides by n - 1.
            in_running_mean=None,
            in_running_var=None,
            momentum=None,
        )
        if results is None:
            return NotImplemented
        y, mean, r = results
        column = (1, -1, *[1] * (x.ndim - 2))
        variance = self._runtime.variance(r, eps)
        return y, None, *(a.reshape(column) for a in (r, mean, variance))

    def batch_normalization_gradient(
        self, dy: Array, x: Array, gamma: Array, xh: Array | None, mean: Array, r: Array
    ) -> Any:
        """Return the gradients of `x`, gamma and beta, of what the forward has kept."""
        row = (1, -1)
        return self._normalization_grads(
            "batchnorm_backward", dy, x, gamma, xh,
            mean=mean.reshape(row), inv_variance=r.reshape(row),
        )  # fmt: skip

    def layer_normalization(self, x: Array, gamma: Array, beta: Array, eps: float) -> Any:
        """Return ``y``, None for ``xh``, ``r`` and the mean of each row."""
        normalized = self._rows_normalized("layernorm", x, {"scale": gamma, "bias": beta}, eps, 2)
        if normalized is NotImplemented:
            return normalized
        y, mean, r = normalized
        return y, None, r, mean

    def layer_normalization_gradient(
        self, dy: Array, x: Array, gamma: Array, xh: Array | None, mean: Array | None, r: Array
    ) -> Any:
        """Return the gradients of `x`, gamma and beta, of what the forward has kept."""
        if mean is None:
            return NotImplemented
        column = (-1, 1)
        return self._rows_grads(
            "layernorm_backward", dy, x, gamma, xh,
            mean=mean.reshape(column), inv_variance=r.reshape(column),
        )  # fmt: skip

    def rms_normalization(self, x: Array, gamma: Array, eps: float) -> Any:
        """Return ``y``, None for ``xh`` and ``r`` of each row."""
        normalized = self._rows_normalized("rmsnorm", x, {"scale": gamma}, eps, 1)
        return normalized if normalized is NotImplemented else (normalized[0], None, normalized[1])

    def rms_normalization_gradient(
        self, dy: Array, x: Array, gamma: Array, xh: Array | None, r: Array
    ) -> Any:
        """Return the gradients of `x` and gamma, of what the forward has kept."""
        return self._rows_grads(
            "rmsnorm_backward", dy, x, gamma, xh, beta=False, inv_variance=r.reshape(-1, 1)
        )

    def attention(self, q: Array, k: Array, v: Array, key_mask: Array, causal: bool) -> Any:
        """Return ``o``, None for the weights, and statistics of the rows of scores."""
        if key_mask is not None or not self._attends(q, k, v):
            return NotImplemented
        results = self.run(
            "sdpa",
            {"q": q, "k": k, "v": v},
            [(q.shape, q.dtype), ((*q.shape[:3], 1), "float32")],
            generate_stats=True,
            use_causal_mask=causal,
        )
        return NotImplemented if results is None else (results[0], None, results[1])

    def attention_gradient(
        self, do: Array, q: Array, k: Array, v: Array, a: Array, o: Array, statistics: Array,
        causal: bool,
    ) -> Any:  # fmt: skip
        """Return the gradients of `q`, `k` and `v`, where the forward was ours."""
        if statistics is None or not self._attends(q, k, v, o, do):
            return NotImplemented
        results = self.run(
            "sdpa_backward",
            {"q": q, "k": k, "v": v, "o": o, "dO": do, "stats": statistics},
            [(x.shape, x.dtype) for x in (q, k, v)],
            use_causal_mask=causal,
            use_deterministic_algorithm=self.deterministic,
        )
        return NotImplemented if results is None else tuple(results)

    @staticmethod
    def _attends(q: Array, *others: Array) -> bool:
        """Whether cuDNN may have a kernel: of 16 bits, whose heads are a multiple of 16 bytes."""
        return _fit(q, *others) and q.dtype.itemsize == 2 and q.shape[-1] % 8 == 0

    def _rows_normalized(
        self, operation: str, x: Array, params: Mapping[str, Array], eps: float, statistics: int
    ) -> Any:
        """Return ``y``, and so many statistics of each row, in the shape of rows."""
        gamma = params["scale"]
        if not _fit(x) or dtype_name(gamma.dtype) not in TYPES:
            return NotImplemented
        rows = self._rows(x, gamma)
        results = self.run(
            operation,
            {"input": rows, **{name: self._row(a) for name, a in params.items()}},
            [(rows.shape, x.dtype), *[((rows.shape[0], 1), "float32")] * statistics],
            norm_forward_phase="TRAINING",
            epsilon=float(eps),
        )
        if results is None:
            return NotImplemented
        row = (*x.shape[: x.ndim - gamma.ndim], *[1] * gamma.ndim)
        return [results[0].reshape(x.shape), *(a.reshape(row) for a in results[1:])]

    def _rows_grads(
        self, operation: str, dy: Array, x: Array, gamma: Array, xh: Any, **options: Any
    ) -> Any:
        grads = self._normalization_grads(
            operation, self._rows(dy, gamma), self._rows(x, gamma), gamma, xh, **options
        )
        if grads is NotImplemented:
            return grads
        dx, *rest = grads
        return [dx.reshape(x.shape), *(g.reshape(gamma.shape) for g in rest)]

    def _normalization_grads(
        self,
        operation: str,
        dy: Array,
        x: Array,
        gamma: Array,
        xh: Array | None,
        *,
        beta: bool = True,
        **statistics: Array,
    ) -> Any:
        """Return the gradients, those of gamma and, if it has one, beta as vectors like `x`.

        Where there is an `xh`, the forward was another's.
        """
        if xh is not None or not _fit(x, dy):
            return NotImplemented
        scale = self._row(gamma)
        options: dict[str, Any] = {} if beta else {"has_dbias": False}
        of_scale = (scale.shape, "float32")
        results = self.run(
            operation,
            {"grad": dy, "input": x, "scale": scale, **statistics},
            [(x.shape, x.dtype), *[of_scale] * (2 if beta else 1)],
            **options,
        )
        if results is None:
            return NotImplemented
        dx, *grads = results
        return [dx, *(self._runtime.cast(g, x.dtype).reshape(-1) for g in grads)]

    def _row(self, a: Array) -> Array:
        """Return the values of a parameter as one row of float32."""
        return self._runtime.cast(a, "float32").reshape(1, -1)

    def _rows(self, x: Array, gamma: Array) -> Array:
        """Return `x` as a matrix: a row is what is normalized together."""
        x = x if x.flags.c_contiguous else self._runtime.copied(x)
        return x.reshape(-1, math.prod(gamma.shape))


def active() -> Cudnn | None:
    """Return the object that layers of CuPy arrays go through in this context."""
    return next(iter(laid("cudnn")), None)


_joiner = functools.partial(ConvolutionFusion.joined, library=active)

NAMES = (  # of the operations that `Cudnn` has bodies for, its methods
    "correlate", "correlate_transposed", "filter_gradient",
    "batch_normalization", "batch_normalization_gradient",
    "layer_normalization", "layer_normalization_gradient",
    "rms_normalization", "rms_normalization_gradient",
    "attention", "attention_gradient",
)  # fmt: skip


def _fit(*arrays: Array) -> bool:
    """Whether cuDNN may compute with arrays: they have one dtype, of its own, and elements."""
    first = arrays[0].dtype
    alike = all(a.dtype == first and 0 not in a.shape for a in arrays)
    return alike and dtype_name(first) in TYPES
