"""Failures of training: non-finite losses, Ctrl-C, out of memory."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xplayers.arrays.namespaces import Array, is_floating, namespace
from xplayers.arrays.transfer import is_out_of_memory
from xplayers.reports.layer_outputs import layer_outputs
from xplayers.training.accumulation import AccumulatedStep, slices
from xplayers.training.precision import all_finite
from xplayers.training.step import TrainStep

__all__ = ["NonFiniteLoss", "is_out_of_memory"]


class NonFiniteLoss(FloatingPointError):
    """The loss of a step was inf or NaN.

    Attributes
    ----------
    step : int
        The number of the step, from 1.
    where : str
        The first non-finite array: the name of a layer as in ``layer_outputs``, of a parameter, or
        ``"x"``, ``"t"``, ``"loss"``; ``""`` if the step could not be reproduced.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> x, t = np.eye(4, dtype="float32"), np.ones((4, 1), "float32")
    >>> net, loss, optimizer = xl.mlp([4, 1], rng=0), xl.MeanSquaredError(), xl.SGD(lr=1e38)
    >>> try:
    ...     xl.Trainer(net, loss, optimizer, progress=False).fit(x, t)
    ... except xl.NonFiniteLoss as error:
    ...     print(error.step, error.where, str(error)[:42])
    2 loss Trainer: the loss of step 2 is not finite.
    """

    def __init__(self, message: str, step: int = 0, where: str = "") -> None:
        super().__init__(message)
        self.step, self.where = step, where


def first_nonfinite(step: TrainStep, *batch: Array) -> tuple[str, str]:
    """Return the name of the first non-finite array in the forward of a step, and a sentence on it.

    Synchronizes at each layer. Changes nothing. The name is empty if all arrays are finite.
    """
    arrays = _forward(step, *batch)
    wrong = ((name, reason) for name, a, reason in arrays if is_floating(a) and not all_finite([a]))
    return next(wrong, ("", ""))


def _forward(
    step: TrainStep, x: Array, t: Array, *weights: Array
) -> Iterator[tuple[str, Array, str]]:
    """Yield the name, the array and an error text for all arrays of the forward of a step."""
    for name, p in step.net.params.items():
        yield name, p, f"The parameter {name} is not finite since the previous update."
    yield "x", x, "The batch is not finite: there is inf or NaN in x."
    yield "t", t, "The targets are not finite: there is inf or NaN in t."
    for w in weights:
        yield "sample_weight", w, "The weights are not finite: there is inf or NaN in them."
    # Compute as the step does: with its precision, dropout masks and batch statistics.
    params = dict(step.net.params)
    if step.precision is not None:
        params, x = step.precision.cast(params, x)
    arrays = {**params, **step.net.buffers}
    parts = step.parts if isinstance(step, AccumulatedStep) else 1
    for part in slices(int(x.shape[0]), parts):
        outputs = layer_outputs(step.net, x[part, ...], train=True, arrays=arrays)
        for name, layer, y in outputs:
            source = f"layer {name!r}, {layer._owner}" if name else layer._owner
            reason = f"The output of {source}, is the first that is not finite."
            yield name or layer._owner, y, reason
        targets = [a[part, ...] for a in (t, *weights)]
        value, _ = step.loss.apply(step.loss.arrays, outputs[-1].y, *targets)
        reason = (
            f"The output of the network is finite, its {step.loss} is not: check the targets "
            "(a label out of range gives NaN)."
        )
        yield "loss", value, reason


def copied(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a nested dict of arrays, on their device."""
    return {
        name: copied(a) if isinstance(a, Mapping) else namespace(a).asarray(a, copy=True)
        for name, a in arrays.items()
    }


@contextlib.contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call `stop` instead of raising; a second one raises KeyboardInterrupt.

    Only in the main thread, which handles signals, and only if no other handler is installed.
    """
    default = signal.default_int_handler
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not default:
        yield
        return

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, default)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)
