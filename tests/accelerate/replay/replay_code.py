"""The code of replays, in words: which calls are left of a step, on which memory.

Programs are functions of a namespace, a state of nine numbers and a counter, and one input of shape
(4, 3), which return a value and the next state. Above each stand its code, and the sizes of its
memory: a0 is the input, p and n are the state, m0 and m1 are other arrays that stay. PyTorch's
functions have the names of NumPy's here.
"""

from __future__ import annotations

import functools
import re

import numpy as np
from helpers import assert_same_bits, values

import xplayers as xl
from xplayers.accelerate.replay.compiler import BufferPool, compiled
from xplayers.accelerate.replay.flat import flattened
from xplayers.accelerate.replay.foreach import StepProgram
from xplayers.accelerate.replay.recording import Recording, Tracer, instances

NUMPYS = {"mul": "multiply", "sub": "subtract", "mm": "matmul", "dot": "matmul", "gt": "greater",
         "_copied": "_cast", "concat": "concatenate"}  # fmt: skip


def case(*numpy, torch=None):
    """Mark a program with its code and sizes, and those on PyTorch if they are other ones."""

    def marked(function):
        function.code = {"numpy": numpy, "torch": torch or numpy}
        return function

    return marked


def one_call(function):
    """Mark a function that a recording writes down as one call, as a body of an operation."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        tracer = next(instances(Tracer, (args, kwargs)), None)
        if tracer is None:
            return function(*args, **kwargs)
        return tracer.recording.call("call", function, args, kwargs)

    return call


def programs(names):
    return [f for f in names.values() if hasattr(f, "code")]


def code(replay, state, places):
    """Return the lines of a replay, in words."""
    known = replay.__globals__
    words = {start(a): word for a, word in zip(state, "pn", strict=True)}
    own = {*words, *map(start, places.blocks)}

    def word(match):
        value = known[match[0]]
        if hasattr(value, "__name__"):
            return NUMPYS.get(value.__name__, value.__name__)
        if not hasattr(value, "shape"):
            return repr(value)
        if not value.shape and start(value) not in own:  # a number: `with_array`, `with_tensors`
            return str(value) if isinstance(value, np.ndarray) else repr(value.item())
        memory = f"m{sum(w[0] == 'm' for w in words.values())}"
        return words.setdefault(start(value), memory)

    source = replay.source.replace("out=", "")
    lines = [re.sub(r"\bg\d+\b", word, line).strip() for line in source.splitlines()]
    return "; ".join(lines[1:])


def start(a):
    return a.__array_interface__["data"][0] if isinstance(a, np.ndarray) else a.data_ptr()


def check(function, xpv):
    """Check the code of a program, and that it computes three steps as the program does."""
    state = flattened([xpv.asarray(values((3, 3), 5), "float32")])
    state.append(xpv.asarray(np.asarray(3, "int32")))
    xp = xl.namespace(state[0])
    kept = [xp.asarray(a, copy=True) for a in state]
    recording = Recording()
    x, *given = map(recording.input, (xpv.asarray(values((4, 3), 1), "float32"), *kept))
    value, *new = function(x.xp, *given, x)
    recording.finish()
    homes = {s.register: a for s, a in zip(given, state, strict=True)}
    updates = {s.register: a.register for s, a in zip(given, new, strict=True)}
    places = BufferPool()
    replay = compiled(StepProgram(recording, [x.register], homes, updates, value.register), places)
    sizes = [b.shape[0] for b in places.blocks]
    assert (code(replay, state, places), *sizes) == function.code[xpv.backend]
    results = []
    for seed in (1, 2, 3):
        x = xpv.asarray(values((4, 3), seed), "float32")
        expected, *new = function(xp, *kept, x)
        kept = [xp.asarray(a, copy=True) for a in new]
        results.append((replay(x), xp.asarray(expected, copy=True)))
        for a, b in zip(state, kept, strict=True):
            assert_same_bits(a, b)
    for got, expected in results:  # each has memory of its own
        assert_same_bits(got, expected)
