"""The replays of a step, by kinds of batches: recorded twice, compiled, and ended in time."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from xplayers.accelerate.host.memory import let_go, trim
from xplayers.accelerate.patience import Patience
from xplayers.accelerate.replay.compiler import BufferPool, compiled
from xplayers.accelerate.replay.foreach import StepProgram
from xplayers.accelerate.replay.in_place import copied_array
from xplayers.accelerate.replay.recording import (
    NotRecordable,
    Recording,
    Tracer,
    instances,
    same,
)
from xplayers.arrays.namespaces import Array, library, on_host
from xplayers.arrays.writing import write_over
from xplayers.layers.ties import overlap

MOST = 8  # kinds of batches whose replays are kept
REMEMBERED = 64  # kinds of which it is known that they cannot be replayed

Tree = Any  # nested dicts of arrays


class Replays:
    """Records the first two steps of a kind of batch, and replays the others.

    Two, because what a step computes from anything but its arguments would be frozen: where the two
    recordings differ, by a random number or a counter of Python's, there is no replay.

    Parameters and state have homes: the arrays which replays read and write. What is computed anew
    is written into them. Where somebody has put other arrays in, all replays end.
    """

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self.forget()

    def forget(self) -> None:
        """Let go of all replays; the next steps are recorded again."""
        self._refused: dict[Any, None] = {}  # kinds that are computed anew in each step
        self._end()

    def _end(self) -> None:
        self._recordings: dict[Any, Recording] = {}  # the first ones
        self.replays: dict[Any, Callable[..., Array]] = {}
        self._pool = BufferPool()
        self._has_new = False  # whether there is a new replay
        self._homes: list[dict[str, Any]] = []  # what holds the arrays

    @staticmethod
    def fit(x: Array) -> bool:
        """Whether steps on arrays of this library can be replayed."""
        if type(x) is np.ndarray:
            return True
        # What PyTorch makes in its inference mode cannot be written to outside of it.
        mode = library(x) == "torch" and not sys.modules["torch"].is_inference_mode_enabled()
        return mode and on_host(x)

    def find(self, key: Any, trees: tuple[Any, ...]) -> Callable[..., Array] | None:
        """Return the replay of this kind, if there is one."""
        self.hold_still(trees)
        return self.replays.get(key)

    def hold_still(self, trees: tuple[Any, ...]) -> bool:
        """Whether all arrays are in their homes; else all replays end.

        `trees` are the dicts that replays do not find by themselves, as people replace them.
        """
        dicts = self._homes
        still = not dicts or (
            all(map(operator.is_, trees, self._trees))
            and [*map(len, dicts)] == self._lengths
            and all(map(operator.is_, chain(*map(dict.values, dicts)), self._arrays))
        )
        if not still:
            self._patience.changed()
            self.forget()
        return still

    def record(
        self,
        key: Any,
        function: Callable[..., Any],
        trees: tuple[Tree, ...],
        arguments: tuple,
        numbers: dict[str, Any],
        effects: Callable[[], str] = lambda: "none",
    ) -> Any:
        """Return ``function(*trees, *arguments)``, and write down what it does.

        `numbers` are passed by keyword to what is written down: arguments, too. The results but for
        the first are written over `trees`: parameters, buffers, arrays of the loss (which stay as
        they are), and state. `effects` says afterwards what else the function has changed: "none",
        "some", or "traces" of the recording, as in an attribute of a layer.

        Nothing is written before all has gone well; else the step is computed anew.
        """
        full = len(self.replays) >= MOST and key not in self._recordings
        if full or key in self._refused or not self._patience.over():
            return self._computed(function, trees, arguments)
        recording = Recording()
        try:
            for tree in trees:
                _make_writable(tree)
            tracers = [None if a is None else recording.input(a) for a in arguments]
            named = {k: recording.input(v) for k, v in numbers.items()}
            traced = [_mapped(recording.input, tree) for tree in trees]
            value, *results = function(*traced, *tracers, numbers=named)
            recording.finish()
            pairs = list(_pairs((traced[0], traced[1], traced[3]), tuple(results)))
            for before, after in pairs:
                _check_fit(before, after)
            if not isinstance(value, Tracer):
                message = "the loss does not depend on the batch"
                raise NotRecordable(message)
            seen, replay = effects(), None
            if seen == "traces":
                message = "attributes have been set to what is not there"
                raise NotRecordable(message)
            if seen == "some":  # also of what the replays of other kinds were made of
                self._end()
                self._refuse(key)
            elif self._is_second(key, recording):
                homes = {s.register: s.value for s in instances(Tracer, traced)}
                updates = {b.register: a.register for b, a in pairs}
                inputs = [s.register for s in (*tracers, *named.values()) if s is not None]
                task = StepProgram(recording, inputs, homes, updates, value.register)
                replay = compiled(task, self._pool)
        except Exception:  # nothing has been written to
            result = self._computed(function, trees, arguments)  # or it says what is wrong
            self._refuse(key)
            return result
        # A value that is an old one is copied before any of them is written over.
        roots = set(recording.inputs)
        news = [
            (b, copied_array(a.value) if recording.infos[a.register].root in roots else a.value)
            for b, a in pairs
            if a is not b
        ]
        for before, new in news:
            before.value[...] = new
        if replay is not None:
            self.replays[key] = replay
            self._has_new = True
        loss = np.asarray(value.value) if isinstance(value.value, np.generic) else value.value
        return loss, trees[0], trees[1], trees[3]

    def _computed(self, function: Callable[..., Any], trees: tuple, arguments: tuple) -> Any:
        """Compute a step as it stands, and write what it has made into the homes."""
        value, *results = function(*trees, *arguments)
        before, after = (trees[0], trees[1], trees[3]), tuple(results)
        try:
            pairs = [(old, new) for old, new in _pairs(before, after) if old is not new]
            for old, new in pairs:
                _check_home(old, new)
        except NotRecordable:  # other kinds of values: they stay where they are
            self._end()
            return value, *results
        write_over(pairs)
        return value, *before

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
        self._refuse(key)
        return False

    def _refuse(self, key: Any) -> None:
        self._recordings.pop(key, None)
        self._refused[key] = None
        if len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def is_refused(self, key: Any) -> bool:
        """Whether steps of this kind are computed anew."""
        return key in self._refused

    def hold(self, dicts: list[dict[str, Any]], trees: tuple[Any, ...]) -> None:
        """Take these as the dicts that hold the arrays: where one has another, replays end."""
        self._homes = [d for d in dicts if d]
        self._lengths = [*map(len, self._homes)]
        self._arrays = [*chain(*map(dict.values, self._homes))]
        self._trees = trees
        # Of what the recordings have computed: a replay has places of its own.
        (trim if self._has_new else let_go)()
        self._has_new = False


def _check_fit(before: Tracer, after: Any) -> None:
    """Check that a part of the state keeps its shape and dtype, and comes from an operation."""
    old, new = before.value, getattr(after, "value", None)
    same_kind = new is not None and tuple(old.shape) == tuple(new.shape) and old.dtype == new.dtype
    if not same_kind:
        message = "a part of the state is another kind of value than before"
        raise NotRecordable(message)


def _check_home(old: Any, new: Any) -> None:
    """Check that `new` can be written into `old`."""
    arrays = type(old) is np.ndarray or hasattr(old, "untyped_storage")
    arrays = arrays and hasattr(new, "dtype")
    same_kind = arrays and old.shape == new.shape and old.dtype == new.dtype
    if not same_kind or not _is_writable(old):
        message = "a part of the state is another kind of value than before, or cannot be written"
        raise NotRecordable(message)


def _is_writable(a: Array) -> bool:
    if isinstance(a, np.ndarray):
        return a.flags.writeable
    return not (a.requires_grad or a.is_inference())


def _make_writable(tree: Tree) -> None:
    """Put arrays in the place of NumPy's scalars, and of what cannot be written."""
    for name, a in tree.items():
        if isinstance(a, Mapping):
            _make_writable(a)
        elif isinstance(a, np.ndarray):
            if not a.flags.writeable or overlap([a]):
                tree[name] = np.array(a)
        elif isinstance(a, np.generic):
            tree[name] = np.asarray(a)
        elif hasattr(a, "clone") and (a.is_inference() or overlap([a])):
            tree[name] = a.clone()


def _mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    if isinstance(tree, Mapping):
        mapped = {k: _mapped(function, tree[k]) for k in sorted(tree)}  # the same in every step
        return {k: mapped[k] for k in tree}
    if isinstance(tree, tuple):
        return tuple(_mapped(function, v) for v in tree)
    return function(tree)


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
