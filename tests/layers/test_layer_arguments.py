"""Wrong arguments of layers, containers and initializers, and the first mistakes of everyone."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from helpers import ones, values

import xplayers as xl
from xplayers import initializers
from xplayers.arrays.transfer import to_numpy

NAN, INF = float("nan"), float("inf")
RELU, SIZE = xl.Relu(), "expected an integer of at least 1"

OPTIONS = {  # what makes a layer of one argument -> its name, what it is not, what is expected
    "LeakyRelu": (lambda v: xl.LeakyRelu(v), "alpha", [NAN, INF], "a number"),
    "Elu": (lambda v: xl.Elu(v), "alpha", [NAN, INF], "a number"),
    "Gelu": (lambda v: xl.Gelu(v), "approximate", ["erf", "", True], "'tanh' or 'none'"),
    "Softmax": (lambda v: xl.Softmax(v), "axis", [0.5, NAN], "an integer"),
    "Dropout": (lambda v: xl.Dropout(v), "rate", [-0.1, 1.1, NAN, INF], "0 to 1"),
    "Dropout ": (lambda v: xl.Dropout(0.5, v), "seed", [0.5, NAN], "an integer"),
    "BatchNormalization": (
        lambda v: xl.BatchNormalization.init(4, momentum=v), "momentum", [-0.1, 1.5, NAN], "0 to 1"
    ),
    "BatchNormalization ": (
        lambda v: xl.BatchNormalization.init(4, eps=v), "eps", [-1, NAN, INF], "a number of 0 or mo"
    ),
    "LayerNormalization": (
        lambda v: xl.LayerNormalization.init(4, eps=v), "eps", [-1, NAN], "a number of 0 or more"
    ),
    "RmsNormalization": (
        lambda v: xl.RmsNormalization.init(4, eps=v), "eps", [-1, NAN], "a number of 0 or more"
    ),
    "GroupNormalization": (
        lambda v: xl.GroupNormalization.init(4, 2, eps=v), "eps", [-1, NAN], "a number of 0 or more"
    ),
    "GroupNormalization ": (
        lambda v: xl.GroupNormalization.init(8, v), "groups", [8 / 4, NAN], "an integer"
    ),
    "Parallel": (lambda v: xl.Parallel(RELU, combine=v), "combine", ["mean", 1], "'sum' or 'con"),
    "Parallel ": (lambda v: xl.Parallel(RELU, axis=v), "axis", [1.0, NAN], "an integer"),
    "MultiHeadAttention": (
        lambda v: xl.MultiHeadAttention.init(8, v), "n_heads", [2.0, NAN], "an integer"
    ),
    "MultiHeadAttention ": (
        lambda v: xl.MultiHeadAttention.init(8, 2, causal=v), "causal", [0, "no"], "True or False"
    ),
    "MultiHeadAttention  ": (
        lambda v: xl.MultiHeadAttention.init(8, 2, n_kv_heads=v), "n_kv_heads", [2.0], "an integer"
    ),
    "MultiHeadAttention   ": (
        lambda v: xl.MultiHeadAttention.init(8, 2, rope_theta=v),
        "rope_theta", [0, -1.0, NAN, INF, "10000", True], "a positive number",
    ),
    "MultiHeadAttention    ": (
        lambda v: xl.MultiHeadAttention.init(8, 2, dropout=v), "dropout", [-0.1, 1.1, NAN], "0 to 1"
    ),
    "MultiHeadAttention     ": (
        lambda v: xl.MultiHeadAttention.init(8, 2, bias=v), "bias", [1, None], "True or False"
    ),
    "RotaryEmbedding": (xl.RotaryEmbedding, "theta", [0, -1.0, NAN, INF], "a positive number"),
    "GatedMlp": (lambda v: xl.GatedMlp.init(4, 6, bias=v), "bias", [0], "True or False"),
    "Affine": (lambda v: xl.Affine.init(4, 3, flatten=v), "flatten", [1], "True or False"),
    "Affine ": (lambda v: xl.Affine.init(4, 3, bias=v), "bias", [0], "True or False"),
    "Convolution": (lambda v: xl.Convolution.init(1, 4, 3, bias=v), "bias", [0], "True or False"),
    "Gru": (lambda v: xl.Gru.init(2, 3, reset_after=v), "reset_after", [1], "True or False"),
    "Lstm": (lambda v: xl.Lstm.init(2, 3, bidirectional=v), "bidirectional", [1], "True or False"),
    "MaxPooling": (lambda v: xl.MaxPooling(v), "size", [0, -1, 2.0, NAN, (2, 0)], "an int of 1 or"),
    "AveragePooling": (
        lambda v: xl.AveragePooling(2, padding=v), "padding", [-1, 1.0, "same"], "an int"
    ),
    "Convolution  ": (
        lambda v: xl.Convolution.init(2, 4, 3, groups=v), "groups", [0, -1, 2.0, NAN], "an int of 1"
    ),
    "Convolution ": (
        lambda v: xl.Convolution.init(2, 4, 3, stride=v), "stride", [0, 1.0, NAN, "2"], "an int"
    ),
    "ConvolutionTranspose": (
        lambda v: xl.ConvolutionTranspose.init(2, 4, 3, output_padding=v), "output_padding",
        [-1, 0.0, NAN], "an int of 0 or more",
    ),
}  # fmt: skip
EVERYWHERE = ["0.1", [], np.ones(2), 1j, int, object()]


@pytest.mark.parametrize(
    ("owner", "value"), [(k, v) for k, row in OPTIONS.items() for v in [*row[2], *EVERYWHERE]]
)
def test_options(owner, value):
    make, name, _, expected = OPTIONS[owner]
    message = f"^{owner.strip()}: {name} is .*; expected (a number from )?{re.escape(expected)}"
    with pytest.raises((TypeError, ValueError), match=message):
        make(value)


SIZES = {  # what is called, and the names of its sizes
    xl.Affine.init: ("n_in", "n_out"), xl.Rnn.init: ("n_in", "n_hidden"),
    xl.Lstm.init: ("n_in", "n_hidden"), xl.Gru.init: ("n_in", "n_hidden"),
    xl.Embedding.init: ("n", "n_features"), xl.PositionalEmbedding.init: ("n", "n_features"),
    xl.BatchNormalization.init: ("n_features",), xl.LayerNormalization.init: ("shape",),
    xl.RmsNormalization.init: ("shape",),
    functools.partial(xl.Convolution.init, size=3): ("n_in", "n_out"),
    functools.partial(xl.ConvolutionTranspose.init, size=3): ("n_in", "n_out"),
    functools.partial(xl.MultiHeadAttention.init, n_heads=1): ("n_features",),
    xl.GatedMlp.init: ("n_features", "n_hidden"),
    functools.partial(xl.GroupNormalization.init, groups=1): ("n_channels",),
}  # fmt: skip


@pytest.mark.parametrize("init", SIZES)
@pytest.mark.parametrize("value", [0, -1, 2.0, 2.5, NAN, "2", None, True, [2], np.ones(2), int])
def test_sizes(init, value):
    names = SIZES[init]
    for i, name in enumerate(names):
        sizes = [value if i == k else 2 for k in range(len(names))]
        owner = getattr(init, "func", init).__self__.__name__
        with pytest.raises(
            (TypeError, ValueError), match=f"^{owner}: {name} is .*; expected .*integers?"
        ):
            init(*sizes)


@pytest.mark.parametrize("init", SIZES)
def test_sizes_of_numpy(init):
    made = init(*[np.int64(2) for _ in SIZES[init]])
    assert "np." not in repr(made)
    with pytest.raises(TypeError, match="dtype is .*; expected 'float32', 'float64' or 'float16'"):
        init(*[2 for _ in SIZES[init]], dtype=int)
    with pytest.raises(TypeError, match=r"\.to: like is a list; expected an array"):
        init(*[2 for _ in SIZES[init]], like=[1.0])


CALLS = [
    # sizes where arrays are expected
    (lambda: xl.Affine(4, 3), "Affine: W is 4; expected arrays. A layer with initial values is "
     "Affine.init(4, 3)."),
    (lambda: xl.Affine(n_in=4, n_out=3), "is Affine.init(n_in=4, n_out=3)."),
    (lambda: xl.Affine(in_features=4), "Affine: there is no in_features; expected arrays. A layer "
     "with initial values is Affine.init(n_in, n_out)."),
    (lambda: xl.Convolution(1, 4, 3), "is Convolution.init(1, 4, 3)."),
    (lambda: xl.Convolution(1, 4, 3, padding=1), "is Convolution.init(1, 4, 3, padding=1)."),
    (lambda: xl.Convolution(1, 4, 3, 1), "is Convolution.init(n_in, n_out, size)."),
    (lambda: xl.ConvolutionTranspose(1, 4, 3), "is ConvolutionTranspose.init(1, 4, 3)."),
    (lambda: xl.Rnn(3, 4), "is Rnn.init(3, 4)."), (lambda: xl.Lstm(3, 4), "is Lstm.init(3, 4)."),
    (lambda: xl.Gru(3, np.int64(4)), "is Gru.init(3, 4)."),
    (lambda: xl.BatchNormalization(4), "is BatchNormalization.init(4)."),
    (lambda: xl.LayerNormalization(4), "is LayerNormalization.init(4)."),
    (lambda: xl.LayerNormalization((4, 5)), "is LayerNormalization.init(4, 5)."),
    (lambda: xl.RmsNormalization(4), "is RmsNormalization.init(4)."),
    (lambda: xl.GroupNormalization(8, 4), "is GroupNormalization.init(8, 4)."),
    (lambda: xl.Embedding(10, 4), "is Embedding.init(10, 4)."),
    (lambda: xl.PositionalEmbedding(10, 4), "is PositionalEmbedding.init(10, 4)."),
    (lambda: xl.MultiHeadAttention(64, 8), "is MultiHeadAttention.init(64, 8)."),
    (lambda: xl.Affine([[1.0]], [1.0]), "Affine: W is a list; expected an array"),
    (lambda: xl.Affine(np.ones((4, 3)), 0), "Affine: b is a int; expected an array"),
    (lambda: xl.Affine("W", "b"), "Affine: W is a str; expected an array"),
    # sizes as one
    (lambda: xl.LayerNormalization.init((4, 5)), "Write LayerNormalization.init(4, 5)."),
    (lambda: xl.LayerNormalization.init(), "LayerNormalization: there are no sizes; expected"),
    (lambda: xl.Reshape((1, 28, 28)), "Reshape: shape is (1, 28, 28); expected separate "
     "integers. Write Reshape(1, 28, 28)."),
    (lambda: xl.Reshape(1.5), "Reshape: shape is (1.5,); expected integers of at least -1."),
    (lambda: xl.Transpose([2, 1]), "Write Transpose(2, 1)."),
    (lambda: xl.GroupNormalization.init(8, 8 / 4), "groups is 2.0; expected an integer. Use // to "
     "divide, or int(groups)."),
    (lambda: xl.GroupNormalization.init(8, 3), "3 groups do not divide 8 channels"),
    (lambda: xl.MultiHeadAttention.init(64, 7), "7 heads do not divide 64 features"),
    (lambda: xl.MaxPooling(3, stride=1, padding="same"), "stride=1, padding=size // 2"),
    # containers
    (lambda: xl.Sequential([RELU, RELU]), "Sequential: part '0' is [Relu(), Relu()]; expected a "
     "layer. Pass the layers one by one: Sequential(*layers)."),
    (lambda: xl.Sequential({"a": RELU}), "Sequential(**layers)"),
    (lambda: xl.Residual(r for r in [RELU]), "Residual(*layers)"),
    (lambda: xl.Sequential(xl.Relu), "part '0' is the class Relu; expected a layer. Call the "
     "class: Relu()."),
    (lambda: xl.Parallel(a=xl.Affine), "part 'a' is the class Affine; expected a layer. Call the "
     "class: Affine.init(n_in, n_out)."),
    (lambda: xl.Sequential(xl.SoftmaxWithLoss()), "A loss is not part of the network"),
    (lambda: xl.Map("leaky_relu"), "Map: part '0' is 'leaky_relu'; expected a layer. The layer is "
     "LeakyRelu()."),
    (lambda: xl.Sequential(xl.functional.relu), "expected a layer. The layer is Relu()."),
    (lambda: xl.Recompute(None), "Recompute: part '0' is None; expected a layer."),
    (lambda: xl.mlp(4, 3), "mlp: sizes is 4; expected a list of widths, as [784, 100, 10]. Write "
     "mlp([4, 3])."),
    (lambda: xl.mlp("4"), "mlp: sizes is '4'; expected a list of widths"),
    (lambda: xl.mlp([4, 3.0]), "mlp: sizes is [4, 3.0]; expected integers"),
    (lambda: xl.mlp([4, 3, 2], "relu"), "mlp: activation is 'relu'; expected a callable that "
     "returns a layer, as the class Relu. Pass activation=Relu."),
    (lambda: xl.mlp([4, 3], activation="relu6"), "activation is 'relu6'; expected a callable"),
    (lambda: xl.mlp([4, 3], activation=RELU), "Pass the class, Relu, or lambda: Relu()."),
    (lambda: xl.mlp([4, 3], activation=xl.functional.gelu), "Pass activation=Gelu."),
    (lambda: xl.mlp([4, 3], activation=np.tanh), "Pass activation=Tanh."),
    (lambda: xl.mlp([4, 3], activation=None), "mlp: activation is None; expected a callable"),
    (lambda: xl.mlp([4, 3], activation=lambda: 3), "expected a callable that returns a layer"),
    (lambda: xl.mlp([4, 3], rng="0"), "mlp: rng is '0'; expected an int (a seed), a numpy"),
    (lambda: xl.mlp([4, 3], dtype="float33"), "dtype is 'float33'; expected 'float32', 'float64'"),
    (lambda: xl.mlp([4, 3], dtype=">f4"), "dtype is '>f4'; expected 'float32'"),
    (lambda: xl.mlp([4, 3], dtype="longdouble"), "dtype is 'longdouble'; expected 'float32'"),
    # initial values
    (lambda: xl.Affine.init(4, 3, initializer="he"), "Affine: initializer is 'he'; expected a "
     "function of shape and rng, as he_normal."),
    (lambda: xl.Lstm.init(4, 3, initializer=lambda s, r: np.zeros(3)), "Lstm: initializer returned "
     "an array of shape (3,); expected a numpy.ndarray of shape (4, 3)."),
    (lambda: xl.Convolution.init(1, 4, 3, rng=np.random), "Convolution: rng is the module numpy"),
    (lambda: xl.Embedding.init(1, 4, rng=-1), "Embedding: rng is -1; expected an int (a seed)"),
    (lambda: initializers.he_normal(4), "he_normal: shape is 4; expected a sequence of integers"),
    (lambda: initializers.he_uniform((4, 0)), "he_uniform: shape is (4, 0); expected integers"),
    (lambda: initializers.xavier_normal((4, 3.0)), "xavier_normal: shape is (4, 3.0); expected in"),
    (lambda: initializers.xavier_uniform((3,)), "xavier_uniform: shape (3,) has no fans"),
    (lambda: initializers.lecun_normal((3, 2), "a"), "lecun_normal: rng is 'a'; expected an int"),
    (lambda: initializers.normal((3,), std=-1), "normal: std is -1; expected a number of 0 or"),
    (lambda: initializers.normal((3,), std=NAN), "normal: std is nan; expected a number of 0 or"),
    (lambda: initializers.orthogonal((3, 2), gain="1"), "orthogonal: gain is '1'; expected a num"),
    (lambda: initializers.zeros(3), "zeros: shape is 3; expected a sequence of integers"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[m[-40:] for _, m in CALLS])
def test_mistakes(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


class TestArrays:
    def test_lists_for_parameters(self, xpv):
        net = xl.mlp([4, 3], rng=0).to(like=xpv.asarray([0.0], "float32"))
        before = to_numpy(net.params["0.W"]).copy()
        for assign in (
            functools.partial(net.params.__setitem__, "0.W"),
            functools.partial(setattr, net[0], "W"),
        ):
            for value in ([[1.0] * 3] * 4, 1.0, "W", np.float64(1.0) if xpv.xp is np else 1):
                with pytest.raises((TypeError, ValueError), match="W (is a|has shape)"):
                    assign(value)
            with pytest.raises(TypeError, match="W is .*int32; expected floating-point values"):
                assign(xpv.asarray(np.ones((4, 3)), "int32"))
            words = r"(Affine|params): (0\.)?W has shape \(4, 3\); got \(3, 4\)"
            with pytest.raises(ValueError, match=words):
                assign(xpv.asarray(np.ones((3, 4)), "float32"))
        assert (to_numpy(net.params["0.W"]) == before).all()
        with pytest.raises(KeyError, match="no 0 in params; there are 0.W, 0.b"):
            net.params[0]

    @pytest.mark.parametrize(
        ("shape", "hint"),
        [
            ((60, 28, 28), "expected (n, 1, h, w). Add a channel axis: x[:, None, ...]."),
            ((1, 28, 28), "expected (n, 1, h, w). A single sample is x[None, ...]."),
            ((28, 28), "expected (n, 1, h, w)."),
            ((6, 28, 28, 1), "Channels come second: xp.permute_dims(x, (0, 3, 1, 2))."),
        ],
    )
    def test_images_of_another_order(self, xpv, shape, hint):
        layer = xl.Convolution.init(1, 4, 3)
        with pytest.raises(ValueError, match=re.escape(hint)):
            layer.forward(xpv.asarray(np.ones(shape), "float32"))

    @pytest.mark.parametrize(
        ("value", "hint"),
        [
            ("cuda", "Write to(xp=torch, device='cuda'). To the device of an array: to(like=x)."),
            (np, "Write to(xp=numpy)."),
            (np.ones((2, 3)), "an array of shape (2, 3) is positional; expected a keyword "
             "argument. Write to(like=x)."),
            ("float16", "Write to(dtype='float16')."), (np.float16, "Write to(dtype='float16')."),
        ],
    )  # fmt: skip
    def test_to_without_names(self, value, hint):
        with pytest.raises(TypeError, match=f"Sequential.to: .*{re.escape(hint)}"):
            xl.mlp([4, 3]).to(value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device": "cuda"}, "numpy has no device 'cuda'; name the library of the device: xp="),
            ({"xp": "torch"}, "Import torch, and pass it without quotes."),
            ({"xp": "cuda"}, "xp is 'cuda'; expected a module: numpy, cupy, torch, jax.numpy."),
            ({"like": [1.0]}, "Sequential.to: like is a list; expected an array"),
            ({"dtype": "int8"}, "dtype is 'int8'; expected float16, bfloat16, float32 or float64"),
            ({"dtype": "half"}, "dtype is 'half'; expected float16, bfloat16, float32 or float64"),
            ({"dtype": []}, "dtype is []; expected float16, bfloat16, float32 or float64"),
        ],
    )
    def test_places_that_there_are_not(self, options, message):
        net = xl.Sequential(xl.Affine.init(4, 3), xl.BatchNormalization.init(3))
        net.predict(values((2, 4)).astype("float32"))
        before = net.arrays
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            net.to(**options)
        assert all(net.arrays[name] is a for name, a in before.items())

    def test_move(self):
        for call in (lambda: xl.move([1.0]), lambda: xl.move(np.ones(2), like=3)):
            with pytest.raises(TypeError, match=r"move: (x|like) is an? \w+; expected an array"):
                call()
        for dtype in ("sum", "float31"):
            with pytest.raises(TypeError, match=f"move: numpy has no dtype '{dtype}'"):
                xl.move(np.ones(2), dtype=dtype)


def test_dtypes_of_any_library(xpv):
    dtype = getattr(xpv.xp, "float16", None)
    if "float16" not in xpv.floats or dtype is None:
        pytest.skip("no float16 here")
    assert xl.Affine.init(4, 3, dtype=dtype).W.dtype == np.float16


CONVOLUTION = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
TRANSPOSE = {"stride": 1, "padding": 0, "output_padding": 0}
ATTENTION = {
    "causal": False, "n_kv_heads": None, "rope_theta": None, "dropout": 0.0, "seed": 0,
}  # fmt: skip
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
    (lambda: xl.MultiHeadAttention.init(1, 1), ATTENTION),
    (lambda: xl.MultiHeadAttention(*[ones(1, 1), ones(1)] * 4, n_heads=1), ATTENTION),
    (lambda: xl.MultiHeadAttention.init(1, 1), {"bq": np.zeros(1), "bo": np.zeros(1)}),
    (xl.RotaryEmbedding, {"theta": 10000.0}),
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


# Parameters that must agree with the first one: what makes the layer, their shapes, and for whom

PARAMETERS = {
    "Affine": (xl.Affine, {"W": (3, 4), "b": (4,)}, " for W"),
    "Convolution": (xl.Convolution, {"W": (3, 4, 2, 2), "b": (3,)}, " for W"),
    "ConvolutionTranspose": (xl.ConvolutionTranspose, {"W": (3, 4, 2, 2), "b": (4,)}, " for W"),
    "MultiHeadAttention": (
        functools.partial(xl.MultiHeadAttention, n_heads=2),
        {f"{kind}{of}": (4, 4)[: 1 + (kind == "W")] for of in "qkvo" for kind in "Wb"},
        "",
    ),
    "Rnn": (
        xl.Rnn,
        {"Wx": (3, 2), "Wh": (2, 2), "b": (2,)},
        " for 3 inputs and the 2 hidden units that Wh has rows for",
    ),
    "Gru": (
        xl.Gru,
        {"Wx": (3, 6), "Wh": (2, 6), "b": (6,), "bh": (6,), "Wx_reverse": (3, 6),
         "Wh_reverse": (2, 6), "b_reverse": (6,), "bh_reverse": (6,)},
        " for 3 inputs and the 2 hidden units that Wh has rows for",
    ),
}  # fmt: skip


@pytest.mark.parametrize("owner", PARAMETERS)
def test_parameters_that_do_not_agree(owner):
    make, shapes, of = PARAMETERS[owner]
    first, *others = shapes
    good = {name: np.ones(shape, "float32") for name, shape in shapes.items()}
    make(**good)
    for name in others:
        shape = shapes[name]
        wide, longer = good[name].astype("float64"), np.ones((*shape, 1), "float32")
        expected = f"{owner}: {name} is float64, {first} is float32; they must agree."
        for wrong in (wide, wide[..., None]):
            with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
                make(**{**good, name: wrong})
        expected = f"{owner}: {name} has shape {longer.shape}; expected {shape}{of}."
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            make(**{**good, name: longer})
