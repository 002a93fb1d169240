"""The shell of layers: pending passes, live mappings, placement, sharing, containers."""

from __future__ import annotations

import concurrent.futures
import inspect

import numpy as np
import pytest
from helpers import assert_at_home, assert_close, assert_same_bits, values

import xplayers as xl
from xplayers._arrays import namespace, to_numpy


class TestPending:
    def test_backward_before_forward_says_what_to_call(self, xpv):
        dy = xpv.asarray(np.ones((2, 3)), "float32")
        with pytest.raises(
            RuntimeError, match=r"Relu\.backward: no forward to undo\. Call forward"
        ):
            xl.Relu().backward(dy)

    def test_one_forward_allows_one_backward(self):
        layer = xl.Relu()
        layer.backward(layer.forward(np.ones((2, 3))))
        with pytest.raises(RuntimeError, match="each forward allows one backward"):
            layer.backward(np.ones((2, 3)))

    def test_evaluating_with_forward_does_not_leak(self):
        layer, x = xl.Affine.init(3, 2, rng=0), np.ones((4, 3), "float32")
        for _ in range(layer.pending_limit):
            layer.forward(x)
        with pytest.raises(RuntimeError, match=r"Affine\(3 -> 2\)\.forward: 64 .*call predict"):
            layer.forward(x)
        layer.zero_grads()
        layer.backward(layer.forward(x))

    def test_a_failed_backward_keeps_the_pass(self):
        layer = xl.Relu()
        y = layer.forward(np.ones((2, 3)))
        with pytest.raises(ValueError, match="shape"):
            layer.backward(np.ones((3, 2)))
        assert layer.backward(y).shape == (2, 3)

    def test_a_new_pass_starts_gradients_afresh(self):
        layer, x, dy = xl.Affine(np.ones((2, 2)), np.ones(2)), np.ones((1, 2)), np.ones((1, 2))
        for _ in range(3):
            layer.forward(x)
            layer.backward(dy)
            assert layer.dW.tolist() == [[1, 1], [1, 1]]

    def test_an_evaluation_with_forward_in_between_does_not_add_up(self):
        """The book calls forward to evaluate; the next pass must not add to old gradients."""
        layer, x, dy = xl.Affine(np.ones((2, 2)), np.ones(2)), np.ones((1, 2)), np.ones((1, 2))
        for _ in range(3):
            layer.forward(x)  # evaluation: never undone
            layer.forward(x)
            layer.backward(dy)
            assert layer.dW.tolist() == [[1, 1], [1, 1]]

    def test_containers_that_share_a_layer_add_up_in_one_pass(self):
        shared = xl.Affine(np.asarray([[2.0]]), np.asarray([0.0]))
        one, two = xl.Sequential(shared), xl.Sequential(shared, xl.Relu())
        a, b = one.forward(np.asarray([[3.0]])), two.forward(np.asarray([[5.0]]))
        two.backward(np.ones_like(b))
        one.backward(np.ones_like(a))
        assert shared.dW.tolist() == [[8.0]]

    def test_zero_grads_forgets_both(self):
        layer = xl.Affine.init(2, 2, rng=0)
        layer.backward(layer.forward(np.ones((1, 2), "float32")))
        layer.forward(np.ones((1, 2), "float32"))
        layer.zero_grads()
        assert not layer.grads
        assert layer.dW is None
        with pytest.raises(RuntimeError, match="no forward"):
            layer.backward(np.ones((1, 2), "float32"))

    def test_predict_is_safe_from_threads(self):
        net, x = xl.mlp([5, 50, 3], rng=0), values((40, 5)).astype("float32")
        expected = net(x)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for y in pool.map(lambda _: net.predict(x), range(64)):
                assert_same_bits(y, expected)
        assert not net._pending


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


