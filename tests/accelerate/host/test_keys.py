"""What tells one program of an elementwise function from another: the values of its options."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from xplayers import elementwise
from xplayers.accelerate.tape import (
    Untraceable,
    constants_key,
    select_into,
    selects_bits,
    value_key,
    where_into,
)

pytestmark = [pytest.mark.only("numpy"), pytest.mark.usefixtures("xpv")]


@dataclasses.dataclass(frozen=True)
class Fixed:
    a: object
    b: object = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: object


@dataclasses.dataclass
class Changing:
    a: object


class Constant:
    is_constant = True


class Doubtful:
    is_constant = 1


class More(Fixed):
    def __init__(self):
        super().__init__(1)
        object.__setattr__(self, "c", 2)


@elementwise
def function(xp, x):
    return x + 1.0


DIFFERENT = [
    1, 1.0, True, 0, 0.0, -0.0, False, "1", b"1", None, (), (1,), (1.0,), (True,), ((1,),), (1, 1),
    math.nan, -math.nan, math.inf, np.float32(1), np.float64(1), np.int64(1), np.bool_(True),
    np.float32(0), np.float32(-0.0), np.dtype("float32"), np.dtype("float64"), np.float32,
    Fixed(1), Fixed(1.0), Fixed(1, 2), Fixed((1,)), Slotted(1), Slotted(2), np.add, np.exp,
    math.sin, function, Constant(), Constant(), len, print, lambda x: x, lambda x: x, Fixed, int,
]  # fmt: skip


def test_values_have_the_same_key_if_they_are_the_same():
    keys = [value_key(v) for v in DIFFERENT]
    for i, key in enumerate(keys):
        assert key == value_key(DIFFERENT[i])
        hash(key)
        for j, other in enumerate(keys):
            assert (key == other) is (i == j), (DIFFERENT[i], DIFFERENT[j])
    assert value_key(float("nan")) == value_key(math.nan)
    assert value_key(Fixed((0.5,))) == value_key(Fixed((0.5,)))


@pytest.mark.parametrize(
    "value",
    [
        [1],
        {"a": 1},
        np.ones(1),
        Changing(1),
        Fixed([1]),
        (1, [2]),
        Doubtful(),
        More(),
        object(),
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_change_has_no_key(value):
    with pytest.raises(Untraceable):
        value_key(value)
    assert constants_key({"a": 1, "b": value}) is None


def test_options_have_a_key():
    options = [
        {}, {"a": 1}, {"a": 1.0}, {"a": True}, {"a": 0.0}, {"a": -0.0}, {"a": (1,)}, {"b": 1},
        {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"b": 2, "a": 1}, {"a": np.float32(1)}, {"a": Fixed(1)},
        {"a": "1"}, {"a": None},
    ]  # fmt: skip
    keys = [constants_key(o) for o in options]
    for i, key in enumerate(keys):
        assert type(key) is tuple
        assert [key == other for other in keys] == [i == j for j in range(len(keys))]
        assert key == constants_key(dict(options[i]))
    assert constants_key({"a": float("nan")}) == constants_key({"a": math.nan})


def test_what_can_be_kept():
    m, x = np.ones(3, bool), np.ones(3, "float32")
    assert selects_bits(m, x, x)
    assert selects_bits(m, x, np.ones(3, "float32"), 0.0)
    half, double, quad = (np.ones(3, d) for d in ("float16", "float64", "longdouble"))
    for a in (half, double):
        assert selects_bits(m, a, a)
    for condition, a, out, otherwise in (
        (True, x, x, 0.0), (m, 1.0, x, 0.0), (m, np.float32(1), x, 0.0), (x, x, x, 0.0),
        (m.astype("int8"), x, x, 0.0), (m, x, double, 0.0), (m, quad, quad, 0.0),
        (m, m.astype("int32"), m.astype("int32"), 0.0), (m, x, x, -0.0), (m, x, x, 1.0),
        (m, x, x, -1.0), (m, x, x, 0), (m, x, x, x), (m, x, x, math.nan), (m, x, x, False),
        (m, x.astype("complex64"), x.astype("complex64"), 0.0),
    ):  # fmt: skip
        assert not selects_bits(condition, a, out, otherwise)


def test_selections_are_those_of_numpy():
    m = np.asarray([True, False, True])
    for a, b, dtype in (
        (np.asarray([1.0, np.nan, np.inf]), np.asarray([4.0, 5.0, 6.0]), "float64"),
        (np.asarray([1.5, 2.5, 3.5]), 7, "float64"),
        (7, np.asarray([1.5, 2.5, 3.5]), "float64"),
        (np.asarray([1, 2, 3], "int8"), 100, "int8"),
        (np.asarray([1, 2, 3], "int8"), 300, "int8"),  # it wraps around
        (-300, np.asarray([1, 2, 3], "int8"), "int8"),
        (True, np.asarray([False, True, False]), "bool"),
    ):
        out = np.empty(3, dtype)
        where_into(m, a, b, out)
        assert out.tolist() == np.where(m, a, b).tolist()
    a = np.asarray([1.0, np.nan, -0.0], "float32")
    out = np.empty(3, "float32")
    select_into(m, a, out)
    assert out.tobytes() == np.where(m, a, np.float32(0)).tobytes()
