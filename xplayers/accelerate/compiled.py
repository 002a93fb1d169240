"""What takes the steps of a `TrainStep` by something that was made of it once.

It is valid only while that is in place: asked before it is used, and else made anew, or not at all.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from xplayers.accelerate.fingerprint import Sources
from xplayers.accelerate.patience import Patience
from xplayers.accelerate.replay.recording import NotRecordable
from xplayers.arrays.namespaces import Array
from xplayers.optimizers import Optimizer
from xplayers.training.stateful import batch_kind

MOST = 4  # functions of one step: for patterns of numbers, and numbers that are constants


class Compiled:
    """Takes steps on arrays of one library."""

    def __init__(self, step: Any) -> None:
        self._step = weakref.ref(step)  # which has this; so its memory is free when it goes
        self.sources, self.patience = Sources(), Patience()
        # Whether the numbers of the optimizer are constants of what is compiled or recorded, as it
        # may look at them; else they are arguments.
        self.fixed = False

    @property
    def step(self) -> Any:
        """The `TrainStep`."""
        return self._step()

    def close(self) -> None:
        """Give back what was made."""
        self.fixed = False
        self.step._checked.clear()

    def may_make(self, step: Any) -> bool:
        """Whether what was made can be used, or made anew; else the step is computed as it stands.

        What the step is made of may change at any time. If not all of it can be seen, nothing can
        be made of it.
        """
        if not self.sources.hold(step):
            self.patience.changed()
            self.close()
        return self.sources.proved


class Functions(Compiled):
    """Takes steps by compiled functions of the arrays.

    ``compile(step)`` returns a function as ``step.pure``. `explicit`: it was asked for, and so
    computes what cannot be seen, too.
    """

    def __init__(self, step: Any, compile: Callable[[Any], Any], explicit: bool) -> None:
        super().__init__(step)
        self._compile, self._explicit = compile, explicit
        self.functions: dict[Any, Callable[..., Any]] = {}

    def __call__(self, x: Array, t: Array, lr: Any, *weights: Array) -> Array:
        step = self.step
        t, rate = step._target(t), self._learning_rate(lr, x)
        seen = self.may_make(step)
        makes = self._explicit or (seen and self.patience.over())
        take = self.function(x) if makes else step._in_place
        kind = batch_kind(x, t, *weights), self.sources.pattern
        return step._update(
            kind, (x, t, *weights), lambda trees: take(*trees, x, t, rate, *weights)
        )

    def _learning_rate(self, lr: Any, x: Array) -> Any:
        return self.step._learning_rate(lr)

    def function(self, x: Array) -> Callable[..., Any]:
        """Return what computes a step on such arrays."""
        return self._function_for(self.sources.constants)

    def _function_for(self, constants: str | None) -> Callable[..., Any]:
        key = self.sources.pattern, constants
        function = self.functions.get(key)
        if function is not None:
            self.patience.uses += 1
            return function
        while len(self.functions) >= MOST:
            _close(self.functions.pop(next(iter(self.functions))))
        function = self.functions[key] = self._compile(self.step)
        return function

    def close(self) -> None:
        """Give back what the functions hold."""
        super().close()
        for function in self.functions.values():
            _close(function)
        self.functions.clear()


def with_numbers(step: Any, numbers: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
    """Return ``step.pure(*arguments)``, with others in the place of the optimizer's numbers.

    Raises
    ------
    NotRecordable
        If the step sets attributes of its optimizer.
    """
    optimizer = step.optimizer._with(numbers)
    twin = object.__new__(type(step))  # no setting has changed
    vars(twin).update(vars(step), optimizer=optimizer)
    before = dict(vars(optimizer))
    results = twin.pure(*arguments, **options)
    now = vars(optimizer)
    if not (len(now) == len(before) and all(map(operator.is_, now.values(), before.values()))):
        message = f"{type(optimizer).__name__}.step sets attributes of the optimizer"
        raise NotRecordable(message)
    return results


def is_ours(optimizer: Optimizer) -> bool:
    """Whether it is known to compute with its numbers, and not to look at them."""
    return type(optimizer).__module__.partition(".")[0] == __name__.partition(".")[0]


def _close(function: Any) -> None:
    getattr(function, "close", lambda: None)()