class TestPlacement:
    def test_initial_values_follow_the_first_input(self, xpv):
        for dtype in xpv.floats:
            net = xl.mlp([4, 3, 2], rng=0)
            x = xpv.asarray(values((5, 4)), dtype)
            y = net.forward(x)
            assert_at_home(y, x)
            for p in net.params.values():
                assert_at_home(p, x)

    def test_the_same_seed_gives_the_same_bits(self, xpv):
        net = xl.mlp([4, 3, 2], rng=7)
        host = {k: v.copy() for k, v in net.params.items()}
        net.predict(xpv.asarray(values((1, 4)), "float32"))
        for name, p in net.params.items():
            assert_same_bits(p, host[name], name)

    def test_after_the_first_input_a_mismatch_raises(self):
        net = xl.mlp([4, 2], rng=0)
        net.predict(np.ones((1, 4), "float32"))
        with pytest.raises(TypeError, match=r"x is float64, 0\.W is float32.*layer\.to\(like=x\)"):
            net.predict(np.ones((1, 4)))

    def test_the_caller_s_arrays_are_never_moved(self, xpv):
        if xpv.backend in ("numpy", "readonly"):
            pytest.skip("needs another library than NumPy")
        layer = xl.Affine(np.ones((4, 2), "float32"), np.ones(2, "float32"))
        x = xpv.asarray(np.ones((1, 4)), "float32")
        message = r"Affine\(4 -> 2\): x is a .* array on .*, W is a numpy array on the CPU"
        with pytest.raises(TypeError, match=message):
            layer.forward(x)
        assert_at_home(layer.to(like=x).forward(x), x)

    def test_to_leaves_integer_buffers_their_dtype(self):
        class Counting(xl.Layer):
            n = xl.Buffer()

            def __init__(self):
                self.n = np.asarray(3)

        layer = Counting().to(dtype="float32")
        assert layer.n.dtype == "int64"

    def test_to_moves_floating_buffers_with_the_parameters(self):
        layer = xl.BatchNormalization.init(3)
        for dtype, statistics in [("float64",) * 2, ("float16", "float32"), ("float32",) * 2]:
            layer.to(dtype=dtype)
            assert layer.gamma.dtype == dtype
            assert layer.running_var.dtype == statistics
            assert layer.to(like=layer.gamma).running_mean.dtype == statistics
        layer.to(like=layer.gamma, dtype="float16")
        assert layer.gamma.dtype == "float16"
        assert layer.running_mean.dtype == "float32"

    def test_to_forgets_gradients_and_passes(self):
        layer = xl.Affine.init(2, 2, rng=0)
        layer.backward(layer.forward(np.ones((1, 2), "float32")))
        layer.forward(np.ones((1, 2), "float32"))
        layer.to(dtype="float64")
        assert not layer.grads
        with pytest.raises(RuntimeError, match="no forward"):
            layer.backward(np.ones((1, 2)))


INITS = {
    "Affine": lambda **o: xl.Affine.init(4, 3, **o),
    "Convolution": lambda **o: xl.Convolution.init(4, 6, 3, **o),
    "ConvolutionTranspose": lambda **o: xl.ConvolutionTranspose.init(4, 6, 3, **o),
    "BatchNormalization": lambda **o: xl.BatchNormalization.init(3, **o),
    "LayerNormalization": lambda **o: xl.LayerNormalization.init(2, 3, **o),
    "GroupNormalization": lambda **o: xl.GroupNormalization.init(4, 2, **o),
    "RmsNormalization": lambda **o: xl.RmsNormalization.init(2, 3, **o),
    "Rnn": lambda **o: xl.Rnn.init(4, 3, **o),
    "Lstm": lambda **o: xl.Lstm.init(4, 3, bidirectional=True, **o),
    "Gru": lambda **o: xl.Gru.init(4, 3, **o),
    "MultiHeadAttention": lambda **o: xl.MultiHeadAttention.init(4, 2, **o),
    "Embedding": lambda **o: xl.Embedding.init(5, 3, **o),
    "PositionalEmbedding": lambda **o: xl.PositionalEmbedding.init(5, 3, **o),
    "mlp": lambda **o: xl.mlp([4, 3, 2], **o),
}
DRAWN = sorted(INITS.keys() - {n for n in INITS if "Normalization" in n})


