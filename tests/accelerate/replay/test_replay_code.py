"""What is left of a step when it is replayed: places, views, and what is written over."""

import re

import numpy as np
import pytest
from replay_code import case, check, programs

import xplayers as xl
from xplayers.accelerate.replay.compiler import BufferPool, block, compiled
from xplayers.accelerate.replay.foreach import StepProgram
from xplayers.accelerate.replay.recording import NotRecordable, Recording, Register


@case("add(a0, 1.0, m0); exp(m0, m0); subtract(m0, a0, m0); v6 = sum(m0, axis=0); return v6", 12)
def over_operands(xp, p, n, x):
    y = xp.exp(x + 1.0)
    return xp.sum(y - x, axis=0), p, n


@case("add(a0, 1.0, m0); multiply(m0, m0, m1); v5 = sum(m1, axis=0); return v5", 12, 12)
def not_over_what_is_read_twice(xp, p, n, x):
    y = x + 1.0
    return xp.sum(y * y, axis=0), p, n


@case(
    "add(a0, 1.0, m0); exp(m0, m1); multiply(m1, m0, m1); v6 = sum(m1, axis=0); return v6", 12, 12
)
def not_over_what_is_read_later(xp, p, n, x):
    y = x + 1.0
    z = xp.exp(y)
    return xp.sum(z * y, axis=0), p, n


@case(
    "add.reduce(a0, m0); multiply(a0, 1.0, m1); add(m0, m1, m1); v6 = sum(m1, axis=0); return v6",
    3,
    12,
    torch=(
        "sum(a0, 0, False, m0); multiply(a0, 1.0, m1); add(m0, m1, m1); v6 = sum(m1, axis=0); "
        "return v6",
        3,
        12,
    ),
)
def not_over_another_shape(xp, p, n, x):
    y = xp.sum(x, axis=0)
    z = x * 1.0
    return xp.sum(y + z, axis=0), p, n


@case("multiply(a0, 2.0, m0); greater(m0, 1.0, m1); v5 = any(m1, axis=0); return v5", 12, 12)
def not_over_another_dtype(xp, p, n, x):
    y = x * 2.0
    return xp.any(y > 1.0, axis=0), p, n


@case("multiply(a0, 2.0, m0); multiply(m0, 3.0, m1); v6 = sum(m1, axis=0); return v6", 12, 6)
def not_over_a_view(xp, p, n, x):
    y = x * 2.0
    return xp.sum(y[:2, :] * 3.0, axis=0), p, n


@case("multiply(a0, 2.0, m0); add(m0, 3.0, m1); v6 = sum(m1, axis=0); return v6", 12, 12)
def not_over_a_view_of_another_shape(xp, p, n, x):
    y = xp.reshape(x * 2.0, (3, 4))
    return xp.sum(y + 3.0, axis=0), p, n


@case(
    "matmul(a0, p, m0); matmul(m0, p, m1); matmul(m1, p, m0); matmul(m0, p, m1); "
    "v7 = sum(m1, axis=0); return v7",
    12,
    12,
)
def products(xp, p, n, x):
    """Two blocks are enough: a product is not written over its operand."""
    y = x @ p
    for _ in range(3):
        y = y @ p
    return xp.sum(y, axis=0), p, n


@case(
    "matmul(a0, p, m0); matmul(m0, p, m1); matmul(m1, p, m0); matmul(m0, p, m1); "
    "v10 = sum(m1, axis=0); return v10",
    12,
    8,
)
def products_of_other_sizes(xp, p, n, x):
    """A block serves what takes half of it or more."""
    y = x @ p
    y = y @ p[:, :2]
    y = y @ p[:2, :2]
    y = y @ p[:2, :1]
    return xp.sum(y, axis=0), p, n


@case("add(a0, 1.0, m0); v6 = m0 @ m0; return v6", 12)
def views_of_places(xp, p, n, x):
    """What they are is known: no call."""
    y = x + 1.0
    a, b = xp.reshape(y, (4, 3)), y.T
    return a @ b, p, n


@case("add(a0, 1.0, m0); v9 = sum(m1, axis=0); return v9", 12)
def views_by_name(xp, p, n, x):
    y = x + 1.0
    z = xp.squeeze(xp.expand_dims(y, axis=0), axis=0)
    z = xp.permute_dims(z, (1, 0)).mT
    return xp.sum(z[1:, :], axis=0), p, n


@case("v3 = a0.mT; matmul(p, v3, m0); del v3; v5 = sum(m0, axis=0); return v5", 12)
def the_input_turned(xp, p, n, x):
    return xp.sum(p @ x.mT, axis=0), p, n


