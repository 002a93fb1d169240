"""Recurrent layers, and arguments of all layers of sequences: what the table does not ask."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, assert_same_bits, says, values

import xplayers as xl
from xplayers import gradient_check
from xplayers.arrays.namespaces import namespace
from xplayers.arrays.transfer import to_numpy

RECURRENT = {
    "rnn": lambda **o: xl.Rnn.init(4, 3, rng=0, **o),
    "lstm": lambda **o: xl.Lstm.init(4, 3, rng=0, **o),
    "gru": lambda **o: xl.Gru.init(4, 3, rng=0, **o),
    "gru-published": lambda **o: xl.Gru.init(4, 3, reset_after=False, rng=0, **o),
}
KINDS = pytest.mark.parametrize("kind", list(RECURRENT))
BOTH = pytest.mark.parametrize("bidirectional", [False, True])


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
        message = says("Rnn(4 -> 3).final_state: no forward is pending its backward")
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
            ((2, 0, 4), "expected (n, time, 4) with one time step or more."),
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
        with pytest.raises(ValueError, match="Gru: bh_reverse is passed without bh"):
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
            ([one(2, 0, 4)], "x has shape (2, 0, 4); expected (n, time, 4) with one time st"),
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
        message = says("PositionalEmbedding(5, 3): x has 6 time steps, the table 5 positions.")
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
