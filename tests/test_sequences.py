"""Recurrent layers, attention and embeddings: what the table of layers does not ask."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, assert_same_bits, needs_values, values

import xplayers as xl
from xplayers import gradient_check
from xplayers._arrays import namespace, to_numpy
from xplayers.layers import embedding

RECURRENT = {
    "rnn": lambda **o: xl.Rnn.init(4, 3, rng=0, **o),
    "lstm": lambda **o: xl.Lstm.init(4, 3, rng=0, **o),
    "gru": lambda **o: xl.Gru.init(4, 3, rng=0, **o),
    "gru-published": lambda **o: xl.Gru.init(4, 3, reset_after=False, rng=0, **o),
}
KINDS = pytest.mark.parametrize("kind", list(RECURRENT))
BOTH = pytest.mark.parametrize("bidirectional", [False, True])


def says(text):
    return re.escape(text)


def states(kind, n=2, width=3):
    """Initial values of all states of a layer."""
    return [values((n, width), seed) for seed in ((7, 8) if kind == "lstm" else (7,))]


class TestStates:
    @KINDS
    @BOTH
    def test_gradients_of_given_states(self, kind, bidirectional):
        layer = RECURRENT[kind](bidirectional=bidirectional, dtype="float64")
        given = states(kind, width=6 if bidirectional else 3)
        xl.check_gradients(layer, values((2, 3, 4)), *given)
        layer.forward(values((2, 3, 4)), *given)
        got = layer.backward(values((2, 3, 6 if bidirectional else 3), 1))
        assert [d.shape for d in got] == [(2, 3, 4), *[s.shape for s in given]]

    @KINDS
    def test_chunks_give_what_the_whole_gives(self, kind, xpv):
        layer = RECURRENT[kind]()
        x = xpv.asarray(values((2, 5, 4)), "float32")
        whole = layer.forward(x)
        end = layer.final_state()
        layer.zero_grads()
        state, outputs = (), []
        for chunk in (x[:, :2, :], x[:, 2:, :]):
            outputs.append(layer.forward(chunk, *state))
            state = layer.final_state()
            layer.backward(outputs[-1])
        assert_close(namespace(x).concat(outputs, axis=1), to_numpy(whole), 1e-6)
        assert_same_bits(end[0], whole[:, -1, :])
        for a, b in zip(state, end, strict=True):
            assert_at_home(a, x)
            assert_close(a, to_numpy(b), 1e-6)

    @KINDS
    def test_chunks_with_their_gradients_joined_are_the_whole(self, kind):
        """The gradient that comes back to a state belongs to the end of the chunk before."""
        layer = RECURRENT[kind](dtype="float64")
        x, dy = values((2, 5, 4)), values((2, 5, 3), 1)
        layer.forward(x)
        dx = layer.backward(dy)
        expected = dict(layer.grads)
        _, first = layer.apply(layer.arrays, x[:, :2])
        _, second = layer.apply(layer.arrays, x[:, 2:], *layer.final_state(first))
        (dx2, *dstate), grads2 = layer.vjp(second, dy[:, 2:])
        if kind == "lstm":
            assert not np.allclose(dstate[1], 0)
            return  # the gradient of c has no way in through y
        dy1 = dy[:, :2].copy()
        dy1[:, -1] += dstate[0]
        dx1, grads1 = layer.vjp(first, dy1)
        assert_close(np.concatenate([dx1, dx2], axis=1), dx, 1e-12)
        for name, gradient in expected.items():
            assert_close(grads1[name] + grads2[name], gradient, 1e-12, name)

    @KINDS
    @BOTH
    def test_one_step_of_time(self, kind, bidirectional):
        layer = RECURRENT[kind](bidirectional=bidirectional, dtype="float64")
        xl.check_gradients(layer, values((2, 1, 4)))

    def test_one_state_of_an_lstm(self, xpv):
        layer = RECURRENT["lstm"]()
        x, h = xpv.asarray(values((2, 3, 4)), "float32"), xpv.asarray(values((2, 3)), "float32")
        zeros = namespace(h).zeros_like(h)
        assert_same_bits(layer.predict(x, h), layer.predict(x, h, zeros))
        assert_same_bits(layer.predict(x, None, h), layer.predict(x, zeros, h))
        layer.forward(x, None, h)
        assert len(layer.backward(xpv.asarray(np.ones((2, 3, 3)), "float32"))) == 3

    def test_the_cache_or_a_forward(self):
        layer = RECURRENT["rnn"]()
        message = says("Rnn(4 -> 3).final_state: no forward waits for its backward")
        with pytest.raises(RuntimeError, match=message):
            layer.final_state()

    @pytest.mark.only("jax")
    def test_states_cross_a_compiled_function(self, xpv):
        import jax

        layer = RECURRENT["lstm"]()
        x = xpv.asarray(values((2, 2, 4)), "float32")
        plain = layer.predict(x)
        h, c = (xpv.asarray(s, "float32") for s in states("lstm"))
        y, cache = jax.jit(layer.apply)(layer.arrays, x, h, c)
        dx, dh, dc = jax.jit(layer.vjp)(cache, plain)[0]
        assert dx.shape == x.shape
        assert dh.shape == dc.shape == (2, 3)
        assert_close(y, to_numpy(layer.predict(x, h, c)), 1e-6)


@pytest.mark.only("torch")
class TestTorch:
    """The modules of torch.nn, with the same parameters."""

    def given(self, torch, layer, suffixes):
        for s in suffixes:
            b = getattr(layer, "b" + s)
            bh = getattr(layer, "bh" + s, None)
            yield "weight_ih_l0" + s, getattr(layer, "Wx" + s).T
            yield "weight_hh_l0" + s, getattr(layer, "Wh" + s).T
            yield "bias_ih_l0" + s, b
            yield "bias_hh_l0" + s, torch.zeros_like(b) if bh is None else bh

    @pytest.mark.parametrize(("kind", "name"), [("rnn", "RNN"), ("lstm", "LSTM"), ("gru", "GRU")])
    @BOTH
    def test_recurrent_modules(self, kind, name, bidirectional, xpv):
        import torch

        x = xpv.asarray(values((2, 5, 4)), "float64")
        layer = RECURRENT[kind](bidirectional=bidirectional, like=x)
        for key in layer.params:
            layer.params[key] = xpv.asarray(values(layer.params[key].shape, 3, 0.5), "float64")
        module = getattr(torch.nn, name)(
            4, 3, batch_first=True, bidirectional=bidirectional, dtype=torch.float64
        )
        suffixes = ["", "_reverse"] if bidirectional else [""]
        module.load_state_dict(dict(self.given(torch, layer, suffixes)))
        given = [xpv.asarray(s, "float64") for s in states(kind, width=3 * len(suffixes))]
        split = [torch.stack(s.chunk(len(suffixes), 1)) for s in given]
        tx = x.clone().requires_grad_()
        expected, end = module(tx, tuple(split) if kind == "lstm" else split[0])
        y = layer.forward(x, *given)
        got = layer.final_state()
        assert_close(y, expected.detach(), 1e-12)
        for a, b in zip(got, end if kind == "lstm" else (end,), strict=True):
            assert_close(a, torch.cat(list(b), 1).detach(), 1e-12)
        dy = xpv.asarray(values(y.shape, 1), "float64")
        expected.backward(dy)
        assert_close(layer.backward(dy)[0], tx.grad, 1e-12)
        assert_close(layer.dWx, module.weight_ih_l0.grad.T, 1e-12)
        assert_close(layer.dWh, module.weight_hh_l0.grad.T, 1e-12)

    def test_multi_head_attention(self, xpv):
        import torch

        x = xpv.asarray(values((3, 5, 8)), "float64")
        context = xpv.asarray(values((3, 7, 8), 1), "float64")
        counts = torch.tensor(np.random.default_rng(0).uniform(size=(3, 7)) < 0.6)
        counts[:, 0] = True
        layer = xl.MultiHeadAttention.init(8, 4, rng=0, like=x)
        for name in ("bq", "bk", "bv", "bo"):
            layer.params[name] = xpv.asarray(values((8,), 5), "float64")
        module = torch.nn.MultiheadAttention(8, 4, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            module.in_proj_weight.copy_(torch.cat([layer.Wq.T, layer.Wk.T, layer.Wv.T]))
            module.in_proj_bias.copy_(torch.cat([layer.bq, layer.bk, layer.bv]))
            module.out_proj.weight.copy_(layer.Wo.T)
            module.out_proj.bias.copy_(layer.bo)
        tx, tc = x.clone().requires_grad_(), context.clone().requires_grad_()
        expected, _ = module(tx, tc, tc, key_padding_mask=~counts)
        y = layer.forward(x, context, counts)
        dy = xpv.asarray(values(y.shape, 2), "float64")
        dx, dcontext = layer.backward(dy)
        expected.backward(dy)
        assert_close(y, expected.detach(), 1e-12)
        assert_close(dx, tx.grad, 1e-12)
        assert_close(dcontext, tc.grad, 1e-12)
        assert_close(layer.dWk, module.in_proj_weight.grad[8:16].T, 1e-12)


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


class TestEmbedding:
    @pytest.mark.only("numpy", "strict", "torch")
    @pytest.mark.parametrize("rows", [10, 5000])
    def test_no_index_is_no_gradient(self, xpv, rows):
        layer = xl.Embedding.init(rows, 3, rng=0, like=xpv.asarray([0.0], "float32"))
        y = layer.forward(xpv.asarray(np.zeros((2, 0), "int64")))
        layer.backward(xpv.asarray(np.zeros((2, 0, 3)), "float32"))
        assert tuple(y.shape) == (2, 0, 3)
        assert_at_home(layer.dW, layer.W)
        assert not to_numpy(layer.dW).any()

    @pytest.mark.parametrize("n", [7, 700])
    def test_gradients_of_repeated_integers_add_up(self, n, xpv, monkeypatch):
        monkeypatch.setattr(embedding, "_BLOCK", 4 * n)  # several blocks
        x = np.asarray([[3, 0, 3], [6, 3, 0], [0, 0, 5]])
        dy = values((3, 3, 2), 1).astype("float32")
        expected = np.zeros((n, 2))
        np.add.at(expected, x, dy.astype("float64"))
        layer = xl.Embedding.init(n, 2, rng=0)
        layer.forward(xpv.asarray(x))
        assert layer.backward(xpv.asarray(dy)) is None
        assert_close(layer.dW, expected, 1e-6)
        assert_at_home(layer.dW, layer.W, layer.W.dtype)
        first = layer.dW
        layer.forward(xpv.asarray(x))
        layer.backward(xpv.asarray(dy))
        assert_same_bits(layer.dW, first)

    @pytest.mark.parametrize("n", [7, 700])
    def test_runs_of_every_length(self, n):
        rng = np.random.default_rng(0)
        for m in (1, 2, 3, 17, 64, 65):
            x = rng.integers(0, min(n, 5), m)
            dy = rng.normal(size=(m, 2))
            layer = xl.Embedding.init(n, 2, rng=0, dtype="float64")
            layer.forward(x)
            layer.backward(dy)
            expected = np.zeros((n, 2))
            np.add.at(expected, x, dy)
            assert_close(layer.dW, expected, 1e-13)

    @pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "int64"])
    def test_integers_of_every_width(self, kind, xpv):
        layer = xl.Embedding.init(5, 3, rng=0)
        x = np.asarray([4, 0, 4])
        y = layer.forward(xpv.asarray(x.astype(kind)))
        layer.backward(y)
        assert_same_bits(y, to_numpy(layer.W)[x])

    def test_a_single_integer(self, xpv):
        layer = xl.Embedding.init(5, 3, rng=0)
        assert layer.forward(xpv.asarray(np.asarray(2))).shape == (3,)

    def test_parameters_keep_their_dtype(self, xpv):
        x = xpv.asarray(np.asarray([[1, 2], [3, 4]]))
        net = xl.Sequential(
            xl.Embedding.init(5, 3, rng=0), xl.Lstm.init(3, 4, rng=1), xl.Affine.init(8, 2, rng=2)
        )
        assert net.integer_input
        y = net.forward(x)
        assert_at_home(y, x, xpv.asarray([0.0], "float32").dtype)
        assert net.backward(y) is None
        net.forward(x)
        net.backward(y, input_grad=False)
        assert set(net.grads) == set(net.params)

    def test_a_step_of_training(self, xpv):
        x, t = xpv.asarray(np.asarray([[1, 2], [3, 4]])), xpv.asarray(np.asarray([0, 1]))
        net = xl.Sequential(xl.Embedding.init(5, 3, rng=0), xl.Affine.init(6, 2, rng=2))
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.SGD(lr=1.0))
        losses = [float(step(x, t)) for _ in range(3)]
        assert losses[2] < losses[0]

    @pytest.mark.parametrize("bad", [-1, 5])
    def test_out_of_range(self, bad, xpv):
        needs_values(xpv)
        layer = xl.Embedding.init(5, 3, rng=0)
        message = says(f"Embedding(5, 3): x has {bad}; expected 0 to 4 for a table of 5 rows.")
        with pytest.raises(ValueError, match=message):
            layer.forward(xpv.asarray(np.asarray([0, bad, 1])))

    @pytest.mark.only("numpy", "strict", "torch", "cupy")
    @pytest.mark.parametrize("n", [5, 700])
    def test_values_that_cannot_be_looked_at(self, n, xpv, monkeypatch):
        """As on a GPU: a row of NaN and no gradient for what is out of range."""
        monkeypatch.setattr("xplayers.layers.embedding.on_host", lambda a: False)
        layer = xl.Embedding.init(n, 2, rng=0)
        y = to_numpy(layer.forward(xpv.asarray(np.asarray([1, -1, n, 0]))))
        assert np.isnan(y).all(axis=1).tolist() == [False, True, True, False]
        assert_same_bits(y[[0, 3]], to_numpy(layer.W)[[1, 0]])
        layer.backward(xpv.asarray(np.ones((4, 2)), "float32"))
        dW = to_numpy(layer.dW)
        assert (dW[:2] == 1.0).all()
        assert dW.sum() == 4.0

    @pytest.mark.only("jax")
    @pytest.mark.parametrize("n", [5, 700])
    def test_out_of_range_in_a_compiled_function(self, n, xpv):
        import jax

        layer = xl.Embedding.init(n, 2, rng=0)
        layer.predict(xpv.asarray(np.asarray([0])))
        x = xpv.asarray(np.asarray([1, -1, n]))
        y, cache = jax.jit(layer.apply)(layer.arrays, x)
        assert np.isnan(to_numpy(y)).all(axis=1).tolist() == [False, True, True]
        _, grads = jax.jit(layer.vjp)(cache, xpv.asarray(np.ones((3, 2)), "float32"))
        assert to_numpy(grads["W"]).sum() == 2.0

    def test_floats(self, xpv):
        with pytest.raises(TypeError, match=r"Embedding\(5, 3\): x is .*float32; expected integ"):
            xl.Embedding.init(5, 3).forward(xpv.asarray([0.0], "float32"))


class TestInitialValues:
    @KINDS
    @BOTH
    def test_recurrent_layers(self, kind, bidirectional):
        """Orthogonal blocks for the state; zeros but for the gate of an Lstm that forgets."""
        layer = RECURRENT[kind](bidirectional=bidirectional, dtype="float64")
        for key, a in layer.params.items():
            if key.startswith("Wh"):
                for block in np.split(a, a.shape[1] // 3, axis=1):
                    assert_close(block.T @ block, np.eye(3), 1e-12, key)
            elif key.startswith("b"):
                one = np.arange(a.size) // 3 == 1 if kind == "lstm" else np.zeros(a.size)
                assert a.tolist() == one.tolist(), key
        text = repr(layer)
        assert ("bidirectional=True" in text) == bidirectional
        assert repr(eval(text, vars(xl).copy())) == text


class TestShapes:
    @KINDS
    def test_sequences(self, kind, xpv):
        layer = RECURRENT[kind]()
        for shape, end in [
            ((2, 5, 3), "expected (n, time, 4)."),
            ((5, 4), "expected (n, time, 4). A single sequence is x[None, ...]."),
            ((2, 0, 4), "expected (n, time, 4) with one step of time or more."),
        ]:
            message = says(f"{layer}: x has shape {shape}; {end}") + "$"
            with pytest.raises(ValueError, match=message):
                layer.forward(xpv.asarray(np.ones(shape), "float32"))

    def test_states(self, xpv):
        layer, x = RECURRENT["lstm"](), xpv.asarray(np.ones((2, 5, 4)), "float32")
        message = says("Lstm(4 -> 3): c0 has shape (2, 4); expected (2, 3).")
        with pytest.raises(ValueError, match=message):
            layer.forward(x, None, xpv.asarray(np.ones((2, 4)), "float32"))
        with pytest.raises(TypeError, match="h0 is a list"):
            layer.forward(x, [0.0])
        if "float64" in xpv.floats:
            with pytest.raises(TypeError, match=r"h0 is .*float64, x is .*float32; they must"):
                layer.forward(x, xpv.asarray(np.ones((2, 3)), "float64"))

    def test_parameters(self):
        def one(*shape):
            return np.ones(shape, "float32")

        message = says("Lstm: Wx has shape (4, 9); expected (4, 12) for 4 inputs and the 3 hidden")
        with pytest.raises(ValueError, match=message):
            xl.Lstm(one(4, 9), one(3, 12), one(12))
        with pytest.raises(ValueError, match=says("Rnn: b has shape (4,); expected (3,)")):
            xl.Rnn(one(4, 3), one(3, 3), one(4))
        with pytest.raises(ValueError, match="Rnn: Wh_reverse is None; both directions need Wx"):
            xl.Rnn(one(4, 3), one(3, 3), one(3), one(4, 3))
        with pytest.raises(ValueError, match="Gru: bh_reverse is given without bh"):
            xl.Gru(one(4, 9), one(3, 9), one(9), bh_reverse=one(9))
        with pytest.raises(TypeError, match="Rnn: b is float64, Wx is float32; they must agree"):
            xl.Rnn(one(4, 3), one(3, 3), np.ones(3))
        with pytest.raises(ValueError, match=says("PositionalEmbedding: W has shape (3,)")):
            xl.PositionalEmbedding(one(3))
        four = [one(4, 4), one(4)]
        with pytest.raises(ValueError, match=says("MultiHeadAttention: bk has shape (3,); exp")):
            xl.MultiHeadAttention(*four, one(4, 4), one(3), *four, *four, n_heads=2)

    @pytest.mark.parametrize("heads", [3, 0, -2])
    def test_heads_that_do_not_divide(self, heads):
        message = f"MultiHeadAttention: {heads} heads do not divide 4 features"
        with pytest.raises(ValueError, match=message):
            xl.MultiHeadAttention.init(4, heads)

    def test_attention(self, xpv):
        def one(*shape):
            return xpv.asarray(np.ones(shape), "float32")

        layer, x = xl.MultiHeadAttention.init(4, 2), one(2, 3, 4)
        name = "MultiHeadAttention(4, 2 heads): "
        for given, message in [
            ([one(2, 3, 5)], "x has shape (2, 3, 5); expected (n, time, 4)."),
            ([one(3, 4)], "x has shape (3, 4); expected (n, time, 4)."),
            ([one(2, 0, 4)], "x has shape (2, 0, 4); expected (n, time, 4) with one step of"),
            ([x, one(2, 3, 5)], "context has shape (2, 3, 5); expected (n, time, 4)."),
            ([x, one(3, 3, 4)], "context has 3 samples, x has 2."),
            ([x, None, one(2, 4)], "key_mask has shape (2, 4); expected (2, 3)."),
        ]:
            with pytest.raises(ValueError, match=says(name + message)):
                layer.forward(*given)
        with pytest.raises(TypeError, match=r"key_mask is .*float32; expected bool or integers"):
            layer.forward(x, None, one(2, 3))

    def test_positions(self, xpv):
        layer = xl.PositionalEmbedding.init(5, 3)
        message = says("PositionalEmbedding(5, 3): x has 6 steps of time, the table 5 positions.")
        with pytest.raises(ValueError, match=message):
            layer.forward(xpv.asarray(np.ones((2, 6, 3)), "float32"))
        message = says("PositionalEmbedding(5, 3): x has shape (2, 3); expected (n, time, 3).")
        with pytest.raises(ValueError, match=message):
            layer.forward(xpv.asarray(np.ones((2, 3)), "float32"))


def test_check_gradients_names_a_further_input(monkeypatch):
    layer = RECURRENT["rnn"]()
    right = type(layer).vjp

    def wrong(self, cache, dy):
        (dx, dh0), grads = right(self, cache, dy)
        return (dx, 2.0 * dh0), grads

    monkeypatch.setattr(type(layer), "vjp", wrong)
    with pytest.raises(AssertionError, match="gradient of input 1"):
        gradient_check.check_gradients(layer, values((2, 3, 4)), values((2, 3), 1))
