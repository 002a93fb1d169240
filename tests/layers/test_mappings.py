"""`params`, `grads` and `buffers`: live mappings of the arrays by name."""

from __future__ import annotations

import numpy as np
import pytest

import xplayers as xl


class TestMappings:
    def test_attributes_and_mappings_are_the_same_arrays(self):
        layer = xl.Affine.init(3, 2, rng=0)
        assert layer.params["W"] is layer.W
        layer.backward(layer.forward(np.ones((1, 3), "float32")))
        assert layer.grads["b"] is layer.db
        layer.W = np.zeros((3, 2), "float32")
        assert not layer.params["W"].any()
        layer.params["b"] = np.ones(2, "float32")
        assert layer.b.tolist() == [1, 1]

    def test_a_container_has_one_flat_live_mapping(self, xpv):
        net = xl.Sequential(xl.Affine.init(2, 3, rng=0), act=xl.Relu(), out=xl.Affine.init(3, 1))
        assert list(net.params) == ["0.W", "0.b", "out.W", "out.b"]
        new = xpv.asarray(np.ones((2, 3)), "float32")
        net.to(like=new)
        net.params["0.W"] = new
        assert net[0].W is new
        assert net.out.W is net.params["out.W"]
        assert len(net.params) == 4
        assert "out.b" in net.params
        assert "1.W" not in net.params

    def test_wrong_names_and_shapes_are_refused(self):
        net = xl.mlp([2, 1], rng=0)
        with pytest.raises(KeyError, match=r"no '1\.W' in params; there are 0\.W, 0\.b"):
            net.params["1.W"] = np.ones((2, 1))
        with pytest.raises(ValueError, match=r"W has shape \(2, 1\); got \(1, 2\)"):
            net.params["0.W"] = np.ones((1, 2))
        with pytest.raises(ValueError, match=r"W has shape \(2, 1\); got \(1, 2\)"):
            net[0].W = np.ones((1, 2))
        with pytest.raises(TypeError, match=r"cannot delete '0\.W'"):
            del net.params["0.W"]
        with pytest.raises(TypeError, match="Affine: b cannot become None"):
            net[0].b = None

    def test_repr_tells_shapes(self):
        assert repr(xl.mlp([2, 1], rng=0).params) == "{'0.W': float32(2, 1), '0.b': float32(1,)}"

    def test_after_a_move_the_mapping_is_live_still(self):
        net = xl.mlp([2, 1], rng=0)
        params = net.params
        net.to(dtype="float64")
        assert params["0.W"].dtype == "float64"
