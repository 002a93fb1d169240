"""What a recording writes down of a function, and what it refuses."""

from __future__ import annotations

import math
import operator
import types

import numpy as np
import pytest
from helpers import assert_same_bits, values
from replay_code import one_call

import xplayers as xl
from xplayers.accelerate.operators import BINARY, COMPARISONS, UNARY
from xplayers.accelerate.replay import recording as module
from xplayers.accelerate.replay.recording import (
    NotRecordable,
    Operation,
    Recording,
    Register,
    Tracer,
    ValueInfo,
    instances,
    is_ordered,
    same,
)
from xplayers.arrays.namespaces import device
from xplayers.arrays.values import examine

pytestmark = pytest.mark.only("numpy", "torch")
INTEGERS = {"bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift",
            "bitwise_right_shift", "bitwise_invert"}  # fmt: skip


def recorded(xpv, *arrays, dtype="float32"):
    recording = Recording()
    return recording, *[recording.input(xpv.asarray(a, dtype)) for a in arrays]


@pytest.mark.parametrize("name", [*BINARY, *COMPARISONS, *UNARY])
def test_operators(name, xpv):
    """Each is one operation of its name, with its operands in their order."""
    dtype = "int32" if name in INTEGERS else "float32"
    a, b = np.asarray([[3, 5], [1, 2]]), np.asarray([[1, 2], [2, 1]])
    recording, x, y = recorded(xpv, a, b, dtype=dtype)
    a, b = x.value, y.value
    done = recording.operations
    if name in UNARY:
        function = UNARY[name]
        got = function(x)
        made = [Operation(name, function, (x.register,), {}, (got.register,))]
        assert done == ([] if got is x else made)  # PyTorch's `+x`
        assert_same_bits(got.value, function(a))
        return
    function = (BINARY | COMPARISONS)[name]
    got = function(x, y)
    assert done == [Operation(name, function, (x.register, y.register), {}, (got.register,))]
    assert_same_bits(got.value, function(a, b))
    if name in COMPARISONS:
        return
    if name != "matmul":
        got = function(2, x)
        assert done[1] == Operation(name, function, (2, x.register), {}, (got.register,))
        assert_same_bits(got.value, function(2, a))
    got = getattr(Tracer, f"__r{function.__name__.strip('_')}__")(x, b)
    assert done[-1].args[1:] == (x.register,)
    assert_same_bits(got.value, function(b, a))
    z, kept = x + 0, xl.namespace(a).asarray(a, copy=True)
    at = getattr(operator, f"i{function.__name__.strip('_')}")
    if not hasattr(a, f"__{at.__name__}__"):  # the name gets a new value, as it does without us
        assert_same_bits(at(z, y).value, at(a, b))
        assert not done[-1].writes
        return
    assert at(z, y) is z
    given, made = (z.register, y.register), (z.register,)
    assert done[-1] == Operation(name, function, given, {}, made, True)
    assert_same_bits(z.value, at(kept, b))


def test_an_operator_in_place_makes_a_new_number_of_a_number(xpv):
    recording = Recording()
    n = recording.input(2.0)
    m = n
    m += 1.0
    assert (m.value, n.value) == (3.0, 2.0)
    assert recording.operations[-1][:4] == ("add", operator.add, (n.register, 1.0), {})
    assert not recording.operations[-1].writes


def test_views_and_indices(xpv):
    recording, x = recorded(xpv, values((3, 4)))
    i = recording.input(xpv.asarray([1, 0]))
    for got, name, args, expected in (
        (x.T, "T", (x.register,), x.value.T),
        (x.mT, "mT", (x.register,), x.value.mT),
        (x[1:, 0], "getitem", (x.register, (slice(1, None), 0)), x.value[1:, 0]),
        (x[1], "getitem", (x.register, 1), x.value[1]),
    ):
        operation = next(o for o in recording.operations if o.results == (got.register,))
        assert (operation.name, operation.args, operation.kwargs) == (name, args, {})
        given = [x.value, *operation.args[1:]]
        assert_same_bits(operation.function(*given), expected)
        assert recording.infos[got.register].root == x.register
    taken = x[i]
    assert recording.operations[-1].args == (x.register, i.register)
    assert recording.infos[taken.register].root == taken.register
    y = x * 1.0
    y[0, :] = x[1, :]
    last = recording.operations[-1]
    assert last == Operation("setitem", operator.setitem, last.args, {}, (y.register,), True)
    assert last.args == (y.register, (0, slice(None)), recording.operations[-2].results[0])
    assert_same_bits(y.value[0, :], x.value[1, :])
    assert len(x) == 3
    assert [row.shape for row in x] == [(4,)] * 3


