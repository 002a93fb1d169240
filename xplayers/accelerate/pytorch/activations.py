"""Activations and their gradients by PyTorch's kernels: one pass over memory each.

They agree with the portable functions to rounding, down to where a result is no normal number.
Where PyTorch's formula would be infinity times 0, `x` is clipped first, as there. The gradient of
ReLU at NaN is 0 there, and passes on here.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

from xplayers import functional
from xplayers.accelerate.pytorch.plain import aten
from xplayers.accelerate.replay.recording import over_operands
from xplayers.arrays.namespaces import is_half, is_traced
from xplayers.functional.activations import GELU_END, NORMAL_END, SIGMOID_END, gelu_by_tanh
from xplayers.layers import activations

Kernel = Callable[..., Any]

FEW = 65_536  # elements, up to which NumPy selects in less time, at least into memory; measured
# Above it log(1 + exp(x)) is x, in float64 too.
LINEAR = 40.0


def kernel_of(
    function: Any, operands: tuple, out: Any, options: dict[str, Any], *, recorded: bool = False
) -> Kernel | None:
    """Return ``kernel(*operands, out=None)`` for an elementwise function of tensors, or None.

    `recorded`: it is to be called with an `out` later.
    """
    if function is activations.chain:
        make = _GRADIENTS.get(options["derivative"])
    else:
        make = _KERNELS.get(function)
    if make is None or is_traced():
        return None
    eager_relu = function is functional.relu and out is None and not recorded
    if function in _SELECTIONS and not eager_relu and operands[0].numel() <= FEW:
        return None
    first, arrays = operands[0], operands if out is None else (*operands, out)
    if any(a.shape != first.shape or a.dtype is not first.dtype for a in arrays):
        return None
    if out is not None and any(a.requires_grad for a in arrays):
        return None
    return _kernel(make, **{k: v for k, v in options.items() if k != "derivative"})


@functools.lru_cache(maxsize=64)
def _kernel(make: Callable[..., Kernel | None], **options: Any) -> Kernel | None:
    kernel = make(**options)
    return kernel if kernel is None else over_operands(kernel)


def _forward(name: str, *args: float, least: float | None = None, **options: Any) -> Kernel:
    """Return the kernel of an activation, of `x` that is at least `least`."""
    overloads = getattr(aten(), name)

    def kernel(x: Any, out: Any = None) -> Any:
        x = x if least is None else x.clamp_min(least)
        if out is None:
            return overloads.default(x, *args, **options)
        return overloads.out(x, *args, **options, out=out)

    kernel.__name__ = name
    return kernel


def _gradient(
    name: str, *args: Any, clip: tuple[float, float] | None = None, **options: Any
) -> Kernel:
    """Return the kernel of a gradient, of `x` or `y`, clipped."""
    overloads = getattr(aten(), name)

    def kernel(dy: Any, x: Any, out: Any = None) -> Any:
        x = x if clip is None else x.clamp(*clip)
        if out is None:
            return overloads.default(dy, x, *args, **options)
        return overloads.grad_input(dy, x, *args, **options, grad_input=out)

    kernel.__name__ = name
    return kernel


def _leaky_relu(alpha: float = 0.01) -> Kernel | None:
    return _forward("leaky_relu", alpha) if alpha else None


def _leaky_relu_gradient(alpha: float = 0.01) -> Kernel:
    return _gradient("leaky_relu_backward", alpha, False)


def _elu(alpha: float = 1.0) -> Kernel:
    return _forward("elu", alpha)


def _elu_gradient(alpha: float = 1.0) -> Kernel | None:
    """That of PyTorch makes a number of NaN."""

    def elu_backward(dy: Any, x: Any, out: Any = None) -> Any:
        slope = x.clamp_max(0.0).exp_()
        return sys.modules["torch"].mul(dy, slope, out=out)

    return elu_backward if alpha == 1.0 else None


def _silu() -> Kernel:
    return _forward("silu", least=-SIGMOID_END)


def _silu_gradient() -> Kernel:
    return _gradient("silu_backward", clip=(-SIGMOID_END, SIGMOID_END))


def _gelu(approximate: str = "tanh") -> Kernel:
    if gelu_by_tanh(approximate):
        return _forward("gelu", least=-GELU_END, approximate="tanh")

    def gelu(x: Any, out: Any = None) -> Any:
        wide = _wide(x).clamp_min(-NORMAL_END)
        y = _upper_tail(-wide).mul_(wide)
        return y.to(x.dtype) if out is None else out.copy_(y)

    return gelu


def _gelu_gradient(approximate: str = "tanh") -> Kernel:
    if gelu_by_tanh(approximate):
        clip = (-GELU_END, GELU_END)
        return _gradient("gelu_backward", clip=clip, approximate="tanh")

    def gelu_backward(dy: Any, x: Any, out: Any = None) -> Any:
        wide = _wide(x).clamp(-NORMAL_END, NORMAL_END)
        density = wide.square().mul_(-0.5).exp_().mul_(1.0 / math.sqrt(2.0 * math.pi))
        dx = density.mul_(wide).add_(_upper_tail(-wide)).mul_(dy)
        return dx.to(dy.dtype) if out is None else out.copy_(dx)

    return gelu_backward


def _upper_tail(x: Any) -> Any:
    """Return ``P(Z > x)`` for a standard normal Z, by erfc, which does not cancel."""
    return sys.modules["torch"].special.erfc(x * math.sqrt(0.5)).mul_(0.5)


def _wide(x: Any) -> Any:
    return x.float() if is_half(x) else x


_KERNELS: dict[Any, Callable[..., Kernel | None]] = {
    functional.relu: lambda: _forward("relu"),
    functional.sigmoid: lambda: _forward("sigmoid"),
    functional.tanh: lambda: _forward("tanh"),
    functional.softplus: lambda: _forward("softplus", 1.0, LINEAR),
    functional.silu: _silu,
    functional.gelu: _gelu,
    functional.elu: _elu,
    functional.leaky_relu: _leaky_relu,
    activations.relu_vjp: lambda: _gradient("threshold_backward", 0.0),
    activations.sigmoid_vjp: lambda: _gradient("sigmoid_backward"),
    activations.tanh_vjp: lambda: _gradient("tanh_backward"),
}
_SELECTIONS = (functional.relu, activations.relu_vjp)
_GRADIENTS: dict[Any, Callable[..., Kernel | None]] = {  # by the derivative
    functional.softplus_derivative: lambda: _gradient("softplus_backward", 1.0, LINEAR),
    functional.silu_derivative: _silu_gradient,
    functional.gelu_derivative: _gelu_gradient,
    functional.elu_derivative: _elu_gradient,
    functional.leaky_relu_derivative: _leaky_relu_gradient,
}
