"""Mixed precision: a network computes in 16 bits, its parameters and the update are in float32."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xplayers._calls import explained_data
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.joining import stack
from xplayers.arrays.namespaces import (
    DTYPE_PACKAGES,
    Array,
    DType,
    Namespace,
    device,
    is_floating,
    is_half,
    library_name,
    named_dtype,
    namespace,
)
from xplayers.arrays.operation import operation

__all__ = ["MixedPrecision"]

Arrays = dict[str, Array]

# Where a float32 number and its inverse are both normal. From a scale of 0 or inf, all gradients
# would be NaN and all steps skipped for ever.
_SMALLEST, _LARGEST = 2.0**-126, 2.0**126


@explained_data
@dataclasses.dataclass(frozen=True)
class MixedPrecision:
    """How a `TrainStep` computes in 16 bits and learns in float32.

    In each step the parameters (float32: the master weights) and a floating-point input are cast to
    `dtype`, and the network goes forward and backward in it. Statistics, losses and running
    buffers are float32 as always. The loss is multiplied by the scale ``S`` before the backward,
    so that small gradients do not become 0 in 16 bits; the gradients are cast to float32 and
    divided by ``S`` before `reduce_grads` and the optimizer get them. (If ``S`` is always 1 and
    there is no `reduce_grads`, the optimizer gets 16-bit gradients, and casts them in its rule.)

    Where any gradient is inf or NaN, the step is skipped: parameters, buffers and the optimizer's
    state keep their bits, and it is counted. With a dynamic scale a skipped step makes
    ``S = S * backoff_factor``, and ``growth_interval`` good steps in a row make
    ``S = S * growth_factor``.

    Parameters
    ----------
    dtype : {"bfloat16", "float16"}
        What the network computes in. bfloat16 has the range of float32 and 8 significant bits,
        float16 has 11 and overflows at 65504. NumPy has float16 only, and computes it slowly,
        without BLAS: it is only for experiments there.
    loss_scale : float, "dynamic" or None
        ``S``: a constant, or a dynamic scale. None: "dynamic" for float16, and 1 for bfloat16,
        which needs no scaling.
    init_scale : float
        The initial dynamic scale.
    growth_factor, backoff_factor : float
        What a dynamic scale is multiplied by, above 1 and below 1. Powers of two make the scaling
        exact.
    growth_interval : int
        Good steps in a row after which a dynamic scale grows.

    Raises
    ------
    ValueError
        If an option is out of range.
    TypeError
        In the step: if the library has no such dtype, or parameters are 16-bit already.

    Notes
    -----
    ``step.state["precision"]`` has the 0-d arrays `scale`, `good_steps` (in a row, since the scale
    last changed) and `skipped_steps`. They stay on the device: whether a step is skipped is chosen
    by ``where``, and nothing waits for it.

    A skipped step does not count for a schedule. Gradients are checked after `reduce_grads`, so in
    data-parallel training all devices make the same decision; `reduce_grads` gets non-finite values
    as NaN, which clipping does not hide.

    Defaults are those of PyTorch's ``GradScaler``, which waits for the device in each step; Keras'
    ``LossScaleOptimizer`` starts at ``2**15``. Their scales can fall to 0, from which they do not
    recover; here the scale stays a normal number of float32. PyTorch's ``autocast`` chooses a dtype
    for each operation; here the network computes in one. With float16 the first steps may be
    skipped, until the scale has come down to what the loss allows.

    In your own loop, ``net.to(dtype="bfloat16")`` is the pure form: parameters in 16 bits too, and
    no scaling.

    References
    ----------
    Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import xplayers as xl
    >>> precision = xl.MixedPrecision("float16")
    >>> net = xl.mlp([2, 3], rng=0)
    >>> step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(), precision=precision)
    >>> loss = step(np.ones((1, 2), "float32"), np.asarray([0]))
    >>> float(step.state["precision"]["scale"])
    65536.0
    >>> net.params
    {'0.W': float32(2, 3), '0.b': float32(3,)}
    """

    dtype: str = "bfloat16"
    loss_scale: float | str | None = None
    init_scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # scalars and 0-d arrays of NumPy are numbers
            if isinstance(value, np.generic | np.ndarray) and not value.ndim:
                object.__setattr__(self, name, value.item())
        scale = self.loss_scale
        number = isinstance(scale, int | float) and _SMALLEST <= scale <= _LARGEST
        for name, expected, fits in (
            ("dtype", "'bfloat16' or 'float16'", self.dtype in ("bfloat16", "float16")),
            ("loss_scale", "a positive number, 'dynamic' or None",
             number or scale is None or scale == "dynamic"),
            ("init_scale", "a positive number", _SMALLEST <= self.init_scale <= _LARGEST),
            ("growth_factor", "more than 1", 1.0 < self.growth_factor < math.inf),
            ("backoff_factor", "between 0 and 1", 0.0 < self.backoff_factor < 1.0),
            ("growth_interval", "1 or more", self.growth_interval >= 1),
        ):  # fmt: skip
            if not fits:
                value = getattr(self, name)
                message = f"MixedPrecision: {name} is {value!r}; expected {expected}."
                raise ValueError(message)

    @property
    def dynamic(self) -> bool:
        """Whether the scale is dynamic."""
        return self.loss_scale == "dynamic" or (self.loss_scale is None and self.dtype == "float16")

    def scale(self, state: Arrays) -> Any:
        """Return what the loss is multiplied by: 1.0 if it is always 1, else ``state["scale"]``."""
        fixed = not self.dynamic and self.loss_scale in (None, 1.0)
        return 1.0 if fixed else state["scale"]

    def init(self, like: Array) -> Arrays:
        """Return the state before the first step, on the device of `like`, a parameter.

        Three 0-d arrays: `scale` (float32), `good_steps` and `skipped_steps` (int32).
        """
        xp, where = namespace(like), device(like)
        scale = self.init_scale if self.dynamic else self.loss_scale or 1.0
        return {
            "scale": xp.full((), float(scale), dtype=xp.float32, device=where),
            "good_steps": xp.zeros((), dtype=xp.int32, device=where),
            "skipped_steps": xp.zeros((), dtype=xp.int32, device=where),
        }

    def cast(self, params: Arrays, x: Array) -> tuple[Arrays, Array]:
        """Return parameters and input in `dtype`, as the network computes with them.

        `params` are the master weights, float32 or float64. An input of integers stays as it is.
        """
        xp = namespace(x)
        dtype = self._dtype(xp)
        for name, p in params.items():
            if is_half(p):
                message = (
                    f"MixedPrecision: {name} is {p.dtype}; expected float32, which is rounded to "
                    f"{self.dtype} in each step. Call net.to(dtype='float32'), and pass x as "
                    "float32."
                )
                raise TypeError(message)
        x = xp.astype(x, dtype) if is_floating(x) else x
        rounded = _rounded.rows([(p,) for p in params.values()], dtype=dtype)
        return dict(zip(params, rounded, strict=True)), x

    def unscaled(self, grads: Mapping[str, Array], params: Arrays, scale: Array) -> Arrays:
        """Return the gradients of the loss itself, in the dtypes of the master weights `params`.

        `grads` are those of the loss times `scale`, a float or 0-d array. What is not finite
        becomes NaN, so that no clipping makes a number of it.
        """
        by_dtype: dict[DType, list[str]] = {}
        for name in grads:
            by_dtype.setdefault(params[name].dtype, []).append(name)
        after: Arrays = {}
        for dtype, names in by_dtype.items():
            factor = 1.0 / scale
            if not isinstance(factor, float):
                factor = namespace(factor).astype(factor, dtype)
            rows = [(grads[name], factor) for name in names]
            after |= zip(names, _unscaled.rows(rows, dtype=dtype), strict=True)
        return after

    def updated(self, state: Arrays, good: Array) -> Arrays:
        """Return the state after a step that was `good` (0-d bool) or skipped."""
        before = [state[name] for name in ("scale", "good_steps", "skipped_steps")]
        after = _updated(*before, good, precision=self)
        names = ("good_steps", "skipped_steps", "scale")  # the last if it is dynamic
        return {**state, **dict(zip(names, after, strict=False))}

    def _dtype(self, xp: Namespace) -> DType:
        dtype = named_dtype(xp, self.dtype)
        if dtype is None:
            fix = "use arrays of another library, as torch or jax"
            package = DTYPE_PACKAGES.get(library_name(xp))
            if package is not None:
                fix = f"pip install {package}"
            elif hasattr(xp, "float16"):
                fix = f"use MixedPrecision('float16'), or {fix.removeprefix('use ')}"
            message = f"MixedPrecision: {library_name(xp)} has no {self.dtype}; {fix}."
            raise TypeError(message)
        return dtype


@elementwise
def _updated(xp, scale, steps, skipped, good, *, precision):
    skipped = xp.where(good, skipped, skipped + 1)
    steps = steps + 1
    if not precision.dynamic:
        return xp.where(good, steps, 0), skipped
    grown = steps >= precision.growth_interval
    larger = grown & (scale <= _LARGEST / precision.growth_factor)
    smaller = scale >= _SMALLEST / precision.backoff_factor
    larger = xp.where(larger, scale * precision.growth_factor, scale)
    smaller = xp.where(smaller, scale * precision.backoff_factor, scale)
    return xp.where(good & ~grown, steps, 0), skipped, xp.where(good, larger, smaller)


@elementwise
def _rounded(xp: Namespace, p: Array, *, dtype: DType) -> Array:
    return xp.astype(p, dtype)


@elementwise
def _unscaled(xp: Namespace, g: Array, factor: Any, *, dtype: DType) -> Array:
    g = xp.astype(g, dtype) * factor
    return xp.where(xp.isfinite(g), g, math.nan)


@operation
def all_finite(arrays: list[Array]) -> Array:
    """Return whether every value of every array is finite, 0-d bool on their device."""
    xp = namespace(arrays[0])
    return xp.all(stack(xp, [xp.all(xp.isfinite(a)) for a in arrays]))


@np.errstate(over="ignore", invalid="ignore")
def quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function` without NumPy's warnings of overflow, which loss scaling expects."""
    return function(*arguments)
