"""The bodies of JAX: a step is compiled by ``jax.jit``, with donated state; operations of XLA."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xplayers.accelerate.compiled import Functions, is_ours, with_numbers
from xplayers.accelerate.xla import convolution, embedding, pooling, recurrence, sharding
from xplayers.arrays.namespaces import Array, namespace
from xplayers.data.loading import Loader


class Jitted(Functions):
    """Takes steps by ``jax.jit``.

    Until the optimizer's numbers have been others before, they are constants: each argument takes
    the time of a call.
    """

    def __init__(self, step: Any) -> None:
        super().__init__(step, _jit, explicit=step.compile is True)
        self.vary = False
        self._last: Any = None  # the numbers of the last step
        self._numbers: tuple[Any, Any] = None, None  # the last ones, and as arrays
        self._rate: tuple[float | None, Any] = None, None  # and as an array

    def _learning_rate(self, lr: Any, x: Array) -> Any:
        rate = self.step._learning_rate(lr)
        if lr is not None or type(rate) is not float:
            return rate
        if self._rate[0] != rate:  # an argument, brought over once, not in each step
            self._rate = rate, namespace(x).asarray(rate)
        return self._rate[1]

    def function(self, x: Array) -> Callable[..., Any]:
        """Return what computes a step; the numbers are arguments where they have changed."""
        numbers = self.sources.numbers
        if self._last is not numbers:
            self.vary = self.vary or self._last not in (None, numbers)
            self._last = numbers
        if not self.vary or self.fixed:
            return super().function(x)
        function = self._function_for(None)
        if self._numbers[0] is not numbers:
            xp = namespace(x)
            self._numbers = numbers, {k: xp.asarray(v) for k, v in numbers.items()}

        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments, numbers=self._numbers[1])
            except Exception:
                if is_ours(self.step.optimizer):
                    raise
            self.fixed = True  # it may look at its numbers
            return self.function(x)(*arguments)

        return call


def _jit(step: Any) -> Any:
    jax: Any = sys.modules["jax"]

    # A new function each time: jit would share what it compiled for an equal one.
    def pure(*arguments: Any, numbers: Mapping[str, Any] | None = None) -> Any:
        return step.pure(*arguments) if numbers is None else with_numbers(step, numbers, *arguments)

    return jax.jit(pure, donate_argnums=(0, 1, 3))


def compiled(x: Array, step: Any) -> Any:
    """Return what takes the steps."""
    asked = step.compile == "graph" or step.gemm is not None
    return NotImplemented if asked or step.compile is False else Jitted(step)


class LateLoader(Loader):
    """Uploads in the main thread: JAX copies asynchronously, and has thread-local settings.

    It computes asynchronously too, so that only files are worth a thread.
    """

    @property
    def in_background(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a file is read, or what a subclass of NumPy's array does."""
        return any(type(a) is not np.ndarray for a in self.arrays)

    def load(self, request: Any) -> Any:
        """Load a batch, in the background thread."""
        return self._taken(request)

    def finish(self, loaded: Any) -> Any:
        """Return the batch, in the main thread."""
        return self._upload(loaded)

    def _upload(self, loaded: tuple[np.ndarray, ...]) -> tuple[Array, ...]:
        # `asarray` with a device makes a copy, and constrains it there: three times the time.
        return tuple(sys.modules["jax"].device_put(loaded, self.where))


BODIES = {
    "compiled": compiled,
    "sums_by_index": embedding.sums_by_index,
    "correlate": convolution.correlate,
    "correlate_transposed": convolution.correlate_transposed,
    "filter_gradient": convolution.filter_gradient,
    "max_pooling_gradient": pooling.max_pooling_gradient,
    "samples": sharding.samples,
    "scan": recurrence.scan,
}
FACTORIES = {"loader": LateLoader}
