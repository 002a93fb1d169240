"""What arrays say, and how they move."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_at_home, assert_same_bits, share_memory, values

import xplayers as xl
from xplayers.arrays.checks import described
from xplayers.arrays.joining import concat, stack
from xplayers.arrays.namespaces import dtype_name, is_floating, is_integer, library, on_host
from xplayers.arrays.transfer import to_numpy


def test_namespace_is_that_of_the_array(xpv):
    x = xpv.asarray([1.0], "float32")
    assert xl.namespace(x).asarray is not None
    assert library(x) in ("numpy", "array_api_strict", "torch", "jax", "cupy")


@pytest.mark.parametrize("x", [[1.0], 1.0, None, "x"])
def test_what_is_no_array_has_none(x):
    with pytest.raises(TypeError, match="expected an array of numpy, cupy, torch, jax"):
        xl.namespace(x)


def test_dtypes(xpv):
    for name in xpv.floats:
        x = xpv.asarray([1.0], name)
        assert dtype_name(x.dtype) == name
        assert is_floating(x)
        assert not is_integer(x)
    for name in ("int8", "uint8", "int32"):
        x = xpv.asarray(np.asarray([1], name))
        assert dtype_name(x.dtype) == name
        assert is_integer(x)
        assert not is_floating(x)
    assert not is_integer(xpv.asarray(np.asarray([True])))


def test_a_round_trip_keeps_the_bits(xpv):
    for dtype in xpv.floats:
        there = xpv.asarray(values((3, 4)), dtype)
        back = xl.move(there, xp=np)
        again = xl.move(back, like=there)  # bfloat16 comes to the host as float32
        assert_at_home(again, there)
        assert_same_bits(again, there)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32"])
def test_integers_keep_their_dtype(xpv, dtype):
    host = np.asarray([[0, 1], [1, 0]], dtype)
    there = xl.move(host, like=xpv.asarray([1.0], "float32"))
    assert dtype_name(there.dtype) == dtype
    assert_same_bits(to_numpy(there), host)


def test_move_never_shares_memory(xpv):
    x = xpv.asarray(values((3, 4)), "float32")
    assert not share_memory(xl.move(x, like=x), x)
    host = values((3, 4)).astype("float32")
    moved = xl.move(host, like=x)
    before = to_numpy(moved).copy()
    host[:] = 0
    assert_same_bits(moved, before)


def test_odd_host_arrays_move(xpv):
    like = xpv.asarray([1.0], "float32")
    x = values((4, 6)).astype("float32")
    readonly = x.copy()
    readonly.flags.writeable = False
    for odd in (x[::-1], x[:, ::-2], x.T, np.asfortranarray(x), np.broadcast_to(x[0], (3, 6)),
                readonly, x[:0], np.asarray(3.0, "float32")):  # fmt: skip
        assert_same_bits(
            to_numpy(xl.move(odd, like=like)), np.ascontiguousarray(odd).reshape(odd.shape)
        )


def test_move_to_a_dtype_by_name_or_object(xpv):
    x = xpv.asarray(values((2, 2)), "float32")
    for name in xpv.floats:
        assert dtype_name(xl.move(x, dtype=name).dtype) == name
        assert dtype_name(xl.move(x, dtype=getattr(xl.namespace(x), name, name)).dtype) == name


@pytest.mark.parametrize("xp", ["torch", 3])
def test_a_library_is_a_module(xp):
    message = rf"xp is {xp!r}; expected a module: numpy, cupy, torch, jax\.numpy\."
    with pytest.raises(TypeError, match=message):
        xl.mlp([2, 1], rng=0).to(xp=xp)


def test_a_dtype_that_there_is_not(xpv):
    x = xpv.asarray([1.0], "float32")
    with pytest.raises(TypeError, match="move: .* has no dtype 'float31'"):
        xl.move(x, dtype="float31")


def test_place_in_words(xpv):
    words = described(xpv.asarray([1.0], "float32"))
    expected = {
        "numpy": "a numpy array on the CPU",
        "readonly": "a numpy array on the CPU",
        "strict": "a array_api_strict array on the CPU",
        "strict-device1": "a array_api_strict array on device1",
        "torch": "a torch array on the CPU",
        "jax": "a jax array on the CPU",
    }
    assert words == expected.get(xpv.name, words)
    assert on_host(xpv.asarray([1.0], "float32")) == (xpv.backend != "cupy")


@pytest.mark.only("torch")
def test_creation_on_the_device_of_the_input(xpv):
    """With torch's default device set to none that computes, nothing may be created without one."""
    torch = xpv.xp
    net, loss = (
        xl.Sequential(xl.mlp([4, 3], rng=0), xl.Gelu("none"), xl.Elu()),
        xl.SoftmaxWithLoss(label_smoothing=0.1, ignore_index=1, class_weights=[1.0, 2.0, 3.0]),
    )
    x, t = xpv.asarray(values((5, 4)), "float32"), xpv.asarray([0, 1, 2, 0, 1])
    torch.set_default_device("meta")
    try:
        optimizer = xl.Adam()
        for batch, labels in xl.minibatches(x, t, 2, rng=0):
            value = loss.forward(net.forward(batch), labels)
            net.backward(loss.backward())
            optimizer.update(net.params, xl.clip_by_norm(net.grads, 1.0))
        score = xl.accuracy(net(x), t)
        counts = xl.confusion_matrix(net(x), t)
    finally:
        torch.set_default_device(None)
    assert {str(a.device) for a in (value, score, counts, *net.params.values())} == {"cpu"}


@pytest.mark.parametrize("count", [3, 9, 70])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_arrays_put_together(count, axis, xpv):
    """As NumPy does it, whatever their number."""
    host = [values((2, 3), i).astype("float32") for i in range(count)]
    there = [xpv.asarray(a, "float32") for a in host]
    assert_same_bits(concat(xpv.xp, there, axis), np.concatenate(host, axis=axis))
    assert_same_bits(stack(xpv.xp, there, axis), np.stack(host, axis=axis))


@pytest.mark.only("numpy", "torch", "cupy")
def test_arrays_of_other_dtypes_and_shapes_put_together(xpv):
    ones = [xpv.asarray(np.ones((2, 3)), "float32") for _ in range(9)]
    whole = [xpv.asarray(np.full((2, 3), 2, "int32")), *ones]
    assert concat(xpv.xp, whole, 0).dtype == xpv.xp.concat(whole[:2], axis=0).dtype
    for other in (np.ones((1, 4)), np.ones(3)):
        for join in (concat, stack):
            with pytest.raises((ValueError, RuntimeError, IndexError)):
                join(xpv.xp, [*ones, xpv.asarray(other, "float32")], 0)


def test_a_moved_array_is_a_copy():
    x = values((3,))
    assert_same_bits(xl.move(x, like=x), x)
