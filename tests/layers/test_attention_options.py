"""Attention with groups of heads, rotary positions, dropout, and without biases."""

from __future__ import annotations

import numpy as np
import pytest
import references as ref
from helpers import assert_close, assert_same_arrays, assert_same_bits, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy

OPTIONS = {
    "groups": {"n_kv_heads": 2},
    "one": {"n_kv_heads": 1, "bias": False},
    "rotary": {"rope_theta": 20.0},
    "dropout": {"dropout": 0.3, "seed": 3},
    "all": {"n_kv_heads": 2, "rope_theta": 20.0, "dropout": 0.3, "bias": False},
}
EACH = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def layer_with(**options):
    return xl.MultiHeadAttention.init(8, 4, rng=0, **options)


@EACH
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_with_context_and_mask(options, causal):
    layer = layer_with(causal=causal, **options)
    mask = np.asarray([[True, False, True, True], [False, False, False, False]])
    for time in (3, 5):  # fewer and more than there are keys
        x, context = values((2, time, 8)), values((2, 4, 8), 1)
        xl.check_gradients(layer, x, context, mask)
        xl.check_gradients(layer, x, context)
    xl.check_gradients(layer, x[:, :4], None, mask)


@EACH
def test_a_step_that_is_compiled_or_replayed_gives_the_same(options, xpv):
    """Dropout draws new masks in every step, and goes on from a checkpoint."""
    steps, nets = [], []
    for compile in (False, "auto"):
        nets.append(xl.Sequential(layer_with(causal=True, **options), xl.Tanh()))
        steps.append(xl.TrainStep(nets[-1], xl.MeanSquaredError(), xl.Adam(), compile=compile))
    for i in range(5):
        x, t = (xpv.asarray(values((2, 3, 8), i + k), "float32") for k in (0, 9))
        losses = [to_numpy(step(x, t)) for step in steps]
        assert_close(losses[1], losses[0], 1e-6)
    for name, a in nets[0].arrays.items():
        assert_close(nets[1].arrays[name], to_numpy(a), 1e-5, name)
        if name.endswith("count"):
            assert int(to_numpy(a)[0]) == 5


def test_groups_are_heads_that_are_repeated(xpv):
    grouped = layer_with(n_kv_heads=2)
    wide = {
        name: np.repeat(a.reshape(*a.shape[:-1], 2, 2), 2, axis=-2).reshape(*a.shape[:-1], 8)
        if name[1] in "kv" else a
        for name, a in grouped.params.items()
    }  # fmt: skip
    plain = xl.MultiHeadAttention(**wide, n_heads=4)
    plain.to(like=xpv.asarray([0.0], "float32"))
    x = xpv.asarray(values((2, 3, 8)), "float32")
    assert_close(grouped.predict(x), to_numpy(plain.predict(x)), 1e-6)


def test_with_as_many_heads_of_keys_all_is_as_before(xpv):
    x = xpv.asarray(values((2, 3, 8)), "float32")
    assert_same_bits(layer_with(n_kv_heads=4).predict(x), layer_with().predict(x))


class TestRotary:
    def test_scores_depend_on_distances(self, xpv):
        """Turned queries and keys have the product of those that are as far apart."""
        q, k = (np.broadcast_to(values((1, 1, 6), s), (1, 9, 6)) for s in (0, 1))
        layer = xl.RotaryEmbedding(50.0)
        q, k = (to_numpy(layer.predict(xpv.asarray(a, "float32")))[0] for a in (q, k))
        scores = q @ k.T
        assert_close(scores[3:, 3:], scores[:-3, :-3], 1e-6)
        assert not np.allclose(scores[1:, :-1], scores[:-1, :-1])

    def test_the_first_position_stays_and_norms_do(self, xpv):
        x = values((2, 3, 5, 4)).astype("float32")  # with heads
        y = to_numpy(xl.RotaryEmbedding().forward(xpv.asarray(x)))
        assert_same_bits(y[..., 0, :], x[..., 0, :])
        assert_close(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), 1e-6)
        assert_close(y, ref.rotary(x.astype("float64"), 10000.0), 1e-6)

    def test_interleaved_pairs_are_another_order_of_columns(self):
        """As the docstring says: even columns before odd ones."""
        x, order = values((1, 5, 6)), [0, 2, 4, 1, 3, 5]
        angles = np.arange(5)[:, None] * 100.0 ** (-np.arange(3) / 3)
        turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        y = xl.RotaryEmbedding(100.0).forward(x[..., order])
        assert_close(y, np.concatenate([turned.real, turned.imag], axis=-1), 1e-12)

    def test_16_bits_are_turned_by_exact_angles(self, xpv):
        for dtype in xpv.floats:
            if "16" not in dtype:
                continue
            x = xpv.asarray(np.ones((1, 3000, 2)), dtype)
            y = to_numpy(xl.RotaryEmbedding().forward(x)).astype("float64")[0, -1]
            assert_close(y, ref.rotary(np.ones((1, 3000, 2)), 10000.0)[0, -1], 1e-2)

    @pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 3, 5)])
    def test_shapes(self, shape):
        with pytest.raises(ValueError, match=r"^RotaryEmbedding: x has shape .* an even size\.$"):
            xl.RotaryEmbedding().forward(np.ones(shape, "float32"))

    def test_a_bias_of_turned_keys_is_learned(self, xpv):
        x = xpv.asarray(values((2, 3, 8)), "float32")
        for theta in (None, 10.0):
            layer = layer_with(rope_theta=theta)
            layer.backward(layer.forward(x))
            assert to_numpy(layer.dbk).any() == (theta is not None)


