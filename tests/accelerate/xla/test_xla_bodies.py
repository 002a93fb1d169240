"""The bodies of JAX against the portable ones of NumPy in float64, eagerly and compiled."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, values

from xplayers.arrays.operation import body_of, portable_body
from xplayers.layers import embedding

jax = pytest.importorskip("jax")
jnp = jax.numpy

TOLERANCES = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2, "float64": 1e-12}


@pytest.fixture(params=[False, True], ids=["eager", "jit"])
def run(request):
    """Call a function as it is, or compiled."""
    return jax.jit if request.param else lambda function: function


def array(a, dtype):
    return jnp.asarray(a, dtype=dtype)


def host(a):
    return np.asarray(a).astype("float64")


def check(ours, exact, dtype):
    assert ours.dtype == dtype
    assert ours.shape == exact.shape
    assert_close(ours, exact, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 600])
def test_sums_by_index(n, dtype, run):
    with jax.enable_x64(dtype == "float64"):
        d = array(values((50, 4), 1), dtype)
        index = jnp.asarray(np.random.default_rng(0).integers(0, n, 50))
        body = body_of(embedding.sums_by_index, d)
        ours = run(lambda d, index: body(d, index, n))(d, index)
        exact = portable_body(embedding.sums_by_index)(host(d), np.asarray(index), n)
        check(ours, exact, dtype)


def test_sums_by_index_leave_out_what_is_out_of_range(run):
    d, index = jnp.asarray(values((6, 2), 1)), jnp.asarray([0, -1, 3, 2, 2, 2**31 - 1])
    body = body_of(embedding.sums_by_index, d)
    ours = run(lambda d, index: body(d, index, 3))(d, index)
    assert_close(ours, np.stack([d[0], 0 * d[0], d[3] + d[4]]), 1e-6)


def test_sums_by_index_keep_infinities_in_their_rows(run):
    d = jnp.asarray([[np.inf, 1.0], [-np.inf, np.nan], [2.0, -np.inf]])
    body = body_of(embedding.sums_by_index, d)
    ours = run(lambda d, index: body(d, index, 3))(d, jnp.asarray([0, 0, 2]))
    np.testing.assert_array_equal(ours, [[np.nan, np.nan], [0.0, 0.0], [2.0, -np.inf]])


def test_empty_arrays_are_declined():
    index = jnp.asarray([], dtype="int32")
    d = jnp.zeros((0, 2))
    assert body_of(embedding.sums_by_index, d)(d, index, 3) is NotImplemented
