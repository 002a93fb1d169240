"""The three ways to train that are compared."""

from __future__ import annotations

from typing import Any

import numpy as np

import xplayers as xl
from fuzzer.libraries import Library, Subclass, bits
from fuzzer.networks import Network, Own
from fuzzer.settings import Manner

WAYS = ("auto", "plain", "loop")


class Loop:
    """The loop that is written by hand, with the face of a `TrainStep`."""

    def __init__(self, net: xl.Layer, loss: xl.Loss, optimizer: xl.Optimizer, reduce: Any) -> None:
        self.net, self.loss, self.optimizer, self.reduce_grads = net, loss, optimizer, reduce

    def __call__(self, x: Any, t: Any, sample_weight: Any = None, *, lr: Any = None) -> Any:
        xl.namespace(x), xl.namespace(t)  # as a step does before all else
        buffers = {name: bits(a) for name, a in self.net.buffers.items()}
        copies = {name: xl.to_numpy(a).copy() for name, a in self.net.buffers.items()}
        try:
            value = self.loss.forward(self.net.forward(x), t, sample_weight)
            self.net.backward(self.loss.backward(), input_grad=False)
            grads = self.net.grads
            if self.reduce_grads is not None:
                grads = self.reduce_grads(dict(grads))
            self.optimizer.update(self.net.params, grads, lr=lr)
        except BaseException:
            # A step is taken as a whole or not at all; in the loop, forward has counted already.
            for name, a in self.net.buffers.items():
                if bits(a) != buffers[name]:
                    self.net.buffers[name] = xl.move(copies[name], like=a)
            self.net.zero_grads()
            self.loss.zero_grads() if hasattr(self.loss, "zero_grads") else None
            raise
        return value

    def many(self, x: Any, t: Any, index: Any, *, lr: Any = None) -> Any:
        xp = xl.namespace(x)
        rows = [index[i, ...] for i in range(index.shape[0])]
        return xp.stack([
            self(xp.take(x, r, axis=0), xp.take(t, r, axis=0), lr=lr) for r in rows
        ])  # fmt: skip

    def close(self) -> None:
        pass

    @property
    def state(self) -> dict[str, Any]:
        return {} if self.optimizer.state is None else {"optimizer": self.optimizer.state}

    @state.setter
    def state(self, value: Any) -> None:
        step = xl.TrainStep(self.net, self.loss, self.optimizer, compile=False)
        step.state = value  # which brings it to where the parameters are


