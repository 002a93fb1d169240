"""The checks of arguments that all of the package shares: what they take, and what they say."""

from __future__ import annotations

import decimal
import fractions
import re

import numpy as np
import pytest

import xplayers as xl
from xplayers import _checks as checks

NAN, INF = float("nan"), float("inf")


class TestNumber:
    @pytest.mark.parametrize(
        "value",
        [2, 2.0, np.float64(2), np.float32(2), np.float16(2), np.int64(2), np.uint8(2),
         np.asarray(2.0), np.asarray(2), fractions.Fraction(2)],
    )  # fmt: skip
    def test_numbers(self, value):
        found = checks.number("F", "a", value)
        assert type(found) is float
        assert found == 2.0

    def test_scalars_of_any_library(self, xpv):
        found = checks.positive("F", "a", xpv.asarray(np.asarray(0.5), "float32"))
        assert type(found) is float
        assert found == 0.5
        with pytest.raises(TypeError, match=r"F: a is an array of shape \(2,\); expected a numb"):
            checks.number("F", "a", xpv.asarray([1.0, 2.0], "float32"))

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("0.1", "'0.1'"), (None, "None"), (True, "True"), (np.True_, "True"), ([], r"\[\]"),
            ([1.0], r"\[1.0\]"), (1j, "1j"), (np.complex64(1), r"\(1\+0j\)"),
            (dict, "the class dict"),
            (np.asarray([1.0]), r"an array of shape \(1,\)"), (np.asarray("2"), r"array\('2'.*\)"),
            (np.asarray(None), r"array\(None.*\)"), (np.asarray(True), r"array\(True\)"),
            (np.timedelta64(1, "s"), ".*"), (decimal.Decimal(1), r"Decimal\('1'\)"),
            (print, "the builtin_function_or_method print"), (np, "the module numpy"),
            (object(), "an object"), (np.str_("2"), "'2'"), ("x" * 500, "'x{24,30}...x{24,30}'"),
        ],
    )  # fmt: skip
    def test_what_is_none(self, value, shown):
        with pytest.raises(TypeError, match=f"^Relu: alpha is {shown}; expected a positive numb"):
            checks.positive("Relu", "alpha", value)

    @pytest.mark.parametrize("value", [NAN, np.float32("nan"), INF, -INF, 10**400, np.asarray(NAN)])
    def test_what_is_not_finite(self, value):
        with pytest.raises(ValueError, match=r"^F: a is .*; expected a number\.$"):
            checks.number("F", "a", value)

    def test_an_infinity_that_is_meant(self):
        assert checks.positive("F", "a", INF, finite=False) == INF
        with pytest.raises(ValueError, match="F: a is nan"):
            checks.positive("F", "a", NAN, finite=False)

    @pytest.mark.parametrize(
        ("limits", "good", "bad", "words"),
        [
            ({"above": 0}, [5e-324, 1.0], [0, -0.0, -1], "a positive number"),
            ({"least": 0}, [0, -0.0, 1e300], [-5e-324, -1], "a number of 0 or more"),
            ({"least": 0, "most": 1}, [0, 1, 0.5], [-1e-9, 1.1], "0 to 1"),
            ({"least": 0, "below": 1}, [0, 0.999], [1, -1], "0 to less than 1"),
            ({"above": 0, "below": 1}, [0.1], [0, 1], "a number above 0 and below 1"),
            ({"above": 0, "most": 1}, [0.1, 1], [0, 2], "a number above 0 and at most 1"),
            ({"most": 1}, [1, -5], [2], "a number of at most 1"),
            ({"below": 1}, [0.9], [1], "a number below 1"),
            ({"least": 2}, [2], [1.9], "a number of 2 or more"),
            ({"above": 2}, [2.1], [2], "a number above 2"),
        ],
    )
    def test_ranges(self, limits, good, bad, words):
        for value in good:
            assert checks.number("F", "a", value, **limits) == value
        for value in bad:
            message = f"F: a is {value}; expected {words}. Do it."
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                checks.number("F", "a", value, **limits, hint="Do it.")


