"""Adam and AdamW of large parameters by PyTorch's fused kernels: one pass over memory."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from xplayers.accelerate.pytorch.plain import is_plain
from xplayers.accelerate.replay.flat import is_large
from xplayers.arrays.namespaces import Array
from xplayers.optimizers.adaptive import Adam, AdamW
from xplayers.optimizers.base import _apply


def is_fused(function: Any, operands: Sequence[Any], options: dict[str, Any]) -> bool:
    """Whether a kernel takes the operands of a rule: large tensors on the CPU, and numbers."""
    if function is not _apply or options["rule"] not in (Adam.rule, AdamW.rule):
        return False
    p, arrays = operands[0], operands[:4]
    return (
        is_large(p.shape)
        and p.is_cpu
        and all(a.dtype is p.dtype and a.shape == p.shape and a.is_contiguous() for a in arrays)
        and all(type(a) is float for a in operands[4:])
        and all(map(is_plain, arrays))
    )


def updated(
    operands: Sequence[Any], outs: Iterable[Array] | None, options: dict[str, Any]
) -> tuple[Array, ...]:
    """Return new parameters and moments, in `outs` if that is given."""
    p, g, m, v, *numbers = operands
    if outs is None:
        outs = p.clone(), m.clone(), v.clone()
    else:
        for out, a in zip(outs, (p, m, v), strict=True):
            if out is not a:
                out.copy_(a)
    p, m, v = outs
    _kernel(options["rule"])(p, g, m, v, *numbers)
    return p, m, v


def prepared(
    function: Any, operands: Sequence[Any], outs: Sequence[Array], options: dict[str, Any]
) -> Callable[..., Any] | None:
    """Return ``run(*numbers)``, which writes into `outs`; None if that is unfit."""
    if not is_fused(function, operands, options):
        return None
    arrays = operands[:4]
    return lambda *numbers: updated((*arrays, *numbers), outs, options)


@functools.cache
def _kernel(rule: Any) -> Callable[..., None]:
    """Return what updates arrays by the arguments of a rule."""
    torch: Any = sys.modules["torch"]
    fused = torch._fused_adam_ if rule is Adam.rule else torch._fused_adamw_
    late = torch.tensor(math.inf)  # the step at which the corrections of the kernel are 1

    def adam(
        p: Array, g: Array, m: Array, v: Array, lr: float, rate1: float, beta2: float,
        rate2: float, eps: float, correction: float, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        if rule is AdamW.rule:  # it is multiplied by the rate, too
            weight_decay /= correction
        fused(
            [p], [g], [m], [v], [], [late], lr=lr * correction, beta1=1.0 - rate1, beta2=beta2,
            weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    return adam
