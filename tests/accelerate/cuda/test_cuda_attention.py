"""Attention through cuDNN, emulated: forward, backward, and what is left to the portable body."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import TOLERANCE, assert_close, values

cupy = pytest.importorskip("cupy")

from emulator.emulated_cudnn import EmulatedRuntime, assert_valid, host_dtype  # noqa: E402
from emulator.emulated_gpu import fabricated, host  # noqa: E402

from xplayers.accelerate.cuda.cudnn import Cudnn  # noqa: E402
from xplayers.arrays.operation import portable_body  # noqa: E402
from xplayers.layers.attention import attention, attention_gradient  # noqa: E402

SHAPES = {"self": ((2, 3, 5, 8), (2, 3, 5, 8)), "context": ((2, 3, 4, 16), (2, 3, 7, 16))}


def heads(shape, seed, dtype):
    """Return values ``(n, heads, time, size)`` that are cut out of ``(n, time, heads * size)``."""
    n, count, time, size = shape
    features = values((n, time, count * size), seed).astype(host_dtype(dtype))
    return features.reshape(n, time, count, size).transpose(0, 2, 1, 3)


def there(a):
    """Return it as a CuPy array that lies as it does."""
    return fabricated(np.ascontiguousarray(a.transpose(0, 2, 1, 3))).transpose(0, 2, 1, 3)


def passed(name, dtype, causal):
    """Return what a pass gives on CuPy, and the portable body in float64."""
    queries, keys = SHAPES[name]
    q, k, v, do = (
        heads(shape, seed, dtype) for seed, shape in enumerate((queries, keys, keys, queries))
    )
    o, a, statistics = attention(*map(there, (q, k, v)), None, causal)
    got = attention_gradient(*map(there, (do, q, k, v)), a, o, statistics, causal)
    wide = [x.astype("float64") for x in (do, q, k, v)]
    want, weights, nothing = portable_body(attention)(*wide[1:], None, causal)
    right = portable_body(attention_gradient)(*wide, weights, want, nothing, causal)
    return (o, *got), (want, *right), (a, statistics)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_pass(name, dtype, causal, dnn):
    got, right, (a, statistics) = passed(name, dtype, causal)
    assert a is None
    assert statistics.dtype == "float32"
    for x, want in zip(got, right, strict=True):
        assert x.dtype == host_dtype(dtype)
        assert x.transpose(0, 2, 1, 3).flags.c_contiguous  # features of a time side by side
        assert_close(host(x).astype("float64"), want, 2 * TOLERANCE[dtype])
    assert [graph.ran for graph in dnn._runtime.cudnn.graphs] == [[0], [0]]
    assert not dnn._runtime.copies


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_library_finds_the_graphs_valid(name, dtype, causal, dnn, cudnn_library):
    passed(name, dtype, causal)
    assert len(dnn.plans) == 2
    for key in dnn.plans:
        assert_valid(cudnn_library, key)


def refusing(monkeypatch):
    def weights(*args):
        raise NotImplementedError("portable")

    monkeypatch.setattr("xplayers.layers.attention._weights", weights)


@pytest.mark.parametrize(
    ("dtype", "size", "masked"),
    [("float32", 8, False), ("float16", 12, False), ("float16", 8, True)],
)
def test_what_is_left_to_the_portable_body(dtype, size, masked, dnn, monkeypatch):
    refusing(monkeypatch)
    mask = fabricated(np.ones((2, 5), bool)) if masked else None
    q = there(heads((2, 3, 5, size), 0, dtype))
    with pytest.raises(NotImplementedError, match="portable"):
        attention(q, q, q, mask, True)
    assert not dnn.plans


def test_what_cudnn_has_not_is_portable(monkeypatch):
    refusing(monkeypatch)
    q = there(heads((2, 3, 5, 8), 0, "float16"))
    statistics = fabricated(np.zeros((2, 3, 5, 1), "float32"))
    library = Cudnn(runtime=EmulatedRuntime(["sdpa", "sdpa_backward"]))
    with library.layers():
        with pytest.raises(NotImplementedError, match="portable"):
            attention(q, q, q, None, True)
        with pytest.raises(NotImplementedError, match="portable"):
            attention_gradient(q, q, q, q, None, q, statistics, True)
    assert list(library.plans.values()) == [None, None]


@pytest.mark.parametrize("causal", [False, True])
def test_a_portable_gradient_takes_what_the_forward_kept(causal):
    """The weights are computed once more."""
    do, q, k, v = (heads((2, 3, 5, 8), seed, "float32") for seed in range(4))
    o, a, _ = attention(q, k, v, None, causal)
    want = attention_gradient(do, q, k, v, a, o, None, causal)
    for x, right in zip(
        attention_gradient(do, q, k, v, None, o, q[..., :1], causal), want, strict=True
    ):
        np.testing.assert_array_equal(x, right)
