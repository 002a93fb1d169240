"""What the steps of several processes exchange: one sum over the ranks in each update."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import (
    Array,
    device,
    dtype_name,
    is_floating,
    namespace,
    on_host,
    size,
    upcast,
)
from xplayers.arrays.operation import operation
from xplayers.arrays.transfer import to_numpy
from xplayers.layers.base import Layer
from xplayers.layers.containers import Container
from xplayers.layers.dropout import Dropout, wrapped
from xplayers.losses import Loss
from xplayers.parallel.groups import RanksLost

Arrays = Mapping[str, Array]

# What a rank can ask all ranks to do after a step.
REQUESTS = ("interrupted", "callback", "collect", "checkpoint")
# The counters of any number of ranks are far apart by multiples of this, the golden ratio.
_APART = 0x9E3779B9


class Exchange:
    """Makes the results of the whole batch of those that the ranks have for their parts.

    An update takes one sum, and synchronized batch normalization more. Where it is computed twice,
    because it could not be recorded, those sums are taken again: other ranks may have computed it
    once.

    On a GPU, where a graph holds the addresses of a step, what a rank asks for and what is known of
    the last batch have places of their own.
    """

    def __init__(self, group: Any) -> None:
        self.group = group  # a `xplayers.parallel.Group` of several processes
        self.size = group.size  # of which an elastic one may lose some; another one is made then
        # Whether batch normalization takes the statistics of the batches of all.
        self.synchronized = bool(getattr(group, "synchronized", False))
        self.shared = False  # whether all ranks have begun with the same arrays
        self.asked: set[str] = set()  # of `REQUESTS`, by this rank
        self._last: Array | None = None  # weight, samples and requests of the last batch
        self._computing = False  # whether an update is computed, not replayed
        self._sums: list[Array] = []  # those of the update that is computed
        self._next = 0  # the number of the next one
        # On a GPU: what this rank asks for, and where `_last` is.
        self._places: tuple[Array, Array] | None = None
        self._told: set[str] = set()  # what is in the first of them

    @property
    def last(self) -> tuple[float, int, set[str]]:
        """Weight and number of the samples of the last batch, and what ranks have asked for."""
        weight, samples, *sums = to_numpy(self._last).tolist()
        return weight, int(samples), self._granted(sums)

    def requests(self) -> set[str]:
        """Return what ranks have asked for since the last batch."""
        flags = np.asarray(self._flags())
        self.group.sum_(flags)
        return self._granted(flags.tolist())

    def _flags(self) -> list[float]:
        return [float(request in self.asked) for request in REQUESTS]

    def _granted(self, sums: list[float]) -> set[str]:
        requests = set(itertools.compress(REQUESTS, sums))
        self.asked -= requests
        return requests

    def begin(self, params: Arrays) -> None:
        """Begin to compute an update of these parameters."""
        first = next(iter(params.values()))
        self._computing, self._sums, self._next = on_host(first), [], 0
        if self._computing:
            self._places = None
        else:
            self._tell(first)

    def _tell(self, like: Array) -> None:
        """Bring to the device of an array what this rank asks for, if it is something else."""
        xp, where, n = namespace(like), device(like), len(REQUESTS)
        if self._places is None or device(self._places[0]) != where:
            wide = upcast(xp, like).dtype
            zeros = (xp.zeros((k,), dtype=wide, device=where) for k in (n, n + 2))
            self._places, self._told = (next(zeros), next(zeros)), set()
        if self._told != self.asked:
            flags = self._places[0]
            flags[...] = xp.asarray(self._flags(), dtype=flags.dtype, device=where)
            self._told = set(self.asked)

    def end(self) -> None:
        """End it, also after an error."""
        self._computing, self._sums = False, []

    def restart(self) -> None:
        """Begin to compute it, perhaps once more."""
        self._next = 0

    def own(self, net: Layer, buffers: Arrays) -> dict[str, Array]:
        """Return `buffers` with the counters of random numbers of this rank."""
        shift = wrapped(self.group.rank * _APART)
        return {**buffers, **{name: buffers[name] + shift for name in _counters(net)}}

    def averaged(
        self,
        loss: Loss,
        samples: int,
        weight: Any,
        value: Array,
        grads: Arrays,
        changed: Arrays,
        own: Arrays,
        buffers: Arrays,
    ) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        """Return loss, gradients and buffers of the whole batch.

        Of this rank's `samples` are `value`, its mean over `weight`, the `grads`, and what of its
        `own` buffers has `changed`. The `buffers` of all change by the mean of that, integers as
        on rank 0, and where nothing has changed they keep their bits.
        """
        first = next(iter(grads.values()))
        xp, where = namespace(first), device(first)
        dtype = xp.result_type(*[upcast(xp, g).dtype for g in grads.values()])
        shares = {k: samples if is_floating(a) else int(self.group.rank == 0)
                  for k, a in buffers.items()}  # fmt: skip
        moves = [
            (changed[k] - own[k]) * shares[k] if k in changed else xp.zeros_like(a)
            for k, a in buffers.items()
        ]
        counts = [number(xp, n, dtype, where) for n in (weight, samples)]
        # Where it is synchronized these are shares of the whole already.
        parts = [*grads.values(), value]
        mean = loss.reduction == "mean" and not self.synchronized
        parts, moves = ([xp.astype(a, dtype, copy=False) for a in some] for some in (parts, moves))
        sums = summed(parts, weight if mean else 1, [*moves, *counts], self)
        *parts, total, n = _split(xp, sums, [*parts, *moves, *counts])
        if mean:
            total = xp.where(total == 0, xp.ones_like(total), total)
            parts[: len(grads) + 1] = [a / total for a in parts[: len(grads) + 1]]
        averages = iter(parts)
        grads = {k: xp.astype(next(averages), g.dtype, copy=False) for k, g in grads.items()}
        value = next(averages)
        after = {
            k: a + xp.astype(move / n if is_floating(a) else move, a.dtype, copy=False)
            for (k, a), move in zip(buffers.items(), averages, strict=True)
        }
        return value, grads, after

    def nothing(self, params: Arrays) -> tuple[Any, ...]:
        """Return what a rank without samples computes: loss, gradients, buffers and weight."""
        grads = {k: namespace(p).zeros_like(p) for k, p in params.items()}
        first = next(iter(grads.values()))
        xp = namespace(first)
        return xp.sum(upcast(xp, first)), grads, {}, 0

    def share_of(self, loss: Loss, weight: Any, like: Array) -> Any:
        """Return which part of the mean over all ranks is that of this rank, of this weight.

        `like` is the loss, or another 0-d array of its dtype.
        """
        if loss.reduction != "mean":
            return 1.0
        xp = namespace(like)
        # Made of `like`: a number of its own would be a constant of a replay, and its sum too.
        own = xp.zeros_like(like) + number(xp, weight, like.dtype, device(like))
        total = over_ranks([own], self)[0, ...]
        return own / xp.where(total == 0, xp.ones_like(total), total)

    def sum_(self, flat: Array) -> None:
        """Write the sums over the ranks into `flat`, and behind them what the ranks ask for."""
        n = len(REQUESTS)
        if self._places is not None:
            flags, last = self._places
            flat[-n:] = flags
            self.add_(flat)
            last[...] = flat[-n - 2 :]
            self._last = last
            return
        flat[-n:] = 0.0
        for i, flag in enumerate(self._flags() if self.asked else ()):
            flat[i - n] = flag
        self.add_(flat)
        self._last = flat[-n - 2 :] + 0.0  # in memory of its own

    def add_(self, flat: Array) -> None:
        """Write the sums over the ranks into `flat`."""
        if self._next < len(self._sums):
            flat[...] = self._sums[self._next]
        else:
            if self.group.size != self.size:  # the parts are of a larger one
                raise RanksLost(self.group.lost, self.group.size)
            self.group.sum_(flat)
            if self._computing:
                self._sums.append(flat)
        self._next += 1

    def together(self, kind: int, history: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the kinds and the histories of all ranks, which this one adds its own to."""
        table = np.zeros((2, self.group.size), "int64")
        table[:, self.group.rank] = kind, history
        self.group.sum_(table.reshape(-1))
        kinds, histories = table.tolist()
        return tuple(kinds), tuple(histories)

    def alike(self, batches: Iterator[Any], epoch: int, first: int) -> Iterator[Any]:
        """Yield batches, and check that all ranks have as many; for those of unknown number."""
        for number in itertools.count(first + 1):
            batch = next(batches, None)
            there = np.zeros(self.group.size, "int64")
            there[self.group.rank] = batch is not None
            self.group.sum_(there)
            if not there.any():
                return
            if not there.all():
                ranks = [", ".join(map(str, np.flatnonzero(there == has))) for has in (1, 0)]
                message = (
                    f"Trainer.fit: the processes differ: epoch {epoch + 1} has a batch {number} on "
                    f"rank {ranks[0]}, and none on rank {ranks[1]}. Each takes its part of every "
                    "batch itself: pass the same batches on all."
                )
                raise ValueError(message)
            yield batch

    def share(self, step: Any) -> None:
        """Check that the ranks train the same, and let all begin with the arrays of rank 0."""
        from xplayers.saving.network import put
        from xplayers.training.identity import described, step_identity

        net, arrays = step.net, step.net.arrays
        kinds = [f"{k} {dtype_name(a.dtype)} {tuple(a.shape)}" for k, a in arrays.items()]
        state = {k: list(part) for k, part in step.state.items()}
        identity = {"arrays": kinds, "state": state, **step_identity(step)}
        options = {
            "reduce_grads": described(step.reduce_grads), "synchronized": self.synchronized,
        }  # fmt: skip
        self.compare(type(step).__name__, {**identity, **options})
        shared = self._of_first({"net": arrays, "state": step.state})
        put(net, shared["net"])
        step.state = shared["state"]
        self.shared = True

    def _of_first(self, tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return {k: self._of_first(a) for k, a in tree.items()}
        xp = namespace(tree)
        flat = xp.reshape(xp.asarray(upcast(xp, tree), copy=True), (-1,))
        self.group.broadcast_(flat)
        return xp.astype(xp.reshape(flat, tree.shape), tree.dtype, copy=False)

    def compare(self, owner: str, identity: Mapping[str, Any]) -> None:
        """Check that all ranks have the same `identity`, JSON; the error names what differs."""
        from xplayers.training.identity import changes

        texts = survived(lambda: gathered(self.group, json.dumps(identity)))
        first, *others = map(json.loads, texts)
        differences = [
            f"{name} is {is_there} on rank {rank}, {was} on rank 0"
            for rank, other in enumerate(others, 1)
            for name, was, is_there in changes(first, other)
        ]
        if differences:
            message = (
                f"{owner}: the processes differ: {'; '.join(differences)}. Each takes its part of "
                "every batch itself: pass the same network, options and data on all."
            )
            raise ValueError(message)


@operation
def summed(parts: list[Array], weight: Any, rest: list[Array], exchange: Exchange, out: Any = None):
    """Return one flat array: the sums over the ranks of `parts` times `weight`, and of `rest`.

    Behind these it has those of what the ranks ask for. All arrays are of one dtype.
    """
    xp, first = namespace(parts[0]), parts[0]
    n, m = sum(map(size, parts)), sum(map(size, rest))
    if out is None:
        out = xp.empty((n + m + len(REQUESTS),), dtype=first.dtype, device=device(first))
    _join(xp, [*parts, *rest], out)
    weighted = out[:n]
    weighted *= weight
    exchange.sum_(out)
    return out


@operation
def over_ranks(parts: list[Array], exchange: Exchange, out: Any = None) -> Array:
    """Return one flat array, the sums over the ranks of `parts`, of one dtype. Do not change it."""
    xp, first = namespace(parts[0]), parts[0]
    if out is None:
        out = xp.empty((sum(map(size, parts)),), dtype=first.dtype, device=device(first))
    _join(xp, parts, out)
    exchange.add_(out)
    return out


def _join(xp: Any, arrays: list[Array], out: Array) -> None:
    at = 0
    for a in arrays:
        out[at : at + size(a)] = xp.reshape(a, (-1,))
        at += size(a)


def number(xp: Any, value: Any, dtype: Any, where: Any) -> Array:
    """Return a number, or a 0-d array, as a 0-d array of `dtype`."""
    if hasattr(value, "shape") or "cpu" in str(where).lower():
        return xp.asarray(value, dtype=dtype, device=where)
    return xp.full((), value, dtype=dtype, device=where)  # nothing is brought to a GPU


def _split(xp: Any, flat: Array, like: list[Array]) -> list[Array]:
    """Return views of the pieces of `flat`, in the shapes of these arrays."""
    ends = [*itertools.accumulate(map(size, like), initial=0)]
    return [
        xp.reshape(flat[begin:end], a.shape)
        for a, begin, end in zip(like, ends, ends[1:], strict=False)
    ]


def _counters(layer: Layer) -> list[str]:
    """Return the names of the buffers that count draws of random numbers."""
    if isinstance(layer, Container):
        return [part.names[k] for part in layer._parts for k in _counters(part.layer)]
    return ["count"] if isinstance(layer, Dropout) else []


def survived(collective: Callable[[], Any]) -> Any:
    """Return what a function of the group returns, called again where ranks have been lost.

    It must not depend on which part of the data a rank has.
    """
    while True:
        with contextlib.suppress(RanksLost):
            return collective()


def gathered(group: Any, text: str) -> list[str]:
    """Return the texts of all ranks."""
    data = np.frombuffer(text.encode(), "uint8")
    lengths = np.zeros(group.size, "int64")
    lengths[group.rank] = len(data)
    group.sum_(lengths)
    table = np.zeros((group.size, int(lengths.max())), "uint8")
    table[group.rank, : len(data)] = data
    group.sum_(table.reshape(-1))
    rows = zip(table, lengths.tolist(), strict=True)
    return [row[:length].tobytes().decode() for row, length in rows]