class TestInteger:
    @pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.asarray(3)])
    def test_integers(self, value):
        found = checks.integer("F", "n", value)
        assert type(found) is int
        assert found == 3

    @pytest.mark.parametrize("value", ["3", None, True, np.True_, 3.5, NAN, [3], (3,), int, INF])
    def test_what_is_none(self, value):
        with pytest.raises(TypeError, match=r"^F: n is .*; expected an integer of at least 1\.$"):
            checks.integer("F", "n", value)

    @pytest.mark.parametrize("value", [8 / 4, np.float64(2.0), np.asarray(2.0)])
    def test_a_quotient(self, value):
        message = r"^F: groups is .*2\.0?\)?; expected .*\. Use // to divide, or int\(groups\)\.$"
        with pytest.raises(TypeError, match=message):
            checks.integer("F", "groups", value)

    def test_ranges(self):
        assert checks.integer("F", "n", 0, least=0) == 0
        assert checks.integer("F", "n", -7, least=None) == -7
        for least, words in ((1, "an integer of at least 1"), (0, "an integer of at least 0")):
            with pytest.raises(ValueError, match=f"^F: n is -1; expected {words}[.]$"):
                checks.integer("F", "n", -1, least=least)


class TestWords:
    def test_choice(self):
        assert checks.choice("F", "by", np.str_("sum"), ["mean", "sum"]) == "sum"
        assert checks.choice("F", "by", False, ["auto", False]) is False
        for value, kind in (
            ("max", ValueError),
            (None, TypeError),
            ([], TypeError),
            (0, TypeError),
        ):
            with pytest.raises(kind, match="F: by is .*; expected 'mean', 'sum' or False"):
                checks.choice("F", "by", value, ["mean", "sum", False])

    def test_flag(self):
        assert checks.flag("F", "train", np.True_) is True
        for value in (1, "True", None, np.asarray(True)):
            with pytest.raises(TypeError, match="F: train is .*; expected True or False"):
                checks.flag("F", "train", value)


class TestThings:
    def test_instance(self):
        layer = xl.Relu()
        assert checks.instance("F", "net", layer, xl.Layer, "a layer") is layer
        with pytest.raises(TypeError, match=r"^F: net is 'relu'; expected a layer\. Do it\.$"):
            checks.instance("F", "net", "relu", xl.Layer, "a layer", hint="Do it.")

    @pytest.mark.parametrize(
        ("kind", "call"),
        [
            (xl.Relu, "Relu()"), (xl.Affine, "Affine.init(n_in, n_out)"),
            (xl.Reshape, "Reshape(*shape)"), (xl.MaxPooling, "MaxPooling(size)"),
            (xl.LayerNormalization, "LayerNormalization.init(*shape)"),
        ],
    )  # fmt: skip
    def test_a_class_for_an_instance(self, kind, call):
        message = f"F: net is the class {kind.__name__}; expected a layer. Call the class: {call}."
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            checks.instance("F", "net", kind, xl.Layer, "a layer")

    def test_function(self):
        assert checks.function("F", "f", print) is print
        with pytest.raises(TypeError, match="F: f is 'relu'; expected a function"):
            checks.function("F", "f", "relu")

    def test_generator(self):
        one = np.random.default_rng(3)
        assert checks.generator("F", "rng", one) is one
        for seed in (0, np.int64(0), None, np.random.SeedSequence(0), [1, 2]):
            assert isinstance(checks.generator("F", "rng", seed), np.random.Generator)
        for value, kind in ((-1, ValueError), (0.5, TypeError), ("1", TypeError), (True, TypeError),
                            (NAN, TypeError), ([], TypeError), (np.random, TypeError)):  # fmt: skip
            with pytest.raises(kind, match=r"F: rng is .*; expected an int \(a seed\), a numpy"):
                checks.generator("F", "rng", value)