class TestInit:
    def test_the_table_has_every_init(self):
        layers = {n for n, v in vars(xl).items() if inspect.isclass(v) and issubclass(v, xl.Layer)}
        assert {n for n in layers if "init" in dir(getattr(xl, n))} <= INITS.keys()

    @pytest.mark.parametrize("name", INITS)
    def test_like_places_at_once(self, name, xpv):
        like = xpv.asarray([0.0], xpv.floats[-1])
        for a in INITS[name](like=like).params.values():
            assert_at_home(a, like)

    @pytest.mark.parametrize("name", INITS)
    def test_the_dtype_is_that_of_the_parameters(self, name):
        for options in ({}, {"dtype": "float16"}, {"dtype": "float64"}):
            for a in INITS[name](**options).params.values():
                assert a.dtype == options.get("dtype", "float32")

    @pytest.mark.parametrize("name", DRAWN)
    def test_a_seed_or_a_generator_draws_the_values(self, name):
        one, same, other = (
            INITS[name](rng=r) for r in (7, np.random.default_rng(7), np.random.default_rng(8))
        )
        for key, a in one.params.items():
            assert_same_bits(a, same.params[key], key)
            if a.any() and not np.isin(a, (0, 1)).all():
                assert not np.array_equal(a, other.params[key]), key

    @pytest.mark.parametrize("name", sorted(set(DRAWN) - {"mlp"}))
    def test_the_initializer_makes_the_weights(self, name):
        shapes = []

        def sevens(shape, rng):
            assert isinstance(rng, int | np.random.Generator)
            shapes.append(shape)
            return np.full(shape, 7.0)

        layer = INITS[name](rng=3, initializer=sevens)
        made = [a for k, a in layer.params.items() if k[0] == "W" and not k.startswith("Wh")]
        assert all((a == 7.0).all() for a in made)
        assert sum(map(np.prod, shapes)) == sum(a.size for a in made)
        for key, a in layer.params.items():
            if key[0] == "b" and name != "Lstm":
                assert not a.any(), key


def ones(*shape):
    return np.ones(shape, "float32")


CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
TRANSPOSE = {"stride": 1, "padding": 0, "output_padding": 0}
SOFTMAX = {"class_weights": None, "ignore_index": None, "label_smoothing": 0.0}
DEFAULTS = [
    (xl.LeakyRelu, {"alpha": 0.01}),
    (xl.Elu, {"alpha": 1.0}),
    (xl.Gelu, {"approximate": "tanh"}),
    (xl.Softmax, {"axis": -1}),
    (lambda: xl.Affine(ones(1, 1), ones(1)), {"flatten": True}),
    (lambda: xl.Affine.init(1, 1), {"flatten": True}),
    (xl.Dropout, {"rate": 0.5, "seed": 0}),
    (lambda: xl.BatchNormalization(ones(1), ones(1)), {"momentum": 0.9, "eps": 1e-5}),
    (lambda: xl.BatchNormalization.init(1), {"momentum": 0.9, "eps": 1e-5}),
    (lambda: xl.LayerNormalization(ones(1), ones(1)), {"eps": 1e-5}),
    (lambda: xl.LayerNormalization.init(1), {"eps": 1e-5}),
    (lambda: xl.GroupNormalization(ones(1), ones(1), 1), {"eps": 1e-5}),
    (lambda: xl.GroupNormalization.init(1, 1), {"eps": 1e-5}),
    (lambda: xl.RmsNormalization(ones(1)), {"eps": 1e-6}),
    (lambda: xl.RmsNormalization.init(1), {"eps": 1e-6}),
    (lambda: xl.Convolution(ones(1, 1, 1)), {**CONVOLUTION, "b": None}),
    (lambda: xl.Convolution.init(1, 1, (1,)), {**CONVOLUTION, "b": [0.0]}),
    (lambda: xl.ConvolutionTranspose(ones(1, 1, 1)), {**TRANSPOSE, "b": None}),
    (lambda: xl.ConvolutionTranspose.init(1, 1, (1,)), {**TRANSPOSE, "b": [0.0]}),
    (lambda: xl.MaxPooling(2), {"stride": None, "padding": 0}),
    (lambda: xl.AveragePooling(2), {"stride": None, "padding": 0}),
    (lambda: xl.Parallel(xl.Relu()), {"combine": "sum", "axis": 1}),
    (lambda: xl.Rnn.init(1, 1), {"bidirectional": False}),
    (lambda: xl.Lstm.init(1, 1), {"bidirectional": False}),
    (lambda: xl.Gru.init(1, 1), {"bidirectional": False, "reset_after": True}),
    (lambda: xl.MultiHeadAttention.init(1, 1), {"causal": False}),
    (lambda: xl.MultiHeadAttention(*[ones(1, 1), ones(1)] * 4, n_heads=1), {"causal": False}),
    (xl.SoftmaxWithLoss, {**SOFTMAX, "reduction": "mean"}),
    (xl.SigmoidWithLoss, {"pos_weight": None, "reduction": "mean"}),
    (xl.MeanSquaredError, {"reduction": "mean"}),
    (xl.MeanAbsoluteError, {"reduction": "mean"}),
    (xl.Huber, {"delta": 1.0, "reduction": "mean"}),
]


