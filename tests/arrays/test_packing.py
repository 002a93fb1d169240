"""Networks and optimizers in pickles and copies: as large as they are, and shared as they are."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
from helpers import assert_same_arrays, assert_same_bits, to_numpy, values

import xplayers as xl
from xplayers.arrays.packing import packed, unpacked


def dumped(x):
    return pickle.loads(pickle.dumps(x))


WAYS = [dumped, copy.deepcopy]


def trained(xpv, optimizer: Any = xl.Adam, n=4):
    net, optimizer = xl.mlp([8, 30, 30, 3], rng=0), optimizer()
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), optimizer)
    x, t = xpv.asarray(values((5, 8)), "float32"), xpv.asarray(np.arange(5) % 3)
    for _ in range(n):
        step(x, t)
    return net, optimizer, (x, t)


def test_a_pickle_is_as_large_as_the_arrays(xpv):
    net, optimizer, _ = trained(xpv)
    n = sum(to_numpy(a).nbytes for a in net.params.values())
    assert len(pickle.dumps(net)) < 1.2 * n + 20_000
    assert len(pickle.dumps(optimizer)) < 2.4 * n + 20_000
    fresh = xl.mlp([8, 30, 30, 3], rng=0).to(like=net.params["0.W"])
    assert len(pickle.dumps(net)) < len(pickle.dumps(fresh)) + 5_000
    if xpv.backend == "torch":
        import torch

        file = io.BytesIO()
        torch.save(net, file)
        assert len(file.getvalue()) < 1.2 * n + 20_000
        for a in copy.deepcopy(net).params.values():
            assert a.untyped_storage().nbytes() == a.numel() * a.element_size()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", [xl.SGD, xl.Adam])
def test_training_goes_on_from_a_copy(way, optimizer, xpv):
    net, optimizer, batch = trained(xpv, optimizer)
    net2, optimizer2 = way((net, optimizer))
    for a, b in ((net, net2), (optimizer, optimizer2)):
        assert repr(a) == repr(b)
    x, t = batch
    for n, o in ((net, optimizer), (net2, optimizer2)):
        loss = xl.SoftmaxWithLoss()
        loss.forward(n.forward(x), t)
        n.backward(loss.backward())
        o.update(n.params, n.grads)
    assert_same_arrays(net.grads, net2.grads)
    assert_same_bits(net.predict(x), net2.predict(x))
    steps = [
        xl.TrainStep(n, xl.SoftmaxWithLoss(), o) for n, o in ((net, optimizer), (net2, optimizer2))
    ]
    for _ in range(4):
        a, b = (step(*batch) for step in steps)
        assert_same_bits(a, b)
    assert_same_arrays(net.params, net2.params)


@pytest.mark.parametrize("way", WAYS)
def test_shared_arrays_stay_shared(way, xpv):
    W = xpv.asarray(values((4, 3)), "float32")
    b = xpv.asarray(values((4,)), "float32")
    first, second = (xl.Affine(W, xpv.asarray(values((3,)), "float32")) for _ in range(2))
    back = xl.Affine(W.T, b)
    net = way(xl.Sequential(first, second, xl.Sequential(back)))
    assert net.params["0.W"] is net.params["1.W"]
    assert net.params["0.W"] is not W
    assert_same_bits(net.params["2.0.W"], to_numpy(W).T)
    if xpv.backend in ("numpy", "torch"):
        net.params["0.W"][1, 2] = 7.0
        assert float(net.params["2.0.W"][2, 1]) == 7.0
        assert float(W[1, 2]) != 7.0


def test_a_shallow_copy_has_the_very_arrays(xpv):
    net, optimizer, _ = trained(xpv, n=1)
    store = copy.copy(net._all_variables["0"])
    assert store.params is net._all_variables["0"].params
    assert copy.copy(optimizer).state is optimizer.state


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (5,), (2, 3), (1, 4, 1), (2, 3, 4)])
def test_any_layout(way, shape, xpv):
    whole = xpv.asarray(values((6, *shape)), "float32")[1, ...]
    arrays = {"whole": whole}
    for axes in {tuple(np.roll(range(len(shape)), k)) for k in range(len(shape))}:
        arrays[f"turned {axes}"] = xl.namespace(whole).permute_dims(whole, tuple(map(int, axes)))
    if shape and xpv.backend == "numpy":
        arrays["back"] = whole[::-1]
        arrays["all back"] = whole.T[tuple([slice(None, None, -1)] * len(shape))]
    if len(shape) > 1 and 0 not in shape:
        arrays["every second"] = whole[::2, ...]
        arrays["row"] = whole[:1, ...]
    got = way(packed({"all": arrays, "none": None, "number": 3.0}))
    assert got["none"] is None
    assert got["number"] == 3.0
    for name, a in arrays.items():
        b = got["all"][name]
        assert type(a) is type(b)
        assert_same_bits(b, a, name)


def test_what_is_written_is_what_is_there(xpv):
    """A pickle that somebody holds is no reason to write old values into the next one."""
    if xpv.backend not in ("numpy", "torch"):
        pytest.skip("arrays are not written to")
    a = xpv.asarray(values((3,)), "float32")
    arrays = {"a": a}
    held = packed(arrays)
    assert unpacked(held) is arrays
    assert_same_bits(dumped(held)["a"], a)
    a[...] = 2.0
    assert_same_bits(dumped(packed(arrays))["a"], a)
    arrays["b"] = a
    got = dumped(packed(arrays))
    assert got["a"] is got["b"]