def test_what_a_tracer_says_of_its_array(xpv):
    recording, x = recorded(xpv, values((3, 4)))
    a = x.value
    assert (x.shape, x.ndim, x.dtype, x.device) == ((3, 4), 2, a.dtype, device(a))
    assert xl.namespace(x) is x.xp
    assert x.xp.__name__ == xl.namespace(x.value).__name__
    assert type(x).__name__ == "Tracer"
    assert type(x) is type(recording.input(x.value))
    number = recording.input(2.0)
    assert (number.shape, number.ndim) == ((), 0)
    assert recording.inputs == [0, 1, 2]


def test_kinds(xpv):
    recording, x = recorded(xpv, values((3, 4)))
    number, y, z = recording.input(2.5), x.T, x * 2.0
    flat = z.xp.reshape(z, (12,))
    dtype = x.value.dtype
    for made, kind in (
        (x, ValueInfo(0, False, (3, 4), dtype, True)),
        (number, ValueInfo(1, True, (), float, True)),
        (y, ValueInfo(0, False, (4, 3), dtype, False, turned=isinstance(x.value, np.ndarray))),
        (z, ValueInfo(z.register, False, (3, 4), dtype, True)),
        (flat, ValueInfo(z.register, False, (12,), dtype, True)),
    ):
        assert recording.infos[made.register] == kind


@pytest.mark.parametrize("look", [bool, int, float, operator.index, complex, np.asarray])
def test_a_value_that_is_looked_at_is_refused(look, xpv):
    _, x = recorded(xpv, 1.0)
    with pytest.raises(NotRecordable, match="the function looks at a value"):
        look(x)


def test_functions_of_a_namespace(xpv):
    recording, x = recorded(xpv, values((3, 4)))
    xp = x.xp
    got = xp.sum(x, axis=0)
    assert recording.operations == [
        Operation("sum", xl.namespace(x.value).sum, (x.register,), {"axis": 0}, (got.register,))
    ]
    assert xp.sum is xp.sum
    assert (xp.pi, xp.float32) == (math.pi, xl.namespace(x.value).float32)
    ones = xp.ones((2,))
    assert not isinstance(ones, Tracer)
    assert len(recording.operations) == 1
    joined = xp.concat([x, x], axis=0)
    assert recording.operations[-1].args == ([x.register] * 2,)
    assert joined.shape == (6, 4)


def test_several_results(xpv):
    recording, x = recorded(xpv, values((2, 4)))
    parts = x.xp.unstack(x, axis=0)
    assert type(parts) is tuple
    last = recording.operations[-1]
    assert (last.results, last.many) == (tuple(p.register for p in parts), True)
    for each in (lambda x: [x + 1.0], lambda x: (x + 1.0,)):
        parts = one_call(each)(x)
        assert type(parts) is type(each(x.value))
        last = recording.operations[-1]
        assert (last.name, last.many, last.results) == ("call", True, (parts[0].register,))
    one_call(operator.neg)(x)
    assert not recording.operations[-1].many


def test_what_comes_back_as_it_was_is_no_operation(xpv):
    recording, x = recorded(xpv, values((2, 4)))
    assert x.xp.astype(x, x.dtype, copy=False) is x
    assert x.xp.asarray(x) is x
    assert not recording.operations
    with pytest.raises(NotRecordable, match="call returns its argument"):
        one_call(lambda x: x)(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: 1, "a int was computed"),
        (lambda x: True, "a bool was computed"),
        (lambda x: None, "a NoneType was computed"),
        (lambda x: "name", "a str was computed"),
        (lambda x: np.linalg.qr(np.ones((2, 2))), "call returns a QRResult"),
    ],
)
def test_results_that_are_no_arrays_are_refused(function, message, xpv):
    recording, x = recorded(xpv, values((2, 2)))
    with pytest.raises(NotRecordable, match=message):
        one_call(function)(x)
    assert not recording.operations


def test_functions_that_are_written_down_as_one(xpv):
    @one_call
    def scaled(x, *, by):
        return x * by["factor"]

    recording, x = recorded(xpv, values((2, 2)))
    assert scaled.__name__ == "scaled"
    assert_same_bits(scaled(x.value, by={"factor": 2.0}), x.value * 2.0)
    got = scaled(x, by={"factor": 2.0})
    also = scaled(2.0, by={"factor": x})
    function = scaled.__wrapped__
    assert recording.operations == [
        Operation("call", function, (x.register,), {"by": {"factor": 2.0}}, (got.register,)),
        Operation("call", function, (2.0,), {"by": {"factor": x.register}}, (also.register,)),
    ]


