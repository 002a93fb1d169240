"""Adam and AdamW by PyTorch's fused kernels: one pass over memory, in threads.

The kernels round the last elements of an array, which fill no vector, otherwise than the others. In
a replay parameters lie side by side, each up to the end of a line of the cache. So that a step has
the same bits there, an array that does not fill its lines is computed in a copy that does.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from xplayers.accelerate.host.memory import LINE
from xplayers.accelerate.pytorch.plain import is_plain
from xplayers.arrays.namespaces import Array
from xplayers.optimizers.adaptive import Adam, AdamW
from xplayers.optimizers.base import _apply as update

Row = tuple[
    Sequence[Any], Any
]  # operands of a rule, and where its results go, if not to new memory


def evaluate_rows(x: Array, function: Any, pairs: Iterable[Row], options: dict[str, Any]) -> Any:
    """Update all parameters by one call."""
    if function is not update or options["rule"] not in (Adam.rule, AdamW.rule):
        return NotImplemented
    rows = [*pairs]
    if all(is_fused(function, operands, options) for operands, _ in rows):
        return updated(rows, options)
    return (function(*operands, out=out, **options) for operands, out in rows)


def is_fused(function: Any, operands: Sequence[Any], options: dict[str, Any]) -> bool:
    """Whether a kernel takes the operands of a rule: tensors on the CPU, and numbers."""
    if function is not update or options["rule"] not in (Adam.rule, AdamW.rule):
        return False
    torch: Any = sys.modules["torch"]
    p, arrays = operands[0], operands[:4]
    return (
        p.is_cpu
        and bool(p.shape)
        and p.dtype in (torch.float32, torch.float64)
        and all(a.dtype is p.dtype and a.shape == p.shape and a.is_contiguous() for a in arrays)
        and all(type(a) is float for a in operands[4:])
        and all(map(is_plain, arrays))
    )


def updated(rows: Iterable[Row], options: dict[str, Any]) -> list[tuple[Array, ...]]:
    """Return new parameters and moments, in `out` where that is given."""
    torch: Any = sys.modules["torch"]
    rows, results, lists, copies = [*rows], [], ([], [], [], []), []
    for (p, g, m, v, *_), out in rows:
        outs = (p.clone(), m.clone(), v.clone()) if out is None else out
        if out is not None:
            for to, a in zip(out, (p, m, v), strict=True):
                to if to is a else to.copy_(a)
        arrays = outs[0], g, *outs[1:]
        rest = -p.numel() % _lanes(p)
        if rest:
            arrays = [torch.nn.functional.pad(a.reshape(-1), (0, rest)) for a in arrays]
            copies += zip(outs, (arrays[0], *arrays[2:]), strict=True)
        for listed, a in zip(lists, arrays, strict=True):
            listed.append(a)
        results.append(outs)
    _kernel(options["rule"])(*lists, *rows[0][0][4:])
    for to, a in copies:
        to.copy_(a[: to.numel()].view(to.shape))
    return results


def prepared(
    function: Any, operands: Sequence[Any], outs: Sequence[Array], options: dict[str, Any]
) -> Callable[..., None] | None:
    """Return ``run(*numbers)``, which updates parameters where they are; None if that is unfit."""
    if not is_fused(function, operands, options):
        return None
    arrays, p = operands[:4], operands[0]
    in_place = all(o is arrays[i] for o, i in zip(outs, (0, 2, 3), strict=True))
    if in_place and not p.numel() % _lanes(p):
        return functools.partial(_kernel(options["rule"]), *([a] for a in arrays))
    return lambda *numbers: updated([((*arrays, *numbers), outs)], options) and None


def _lanes(p: Array) -> int:
    return LINE // p.itemsize


@functools.cache
def _kernel(rule: Any) -> Callable[..., None]:
    """Return the kernel, which gets the arguments of a rule, of lists of arrays."""
    torch: Any = sys.modules["torch"]
    fused = torch._fused_adam_ if rule is Adam.rule else torch._fused_adamw_
    late = torch.tensor(math.inf)  # the step, of which its own corrections are 1

    def adam(
        p: list, g: list, m: list, v: list, lr: float, rate1: float, beta2: float, rate2: float,
        eps: float, correction: float, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        if rule is AdamW.rule:  # it is multiplied by the rate, too
            weight_decay /= correction
        fused(
            p, g, m, v, [], [late] * len(p), lr=lr * correction, beta1=1.0 - rate1, beta2=beta2,
            weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    return adam
