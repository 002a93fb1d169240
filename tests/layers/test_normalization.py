"""Normalization and dropout: what the table does not say."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, assert_same_arrays, assert_same_bits, values
from references import keep

import xplayers as xl
from xplayers.arrays.namespaces import dtype_name
from xplayers.arrays.transfer import to_numpy


class TestBatchNormalization:
    @pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5, 2)])
    def test_running_statistics_are_those_of_the_batches(self, xpv, shape):
        layer = xl.BatchNormalization.init(3, momentum=0.75)
        mean, var = np.zeros(3), np.ones(3)
        axes = tuple(a for a in range(len(shape)) if a != 1)
        for seed in range(3):
            x = 5.0 + values(shape, seed)
            layer.forward(xpv.asarray(x, "float32"))
            mean = 0.75 * mean + 0.25 * x.mean(axis=axes)
            var = 0.75 * var + 0.25 * x.var(axis=axes)
        assert_close(layer.running_mean, mean, 1e-5)
        assert_close(layer.running_var, var, 1e-5)

    def test_inference_uses_them_and_leaves_them(self, xpv):
        layer, x = xl.BatchNormalization.init(3), xpv.asarray(values((8, 3)), "float32")
        for _ in range(3):
            layer.forward(x)
        before = {k: to_numpy(a).copy() for k, a in layer.buffers.items()}
        y = layer.predict(x)
        expected = (to_numpy(x) - before["running_mean"]) / np.sqrt(before["running_var"] + 1e-5)
        assert_close(y, expected, 1e-5)
        assert_same_arrays(layer.buffers, before)

    def test_after_many_batches_both_verbs_agree(self):
        layer, x = xl.BatchNormalization.init(3), 3.0 + values((500, 3)).astype("float32")
        for _ in range(200):
            y = layer.forward(x)
            layer.zero_grads()
        assert_close(layer.predict(x), y, 1e-4)

    def test_a_large_mean_costs_no_digits(self):
        """The mean of squares minus the square of the mean would have none left."""
        x = (1000.0 + values((4096, 1), scale=1.0)).astype("float32")
        layer = xl.BatchNormalization.init(1)
        y = layer.forward(x)
        exact = x.astype("float64")
        expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
        assert_close(y, expected, 1e-4)

    def test_an_empty_batch_leaves_the_statistics(self, xpv):
        layer = xl.BatchNormalization.init(3)
        layer.forward(xpv.asarray(values((8, 3)), "float32"))
        before = to_numpy(layer.running_mean).copy()
        layer.forward(xpv.asarray(np.zeros((0, 3)), "float32"))
        assert_same_bits(layer.running_mean, before)

    def test_sixteen_bits_do_not_overflow(self, xpv):
        if "float16" not in xpv.floats:
            pytest.skip("no float16 here")
        x = xpv.asarray(100.0 + values((4096, 2)), "float16")  # the sum is 4e5
        y = xl.BatchNormalization.init(2).forward(x)
        assert_at_home(y, x)
        assert np.isfinite(to_numpy(y)).all()
        assert abs(float(to_numpy(y).astype("float64").std()) - 1) < 0.05

    def test_the_step_moves_the_statistics(self, xpv):
        net = xl.Sequential(xl.Affine.init(4, 3, rng=0), xl.BatchNormalization.init(3))
        step = xl.TrainStep(net, xl.MeanSquaredError(), xl.SGD())
        x = xpv.asarray(values((8, 4)), "float32")
        step(x, xpv.asarray(np.zeros((8, 3)), "float32"))
        assert to_numpy(net.buffers["1.running_mean"]).any()

    def test_mistakes(self):
        with pytest.raises(
            ValueError, match=r"BatchNormalization\(3\): x has shape \(2, 4\); expec"
        ):
            xl.BatchNormalization.init(3).forward(np.ones((2, 4), "float32"))
        with pytest.raises(ValueError, match=r"gamma has shape \(1, 3\); expected \(n_features,\)"):
            xl.BatchNormalization(np.ones((1, 3)), np.ones((1, 3)))
        with pytest.raises(
            ValueError, match=r"beta is float64 of shape \(2,\); expected float64 of"
        ):
            xl.BatchNormalization(np.ones(3), np.ones(2))
        with pytest.raises(ValueError, match="momentum is 1.5; expected 0 to 1"):
            xl.BatchNormalization.init(3, momentum=1.5)
        for momentum in (0.0, 1.0):
            assert xl.BatchNormalization.init(3, momentum=momentum).momentum == momentum


@pytest.mark.parametrize(
    "code",
    [
        "BatchNormalization.init(3)",
        "BatchNormalization.init(3, momentum=0.5, eps=0.1)",
        "LayerNormalization.init(2, 3)",
        "LayerNormalization.init(4, eps=0.1)",
        "GroupNormalization.init(6, 2)",
        "GroupNormalization.init(6, 3, eps=0.1)",
        "RmsNormalization.init(2, 3)",
        "RmsNormalization.init(4, eps=0.1)",
        "Dropout()",
        "Dropout(rate=0.25, seed=3)",
        "Parallel(\n    Relu(),\n)",
        "Parallel(\n    Relu(),\n    combine='concatenate',\n    axis=2,\n)",
        "Reshape(2, -1)",
        "Transpose(2, 1)",
    ],
)
def test_repr_says_everything(code):
    assert repr(eval(code, vars(xl).copy())) == code


class TestOthers:
    def test_groups_of_features_without_places(self):
        x = values((4, 6))
        y = xl.GroupNormalization.init(6, 2, dtype="float64").forward(x)
        g = x.reshape(4, 2, 3)
        expected = (g - g.mean(2, keepdims=True)) / np.sqrt(g.var(2, keepdims=True) + 1e-5)
        assert_close(y, expected.reshape(4, 6), 1e-12)

    def test_mistakes(self):
        x = np.ones((2, 4, 6), "float32")
        with pytest.raises(
            ValueError, match=r"LayerNormalization\(5\): x has shape \(2, 4, 6\); ex"
        ):
            xl.LayerNormalization.init(5).forward(x)
        with pytest.raises(ValueError, match=r"LayerNormalization\(4, 6\): x has shape \(4, 6\);"):
            xl.LayerNormalization.init(4, 6).forward(x[0])
        with pytest.raises(ValueError, match=r"RmsNormalization\(4\): x has shape .*\(\.\.\., 4\)"):
            xl.RmsNormalization.init(4).forward(x)
        with pytest.raises(ValueError, match="3 groups do not divide 4 channels"):
            xl.GroupNormalization.init(4, 3)
        with pytest.raises(
            ValueError, match=r"GroupNormalization\(6, 2\): x has shape \(2, 4, 6\)"
        ):
            xl.GroupNormalization.init(6, 2).forward(x)

    def test_one_group_for_each_channel_is_instance_normalization(self):
        x = values((2, 3, 5))
        y = xl.GroupNormalization.init(3, 3, dtype="float64").forward(x)
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        assert_close(y, expected, 1e-12)


class TestDropout:
    def test_the_masks_are_the_same_on_every_library(self, xpv):
        x = xpv.asarray(np.ones((40, 30)), "float32")
        layer = xl.Dropout(0.4, seed=123_456_789)
        for count in range(3):
            kept = to_numpy(layer.forward(x)) != 0
            assert np.array_equal(kept, keep((40, 30), 0.4, 123_456_789, count))

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_rate_and_mean(self, rate):
        n = 200_000
        y = xl.Dropout(rate, seed=3).forward(np.ones((n,)))
        kept = (y != 0).mean()
        assert abs(kept - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / n)
        assert np.allclose(y[y != 0], 1 / (1 - rate))

    def test_masks_of_steps_seeds_and_places_are_not_correlated(self):
        x, n = np.ones(100_000), 100_000
        one, two = xl.Dropout(0.5, seed=1), xl.Dropout(0.5, seed=2)
        masks = [one.forward(x) / 2, one.forward(x) / 2, two.forward(x) / 2]
        masks.append(np.roll(masks[0], 1))
        for i in range(4):
            for j in range(i):
                assert abs(np.corrcoef(masks[i], masks[j])[0, 1]) < 5 / np.sqrt(n)

    def test_backward_goes_through_the_same_places(self, xpv):
        layer = xl.Dropout(0.5, seed=4)
        x = xpv.asarray(np.ones((10, 10)), "float32")
        y = layer.forward(x)
        assert_same_bits(layer.backward(x), y)

    def test_rates_zero_and_one(self, xpv):
        x = xpv.asarray(values((4, 5)), "float32")
        assert_same_bits(xl.Dropout(0.0).forward(x), x)
        layer = xl.Dropout(1.0)
        assert not to_numpy(layer.forward(x)).any()
        assert not to_numpy(layer.backward(x)).any()

    def test_inference_changes_nothing_and_counts_nothing(self, xpv):
        layer, x = xl.Dropout(0.5), xpv.asarray(values((4, 5)), "float32")
        assert_same_bits(layer.predict(x), x)
        assert to_numpy(layer.count).tolist() == [0]
        layer.forward(x)
        assert to_numpy(layer.count).tolist() == [1]

    def test_a_layer_at_two_places_draws_twice(self):
        drop = xl.Dropout(0.5, seed=1)
        net, x = xl.Sequential(drop, drop), np.ones(1000)
        y = net.forward(x)
        assert 0.2 < (y != 0).mean() < 0.3, "the masks of the two uses differ"
        assert drop.count.tolist() == [2]

    @pytest.mark.only("jax")
    def test_a_compiled_step_draws_new_masks(self, xpv):
        drop = xl.Dropout(0.5)
        net = xl.Sequential(xl.Affine.init(4, 64, rng=0), drop, xl.Affine.init(64, 1, rng=1))
        step = xl.TrainStep(net, xl.MeanSquaredError(), xl.SGD(lr=0.0))
        x, t = xpv.asarray(values((8, 4)), "float32"), xpv.asarray(np.zeros((8, 1)), "float32")
        found = {float(step(x, t)) for _ in range(4)}
        assert len(found) == 4
        assert to_numpy(drop.count).tolist() == [4]

    def test_mistakes(self, xpv):
        with pytest.raises(ValueError, match="Dropout: rate is 1.5; expected 0 to 1"):
            xl.Dropout(1.5)
        if xpv.xp is not np:
            layer = xl.Dropout(0.5)
            layer.forward(xpv.asarray(values((2, 2)), "float32"))
            with pytest.raises(
                TypeError, match=r"Dropout: count is .*x is a numpy.*layer\.to\(like"
            ):
                layer.forward(np.ones((2, 2), "float32"))


class TestCombinators:
    def test_recompute_keeps_the_input_alone_and_gives_the_same(self):
        parts = [
            xl.Affine.init(6, 50, rng=0),
            xl.Dropout(0.5, seed=1),
            xl.Affine.init(50, 2, rng=1),
        ]
        x, dy = values((4, 6)).astype("float32"), values((4, 2), 1).astype("float32")
        results = []
        for kind in (xl.Sequential, xl.Recompute):
            parts[1].count[:] = 0
            net = kind(*parts)
            y = net.forward(x)
            results.append((y, net.backward(dy), dict(net.grads), int(parts[1].count[0])))
        (y, dx, grads, count), (y2, dx2, grads2, count2) = results
        assert_same_bits(y, y2)
        assert_same_bits(dx, dx2)
        assert count == count2 == 1
        assert_same_arrays(grads, grads2)
        _, cache = xl.Recompute(*parts).apply(xl.Recompute(*parts).arrays, x)
        assert cache[0] is x

    @pytest.mark.parametrize(
        "around", [xl.Sequential, xl.Residual, xl.Recompute, xl.Parallel, xl.Map]
    )
    def test_statistics_move_inside_of_every_container(self, around):
        alone, inside = xl.BatchNormalization.init(3), xl.BatchNormalization.init(3)
        net, x = around(inside, xl.Tanh()), values((4, 3)).astype("float32")
        shape = (2, 2, 3) if around is xl.Map else (4, 3)
        for _ in range(2):
            alone.forward(x)
            net.forward(x.reshape(shape))
        for name, a in alone.buffers.items():
            assert_same_bits(net.buffers[f"0.{name}"], a)
        expected = np.tanh(alone.predict(x))
        if around is xl.Parallel:
            expected = alone.predict(x) + np.tanh(x)
        elif around is xl.Residual:
            expected = expected + x
        assert_close(net.predict(x.reshape(shape)), expected.reshape(shape), 1e-6)

    def test_layers_side_by_side_each_move_theirs(self):
        drop = xl.Dropout(0.5)
        norm, other = xl.BatchNormalization.init(3), xl.BatchNormalization.init(3, momentum=0.5)
        xl.Parallel(norm, other, drop, drop).forward(1.0 + values((4, 3)).astype("float32"))
        assert drop.count.tolist() == [2]
        assert norm.running_mean.all()
        assert_close(other.running_mean, 5.0 * norm.running_mean, 1e-6)

    def test_what_a_sample_may_be_reshaped_to(self):
        assert xl.Reshape(1).forward(values((4,))).shape == (4, 1)
        assert xl.Reshape(-1, 2)(values((3, 6))).shape == (3, 3, 2)
        assert xl.Flatten().forward(values((4,))).shape == (4, 1)
        with pytest.raises(ValueError, match=r"Reshape: shape is \(-2, 3\)"):
            xl.Reshape(-2, 3)
        for layer in (xl.Reshape(3), xl.Reshape(-1, 4), xl.Reshape(-1, 0)):
            with pytest.raises(ValueError, match=r"x has shape \(2, 6\); a sample is 6 values"):
                layer.forward(values((2, 6)))
        with pytest.raises(ValueError, match=r"Reshape\(1\): x has shape \(\)"):
            xl.Reshape(1).forward(np.asarray(1.0))

    def test_mistakes(self):
        x = np.ones((2, 4), "float32")
        with pytest.raises(
            ValueError, match=r"Residual: the layers map shape \(2, 4\) to \(2, 3\)"
        ):
            xl.Residual(xl.Affine.init(4, 3)).forward(x)
        with pytest.raises(
            ValueError, match=r"Parallel: the outputs have shapes \[\(2, 3\), \(2, 4"
        ):
            xl.Parallel(xl.Affine.init(4, 3), xl.Relu()).forward(x)
        with pytest.raises(
            ValueError, match="Parallel: combine is 'mean'; expected 'sum' or 'conc"
        ):
            xl.Parallel(xl.Relu(), combine="mean")
        with pytest.raises(ValueError, match="Parallel: there are no layers"):
            xl.Parallel()
        with pytest.raises(
            ValueError, match=r"Map: x has shape \(2, 4\); expected \(n, time, \.\.\."
        ):
            xl.Map(xl.Relu()).forward(x)
        with pytest.raises(
            ValueError, match=r"Reshape\(3\): x has shape \(2, 4\); a sample is 4 val"
        ):
            xl.Reshape(3).forward(x)
        with pytest.raises(ValueError, match=r"Reshape: shape is \(-1, -1\)"):
            xl.Reshape(-1, -1)
        with pytest.raises(ValueError, match=r"Transpose: axes are \(0, 1\); expected a permu"):
            xl.Transpose(0, 1)
        with pytest.raises(
            ValueError, match=r"Transpose\(2, 1\): x has shape \(2, 4\); expected 3"
        ):
            xl.Transpose(2, 1).forward(x)


def test_statistics_stay_in_thirty_two_bits(xpv):
    if "float16" not in xpv.floats:
        pytest.skip("no float16 here")
    layer = xl.BatchNormalization.init(3)
    layer.forward(xpv.asarray(values((50, 3), scale=1000.0), "float16"))
    assert dtype_name(layer.running_var.dtype) == "float32"
    assert np.isfinite(to_numpy(layer.running_var)).all()
    assert dtype_name(layer.to(dtype="float16").running_var.dtype) == "float32"