def test_checks_are_written_down(xpv):
    seen = []
    recording, x = recorded(xpv, values((2, 2)))
    examine(x, seen.append)
    assert len(seen) == 1
    assert seen[0] is x.value
    assert recording.operations == [Operation("call", seen.append, (x.register,), {}, ())]
    examine(np.float64(3), seen.append)
    assert seen[1] == 3
    assert len(recording.operations) == 1


def test_numbers_of_arrays(xpv):
    recording, x = recorded(xpv, values((2, 2)))
    total = x.xp.sum(x, axis=None) * 1.0
    first = total.item()
    assert total.item() is first
    assert first.item() is first
    last = recording.operations[-1]
    assert (last.name, last.args, last.results) == ("item", (total.register,), (first.register,))
    assert last.function(total.value) == first.value
    assert recording.infos[first.register] == ValueInfo(first.register, True, (), float, True)
    y = x * 2.0
    y += 1.0
    assert total.item() is not first  # it may have been written over


def test_constants(xpv):
    recording, x = recorded(xpv, values((3,)))
    own, other = (xpv.asarray(values((3,), i), "float32") for i in (1, 2))
    y = x + own
    z = y * other - own
    constants = {r: a for r, a in recording.constants.items()}
    assert [a is b for a, b in zip(constants.values(), (own, other), strict=True)] == [True] * 2
    mine, others = constants
    assert [o.args for o in recording.operations] == [
        (x.register, mine), (y.register, others), (recording.operations[1].results[0], mine)
    ]  # fmt: skip
    assert recording.infos[mine] == ValueInfo(mine, False, (3,), x.dtype, True)
    recording.finish()
    other += 1.0
    z + own
    with pytest.raises(NotRecordable, match="has changed after it was used"):
        z + other
    with pytest.raises(NotRecordable, match="has changed after it was used"):
        recording.finish()


def test_dtypes_and_namespaces_are_no_constants(xpv):
    recording, x = recorded(xpv, values((3,)))
    x.xp.astype(x, x.xp.float64)
    assert recording.operations[-1].args == (x.register, x.xp.float64)
    one_call(lambda xp, x: xp.exp(x))(x.xp, x)
    assert recording.operations[-1].args == (xl.namespace(x.value), x.register)
    assert not recording.constants


def test_values_of_another_recording_are_refused(xpv):
    _, x = recorded(xpv, values((3,)))
    _, y = recorded(xpv, values((3,)))
    with pytest.raises(NotRecordable, match="a value of another recording"):
        x + y
    with pytest.raises(NotRecordable, match="a recording inside a recording"):
        Recording().input(x)


def test_recordings_have_an_end(xpv, monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    _, x = recorded(xpv, values((3,)))
    x + 1.0
    x + 1.0
    with pytest.raises(NotRecordable, match="more than 2 operations"):
        x + 1.0


def test_writing_to_an_input_is_refused(xpv):
    _, x = recorded(xpv, values((3,)))
    before = xl.namespace(x.value).asarray(x.value, copy=True)
    for write in (lambda a: operator.iadd(a, 1.0), lambda a: operator.setitem(a, 0, 1.0)):
        for a in (x, x[:2]):
            with pytest.raises(NotRecordable, match="the function writes to its argument"):
                write(a)
    assert_same_bits(x.value, before)


def test_functions_of_numpy_itself():
    recording = Recording()
    x = recording.input(values((3, 2)))
    got = np.exp(x)
    total = np.sum(x, axis=0)
    assert recording.operations == [
        Operation("exp", np.exp, (x.register,), {}, (got.register,)),
        Operation("sum", np.sum, (x.register,), {"axis": 0}, (total.register,)),
    ]
    total = np.ones((3, 2)) + x
    assert recording.operations[2][:2] == ("add", np.add)
    assert_same_bits(total.value, 1.0 + x.value)
    with pytest.raises(NotRecordable, match="add.reduce writes to an array"):
        np.add.reduce(x)
    with pytest.raises(NotRecordable, match=r"exp.__call__ writes to an array"):
        np.exp(x, out=np.empty((3, 2)))


def test_functions_of_torch_itself():
    torch = pytest.importorskip("torch")
    recording = Recording()
    x = recording.input(torch.ones(3, 2))
    got = torch.exp(x)
    total = torch.sum(x, dim=0)
    also = torch.ones(3, 2) + x
    first, second, third = recording.operations
    assert (first.name, first.args, first.results) == ("exp", (x.register,), (got.register,))
    assert (second.name, second.kwargs, second.results) == ("sum", {"dim": 0}, (total.register,))
    assert (third.name, third.results) == ("add", (also.register,))
    for write in (torch.exp_, lambda x: torch.ones(3, 2).__iadd__(x)):
        with pytest.raises(NotRecordable, match="writes to an array"):
            write(x)


def made(xpv, power=2.0, shape=(3,), own=1.0, more=False):
    recording, x = recorded(xpv, values(shape))
    y = x**power * xpv.asarray(np.full(shape, own), "float32")
    if more:
        y.xp.sum(y, axis=0)
    return recording


def test_recordings_that_say_the_same(xpv):
    assert same(made(xpv), made(xpv))
    nan = float("nan")
    assert same(made(xpv, power=nan), made(xpv, power=nan))
    assert same(made(xpv, own=nan), made(xpv, own=nan))
    for other in ({"power": 3.0}, {"power": 2}, {"shape": (4,)}, {"own": 2.0}, {"more": True}):
        assert not same(made(xpv), made(xpv, **other))
        assert not same(made(xpv, **other), made(xpv))
    assert not same(made(xpv, own=0.0), made(xpv, own=-0.0))
    one, other = made(xpv), made(xpv)
    other.inputs.append(Register(1))
    assert not same(one, other)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ((1, 2), (1, 2), True), ((1, 2), (1,), False), ((1,), (1, 2), False), ((1,), [1], False),
        ((1,), (1.0,), False), ((1,), (True,), False), ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False), ({"a": 1}, {"b": 1}, False), ({"a": 1}, {}, False),
        ({"a": [math.nan]}, {"a": [float("nan")]}, True), ((math.nan,), (1.0,), False),
        ((slice(1),), (slice(1),), True), ((slice(1),), (slice(2),), False), ("a", "a", True),
    ],
)  # fmt: skip
def test_arguments_that_are_equal(a, b, equal):
    assert module._equal(a, b) is equal