class TestDropout:
    def test_weights_are_dropped_by_the_masks_of_dropout(self, xpv):
        """With values that are one-hot the output is the weights."""
        eye, zero = np.eye(4, dtype="float32"), np.zeros(4, "float32")
        arrays = [eye, zero] * 4
        layer = xl.MultiHeadAttention(
            *(xpv.asarray(a) for a in arrays), n_heads=1, dropout=0.5, seed=2
        )
        x = xpv.asarray(np.eye(4)[None], "float32")
        a = to_numpy(layer.predict(x))
        for count in range(2):
            mask = ref.keep((1, 1, 4, 4), 0.5, 2, count)[0]
            assert_close(layer.forward(x), 2 * a * mask, 1e-6)

    def test_all_or_nothing(self, xpv):
        x = xpv.asarray(values((2, 3, 8)), "float32")
        layer = layer_with(dropout=1.0)
        assert not to_numpy(layer.forward(x)).any()
        assert not to_numpy(layer.backward(x)).any()
        assert_same_bits(layer.predict(x), layer_with().predict(x))
        assert not layer_with(dropout=0).buffers

    def test_a_saved_layer_goes_on(self, xpv, tmp_path):
        x = xpv.asarray(values((2, 3, 8)), "float32")
        layer, other = layer_with(dropout=0.5), layer_with(dropout=0.5)
        layer.forward(x)
        xl.save(tmp_path / "net.safetensors", layer)
        other.predict(x)
        xl.load(tmp_path / "net.safetensors", other)
        assert_same_bits(other.forward(x), layer.forward(x))

    def test_recomputed_it_is_the_same(self, xpv):
        x = xpv.asarray(values((2, 3, 8)), "float32")
        results = []
        for kind in (xl.Sequential, xl.Recompute):
            net = kind(layer_with(dropout=0.5), layer_with(dropout=0.5, seed=1))
            for _ in range(2):
                y = net.forward(x)
                dx = net.backward(x)
            results.append({"y": y, "dx": dx, **net.grads, **net.buffers})
        assert_same_arrays(results[1], results[0])


class TestArguments:
    @pytest.mark.parametrize("n", [0, -1, 3, 8])
    def test_groups_that_do_not_divide(self, n):
        with pytest.raises(ValueError, match=rf"n_kv_heads is {n}; expected a divisor of the 4"):
            layer_with(n_kv_heads=n)

    def test_some_biases(self):
        arrays = dict(layer_with().params)
        layer = xl.MultiHeadAttention(**arrays | dict.fromkeys(["bq", "bk", "bv", "bo"]), n_heads=4)
        assert list(layer.params) == ["Wq", "Wk", "Wv", "Wo"]
        with pytest.raises(ValueError, match=r"bq and bo missing; expected all or none\."):
            xl.MultiHeadAttention(**arrays | dict.fromkeys(["bq", "bo"]), n_heads=4)

    def test_heads_without_halves(self):
        with pytest.raises(ValueError, match="heads of size 3 have no halves, which rope_theta"):
            xl.MultiHeadAttention.init(6, 2, rope_theta=10.0)

    def test_arrays_that_are_not_those_of_the_groups(self):
        arrays = dict(layer_with().params)
        with pytest.raises(ValueError, match=r"Wk has shape \(8, 8\); expected \(8, 4\)\."):
            xl.MultiHeadAttention(**arrays, n_heads=4, n_kv_heads=2)

    def test_code(self):
        options = "causal=True, n_kv_heads=2, rope_theta=20.0, dropout=0.3, seed=1, bias=False"
        code = f"MultiHeadAttention.init(8, 4, {options})"
        assert repr(eval(f"xl.{code}")) == code


class TestGatedMlp:
    @pytest.mark.parametrize("activation", [xl.Gelu, xl.Sigmoid, lambda: xl.Gelu("none")])
    def test_activations(self, activation):
        layer = xl.GatedMlp.init(4, 6, activation=activation, bias=True, rng=0)
        xl.check_gradients(layer, values((2, 3, 4)))
        assert list(layer.params) == ["gate.W", "gate.b", "up.W", "up.b", "down.W", "down.b"]

    def test_dropout_inside_advances(self, xpv):
        parts = [xl.Affine.init(4, n, flatten=False, rng=n) for n in (6, 6)]
        gate = xl.Sequential(parts[0], xl.Dropout(0.5))
        net = xl.GatedMlp(gate, parts[1], xl.Affine.init(6, 4, flatten=False, rng=0))
        x = xpv.asarray(values((2, 3, 4)), "float32")
        first, second = (to_numpy(net.forward(x)) for _ in range(2))
        assert (first != second).any()
        assert int(to_numpy(net.buffers["gate.1.count"])[0]) == 2
        assert_same_bits(net.predict(x), net(x))

    def test_widths_that_differ(self):
        affine = [xl.Affine.init(4, n, rng=0) for n in (6, 5, 4)]
        with pytest.raises(
            ValueError, match=r"^GatedMlp: gate and up have outputs of shapes \(2, 6"
        ):
            xl.GatedMlp(*affine).forward(np.ones((2, 4), "float32"))

    def test_an_activation_that_is_none(self):
        with pytest.raises(TypeError, match=r"GatedMlp: activation is 'relu'; expected a callable"):
            xl.GatedMlp.init(4, 6, activation="relu")
