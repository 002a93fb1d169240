"""Learning rate schedules: functions of the step number.

A schedule is called with the number of the step, from 0: a Python number gives a float, a 0-d array
gives a 0-d array on its device, whose value is not fetched, so a schedule works inside a compiled
step. It can be passed as a learning rate: ``Adam(lr=Cosine(1e-3, steps=1000))``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from xplayers._calls import explained_data
from xplayers._checks import instance, number
from xplayers.arrays.elementwise import elementwise
from xplayers.arrays.namespaces import Array, Namespace, namespace

__all__ = ["Constant", "Cosine", "Exponential", "OneCycle", "Schedule", "Step", "WarmUp"]


@dataclasses.dataclass(frozen=True, eq=False)  # eq: instances without fields would all be equal
class Schedule:
    """Base of all schedules. A subclass implements `rate`, a formula in the step number ``t``.

    Examples
    --------
    >>> import dataclasses
    >>> from xplayers import schedules
    >>> @dataclasses.dataclass(frozen=True)
    ... class Inverse(schedules.Schedule):
    ...     lr: float
    ...
    ...     def rate(self, xp, t):
    ...         return self.lr / (1.0 + t)
    >>> lr = Inverse(0.1)
    >>> lr(0), lr(9)
    (0.1, 0.01)
    """

    def rate(self, xp: Namespace, t: Any) -> Any:
        """Return the learning rate of step `t`, a floating-point scalar of `xp`."""
        message = f"{type(self).__name__} defines no rate(self, xp, t)."
        raise NotImplementedError(message)

    def __call__(self, step: int | float | Array) -> Any:
        """Return the learning rate of a step.

        Parameters
        ----------
        step : int, float or 0-d array
            The number of previous steps.

        Returns
        -------
        float or 0-d array
        """
        if isinstance(step, int | float):
            return float(self.rate(np, np.float64(step)))
        xp = namespace(step, type(self).__name__, "step")
        if _is_constant(self):
            return _rate(step, schedule=self)
        return _rate.function(xp, step, schedule=self)

    def _check(self, *names: str, least: float | None = None) -> None:
        """Check that fields are positive, or at least `least`; make them Python numbers."""
        for name in names:
            value, kind = getattr(self, name), type(self).__name__
            x = number(kind, name, value, above=0 if least is None else None, least=least)
            is_integer = isinstance(value, int | np.integer)
            object.__setattr__(self, name, int(value) if is_integer else x)


@elementwise(integers=True)
def _rate(xp, step, *, schedule):
    return schedule.rate(xp, xp.astype(step, xp.float32))


def _is_constant(schedule: Any) -> bool:
    """Whether a kernel may be cached for it: a schedule of this file, defined by its fields."""
    return isinstance(schedule, int | float) or (
        type(schedule).__module__ == __name__ and all(map(_is_constant, vars(schedule).values()))
    )


@explained_data
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """Constant rate `lr`.

    Parameters
    ----------
    lr : float
        Learning rate.

    Examples
    --------
    >>> from xplayers.schedules import Constant
    >>> lr = Constant(0.1)
    >>> [round(lr(t), 4) for t in (0, 1, 1000)]
    [0.1, 0.1, 0.1]
    """

    lr: float

    def __post_init__(self) -> None:
        self._check("lr", least=0)

    def rate(self, xp: Namespace, t: Any) -> Any:
        return self.lr + 0.0 * t


@explained_data
@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """Exponential decay: ``lr * factor**(t / every)``.

    Parameters
    ----------
    lr : float
        Initial learning rate.
    every : int
        Steps of a decay by `factor`.
    factor : float
        Factor of the decay.

    Examples
    --------
    >>> from xplayers.schedules import Exponential
    >>> lr = Exponential(0.1, every=100)
    >>> [round(lr(t), 4) for t in (0, 50, 100, 200)]
    [0.1, 0.0316, 0.01, 0.001]
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        self._check("lr", least=0)
        self._check("every", "factor")

    def rate(self, xp: Namespace, t: Any) -> Any:
        return self.lr * xp.exp(math.log(self.factor) * (t / self.every))


@explained_data
@dataclasses.dataclass(frozen=True)
class Step(Exponential):
    """Step decay: ``lr * factor**floor(t / every)``.

    Parameters
    ----------
    lr : float
        Initial learning rate.
    every : int
        Steps between two drops.
    factor : float
        Factor of each drop.

    Examples
    --------
    >>> from xplayers.schedules import Step
    >>> lr = Step(0.1, every=100)
    >>> [round(lr(t), 4) for t in (0, 99, 100, 200)]
    [0.1, 0.1, 0.01, 0.001]
    """

    def rate(self, xp: Namespace, t: Any) -> Any:
        return self.lr * xp.exp(math.log(self.factor) * xp.floor(t / self.every))