class World:
    """A network that is trained in one of the ways, and what its owner has in hand."""

    def __init__(self, way: str, lib: Library, network: Network, dtype: str, placed: bool) -> None:
        self.way, self.lib, self.dtype = way, lib, dtype
        self.network, self.placed = network, placed
        self.warned: set[str] = set()  # in the last event
        self.net, self.builder = network.build()
        self.shape = network.shape
        # A gradient that is a scalar of NumPy is not replayed.
        self.unreplayed = any(isinstance(layer, Own) for _, layer in self.builder.made)
        self.step: Any = None
        self.others: list[Any] = []  # further steps
        self.saved: dict[str, Any] = {}  # what events keep for later ones
        self.given: list[tuple[Any, Any]] = []  # arrays that nobody may write to, and their bits
        # Whether parameters lie in a way of their own. In 16 bits a step puts new arrays in their
        # place and the loop writes over them, so that BLAS may round otherwise.
        self.apart = False
        self.taken = self.refused = self.replayed = 0  # steps
        self.computed: dict[Any, int] = {}  # steps that were not replayed, one after the other
        self.kinds: tuple[Any, ...] = ()
        self.scores: tuple[int, ...] = ()  # the shape of the scores of a sample
        self.manner, self.folder, self.traceback = Manner(), "", ""
        if placed or self.builder.integers is not None:
            self.net.to(like=lib.array(np.zeros(()), dtype))
            self.tie()

    def tie(self) -> None:
        """Let tied layers have one array again."""
        for layer, made, transposed in self.builder.ties:
            made.W = layer.W.T if transposed else layer.W

    def make_step(
        self, loss: xl.Loss, optimizer: xl.Optimizer, reduce: Any, manner: Manner, net: Any = None
    ) -> Any:
        net = self.net if net is None else net
        if self.way == "loop":
            return Loop(net, loss, optimizer, reduce)
        options: dict[str, Any] = {
            "compile": "auto" if self.way == "auto" else False,
            "reduce_grads": reduce, "precision": manner.precision,
        }  # fmt: skip
        if manner.parts:
            return xl.AccumulatedStep(net, loss, optimizer, parts=manner.parts, **options)
        return xl.TrainStep(net, loss, optimizer, **options)

    def take(self, x: Any, t: Any, **options: Any) -> Any:
        """Take a step, and keep the loss."""
        before = self.replayed
        try:
            value = self.step(x, t, **options)
        except Exception:
            self.refused += 1
            raise
        self.taken += 1
        self._notice(x, t, options, self.replayed > before)
        return self.keep(value)

    def _notice(self, x: Any, t: Any, options: Any, replayed: bool) -> None:
        """See that steps of one kind, with nothing in between, are replayed at last."""
        if self.way != "auto" or self.unreplayed or 0 in x.shape or Subclass in map(type, (x, t)):
            return
        if getattr(self.step.reduce_grads, "unreplayed", False):
            return
        given = (_kind(v) if getattr(v, "shape", ()) else type(v) for v in options.values())
        kind = (*map(_kind, (x, t)), *given)
        self.computed[kind] = 0 if replayed else self.computed.get(kind, 0) + 1
        assert self.computed[kind] < 7, "the same kind of step was computed seven times"

    def many(self, x: Any, t: Any, index: Any) -> Any:
        return self.keep(self.step.many(x, t, index))

    def adopt(self, net: xl.Layer) -> None:
        """Go on with a copy of the network."""
        copies = dict(zip(map(id, walk(self.net)), walk(net), strict=True))
        made = self.builder.made
        self.builder.made = [(s, copies[id(a)]) for s, a in made if id(a) in copies]
        self.net = net

    def keep(self, a: Any) -> Any:
        """Take note of an array that has to stay as it is."""
        if hasattr(a, "dtype"):
            self.given.append((a, bits(a)))
            del self.given[:-60]
        return a

    def snapshot(self) -> dict[str, Any]:
        """Return all that can be seen of a network and its steps, by name."""
        seen: dict[str, Any] = {}
        for kind in ("params", "buffers"):
            for name, a in getattr(self.net, kind).items():
                seen[f"{kind} {name}"] = bits(a)
        for i, step in enumerate([self.step, *self.others]):
            _flat(f"state {i}", step.state, seen)
            store = step.loss._variables
            for name, a in (
                store.buffers.items() if store.materialized or self.way != "loop" else ()
            ):
                seen[f"loss {i} {name}"] = bits(a)
        return seen

    def written(self) -> str:
        """Return what is wrong with the arrays that nobody may write to."""
        for a, before in self.given:
            if bits(a) != before:
                return f"an array of shape {tuple(a.shape)} was written to"
        return ""


def _kind(a: Any) -> Any:
    lies = a.strides if isinstance(a, np.ndarray) else a.stride()
    return tuple(a.shape), str(a.dtype), lies


def walk(layer: Any) -> list[xl.Layer]:
    """Return a layer and all that is inside."""
    parts = getattr(layer, "_parts", ())
    return [layer, *(x for part in parts for x in walk(part.layer))]


def _flat(name: str, value: Any, seen: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for k, v in value.items():
            _flat(f"{name} {k}", v, seen)
    elif hasattr(value, "dtype"):
        seen[name] = bits(value)
    else:
        seen[name] = repr(value)