def test_memory_in_order(xpv):
    a = xpv.asarray(values((4, 3)), "float32")
    assert [is_ordered(b) for b in (a, a[1:], a.T.T)] == [True] * 3
    assert [is_ordered(b) for b in (a[:, 1:], a.T)] == [False] * 2


def test_memory_in_order_of_other_libraries():
    """Those that say so, and those whose arrays have no other order."""
    for ordered in (True, False):
        flags = types.SimpleNamespace(c_contiguous=ordered)
        assert is_ordered(types.SimpleNamespace(flags=flags)) is ordered
    assert is_ordered(object())


def test_memory_that_is_shared(xpv):
    a, b = (xpv.asarray(values((4,), i), "float32") for i in range(2))
    empty = a[:0] * 1.0
    for x, y, shared in (
        (a, a, True), (a, a[1:], True), (a[:2], a[1:], True), (a, b, False), (a[1:], b[1:], False),
        (a, 2.0, False), (2.0, a, False), (2.0, 2.0, False), (empty, empty * 1.0, False),
        (a, np.float32(1), False),
    ):  # fmt: skip
        assert bool(module._share(x, y)) is shared
    pool = object()
    x, y, z = (types.SimpleNamespace(data=types.SimpleNamespace(mem=m)) for m in (pool, pool, 1))
    assert module._share(x, y)  # CuPy
    assert not module._share(x, z)


def test_stand_ins_are_found_in_nests(xpv):
    _, x, y = recorded(xpv, np.ones(2), np.ones(3))
    nest = ({"a": [x, 1.0]}, (y,), "x")
    assert list(instances(Tracer, nest)) == [x, y]


def test_what_writes_to_an_array_is_refused(xpv):
    recording = Recording()
    x = recording.input(xpv.asarray(values((3,)), "float32"))
    other = xpv.asarray(values((3,)), "float32")
    with pytest.raises(NotRecordable, match="exp writes to an array"):
        x.xp.exp(x, out=other)
    with pytest.raises(NotRecordable, match="writes to its argument"):
        x += 1.0
    y = x * 1.0
    y += x
    assert recording.operations[-1].writes
    assert recording.operations[-1].results == recording.operations[0].results
    assert_same_bits(y.value, x.value * 1.0 + x.value)


def test_functions_of_torch_are_written_down_and_those_in_place_refused():
    torch = pytest.importorskip("torch")
    recording = Recording()
    x = recording.input(torch.ones(3))
    made = torch.nn.functional.relu(x)
    assert isinstance(made, Tracer)
    assert recording.operations[-1].name == "relu"
    with pytest.raises(NotRecordable, match="relu_ writes to an array"):
        torch.relu_(x)
    assert not is_ordered(torch.ones(3, requires_grad=True))
    assert is_ordered(torch.ones(3))
    assert not is_ordered(torch.ones(3, 2).T)
