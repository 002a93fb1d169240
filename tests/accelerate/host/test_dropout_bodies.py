"""Dropout in blocks: the masks and bits of the portable body."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, values

from xplayers.accelerate.host import dropout as bodies
from xplayers.arrays.operation import body_of, portable_body
from xplayers.layers import dropout

COUNT = np.asarray([7], "int32")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(bodies.BLOCK + 1,), (300, 217), (3, 40_000)])
@pytest.mark.parametrize("turned", [False, True])
def test_blocks(shape, dtype, turned, monkeypatch):
    monkeypatch.setenv("XPLAYERS_JIT", "0")
    x = np.asarray(values(shape), dtype)
    x = x.T if turned else x
    y, keep = bodies.drop(x, COUNT, 3, 0.4, 1 / 0.6)
    expected, mask = portable_body(dropout.drop)(x, COUNT, 3, 0.4, 1 / 0.6)
    assert_same_bits(y, expected)
    assert_same_bits(keep, mask)
    assert_same_bits(
        bodies.masked(x, keep, 1 / 0.6), portable_body(dropout.masked)(x, mask, 1 / 0.6)
    )


def test_tensors_take_them():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(values((300, 217)).astype("float32"))
    body = body_of(dropout.drop, x)
    y, keep = body(x, torch.from_numpy(COUNT), 3, 0.4, 1 / 0.6)
    expected, mask = portable_body(dropout.drop)(x.numpy(), COUNT, 3, 0.4, 1 / 0.6)
    assert_same_bits(y.numpy(), expected)
    assert_same_bits(body_of(dropout.masked, x)(x, keep, 1 / 0.6).numpy(), expected)
    assert_same_bits(keep.numpy(), mask)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-1, 2**40 + 5), (2**31 - 1, -3)])
def test_any_key(count, seed, rate, monkeypatch):
    monkeypatch.setenv("XPLAYERS_JIT", "0")
    arguments = values((bodies.BLOCK + 3,)), np.asarray([count], "int32"), seed, rate, 2.0
    with np.errstate(over="ignore"):
        expected = portable_body(dropout.drop)(*arguments)
    for a, b in zip(bodies.drop(*arguments), expected, strict=True):
        assert_same_bits(a, b)


def test_small_arrays_are_declined(monkeypatch):
    monkeypatch.setenv("XPLAYERS_JIT", "0")
    assert bodies.drop(values((3, 4)), COUNT, 3, 0.4, 1 / 0.6) is NotImplemented
    assert bodies.masked(values((3, 4)), values((3, 4)) > 0, 2.0) is NotImplemented
