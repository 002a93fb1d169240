"""Containers: names, parts, slices, errors; and what `mlp` makes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same_bits, values

import xplayers as xl


class TestSequential:
    def test_names_indices_and_slices(self):
        fc, act, out = xl.Affine.init(4, 3, rng=0), xl.Relu(), xl.Affine.init(3, 2, rng=1)
        net = xl.Sequential(fc, act=act, out=out)
        assert net[0] is fc
        assert net["act"] is net.act is net[1] is act
        assert net[-1] is out
        for index in (3, -4):
            with pytest.raises(IndexError, match=f"Sequential: index is {index}; it has 3 parts"):
                net[index]
        with pytest.raises(TypeError, match="Sequential: index is 1.5; expected an integer"):
            net[1.5]
        assert len(net) == 3
        assert list(net) == [fc, act, out]
        tail = net[1:]
        assert list(tail.params) == ["out.W", "out.b"]
        assert tail.params["out.W"] is net.params["out.W"]
        assert list(net[:1].params) == ["0.W", "0.b"]

    def test_a_slice_computes_the_part(self, xpv):
        net, x = xl.mlp([4, 3, 2], rng=0), xpv.asarray(values((5, 4)), "float32")
        assert_same_bits(net[2:](net[:2](x)), net(x))

    def test_one_layer_at_two_places_is_one_set_of_parameters(self):
        fc = xl.Affine.init(3, 3, rng=0)
        net = xl.Sequential(fc, xl.Tanh(), fc, xl.Sequential(fc))
        assert list(net.params) == ["0.W", "0.b"]
        net.params["0.b"] = np.ones(3, "float32")
        assert fc.b.tolist() == [1, 1, 1]

    def test_repr(self):
        net = xl.Sequential(xl.Affine.init(2, 3), xl.Sequential(act=xl.LeakyRelu(0.1)))
        assert repr(net) == (
            "Sequential(\n    Affine.init(2, 3),\n    Sequential(\n"
            "        act=LeakyRelu(alpha=0.1),\n    ),\n)"
        )
        assert repr(xl.Sequential()) == "Sequential()"

    def test_errors_name_the_part(self):
        net = xl.Sequential(fc=xl.Affine.init(4, 3), out=xl.Affine.init(2, 1))
        for verb in (net.forward, net.predict):
            message = r"Affine\(2 -> 1\): x has shape \(5, 3\)"
            with pytest.raises(ValueError, match=message) as caught:
                verb(np.ones((5, 4), "float32"))
            assert caught.value.__notes__ == ["In part 'out' of Sequential."]

    def test_parts_must_be_layers(self):
        with pytest.raises(TypeError, match=r"part '1' is .*Relu.*Call the class: Relu\(\)"):
            xl.Sequential(xl.Affine.init(2, 2), xl.Relu)
        with pytest.raises(TypeError, match="part 'f' is .*expected a layer"):
            xl.Sequential(f=np.tanh)

    def test_a_missing_part_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="Sequential has no attribute or part 'fc'"):
            _ = xl.Sequential(xl.Relu()).fc

    def test_the_input_gradient_below_the_parameters_is_not_computed(self):
        class Deaf(xl.Layer):
            def apply(self, arrays, x):
                return x + 0.0, ()

            def vjp(self, cache, dy):
                raise AssertionError("there is no parameter below")

        net = xl.Sequential(Deaf(), xl.Affine.init(3, 2, rng=0), xl.Relu())
        y = net.forward(np.ones((4, 3), "float32"))
        net.backward(y, input_grad=False)
        assert set(net.grads) == {"1.W", "1.b"}


class TestMlp:
    def test_the_initializer_fits_the_activation(self):
        he, xavier = xl.mlp([400, 300, 2], rng=0), xl.mlp([400, 300, 2], xl.Tanh, rng=0)
        assert float(np.std(he[0].W)) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
        assert float(np.std(xavier[0].W)) == pytest.approx((2 / 700) ** 0.5, rel=0.02)

    def test_one_generator_draws_for_all_layers(self):
        a, b = xl.mlp([3, 3, 3], rng=0), xl.mlp([3, 3, 3], rng=np.random.default_rng(0))
        for name in a.params:
            assert_same_bits(a.params[name], b.params[name])
        assert not np.array_equal(a[0].W, a[2].W)

    @pytest.mark.parametrize("sizes", [[], [3], [3, 0], [-1, 2]])
    def test_bad_sizes(self, sizes):
        with pytest.raises(ValueError, match="expected two positive widths or more"):
            xl.mlp(sizes)


def test_names_that_collide():
    with pytest.raises(ValueError, match="the name '0' is that of a positional layer"):
        xl.Sequential(xl.Relu(), **{"0": xl.Tanh()})
    with pytest.raises(ValueError, match="a part cannot be called 'params', which is an attribute"):
        xl.Sequential(params=xl.Relu())


def test_layers_side_by_side_may_take_integers(xpv):
    net = xl.Parallel(xl.Embedding.init(5, 3, rng=0), xl.Embedding.init(5, 3, rng=1))
    assert net.predict(xpv.asarray(np.asarray([[0, 4]]))).shape == (1, 2, 3)
