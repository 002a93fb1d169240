"""The steps of a `TrainStep` that are replayed rather than computed anew; see `_replay`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from xplayers._arrays import Array, library, on_host
from xplayers._groups import Task
from xplayers._memory import let_go, trim
from xplayers._places import copied_array
from xplayers._recording import NotRecordable, Recording, StandIn, same
from xplayers._replay import Places, compiled

MOST = 8  # kinds of batches whose replays are kept

Tree = Any  # nested dicts of arrays


class Replays:
    """Records the first two steps of a kind of batch, and replays the others.

    Two, because what a step computes from anything but its arguments would be frozen: where the two
    recordings differ, by a random number or a counter of Python's, there is no replay.
    """

    def __init__(self, around: Callable[[Any], Any]) -> None:
        self._around = around  # what is done to a function of a step before it is called
        self.forget()

    def forget(self) -> None:
        """Let go of all replays; the next steps are recorded again."""
        self._recordings: dict[Any, Recording] = {}  # the first ones
        self._refused: set[Any] = set()  # kinds that are computed anew in each step
        self._replays: dict[Any, Callable[..., Array]] = {}
        self._places = Places()
        self._made = False  # whether there is a new replay
        # The dicts which hold the arrays that replays read and write, and these arrays.
        self._held: list[tuple[dict[str, Any], list[Any]]] = []

    @staticmethod
    def fit(x: Array) -> bool:
        """Whether steps on arrays of this library can be replayed."""
        return type(x) is np.ndarray or (library(x) == "torch" and on_host(x))

    def replay(self, key: Any, *arguments: Any) -> Array | None:
        """Take a step, if there is a replay for it."""
        replay = self._replays.get(key)
        if replay is None:
            return None
        for arrays, homes in self._held:
            if len(arrays) != len(homes) or not all(map(operator.is_, arrays.values(), homes)):
                self.forget()  # somebody has put other arrays in
                return None
        return replay(*arguments)

    def record(
        self, key: Any, function: Callable[..., Any], trees: tuple[Tree, ...], arguments: tuple
    ) -> Any:
        """Return ``function(*trees, *arguments)``, and write down what it does.

        The results but for the first are written over `trees`: parameters, buffers, arrays of the
        loss (which stay as they are), and state.
        """
        full = len(self._replays) >= MOST and key not in self._recordings
        if full or key in self._refused:
            return self._around(function)(*trees, *arguments)
        recording = Recording()
        try:
            for tree in trees:
                _make_writable(tree)
            stand_ins = [None if a is None else recording.input(a) for a in arguments]
            given = [_mapped(recording.input, tree) for tree in trees]
            value, *results = self._around(function)(*given, *stand_ins)
            recording.finish()
            pairs = list(_pairs((given[0], given[1], given[3]), tuple(results)))
            for before, after in pairs:
                _check_fit(before, after)
            if not isinstance(value, StandIn):
                message = "the loss does not depend on the batch"
                raise NotRecordable(message)
        except Exception:  # nothing has been written to
            result = self._around(function)(*trees, *arguments)  # or it says what is wrong
            self._recordings.pop(key, None)
            self._refused.add(key)
            return result
        # A value that is an old one is copied before any of them is written over.
        roots = set(recording.inputs)
        news = [
            (b, copied_array(a.value) if recording.kinds[a.register].root in roots else a.value)
            for b, a in pairs
            if a is not b
        ]
        for before, new in news:
            before.value[...] = new
        if self._is_second(key, recording):
            homes = {s.register: s.value for tree in given for s in _leaves(tree)}
            updates = {b.register: a.register for b, a in pairs}
            inputs = [s.register for s in stand_ins if s is not None]
            task = Task(recording, inputs, homes, updates, value.register)
            replay = compiled(task, self._places)
            self._replays[key] = self._around(replay)
            self._made = True
        loss = np.asarray(value.value) if isinstance(value.value, np.generic) else value.value
        return loss, trees[0], trees[1], trees[3]

    def _is_second(self, key: Any, recording: Recording) -> bool:
        """Whether a recording of this kind has said the same; else keep it, or refuse the kind."""
        earlier = self._recordings.pop(key, None)
        if earlier is None:
            if len(self._recordings) >= MOST:  # kinds that came once
                del self._recordings[next(iter(self._recordings))]
            self._recordings[key] = recording
            return False
        if same(earlier, recording):
            return True
        self._refused.add(key)
        return False

    def hold(self, dicts: list[dict[str, Any]]) -> None:
        """Take these as the dicts that hold the arrays: where one has another, replays end."""
        self._held = [(d, [*d.values()]) for d in dicts if d]
        # Of what the recordings have computed: a replay has places of its own.
        (trim if self._made else let_go)()
        self._made = False


def _check_fit(before: StandIn, after: Any) -> None:
    """Check that a part of the state keeps its shape and dtype, and comes from an operation."""
    old, new = before.value, getattr(after, "value", None)
    kept = new is not None and tuple(old.shape) == tuple(new.shape) and old.dtype == new.dtype
    if not kept:
        message = "a part of the state is another kind of value than before"
        raise NotRecordable(message)


def _make_writable(tree: Tree) -> None:
    """Put arrays in the place of NumPy's scalars, and of what cannot be written."""
    for name, a in tree.items():
        if isinstance(a, Mapping):
            _make_writable(a)
        elif isinstance(a, np.generic) or (
            isinstance(a, np.ndarray) and not a.flags.writeable
        ):  # fmt: skip
            tree[name] = np.array(a)


def _mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    if isinstance(tree, Mapping):
        made = {k: _mapped(function, tree[k]) for k in sorted(tree)}  # the same in every step
        return {k: made[k] for k in tree}
    if isinstance(tree, tuple):
        return tuple(_mapped(function, v) for v in tree)
    return function(tree)


def _leaves(tree: Tree) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        for v in tree.values():
            yield from _leaves(v)
    else:
        yield tree


def _pairs(before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(before, Mapping):
        if before.keys() != after.keys():
            message = "the names of the state change"
            raise NotRecordable(message)
        for k in before:
            yield from _pairs(before[k], after[k])
    elif isinstance(before, tuple):
        for b, a in zip(before, after, strict=True):
            yield from _pairs(b, a)
    else:
        yield before, after
