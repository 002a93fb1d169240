"""Layers of one's own: what they define, and what they may not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, values

import xplayers as xl
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy


class TestLayerOfOneSOwn:
    def test_the_class_shows_its_declarations(self):
        assert isinstance(xl.Affine.W, xl.Parameter)
        assert isinstance(xl.Affine.dW, xl.Gradient)
        assert isinstance(xl.BatchNormalization.running_mean, xl.Buffer)

    def test_without_an_init_of_its_own_and_with(self, xpv):
        class Scale(xl.Layer):
            """The example of the docstring of Layer."""

            s, ds = xl.Parameter(), xl.Gradient()

            def __init__(self, s):
                self.s = s

            def apply(self, arrays, x):
                return x * arrays["s"], (x, arrays["s"])

            def vjp(self, cache, dy):
                x, s = cache
                return dy * s, {"s": namespace(x).sum(dy * x, axis=0)}

        layer = Scale(xpv.asarray(np.asarray([2.0, 3.0]), "float32"))
        x = xpv.asarray(values((4, 2)), "float32")
        xl.check_gradients(layer, x)
        y = layer.forward(x)
        layer.backward(y)
        assert_close(layer.ds, to_numpy(y * x).sum(0), 1e-6)
        assert repr(layer).endswith("Scale()")

    @pytest.mark.parametrize(
        "name", ["forward", "backward", "predict", "to", "zero_grads", "__call__"]
    )
    def test_the_shell_is_final(self, name):
        with pytest.raises(TypeError, match=f"Own overrides {name}, which is final"):
            type("Own", (xl.Layer,), {name: lambda self: None})

    def test_a_layer_without_its_functions_says_so(self):
        class Empty(xl.Layer):
            pass

        with pytest.raises(NotImplementedError, match=r"Empty defines no apply\(self, arrays, x\)"):
            Empty().forward(np.ones(3))
        with pytest.raises(NotImplementedError, match=r"Empty defines no vjp\(self, cache, dy\)"):
            Empty().vjp((), np.ones(3))

    def test_buffers_are_updated_in_training_only(self):
        class Count(xl.Layer):
            n = xl.Buffer()

            def __init__(self):
                self.n = np.asarray(0)

            def apply(self, arrays, x):
                return x + 0.0, (arrays["n"],)

            def vjp(self, cache, dy):
                return dy, {}

            def updated_buffers(self, arrays, cache):
                return {"n": arrays["n"] + 1}

        count = Count()
        net = xl.Sequential(count, again=xl.Sequential(count), other=Count())
        x = np.ones((2, 2))
        net.predict(x)
        assert int(count.n) == 0
        net.forward(x)
        assert int(count.n) == 2, "a layer at two places goes on from its first use"
        assert int(net.other.n) == 1
        assert {k: int(v) for k, v in net.buffers.items()} == {"0.n": 2, "other.n": 1}
        count.forward(x)
        assert int(count.n) == 3
