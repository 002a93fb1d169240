"""Steps by replays: the first two of a kind of batch are recorded, the others the same calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from xplayers.accelerate.compiled import Compiled, is_ours, with_numbers
from xplayers.accelerate.replay.flat import lay_flat
from xplayers.accelerate.replay.recording import is_ordered
from xplayers.accelerate.replay.steps import Replays
from xplayers.arrays.namespaces import Array
from xplayers.layers.variables import shared_outside
from xplayers.training.precision import quietly
from xplayers.training.stateful import batch_kind


class Replayed(Compiled):
    """Takes steps on arrays of NumPy, and of PyTorch on the CPU."""

    def __init__(self, step: Any) -> None:
        super().__init__(step)
        self.replays = Replays(self.patience)
        self._last: Last | None = None  # the last replay
        self._moves = 0  # how often parameters were laid out anew

    def __call__(self, x: Array, t: Array, lr: Any, *weights: Array) -> Array:
        step = self.step
        makes, last = self.may_make(step), self._last
        if makes and last is not None and lr is None and last.is_of(x, t, step, self, weights):
            replay, lr, numbers = last.replay, step.optimizer.lr, last.numbers
        else:
            t, rate = step._target(t), step._learning_rate(lr)
            kind = self._kind(x, t, rate, *weights)
            arguments = (x, t, rate, *weights)
            if not makes or not Replays.fit(x):
                batch = (x, t, *weights)
                return step._update(kind, batch, lambda trees: step._in_place(*trees, *arguments))
            numbers = {} if self.fixed else self.sources.numbers
            replay = self.replays.find(kind, (step.optimizer.state, step._scaling))
            if replay is None:
                return self._record(kind, arguments, numbers)
            if lr is None and type(rate) is float:
                self._last = Last.of(replay, numbers, (x, t, *weights), self)
            lr = rate
        self.patience.uses += 1
        more = weights if lr is None else (lr, *weights)
        arguments = (x, t, *more, *numbers.values())
        value = replay(*arguments) if step.precision is None else quietly(replay, *arguments)
        step._count()
        return value

    def _record(self, kind: Any, arguments: tuple[Any, ...], numbers: dict[str, float]) -> Array:
        """Take a step of a kind that has no replay yet."""
        step, replays = self.step, self.replays

        def run(trees: Any) -> Any:
            if not step._disjoint:  # in the order in which the optimizer writes into shared memory
                return step._in_place(*trees, *arguments)
            return replays.record(kind, self._plain, trees, arguments, numbers, self._effects)

        x, t, _, *weights = arguments
        value = step._update(kind, (x, t, *weights), run, self._lay_flat)
        replays.hold(self._holders(), (step.optimizer.state, step._scaling))
        if numbers and replays.is_refused(kind) and not is_ours(step.optimizer):
            self.fixed = True  # it may look at its numbers
        return value

    def _plain(self, *arguments: Any, numbers: Mapping[str, Any] | None = None) -> Any:
        """Compute a step as it stands, which may write over parameters and state."""
        step = self.step
        if numbers is None:
            return step._eager(*arguments)
        pure = functools.partial(with_numbers, step, numbers, donate=True, check=True)
        return pure(*arguments) if step.precision is None else quietly(pure, *arguments)

    def _effects(self) -> str:
        """Return what computing a step has changed of what it is made of."""
        if self.sources.hold(self.step):
            return "none"
        return "traces" if self.sources.has_traces else "some"

    def _kind(self, x: Array, t: Array, lr: Any, *weights: Array) -> Any:
        """Return what a replay depends on beside values of arrays and what the step is made of."""
        sources = self.sources
        return (
            *batch_kind(x, t, *weights), *map(_order, (x, t, *weights)), type(lr), sources.pattern,
            sources.constants if self.fixed else None,
        )  # fmt: skip

    def _lay_flat(self, params: dict[str, Array]) -> None:
        """Put parameters and moments into one flat buffer each; the layers have views of it."""
        step = self.step
        if self._moves > 2 or shared_outside(params.values(), step.net._all_variables.values()):
            return  # another step lays them out for itself again and again, or a layer has them too
        before = list(params.values())
        state = step.optimizer.state or {}
        alike = [params]
        for m in state.values():
            if isinstance(m, dict) and m.keys() == params.keys():
                alike += [m] if all(hasattr(a, "shape") for a in m.values()) else []
        for arrays in alike:
            lay_flat(arrays)
        step._put(params)
        self._moves += any(a is not b for a, b in zip(before, params.values(), strict=True))

    def _holders(self) -> list[dict[str, Any]]:
        """Return the dicts that hold what a step reads and writes."""
        step = self.step
        state = step.optimizer.state or {}
        held = [step.loss._variables.buffers, step._scaling or {}, state]
        for variables in step.net._all_variables.values():
            held += [variables.params, variables.buffers]
        return held + [m for m in state.values() if isinstance(m, dict)]

    def close(self) -> None:
        """Let go of all replays."""
        super().close()
        self.replays.forget()
        self._last = None


class Last(NamedTuple):
    """The last replay, and of what it was: most steps are as the one before."""

    replay: Callable[..., Array]
    numbers: dict[str, float]
    replays: dict[Any, Any]
    weights: tuple[Any, ...]  # type, shape and dtype of those of samples, if there are
    x_type: type
    x_shape: tuple[int, ...]
    x_dtype: Any
    t_type: type
    t_shape: tuple[int, ...]
    t_dtype: Any

    @classmethod
    def of(
        cls, replay: Callable[..., Array], numbers: dict[str, float], batch: Any, taker: Any
    ) -> Last | None:
        """Return the replay of a batch; None where that does not lie in row-major order."""
        if not all(map(is_ordered, batch)):
            return None
        x, t, *weights = batch
        kinds = tuple(map(_kind_of, weights))
        return cls(replay, numbers, taker.replays.replays, kinds, *batch_kind(x, t))

    def is_of(self, x: Array, t: Array, step: Any, taker: Any, weights: Any) -> bool:
        """Whether this is the replay of a batch; its rate is that of the optimizer, a number."""
        return (
            type(x) is self.x_type
            and type(t) is self.t_type
            and x.shape == self.x_shape
            and t.shape == self.t_shape
            and x.dtype is self.x_dtype
            and t.dtype is self.t_dtype
            and type(step.optimizer.lr) is float
            and self.numbers is taker.sources.numbers
            and is_ordered(x)
            and is_ordered(t)
            and (not self.weights if not weights else self._weighs(weights))
            and Replays.fit(x)
            and taker.replays.hold_still((step.optimizer.state, step._scaling))
            and self.replays is taker.replays.replays  # none has ended
        )

    def _weighs(self, weights: tuple[Array, ...]) -> bool:
        return self.weights == tuple(map(_kind_of, weights)) and all(map(is_ordered, weights))


def _kind_of(a: Array) -> Any:
    return type(a), a.shape, a.dtype


def _order(a: Array) -> Any:
    """Return how the elements of an array lie in memory; None: in row-major order without gaps."""
    if is_ordered(a):
        return None
    return a.strides if hasattr(a, "strides") else a.stride() if hasattr(a, "stride") else False