@explained_data
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Cosine decay: ``final + (lr - final) * (1 + cos(pi * t / steps)) / 2``, then `final`.

    Parameters
    ----------
    lr : float
        Initial learning rate.
    steps : int
        Number of steps.
    final : float
        Final learning rate.

    References
    ----------
    Loshchilov, Hutter, "SGDR", ICLR 2017, equation 5, without restarts.

    Examples
    --------
    >>> from xplayers.schedules import Cosine
    >>> lr = Cosine(0.1, steps=100)
    >>> [round(lr(t), 4) for t in (0, 50, 100, 200)]
    [0.1, 0.05, 0.0, 0.0]
    """

    lr: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        self._check("lr", "final", least=0)
        self._check("steps")

    def rate(self, xp: Namespace, t: Any) -> Any:
        progress = xp.minimum(t / self.steps, 1.0)
        return self.final + (0.5 * (self.lr - self.final)) * (1.0 + xp.cos(math.pi * progress))


@explained_data
@dataclasses.dataclass(frozen=True)
class OneCycle(Schedule):
    """One-cycle policy: from ``lr / start_factor`` up to `lr`, then down to ``lr / final_factor``.

    Both phases are half cosines.

    Parameters
    ----------
    lr : float
        Maximum learning rate.
    steps : int
        Number of steps.
    rise : float
        Fraction of the steps in which the rate rises, between 0 and 1.
    start_factor, final_factor : float
        Quotients of `lr` and the initial and final rates.

    References
    ----------
    Smith, Topin, "Super-Convergence", 2018, section 3; the two cosines are PyTorch's
    (whose final rate is ``lr / (start_factor * final_div_factor)``).

    Examples
    --------
    >>> from xplayers.schedules import OneCycle
    >>> lr = OneCycle(0.1, steps=100)
    >>> [round(lr(t), 4) for t in (0, 15, 30, 65, 100)]
    [0.004, 0.052, 0.1, 0.05, 0.0]
    """

    lr: float
    steps: int
    rise: float = 0.3
    start_factor: float = 25.0
    final_factor: float = 1e4

    def __post_init__(self) -> None:
        self._check("lr", least=0)
        self._check("steps", "start_factor", "final_factor")
        self._check("rise")
        if not self.rise < 1:
            message = f"OneCycle: rise is {self.rise}; expected a fraction between 0 and 1."
            raise ValueError(message)

    def rate(self, xp: Namespace, t: Any) -> Any:
        top = self.rise * self.steps
        # Each phase is a cosine that is clamped at its ends, so their changes can be added.
        up = 0.5 - 0.5 * xp.cos(math.pi * xp.minimum(t / top, 1.0))
        progress = xp.minimum(xp.maximum((t - top) / (self.steps - top), 0.0), 1.0)
        down = 0.5 - 0.5 * xp.cos(math.pi * progress)
        start, final = self.lr / self.start_factor, self.lr / self.final_factor
        return start + (self.lr - start) * up - (self.lr - final) * down


@explained_data
@dataclasses.dataclass(frozen=True)
class WarmUp(Schedule):
    """Linear warm-up over `steps` steps, followed by another schedule.

    ``then(0) * (t + 1) / steps`` for ``t < steps``, then ``then(t - steps)``.

    Parameters
    ----------
    steps : int
        Number of steps of the warm-up.
    then : Schedule
        The schedule after the warm-up; its steps are counted from there.

    Examples
    --------
    >>> from xplayers.schedules import Cosine, WarmUp
    >>> lr = WarmUp(10, then=Cosine(0.1, steps=90))
    >>> [round(lr(t), 4) for t in (0, 4, 9, 10, 55, 100)]
    [0.01, 0.05, 0.1, 0.1, 0.05, 0.0]
    """

    steps: int
    then: Schedule

    def __post_init__(self) -> None:
        self._check("steps")
        instance("WarmUp", "then", self.then, Schedule, "a schedule, as Constant(0.1)")

    def rate(self, xp: Namespace, t: Any) -> Any:
        scale = xp.minimum((t + 1.0) / self.steps, 1.0)
        return scale * self.then.rate(xp, xp.maximum(t - self.steps, 0.0))
