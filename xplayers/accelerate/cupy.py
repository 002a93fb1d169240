"""The bodies of CuPy: none of itself, and what `xplayers.cuda.fused` asks for."""

from __future__ import annotations

import functools
from typing import Any

from xplayers.accelerate.compiled import Functions
from xplayers.accelerate.cuda import (
    gradients,
    kernels,
    loading,
    normalization,
    pooling,
    sums,
    windows,
)
from xplayers.accelerate.cuda.softmax_cross_entropy import (
    softmax_cross_entropy,
    weighted_cross_entropy,
)
from xplayers.accelerate.cuda.source import INDEX
from xplayers.arrays.elementwise import elementwise
from xplayers.layers import dropout
from xplayers.optimizers.base import counted
from xplayers.training.stateful import batch_kind


def _softmax_cross_entropy(scores: Any, target: Any, divisor: float) -> Any:
    # Of float16 it is rounded when it is multiplied, by a scale that keeps it from 0.
    dtype = None if scores.dtype.name == "float16" else scores.dtype
    results = softmax_cross_entropy(scores, target, divisor, dtype=dtype)
    return results if results is NotImplemented else (*results, True)


def _drop(x: Any, count: Any, seed: int, rate: float, scale: float) -> Any:
    # Places are counted by rows: a copy of images with the channels last costs less than the
    # operations of the hash, a pass each.
    operands = kernels.laid(x, "rows"), INDEX, count[0]
    options = {"seed": seed, "rate": rate, "scale": scale}
    return kernels.evaluate(x, dropout.dropped, operands, None, options)


def _masked(x: Any, keep: Any, scale: float) -> Any:
    return dropout.scaled(kernels.laid(x, "rows"), keep, scale=scale)


def _matmul(a: Any, b: Any) -> Any:
    try:
        return a @ b
    except TypeError as error:
        if a.dtype.name != "bfloat16" or max(a.ndim, b.ndim) < 3:
            raise
        message = (
            f"matmul: CuPy does not multiply batches of bfloat16 matrices, {tuple(a.shape)} @ "
            f"{tuple(b.shape)}. Use TrainStep(..., gemm='cublaslt'), or float16."
        )
        raise TypeError(message) from error


def _next_count(count: Any, good: Any, like: Any) -> Any:
    return _counted(*((count,) if good is None else (count, good)), dtype=like.dtype)


@elementwise(integers=True)
def _counted(xp: Any, count: Any, *good: Any, dtype: Any) -> Any:
    next_, after = counted(xp, count, *good)
    return next_, xp.astype(after, dtype)


def compiled(x: Any, step: Any) -> Any:
    """Return what takes the steps, where a graph or a `Gemm` is asked for."""
    if step.compile == "graph":
        return Captured(step, _captured, explicit=True)
    return NotImplemented if step.gemm is None else Functions(step, _multiplied, explicit=True)


class Captured(Functions):
    """Takes steps by CUDA graphs; `many` steps by one."""

    def many(self, x: Any, t: Any, index: Any, lr: Any) -> Any:
        """Take a step on the samples of each row of `index`."""
        step = self.step
        self.may_make(step)
        rate = step._learning_rate(lr)
        captured: Any = self.function(x)
        kind = batch_kind(x, t), self.sources.pattern
        return step._update(kind, (x, t), lambda trees: captured.many(*trees, x, t, index, rate))


def _captured(step: Any) -> Any:
    from xplayers.accelerate.cuda.fused import fused
    from xplayers.accelerate.cuda.graph import CapturedStep

    pure = fused()(functools.partial(step.pure, donate=True))
    together = None if step._exchange is None else step._exchange.together
    return CapturedStep(pure, gemm=_gemm(step), together=together)


def _multiplied(step: Any) -> Any:
    from xplayers.accelerate.cuda.gemm import Multiplied

    return Multiplied(functools.partial(step.pure, donate=True, check=True), _gemm(step)())


def _gemm(step: Any) -> Any:
    from xplayers.accelerate.cuda.gemm import Gemm

    return step.gemm if callable(step.gemm) else Gemm


BODIES: dict[str, Any] = {
    "compiled": compiled,
    "matmul": _matmul,
    "pad_windows": windows.pad_windows,
    "window_columns": windows.window_columns,
    "scatter_windows": windows.scatter_windows,
}

FACTORIES = {"loader": loading.loader}

FUSED = {
    "evaluate": kernels.evaluate,
    "evaluate_rows": kernels.evaluate_rows,
    "relu_grads": sums.relu_grads,
    "gradient_operand": lambda g: g,  # in the kernel of the rule
    "next_count": _next_count,
    "drop": _drop,
    "masked": _masked,
    "column_sums": sums.column_sums,
    "channel_sums": sums.channel_sums,
    "total": sums.total,
    "sum_of_squares": gradients.sum_of_squares,
    "all_finite": gradients.all_finite,
    "max_pooling": pooling.max_pooling,
    "max_pooling_gradient": pooling.max_pooling_gradient,
    "average_pooling": pooling.average_pooling,
    "average_pooling_gradient": pooling.average_pooling_gradient,
    "global_average": pooling.global_average,
    "global_average_gradient": pooling.global_average_gradient,
    "layer_normalization": normalization.layer_normalization,
    "layer_normalization_gradient": normalization.layer_normalization_gradient,
    "rms_normalization": normalization.rms_normalization,
    "rms_normalization_gradient": normalization.rms_normalization_gradient,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "weighted_cross_entropy": weighted_cross_entropy,
}
