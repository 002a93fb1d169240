"""Programs that a careless choice of places would break, replayed.

They are functions of a namespace, a state of two arrays (side by side, as parameters are) and an
input, which return a value and the next state.
"""

import pytest
from helpers import assert_same_bits, values

import xplayers as xl
from xplayers.accelerate.replay.compiler import BufferPool, compiled
from xplayers.accelerate.replay.flat import flattened
from xplayers.accelerate.replay.foreach import StepProgram
from xplayers.accelerate.replay.recording import Recording
from xplayers.arrays.elementwise import elementwise

pytestmark = pytest.mark.only("numpy", "readonly", "torch")  # whose steps are replayed


def late_reader(xp, p, q, x):
    """The old state is read after the new one is there."""
    after = p * 2.0
    return xp.sum(x + p), after, q


def swapped(xp, p, q, x):
    return xp.sum(x * p), q, p


def doubled(xp, p, q, x):
    after = p * x
    return xp.sum(after), after, after


def product_in_place(xp, p, q, x):
    after = p @ q
    return xp.sum(x), p * 2.0, after


def turned(xp, p, q, x):
    y = x * 2.0
    return xp.sum(y + y.mT), p + q, q


def read_between(xp, p, q, x):
    a = xl.functional.tanh(p)
    y = a * x
    return xp.sum(y), a, xl.functional.tanh(q)


@elementwise
def _step(xp, p, g):
    return p - 0.1 * g


def written_between(xp, p, q, x):
    g = x * 1.0
    a = _step(p, g)
    g *= 2.0
    return xp.sum(g), a, _step(q, x + x)


def the_old_one(xp, p, q, x):
    return xp.sum(x), _step(p, x), p


def a_difference(xp, p, q, x):
    a, b = _step(p, x), _step(q, x * 2.0)
    return xp.sum(x), a, b - p + q


def one_gradient_for_both(xp, p, q, x):
    g = x * x
    return xp.sum(x), _step(p, g), _step(q, g)


def each_its_gradient(xp, p, q, x):
    return xp.sum(x), _step(p, x * x), _step(q, x + x)


def views_of_what_is_written(xp, p, q, x):
    y = x + 1.0
    top = y[:1, :]
    y *= 3.0
    return xp.sum(top), p + y, q


def several_results(xp, p, q, x):
    parts = xp.unstack(x, axis=0)
    return xp.sum(parts[0]), p + parts[1], q


def numbers(xp, p, q, x):
    total = xp.sum(x)
    return total, p * (total / 2.0), q - xp.max(x)


PROGRAMS = [
    late_reader, swapped, doubled, product_in_place, turned, read_between, written_between,
    the_old_one, a_difference, one_gradient_for_both, each_its_gradient, numbers,
    views_of_what_is_written, several_results,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_programs(program, xpv):
    xp = xl.namespace(xpv.asarray([1.0]))
    inputs = [xpv.asarray(values((3, 3), seed=i), "float32") for i in range(4)]
    state = flattened([xpv.asarray(values((3, 3), seed=i), "float32") for i in (5, 6)])
    kept = [xp.asarray(a, copy=True) for a in state]
    recording = Recording()
    x, p, q = (recording.input(a) for a in (inputs[0], *[xp.asarray(a, copy=True) for a in state]))
    value, *after = program(p.xp, p, q, x)
    homes = dict(zip((p.register, q.register), state, strict=True))
    updates = {s.register: a.register for s, a in zip((p, q), after, strict=True)}
    task = StepProgram(recording, [x.register], homes, updates, value.register)
    replay = compiled(task, BufferPool())
    for x in inputs:
        expected, *new = program(xp, *[xp.asarray(a, copy=True) for a in kept], x)
        kept = [xp.asarray(a, copy=True) for a in new]
        assert_same_bits(replay(x), expected, "value")
        for a, b in zip(state, kept, strict=True):
            assert_same_bits(a, b, "state")
