"""What computes a step: the pure function as it stands, or compiled, for each library."""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xplayers._recording import NotRecordable
from xplayers.arrays.namespaces import Array, library, namespace
from xplayers.arrays.writing import written
from xplayers.optimizers import Optimizer

MOST = 4  # functions of one step: for libraries, and numbers that are constants


class Compilation:
    """The functions that compute the steps of a `TrainStep`.

    Attributes
    ----------
    fixed : bool
        Whether the numbers of the optimizer are constants of what is compiled or recorded, as it
        may look at them; else they are arguments.
    vary : bool
        Whether the numbers have been others before. Until then ``jax.jit`` takes them as constants
        too: each argument takes the time of a call.
    """

    def __init__(self, step: Any) -> None:
        self._step = weakref.ref(step)  # which has this; so its memory is free when it goes
        self.fixed = self.vary = False
        self.functions: dict[Any, Callable[..., Any]] = {}
        self._known: Any = None  # the numbers of the last step
        self._numbers: tuple[Any, Any] = None, None  # the last ones, and as arrays

    @property
    def step(self) -> Any:
        """The `TrainStep`."""
        return self._step()

    def in_place(self, *arguments: Any) -> Any:
        """Compute a step as it stands; parameters stay where they are if the library allows."""
        value, params, *rest = self.plain(*arguments)
        return value, written(arguments[0], params), *rest

    def plain(self, *arguments: Any, numbers: Mapping[str, Any] | None = None) -> Any:
        """Compute a step as it stands, which may write over parameters and state."""
        pure = functools.partial(self.step.pure, numbers=numbers, donate=True, check=True)
        return pure(*arguments) if self.step.precision is None else quietly(pure, *arguments)

    def function(self, x: Array) -> Callable[..., Any]:
        """Return what computes a step on such arrays, compiled where that is asked for."""
        name, step, sources = library(x), self.step, self.step._sources
        if step.compile is False and step.gemm is None:
            return self.in_place
        if self._known is not sources.numbers:
            self.vary = self.vary or self._known not in (None, sources.numbers)
            self._known = sources.numbers
        compiles = name == "jax" and step.compile is not False
        by_number = compiles and self.vary and not self.fixed
        constants = None if by_number else tuple(sources.numbers.items())
        key = namespace(x), sources.pattern, constants
        function = self.functions.get(key)
        if function is not None:
            step._patience.uses += 1
        else:
            while len(self.functions) >= MOST:
                _close(self.functions.pop(next(iter(self.functions))))
            function = self.functions[key] = self._compile(name)
        return self._with_numbers(function, x) if by_number else function

    def close(self) -> None:
        """Give back what the functions hold."""
        for function in self.functions.values():
            _close(function)
        self.functions.clear()
        self.fixed = False

    def _with_numbers(self, function: Callable[..., Any], x: Array) -> Callable[..., Any]:
        """Return `function` with the numbers of the optimizer, which are brought over once."""
        numbers = self.step._sources.numbers
        if self._numbers[0] is not numbers:
            xp = namespace(x)
            self._numbers = numbers, {k: xp.asarray(v) for k, v in numbers.items()}
        there = self._numbers[1]

        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments, numbers=there)
            except Exception:
                if is_ours(self.step.optimizer):
                    raise
            self.fixed = True  # it may look at its numbers
            return self.function(x)(*arguments)

        return call

    def _compile(self, name: str) -> Callable[..., Any]:
        step = self.step
        if step.compile == "graph" or step.gemm is not None:
            return self._compile_cuda(name)
        if step.compile is not False and name == "jax":
            import jax

            # A new function each time: jit would share what it compiled for an equal one.
            return jax.jit(functools.partial(step.pure), donate_argnums=(0, 1, 3))
        if step.compile is True and name == "torch":
            import torch

            return torch.compile(step.pure)
        if step.compile is True:
            message = f"TrainStep: there is no compiler for {name} arrays; use compile='auto'."
            raise ValueError(message)
        return self.in_place

    def _compile_cuda(self, name: str) -> Callable[..., Any]:
        step = self.step
        if name != "cupy":
            what, instead = (
                ("compile='graph'", "'auto'") if step.compile == "graph" else ("gemm", "None")
            )
            message = f"TrainStep: {what} is for cupy arrays, not {name}; use {instead}."
            raise ValueError(message)
        from xplayers.cuda import fused
        from xplayers.cuda.gemm import Gemm, Multiplied
        from xplayers.cuda.graph import CapturedStep

        gemm: Any = step.gemm if callable(step.gemm) else Gemm
        if step.compile == "graph":
            return CapturedStep(fused()(functools.partial(step.pure, donate=True)), gemm=gemm)
        return Multiplied(functools.partial(step.pure, donate=True, check=True), gemm())


@np.errstate(over="ignore", invalid="ignore")
def quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it: an overflow is what the scaling reckons with, so NumPy need not warn."""
    return function(*arguments)


def is_ours(optimizer: Optimizer) -> bool:
    """Whether it is known to compute with its numbers, and not to look at them."""
    return type(optimizer).__module__.partition(".")[0] == __name__.partition(".")[0]


def check_kept(optimizer: Optimizer, before: dict[str, Any], numbers: Any) -> None:
    """Check that a step which is compiled or recorded has set no attribute of its optimizer."""
    now = vars(optimizer)
    if numbers is not None and not (
        len(now) == len(before) and all(map(operator.is_, now.values(), before.values()))
    ):
        message = f"{type(optimizer).__name__}.step sets attributes of the optimizer"
        raise NotRecordable(message)


def _close(function: Any) -> None:
    getattr(function, "close", lambda: None)()