@case(
    "v3 = a0.T; v4 = reshape(a0, (4, 3)); matmul(v4, v3, m0); del v3, v4; "
    "v6 = sum(m0, axis=0); return v6",
    16,
)
def views_of_the_input(xp, p, n, x):
    y = x.T
    z = xp.reshape(x, (4, 3))
    return xp.sum(z @ y, axis=0), p, n


@case(
    "v3 = a0[(slice(None, None, None), slice(None, 1, None))]; multiply(v3, 2.0, m0); "
    "del v3; v5 = sum(m0, axis=0); return v5",
    4,
)
def views_by_index(xp, p, n, x):
    y = x[:, :1] * 2.0
    return xp.sum(y, axis=0), p, n


@case(
    "multiply(a0, 1.0, m0); add(m0, a0, m0); multiply(m0, 2.0, m0); ipow(m0, 2.0); "
    "m0[(0, slice(None, None, None))] = 0.5; v4 = sum(m0, axis=0); return v4",
    12,
    torch=(
        "multiply(a0, 1.0, m0); iadd(m0, a0); imul(m0, 2.0); ipow(m0, 2.0); "
        "m0[(0, slice(None, None, None))] = 0.5; v4 = sum(m0, axis=0); return v4",
        12,
    ),
)
def in_place(xp, p, n, x):
    y = x * 1.0
    y += x
    y *= 2.0
    y **= 2.0
    y[0, :] = 0.5
    return xp.sum(y, axis=0), p, n


@case(
    "multiply(a0, 1.0, m0); matmul(a0, p, m1); subtract(m0, m1, m0); "
    "m0[(0, slice(None, None, None))] = m2; v6 = sum(m0, axis=0); return v6",
    12,
    12,
    torch=(
        "multiply(a0, 1.0, m0); matmul(a0, p, m1); isub(m0, m1); "
        "m0[(0, slice(None, None, None))] = m2; v6 = sum(m0, axis=0); return v6",
        12,
        12,
    ),
)
def in_place_by_what_was_computed(xp, p, n, x):
    y = x * 1.0
    z = x @ p
    y -= z
    y[0, :] = z[1, :]
    return xp.sum(y, axis=0), p, n


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("program", programs(globals()), ids=lambda f: f.__name__)
def test_code(program, xpv):
    check(program, xpv)


@pytest.mark.only("numpy", "torch")
def test_places_serve_again_what_takes_half_of_them_or_more(xpv):
    like = xpv.asarray(np.ones(1), "float32")
    single, double = like.dtype, xl.namespace(like).float64
    places = BufferPool()
    made = [places.find([], n, single, like) for n in (8, 6, 3)]
    assert [b.shape for b in made] == [(8,), (6,), (3,)]
    assert [b.dtype for b in made] == [single] * 3
    assert list(map(id, places.blocks)) == list(map(id, made))
    for n, best in ((8, 0), (6, 1), (5, 1), (4, 1), (7, 0), (3, 2), (2, 2)):
        free = list(made)
        assert places.find(free, n, single, like) is made[best]
        assert list(map(id, free)) == [id(b) for b in made if b is not made[best]]
    for n, dtype in ((9, single), (1, single), (8, double)):
        free = list(made)
        new = places.find(free, n, dtype, like)
        assert (new.shape, new.dtype) == ((n,), dtype)
        assert places.blocks.pop() is new
        assert len(free) == 3


def test_memory_is_on_the_device_of_the_state():
    torch = pytest.importorskip("torch")
    made = block(5, torch.float64, torch.empty(2, device="meta"))
    assert (made.device.type, made.dtype, made.shape) == ("meta", torch.float64, (5,))


def test_numpy_takes_places_by_position_where_it_may():
    def function(xp, x, p):
        return xp.sum(xp.maximum(x + p, 0.0) - xp.minimum(x, p), axis=0), p

    p = np.ones((2, 2))
    recording = Recording()
    x, q = recording.input(p * 2.0), recording.input(p)
    value, _ = function(x.xp, x, q)
    task = StepProgram(
        recording, [x.register], {q.register: p}, {q.register: q.register}, value.register
    )
    names = [re.sub(r"\bg\d+\b", "g", line).strip()
             for line in compiled(task, BufferPool()).source.splitlines()]  # fmt: skip
    assert names[1:5] == ["g(a0, g, g)", "g(g, 0.0, out=g)", "g(a0, g, out=g)", "g(g, g, g)"]


def test_what_cannot_be_replayed_says_why():
    with pytest.raises(NotRecordable, match="no replay can be made: StopIteration"):
        compiled(StepProgram(Recording(), [], {}, {}, Register(0)), BufferPool())
