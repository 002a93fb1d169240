"""The seam: which body computes an operation."""

from __future__ import annotations

import contextvars
import sys

import numpy as np
import pytest
from helpers import portably

from xplayers.arrays import operation as seam
from xplayers.arrays.namespaces import library
from xplayers.arrays.operation import OPERATIONS, body_of, laid, operation, using


@pytest.fixture
def double(monkeypatch):
    """An operation, which is forgotten afterwards."""
    monkeypatch.setattr(seam, "OPERATIONS", dict(OPERATIONS))

    @operation
    def double_for_a_test(x, times=1):
        return "portable", times

    return double_for_a_test


def body(word, takes=lambda x: True):
    return lambda x, times=1: (word, times) if takes(x) else NotImplemented


def bodies(word, **options):
    return {"double_for_a_test": body(word, **options)}


def test_without_a_body_the_definition_computes(double, xpv):
    x = xpv.asarray([1.0], "float32")
    assert double(x) == ("portable", 1)
    assert double(x, times=3) == double([x], 3) == ("portable", 3)
    assert body_of(double, x) is None


def test_the_library_decides(double, xpv, monkeypatch):
    x = xpv.asarray([1.0], "float32")
    double(x)
    monkeypatch.setitem(seam._TABLES, type(x), bodies("own"))
    assert double(x, 2) == double([x, None], times=2) == ("own", 2)


def test_a_body_declines_and_the_next_is_asked(double, monkeypatch):
    x = np.ones(2)
    double(x)
    monkeypatch.setitem(seam._TABLES, np.ndarray, bodies("own", takes=lambda x: x.size < 3))
    with using(np.ndarray, bodies("outer")):
        with using("numpy", bodies("inner", takes=lambda x: x.size == 1)):
            assert double(np.ones(1)) == ("inner", 1)
            assert double(x) == ("outer", 1)
        assert double(np.ones(1)) == ("outer", 1)
    assert double(x) == ("own", 1)
    assert double(np.ones(3)) == ("portable", 1)


def test_what_is_laid_is_for_its_kind_and_its_context(double):
    table = bodies("laid")
    with using("no library", table), using(list, table):
        assert double(np.ones(1)) == ("portable", 1)
        assert double([np.ones(1)]) == ("portable", 1)
    with using(np.ndarray, table):
        assert laid("double_for_a_test", np.ndarray) == laid("double_for_a_test") != []
        assert laid("double_for_a_test", "numpy") == []
        other = contextvars.Context()
        assert other.run(double, np.ones(1)) == ("portable", 1)
        with using(np.ndarray, table, on=False):
            assert double(np.ones(1)) == ("portable", 1)
        assert double(np.ones(1)) == ("laid", 1)
    assert laid("double_for_a_test") == []
    with pytest.raises(ValueError, match="wrong"), using(np.ndarray, table):
        raise ValueError("wrong")
    assert double(np.ones(1)) == ("portable", 1)


def test_a_subclass_may_compute_otherwise():
    class Own(np.ndarray):
        pass

    function = OPERATIONS["product"]
    a = np.ones((2, 2))
    assert body_of(function, a) is not None
    assert body_of(function, a.view(Own)) is None


def test_every_body_is_of_an_operation_and_of_its_signature(xpv):
    table = seam.table(library(xpv.asarray([1.0], "float32")), "BODIES")
    assert set(table) <= set(OPERATIONS)
    if "xplayers.accelerate.cupy" in sys.modules:
        assert set(seam.table("cupy", "FUSED")) <= set(OPERATIONS)


def test_a_library_without_a_table_is_portable():
    assert seam.table("no_such_library", "BODIES") == {}


def test_portably(monkeypatch):
    function, a = OPERATIONS["product"], np.ones((2, 2))
    portably(monkeypatch, "product")
    assert body_of(function, a) is None
    assert body_of(OPERATIONS["column_sums"], a) is not None
    portably(monkeypatch)
    assert body_of(OPERATIONS["column_sums"], a) is None


def test_generators_end_what_they_have_laid_in_any_order(double):
    def generator(table):
        with using(np.ndarray, table):
            yield

    first, second = generator(bodies("first")), generator(bodies("second"))
    next(first)
    next(second)
    assert double(np.ones(1)) == ("second", 1)
    first.close()
    assert double(np.ones(1)) == ("second", 1)
    second.close()
    assert double(np.ones(1)) == ("portable", 1)
    third = generator(bodies("third"))
    next(third)
    contextvars.copy_context().run(third.close)  # elsewhere, as the garbage collector may
    table = bodies("laid twice")
    with using(np.ndarray, table):
        with using(np.ndarray, table):
            assert laid("double_for_a_test").count(table["double_for_a_test"]) == 2
        assert double(np.ones(1))[0] == "laid twice"
