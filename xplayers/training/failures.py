"""What is done when training goes wrong: numbers that are not finite, Ctrl-C, no more memory."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xplayers.arrays.namespaces import Array, is_floating, is_out_of_memory, namespace
from xplayers.reports.layer_outputs import layer_outputs
from xplayers.training.accumulation import AccumulatedStep, slices
from xplayers.training.step import TrainStep

__all__ = ["NonFiniteLoss", "is_out_of_memory"]


class NonFiniteLoss(FloatingPointError):
    """The loss of a step was inf or NaN.

    Attributes
    ----------
    step : int
        The number of the step, from 1.
    where : str
        What went wrong first: the name of a layer as in ``layer_outputs``, of a parameter, or
        ``"x"``, ``"t"``, ``"loss"``; ``""`` if the step could not be repeated.
    """

    def __init__(self, message: str, step: int = 0, where: str = "") -> None:
        super().__init__(message)
        self.step, self.where = step, where


def first_nonfinite(step: TrainStep, x: Array, t: Array) -> tuple[str, str]:
    """Find what is not finite first when a step goes forward: its name, and a sentence about it.

    Waits for the device at each layer. Nothing is changed. The name is empty if all is finite.
    """
    arrays = _forward(step, x, t)
    return next(((name, words) for name, a, words in arrays if not all_finite(a)), ("", ""))


def _forward(step: TrainStep, x: Array, t: Array) -> Iterator[tuple[str, Array, str]]:
    """Yield the name and array of all that goes into a step forward, and what to say of it."""
    for name, p in step.net.params.items():
        yield name, p, f"The parameter {name} is not finite; the update before has made it so."
    yield "x", x, "The batch is not finite: there is inf or NaN in x."
    yield "t", t, "The targets are not finite: there is inf or NaN in t."
    # As the step computes: in its precision, with its masks and the statistics of its batch.
    params = dict(step.net.params)
    if step.precision is not None:
        params, x = step.precision.cast(params, x)
    arrays = {**params, **step.net.buffers}
    parts = step.parts if isinstance(step, AccumulatedStep) else 1
    for part in slices(int(x.shape[0]), parts):
        outputs = layer_outputs(step.net, x[part, ...], train=True, arrays=arrays)
        for name, layer, y in outputs:
            who = f"layer {name!r}, {layer._owner}" if name else layer._owner
            words = f"The output of {who}, is the first that is not finite."
            yield name or layer._owner, y, words
        value, _ = step.loss.apply(step.loss.arrays, outputs[-1].y, t[part, ...])
        yield (
            "loss",
            value,
            (
                f"The output of the network is finite, its {step.loss} is not: look at the targets "
                "(a label out of range gives NaN)."
            ),
        )


def all_finite(a: Array) -> bool:
    """Whether all values of an array are finite. Waits for them."""
    xp = namespace(a)
    return not is_floating(a) or bool(xp.all(xp.isfinite(a)))


def copied(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a nested dict of arrays, on their device."""
    return {
        name: copied(a) if isinstance(a, Mapping) else namespace(a).asarray(a, copy=True)
        for name, a in arrays.items()
    }


@contextlib.contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C call `stop` in the place of raising; a second one raises KeyboardInterrupt.

    Only in the main thread, where signals come, and only where nobody else listens to them.
    """
    default = signal.default_int_handler
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not default:
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