@pytest.mark.parametrize(("make", "expected"), DEFAULTS)
def test_the_defaults_are_those_of_the_docstrings(make, expected):
    layer = make()
    for name, value in expected.items():
        assert getattr(layer, name) == value, f"{layer}: {name}"


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (xl.Affine.init(4, 3), "Affine(4 -> 3)"),
        (xl.Convolution.init(4, 6, (3, 2), groups=2), "Convolution(4 -> 6, 3x2)"),
        (xl.ConvolutionTranspose.init(4, 6, (3,)), "ConvolutionTranspose(4 -> 6, 3)"),
        (xl.MaxPooling(2), "MaxPooling(2)"),
        (xl.AveragePooling((2, 3)), "AveragePooling(2x3)"),
        (xl.BatchNormalization.init(3), "BatchNormalization(3)"),
        (xl.LayerNormalization.init(2, 3), "LayerNormalization(2, 3)"),
        (xl.GroupNormalization.init(6, 2), "GroupNormalization(6, 2)"),
        (xl.RmsNormalization.init(2, 3), "RmsNormalization(2, 3)"),
        (xl.Lstm.init(4, 3), "Lstm(4 -> 3)"),
        (xl.Gru.init(4, 3, bidirectional=True), "Gru(4 -> 3, bidirectional)"),
        (xl.MultiHeadAttention.init(4, 2), "MultiHeadAttention(4, 2 heads)"),
        (xl.MultiHeadAttention.init(4, 2, causal=True), "MultiHeadAttention(4, 2 heads, causal)"),
        (xl.Embedding.init(5, 3), "Embedding(5, 3)"),
        (xl.Reshape(2, 3), "Reshape(2, 3)"),
        (xl.Transpose(2, 1), "Transpose(2, 1)"),
        (xl.Sequential(xl.Relu()), "Sequential"),
        (xl.Huber(), "Huber"),
    ],
    ids=str,
)
def test_what_the_errors_call_a_layer(layer, name):
    assert layer._owner == name
    assert str(layer) == (repr(layer) if isinstance(layer, xl.Container) else name)


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


class TestSequential:
    def test_names_indices_and_slices(self):
        fc, act, out = xl.Affine.init(4, 3, rng=0), xl.Relu(), xl.Affine.init(3, 2, rng=1)
        net = xl.Sequential(fc, act=act, out=out)
        assert net[0] is fc
        assert net["act"] is net.act is net[1] is act
        assert net[-1] is out
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
