"""What `elementwise` makes of a function: its face, and its options."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from helpers import assert_same_bits, values

from xplayers import elementwise


def powered(xp, x, *, by=2.0, times=1, how=None):
    """Return a power, a number of times."""
    seen.append((type(by), type(times), type(how)))
    return x**by * times


seen = []


def test_what_is_made_of_a_function():
    call = elementwise(powered)
    assert call.function is powered
    assert call.__wrapped__ is powered
    assert (call.__name__, call.__qualname__, call.__doc__) == (
        "powered", "powered", "Return a power, a number of times."
    )  # fmt: skip
    assert str(inspect.signature(call)) == "(x, *, by=2.0, times=1, how=None)"
    assert repr(call) == "<elementwise powered(x, *, by=2.0, times=1, how=None)>"
    assert call.is_constant is True
    assert call.__reduce__() == "powered"
    assert not call.integers
    assert elementwise(integers=True)(powered).integers
    assert elementwise(integers=False)(powered)(values((3,))) is not None


def test_integers_have_to_be_asked_for(xpv):
    x = xpv.asarray(np.arange(3), "int32")
    with pytest.raises(TypeError, match=r"powered: x is .*int32; expected floating-point values"):
        elementwise(powered)(x)

    @elementwise(integers=True)
    def doubled(xp, x):
        return x * 2

    assert_same_bits(doubled(x), x * 2)


@pytest.mark.parametrize(
    ("options", "types"),
    [
        ({}, (float, int, type(None))),
        ({"by": 3.0}, (float, int, type(None))),
        ({"by": np.float32(3.0)}, (float, int, type(None))),
        ({"by": np.asarray(3.0)}, (float, int, type(None))),
        ({"by": 3}, (int, int, type(None))),
        ({"times": np.int64(3)}, (float, int, type(None))),
        ({"times": np.asarray(3)}, (float, int, type(None))),
        ({"how": np.ones(1)}, (float, int, np.ndarray)),
        ({"how": np.float32(1)}, (float, int, float)),
        ({"how": "so", "by": 3.0}, (float, int, str)),
    ],
    ids=str,
)
def test_numbers_as_options_have_no_dtype(options, types, xpv):
    x = xpv.asarray(np.abs(values((3,))), "float32")
    seen.clear()
    got = elementwise(powered)(x, **options)
    assert got.dtype == x.dtype
    assert seen[0][1:] == types[1:]
    assert seen[0][0] in (float, int)


@pytest.mark.parametrize("by", ["a", None, [2.0], math.nan, 1j])
def test_an_option_that_is_no_number_is_refused(by, xpv):
    with pytest.raises((TypeError, ValueError), match="powered: by"):
        elementwise(powered)(xpv.asarray(values((3,)), "float32"), by=by)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="elementwise: function is"):
        elementwise(3)
    with pytest.raises(TypeError, match="elementwise: integers is"):
        elementwise(powered, integers=1)
