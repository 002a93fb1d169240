"""Attention: what its table row does not ask: masks, contexts, large scores."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, assert_same_bits, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy


class TestAttention:
    def test_causal_outputs_do_not_see_the_future(self, xpv):
        layer = xl.MultiHeadAttention.init(4, 2, causal=True, rng=0)
        x = values((2, 5, 4)).astype("float32")
        y = to_numpy(layer.predict(xpv.asarray(x)))
        for t in range(4):
            changed = x.copy()
            changed[:, t + 1 :] = values((2, 4 - t, 4), 9)
            after = to_numpy(layer.predict(xpv.asarray(changed)))
            assert_close(after[:, : t + 1], y[:, : t + 1], 1e-6)
            assert not np.allclose(after[:, t + 1 :], y[:, t + 1 :])
            changed[:, t + 1 :] = 1e4  # nor does a large one leak
            again = to_numpy(layer.predict(xpv.asarray(changed)))
            assert_close(again[:, : t + 1], y[:, : t + 1], 1e-6)
        # and the gradient of the first position does not reach the later ones
        layer.forward(xpv.asarray(x))
        dy = np.zeros(x.shape, "float32")
        dy[:, 0] = 1.0
        dx = to_numpy(layer.backward(xpv.asarray(dy)))
        assert not dx[:, 1:].any()
        assert dx[:, 0].any()

    @pytest.mark.parametrize("kind", ["bool", "int64"])
    def test_keys_that_do_not_count_might_be_absent(self, kind, xpv):
        layer = xl.MultiHeadAttention.init(4, 2, rng=0)
        x, context = values((1, 3, 4)).astype("float32"), values((1, 5, 4), 1).astype("float32")
        mask = np.asarray([[1, 0, 1, 1, 0]]).astype(kind)
        here = xpv.asarray(x)
        masked = layer.predict(here, xpv.asarray(context), xpv.asarray(mask))
        fewer = layer.predict(here, xpv.asarray(context[:, [0, 2, 3]]))
        assert_close(masked, to_numpy(fewer), 1e-6)
        layer.forward(here, xpv.asarray(context), xpv.asarray(mask))
        _, dcontext = layer.backward(xpv.asarray(np.ones((1, 3, 4)), "float32"))
        assert not to_numpy(dcontext)[:, [1, 4]].any()

    def test_a_query_without_a_key(self, xpv):
        """The weights are 0, not NaN; only the bias of the output is left."""
        layer = xl.MultiHeadAttention.init(4, 2, rng=0)
        x = xpv.asarray(values((2, 3, 4)), "float32")
        mask = np.asarray([[True, True, False], [False, False, False]])
        layer.predict(x)
        layer.params["bo"] = xpv.asarray([1.0, 2.0, 3.0, 4.0], "float32")
        y = to_numpy(layer.forward(x, None, xpv.asarray(mask)))
        assert (y[1] == [1.0, 2.0, 3.0, 4.0]).all()
        dx = to_numpy(layer.backward(xpv.asarray(np.ones((2, 3, 4)), "float32")))
        assert not dx[1].any()
        assert np.isfinite(dx).all()
        for gradient in layer.grads.values():
            assert np.isfinite(to_numpy(gradient)).all()

    @pytest.mark.parametrize("causal", [False, True])
    def test_gradients_with_context_and_mask(self, causal):
        layer = xl.MultiHeadAttention.init(4, 2, causal=causal, rng=0)
        mask = np.asarray([[True, False, True, True], [False, False, False, False]])
        x, context = values((2, 3, 4)), values((2, 4, 4), 1)
        xl.check_gradients(layer, x, context, mask)
        xl.check_gradients(layer, x, context)
        xl.check_gradients(layer, x, None, mask[:, :3])

    def test_large_scores_are_exact(self, xpv):
        """Scores of 1e8 and more: the largest takes all, to the last bit."""
        eye, zero = np.eye(2, dtype="float32"), np.zeros(2, "float32")
        layer = xl.MultiHeadAttention(
            *(xpv.asarray(a) for a in (eye, zero, eye, zero, eye, zero, eye, zero)), n_heads=1
        )
        x = np.asarray([[[1e4, 0.0], [0.0, 2e4]]], "float32")
        assert_same_bits(layer.predict(xpv.asarray(x)), x)

    def test_scores_beyond_float16(self, xpv):
        if "float16" not in xpv.floats:
            pytest.skip("no float16 here")
        layer = xl.MultiHeadAttention.init(4, 2, rng=0)
        x = xpv.asarray(values((1, 3, 4), scale=1000.0), "float16")
        assert np.isfinite(to_numpy(layer.predict(x))).all()

    @pytest.mark.parametrize("kind", [np.bool_, np.int64])
    def test_causal_with_keys_that_do_not_count(self, kind, xpv):
        """A query sees the keys that are neither later nor masked; integers of any size count."""
        layer = xl.MultiHeadAttention.init(4, 2, causal=True, rng=0)
        x = values((1, 4, 4)).astype("float32")
        mask = (2 * np.asarray([[1, 0, 1, 1]])).astype(kind)
        y = to_numpy(layer.predict(xpv.asarray(x), None, xpv.asarray(mask)))
        seen = to_numpy(layer.predict(xpv.asarray(x[:, [0, 2, 3]])))
        assert_close(y[:, [0, 2, 3]], seen, 1e-6)

    def test_every_verb_takes_the_further_inputs(self, xpv):
        layer = xl.MultiHeadAttention.init(4, 2, rng=0)
        x, context = (xpv.asarray(values((2, n, 4), n), "float32") for n in (3, 5))
        mask = xpv.asarray(np.asarray([[1, 0, 1, 1, 0], [1, 1, 1, 0, 0]]))
        y = layer.forward(x, context, mask)
        for other in (
            layer.predict(x, context, mask),
            layer(x, context, mask),
            layer.forward(x, context, mask, train=False),
        ):
            assert_same_bits(other, y)
        for fewer in (layer(x), layer(x, context)):
            assert not np.allclose(to_numpy(fewer), to_numpy(y))
