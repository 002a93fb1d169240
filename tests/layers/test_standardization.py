"""Standardization: the statistics of a training set, as buffers of the first layer."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_at_home, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy

X = values((40, 3), 1) * np.asarray([1.0, 100.0, 1e-3]) + np.asarray([0.0, 1e3, 5.0])


def test_it_is_what_scikit_learn_does(xpv):
    x = xpv.asarray(X, "float32")
    layer = xl.Standardize.fit(x)
    assert_at_home(layer.mean, x)
    host = to_numpy(x).astype("float64")
    np.testing.assert_allclose(to_numpy(layer.mean), host.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.scale), host.std(axis=0), rtol=1e-6)
    y = to_numpy(layer.predict(x))
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-3)
    np.testing.assert_allclose(to_numpy(layer.inverse(layer.predict(x))), host, rtol=1e-6)


def test_equal_values_are_not_scaled(xpv):
    x = np.concatenate([np.full((7, 1), 0.1), np.arange(7.0)[:, None]], axis=1)
    layer = xl.Standardize.fit(xpv.asarray(x, "float32"))
    assert to_numpy(layer.scale).tolist() == pytest.approx([1.0, 2.0], rel=1e-6)
    assert not to_numpy(layer.predict(xpv.asarray(x, "float32")))[:, 0].any()


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 4, 5)), ((0, 2, 3), (3, 1, 1))])
def test_images(xpv, axis, shape):
    x = values((6, 3, 4, 5), 2) + np.arange(3)[:, None, None]
    layer = xl.Standardize.fit(xpv.asarray(x, "float32"), axis)
    assert tuple(layer.mean.shape) == shape
    y = to_numpy(layer.predict(xpv.asarray(x, "float32")))
    np.testing.assert_allclose(y.mean(axis=axis), 0, atol=1e-6)


def test_integers_have_statistics_in_float32(xpv):
    layer = xl.Standardize.fit(xpv.asarray(np.asarray([[0, 255], [2, 255]]), "uint8"))
    assert to_numpy(layer.mean).tolist() == [1.0, 255.0]
    assert str(to_numpy(layer.mean).dtype) == "float32"


def test_it_is_saved_with_the_network(tmp_path):
    x, t = X.astype("float32"), np.arange(40) % 2
    net = xl.Sequential(xl.data.Standardize.fit(x), *xl.mlp([3, 4, 2], rng=0))
    before = net[0].mean.copy()
    xl.Trainer(net, xl.SoftmaxWithLoss(), xl.Adam(), epochs=2, progress=False).fit(x, t)
    assert np.array_equal(net[0].mean, before)
    xl.save(tmp_path / "net.safetensors", net)
    other = xl.Sequential(xl.Standardize.init(3), *xl.mlp([3, 4, 2], rng=1))
    xl.load(tmp_path / "net.safetensors", other)
    assert np.array_equal(other.predict(x), net.predict(x))


def test_mistakes(xpv):
    x = xpv.asarray(X, "float32")
    with pytest.raises(ValueError, match=r"axis is 1, x has shape \(40, 3\); expected axes of x"):
        xl.Standardize.fit(x, 1)
    with pytest.raises(ValueError, match=r"axis is \(0, 2\), x has shape"):
        xl.Standardize.fit(x, (0, 2))
    with pytest.raises(ValueError, match=r"x has shape \(0, 3\); there are no samples"):
        xl.Standardize.fit(x[:0, ...])
    layer = xl.Standardize.fit(x)
    with pytest.raises(ValueError, match=r"Standardize\(3\): x has shape \(40, 2\); mean has"):
        layer.predict(x[:, :2])
    with pytest.raises(ValueError, match=r"scale has shape \(2,\); expected \(3,\)"):
        xl.Standardize(layer.mean, layer.scale[:2, ...])
