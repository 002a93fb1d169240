"""The table of layers, each with an independent reference.

Where PyTorch is there, its own function of that name is a second oracle. The tables of losses and
optimizers are in `loss_cases` and `optimizer_cases`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import references as ref

import xplayers as xl


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table of layers."""

    id: str
    make: Callable[[], xl.Layer]
    shape: tuple[int, ...]  # of the input; the first axis is the batch
    reference: Callable[[Any, ref.Arrays], Any]
    torch: Callable[[Any, Any, Any], Any]  # (torch, x, parameters) -> y
    view: bool = False  # whether the results may be views of the inputs
    analytic: bool = True  # whether the reference takes complex arguments
    integers: int | None = None  # the input holds integers below this, and has no gradient
    idle: tuple[str, ...] = ()  # parameters whose gradient is 0 exactly, as the output ignores them
    training: bool = False  # whether training and inference compute different things


LAYERS = [
    Case("Relu", xl.Relu, (7, 5), lambda x, p: ref.where(x, x, 0), lambda t, x, p: t.relu(x)),
    Case(
        "LeakyRelu",
        lambda: xl.LeakyRelu(0.2),
        (7, 5),
        lambda x, p: ref.where(x, x, 0.2 * x),
        lambda t, x, p: ref.functional(t).leaky_relu(x, 0.2),
    ),
    Case(
        "Elu",
        lambda: xl.Elu(1.3),
        (7, 5),
        lambda x, p: ref.where(x, x, 1.3 * np.expm1(ref.where(x, 0, x))),
        lambda t, x, p: ref.functional(t).elu(x, 1.3),
    ),
    Case("Sigmoid", xl.Sigmoid, (7, 5), lambda x, p: ref.sigmoid(x), lambda t, x, p: t.sigmoid(x)),
    Case("Tanh", xl.Tanh, (7, 5), lambda x, p: np.tanh(x), lambda t, x, p: t.tanh(x)),
    Case(
        "Softplus",
        xl.Softplus,
        (7, 5),
        lambda x, p: ref.softplus(x),
        lambda t, x, p: ref.functional(t).softplus(x, threshold=1e9),
    ),
    Case(
        "Silu",
        xl.Silu,
        (7, 5),
        lambda x, p: x * ref.sigmoid(x),
        lambda t, x, p: ref.functional(t).silu(x),
    ),
    Case(
        "Gelu-tanh",
        xl.Gelu,
        (7, 5),
        lambda x, p: ref.gelu_tanh(x),
        lambda t, x, p: ref.functional(t).gelu(x, approximate="tanh"),
    ),
    Case(
        "Gelu-none",
        lambda: xl.Gelu("none"),
        (7, 5),
        lambda x, p: ref.gelu(x),
        lambda t, x, p: ref.functional(t).gelu(x),
        analytic=False,
    ),
    Case(
        "Softmax", xl.Softmax, (7, 5), lambda x, p: ref.softmax(x), lambda t, x, p: t.softmax(x, -1)
    ),
    Case(
        "Softmax-axis",
        lambda: xl.Softmax(axis=1),
        (3, 5, 2),
        lambda x, p: ref.softmax(x, 1),
        lambda t, x, p: t.softmax(x, 1),
    ),
    Case(
        "Affine",
        lambda: xl.Affine.init(5, 3, rng=0),
        (7, 5),
        ref.affine,
        lambda t, x, p: x @ p["W"] + p["b"],
    ),
    Case(
        "Affine-no-bias",
        lambda: xl.Affine.init(5, 3, bias=False, rng=0),
        (7, 5),
        lambda x, p: x @ p["W"],
        lambda t, x, p: x @ p["W"],
    ),
    Case(
        "Affine-images",
        lambda: xl.Affine.init(24, 3, rng=0),
        (7, 2, 3, 4),
        ref.affine,
        lambda t, x, p: x.flatten(1) @ p["W"] + p["b"],
    ),
    Case(
        "Affine-sequences",
        lambda: xl.Affine.init(5, 3, flatten=False, rng=0),
        (4, 6, 5),
        lambda x, p: np.einsum("nti,io->nto", x, p["W"]) + p["b"],
        lambda t, x, p: x @ p["W"] + p["b"],
    ),
    Case(
        "Flatten",
        xl.Flatten,
        (4, 2, 3),
        lambda x, p: x.reshape(x.shape[0], -1),
        lambda t, x, p: x.flatten(1),
        view=True,
    ),
    Case("Sequential", lambda: xl.mlp([5, 8, 3], xl.Tanh, rng=0), (7, 5), ref.mlp, ref.torch_mlp),
    Case("Sequential-shared", ref.shared, (7, 6), ref.shared_reference, ref.torch_shared),
    Case(
        "Sequential-empty",
        xl.Sequential,
        (4, 3),
        lambda x, p: x * 1,
        lambda t, x, p: x * 1,
        view=True,
    ),
    Case(
        "BatchNormalization",
        lambda: ref.scaled(xl.BatchNormalization.init(5)),
        (7, 5),
        ref.batch_norm,
        lambda t, x, p: ref.functional(t).batch_norm(x, None, None, p["gamma"], p["beta"], True),
        training=True,
    ),
    Case(
        "BatchNormalization-images",
        lambda: ref.scaled(xl.BatchNormalization.init(3)),
        (4, 3, 2, 5),
        ref.batch_norm,
        lambda t, x, p: ref.functional(t).batch_norm(x, None, None, p["gamma"], p["beta"], True),
        training=True,
    ),
    Case(
        "Standardize",
        ref.standardize,
        (7, 5),
        lambda x, p: (x - np.linspace(-1, 1, 5)) / np.linspace(0.5, 2, 5, dtype="float32"),
        lambda t, x, p: (x - t.linspace(-1, 1, 5).to(x)) / t.linspace(0.5, 2, 5).to(x),
    ),
    Case(
        "LayerNormalization",
        lambda: ref.scaled(xl.LayerNormalization.init(6)),
        (3, 4, 6),
        lambda x, p: p["gamma"] * ref.normalized(x, (-1,)) + p["beta"],
        lambda t, x, p: ref.functional(t).layer_norm(x, (6,), p["gamma"], p["beta"]),
    ),
    Case(
        "LayerNormalization-2",
        lambda: ref.scaled(xl.LayerNormalization.init(4, 6)),
        (3, 4, 6),
        lambda x, p: p["gamma"] * ref.normalized(x, (-2, -1)) + p["beta"],
        lambda t, x, p: ref.functional(t).layer_norm(x, (4, 6), p["gamma"], p["beta"]),
    ),
    Case(
        "GroupNormalization",
        lambda: ref.scaled(xl.GroupNormalization.init(4, 2)),
        (3, 4, 2, 5),
        ref.group_norm,
        lambda t, x, p: ref.functional(t).group_norm(x, 2, p["gamma"], p["beta"]),
    ),
    Case(
        "RmsNormalization",
        lambda: ref.scaled(xl.RmsNormalization.init(6)),
        (3, 4, 6),
        lambda x, p: p["gamma"] * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6),
        lambda t, x, p: ref.functional(t).rms_norm(x, (6,), p["gamma"], 1e-6),
    ),
    Case(
        "Dropout",
        lambda: xl.Dropout(0.3, seed=5),
        (7, 5),
        ref.dropped(0.3, 5),
        ref.torch_dropped(0.3, 5),
        training=True,
    ),
    Case(
        "Dropout-none",
        lambda: xl.Dropout(0.0),
        (7, 5),
        lambda x, p: x * 1,
        lambda t, x, p: x * 1,
    ),
    Case(
        "Reshape",
        lambda: xl.Reshape(3, -1),
        (4, 2, 6),
        lambda x, p: x.reshape(x.shape[0], 3, 4),
        lambda t, x, p: x.reshape(-1, 3, 4),
        view=True,
    ),
    Case(
        "Transpose",
        lambda: xl.Transpose(3, 1, 2),
        (4, 2, 3, 5),
        lambda x, p: x.transpose(0, 3, 1, 2),
        lambda t, x, p: x.permute(0, 3, 1, 2),
        view=True,
    ),
    Case(
        "Residual",
        lambda: xl.Residual(xl.Affine.init(5, 5, rng=0), xl.Tanh()),
        (7, 5),
        ref.residual_reference,
        lambda t, x, p: x + t.tanh(x @ p["0.W"] + p["0.b"]),
    ),
    Case(
        "Recompute",
        lambda: xl.Recompute(xl.Affine.init(5, 4, rng=0), xl.Tanh(), xl.Affine.init(4, 3, rng=1)),
        (7, 5),
        ref.mlp,
        ref.torch_mlp,
    ),
    Case(
        "Map",
        lambda: xl.Map(xl.Affine.init(6, 3, rng=0)),
        (2, 4, 2, 3),
        lambda x, p: x.reshape(*x.shape[:2], 6) @ p["0.W"] + p["0.b"],
        lambda t, x, p: x.flatten(2) @ p["0.W"] + p["0.b"],
    ),
    Case(
        "Parallel",
        lambda: xl.Parallel(xl.Affine.init(5, 3, rng=0), xl.Tanh(), combine="concatenate"),
        (7, 5),
        ref.parallel_reference,
        lambda t, x, p: t.cat([x @ p["0.W"] + p["0.b"], t.tanh(x)], 1),
    ),
    Case(
        "Parallel-sum",
        lambda: xl.Parallel(xl.Relu(), xl.Tanh(), xl.Sigmoid()),
        (7, 5),
        lambda x, p: ref.where(x, x, 0) + np.tanh(x) + ref.sigmoid(x),
        lambda t, x, p: t.relu(x) + t.tanh(x) + t.sigmoid(x),
    ),
    Case(
        "Rnn",
        lambda: xl.Rnn.init(4, 3, rng=0),
        (2, 3, 4),
        lambda x, p: ref.recurrent("Rnn", x, p),
        ref.torch_recurrent("rnn_tanh"),
    ),
    Case(
        "Lstm",
        lambda: xl.Lstm.init(4, 3, bidirectional=True, rng=0),
        (2, 3, 4),
        lambda x, p: ref.recurrent("Lstm", x, p),
        ref.torch_recurrent("lstm"),
    ),
    Case(
        "Gru",
        lambda: xl.Gru.init(4, 3, rng=0),
        (2, 3, 4),
        lambda x, p: ref.recurrent("Gru", x, p),
        ref.torch_recurrent("gru"),
    ),
    Case(
        "Gru-published",
        lambda: xl.Gru.init(4, 3, reset_after=False, rng=0),
        (2, 3, 4),
        lambda x, p: ref.recurrent("Gru", x, p),
        ref.torch_published_gru,
    ),
    Case(
        "Convolution",  # the last row and column of x are not seen
        lambda: xl.Convolution.init(2, 3, (3, 2), stride=(2, 3), padding=(1, 0), rng=0),
        (3, 2, 6, 6),
        lambda x, p: ref.convolution(x, p, [(1, 1), (0, 0)], (2, 3)),
        lambda t, x, p: ref.functional(t).conv2d(x, p["W"], p["b"], (2, 3), (1, 0)),
    ),
    Case(
        "Convolution-same",
        lambda: xl.Convolution.init(2, 3, (2, 1), padding="same", bias=False, rng=0),
        (3, 2, 4, 3),
        lambda x, p: ref.convolution(x, p, [(0, 1), (0, 0)]),
        lambda t, x, p: ref.functional(t).conv2d(ref.functional(t).pad(x, (0, 0, 0, 1)), p["W"]),
    ),
    Case(
        "Convolution-groups",
        lambda: xl.Convolution.init(4, 6, (2, 1), dilation=2, groups=2, rng=0),
        (3, 4, 5, 4),
        lambda x, p: ref.convolution(x, p, [(0, 0), (0, 0)], 1, 2, 2),
        lambda t, x, p: ref.functional(t).conv2d(x, p["W"], p["b"], 1, 0, 2, 2),
    ),
    Case(
        "Convolution-sequences",
        lambda: xl.Convolution.init(2, 3, (3,), padding=2, dilation=2, rng=0),
        (3, 2, 7),
        lambda x, p: ref.convolution(x, p, [(2, 2)], 1, 2),
        lambda t, x, p: ref.functional(t).conv1d(x, p["W"], p["b"], 1, 2, 2),
    ),
    Case(
        "ConvolutionTranspose",
        lambda: xl.ConvolutionTranspose.init(
            2, 3, (3, 2), stride=2, padding=1, output_padding=1, rng=0
        ),
        (3, 2, 4, 3),
        lambda x, p: ref.transposed(x, p, 2, 1, 1),
        lambda t, x, p: ref.functional(t).conv_transpose2d(x, p["W"], p["b"], 2, 1, 1),
    ),
    Case(
        "ConvolutionTranspose-sequences",
        lambda: xl.ConvolutionTranspose.init(2, 3, (2,), stride=3, bias=False, rng=0),
        (3, 2, 4),
        lambda x, p: ref.transposed(x, p, 3),
        lambda t, x, p: ref.functional(t).conv_transpose1d(x, p["W"], None, 3),
    ),
    Case(
        "MaxPooling",
        lambda: xl.MaxPooling(2),
        (3, 2, 5),
        lambda x, p: ref.pooled(x, (2,), 2, 0, 0.0, ref.largest),
        lambda t, x, p: ref.functional(t).max_pool1d(x, 2),
    ),
    Case(
        "MaxPooling-padding",
        lambda: xl.MaxPooling((3, 2), stride=(2, 1), padding=1),
        (3, 2, 5, 4),
        lambda x, p: ref.pooled(x, (3, 2), (2, 1), 1, -np.inf, ref.largest),
        lambda t, x, p: ref.functional(t).max_pool2d(x, (3, 2), (2, 1), 1),
    ),
    Case(
        "AveragePooling",
        lambda: xl.AveragePooling(3, stride=2, padding=1),
        (3, 2, 5, 4),
        lambda x, p: ref.pooled(x, (3, 3), 2, 1, 0.0, ref.mean),
        lambda t, x, p: ref.functional(t).avg_pool2d(x, 3, 2, 1),
    ),
    Case(
        "AveragePooling-sequences",
        lambda: xl.AveragePooling(3, stride=1),
        (3, 2, 6),
        lambda x, p: ref.pooled(x, (3,), 1, 0, 0.0, ref.mean),
        lambda t, x, p: ref.functional(t).avg_pool1d(x, 3, 1),
    ),
    Case(
        "GlobalAveragePooling",
        xl.GlobalAveragePooling,
        (3, 2, 3, 4),
        lambda x, p: x.reshape(*x.shape[:2], -1).sum(-1) / 12,
        lambda t, x, p: x.mean((2, 3)),
    ),
    Case(
        "MultiHeadAttention",
        lambda: xl.MultiHeadAttention.init(4, 2, rng=0),
        (2, 3, 4),
        lambda x, p: ref.attention(x, p, 2, causal=False),
        ref.torch_attention(2, causal=False),
        idle=("bk",),
    ),
    Case(
        "MultiHeadAttention-causal",
        lambda: xl.MultiHeadAttention.init(6, 3, causal=True, rng=0),
        (2, 4, 6),
        lambda x, p: ref.attention(x, p, 3, causal=True),
        ref.torch_attention(3, causal=True),
        idle=("bk",),
    ),
    Case(
        "MultiHeadAttention-groups",
        lambda: xl.MultiHeadAttention.init(8, 4, n_kv_heads=2, causal=True, bias=False, rng=0),
        (2, 3, 8),
        lambda x, p: ref.attention(x, p, 4, causal=True),
        ref.torch_attention(4, causal=True),
    ),
    Case(  # keys that are turned have biases that count
        "MultiHeadAttention-rotary",
        lambda: xl.MultiHeadAttention.init(8, 2, n_kv_heads=1, rope_theta=30.0, rng=1),
        (2, 3, 8),
        lambda x, p: ref.attention(x, p, 2, causal=False, theta=30.0),
        ref.torch_attention(2, causal=False, theta=30.0),
    ),
    Case(
        "MultiHeadAttention-dropout",
        lambda: xl.MultiHeadAttention.init(4, 2, dropout=0.4, seed=7, rng=0),
        (2, 3, 4),
        lambda x, p: ref.attention(x, p, 2, False, m=ref.kept((len(x), 2, 3, 3), 0.4, 7)),
        ref.torch_attention(2, False, m=ref.kept((2, 2, 3, 3), 0.4, 7)),
        idle=("bk",),
        training=True,
    ),
    Case(
        "RotaryEmbedding",
        lambda: xl.RotaryEmbedding(100.0),
        (2, 3, 6),
        lambda x, p: ref.rotary(x, 100.0),
        lambda t, x, p: ref.torch_rotary(t, x, 100.0),
    ),
    Case(
        "GatedMlp",
        lambda: xl.GatedMlp.init(4, 6, rng=0),
        (2, 3, 4),
        ref.gated,
        ref.torch_gated,
    ),
    Case(
        "Embedding",
        lambda: xl.Embedding.init(5, 3, rng=0),
        (4, 3),
        ref.rows_of,
        lambda t, x, p: ref.functional(t).embedding(x, p["W"]),
        integers=5,
    ),
    Case(
        "Embedding-large",
        lambda: xl.Embedding.init(600, 2, rng=0),
        (40, 3),
        ref.rows_of,
        lambda t, x, p: ref.functional(t).embedding(x, p["W"]),
        integers=30,
    ),
    Case(
        "PositionalEmbedding",
        lambda: xl.PositionalEmbedding.init(5, 3, rng=0),
        (2, 4, 3),
        lambda x, p: x + p["W"][: x.shape[1]],
        lambda t, x, p: x + p["W"][: x.shape[1]],
    ),
]
