"""Weights of PyTorch: state dicts of `torch.nn`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xplayers.arrays.namespaces import dtype_name
from xplayers.layers import (
    Affine,
    BatchNormalization,
    Convolution,
    ConvolutionTranspose,
    Embedding,
    GroupNormalization,
    Gru,
    Layer,
    LayerNormalization,
    Lstm,
    MultiHeadAttention,
    PositionalEmbedding,
    RmsNormalization,
    Rnn,
)
from xplayers.layers.scan import Recurrent
from xplayers.saving.files import AnyPath
from xplayers.saving.network import check_layer
from xplayers.weights.matching import (
    Form,
    Relation,
    collected,
    given,
    joined,
    load,
    packed,
    same,
    transposed,
)


def from_torch(
    net: Layer, weights: Mapping[str, Any] | AnyPath | Any, names: Mapping[str, str] | None = None
) -> Layer:
    """Set the parameters and statistics of a network to those of a PyTorch module.

    Everything is checked before anything is set.

    Parameters
    ----------
    net : Layer
        The network. Its arrays keep library, device and dtype; gradients and pending passes are
        dropped.
    weights : mapping, torch.nn.Module or path
        ``module.state_dict()``, with arrays of any library; or the module; or a file
        ``.safetensors`` or ``.npz`` of one.
    names : mapping of str to str, optional
        Our names of layers or containers, and theirs: ``{"0": "features.conv1", "body":
        "model.blocks"}``; ``{"": "model"}`` puts a prefix before all. What is not in it has the
        same name. Without it modules are taken by name if the names are the same, else in the
        order of the state dict: that in which ``__init__`` made them. The entries of a safetensors
        file have no order.

    Returns
    -------
    Layer
        `net` itself.

    Raises
    ------
    ValueError
        If entries are missing, unexpected or of another shape: all are listed, and nothing is set.
    TypeError
        If an argument has the wrong type, or a layer has no counterpart in ``torch.nn``.
    OSError
        If the file cannot be read.

    See Also
    --------
    to_torch

    Notes
    -----
    ``Linear`` and the weights of recurrent layers are transposed, the packed ``in_proj_weight`` of
    ``MultiheadAttention`` is cut, the two biases of ``LSTM`` and ``RNN`` are added. A stacked
    recurrent module is one layer here for each of its layers, in a `Sequential`; their names are
    ``rnn``, ``rnn:1``, ``rnn:2``.

    Options are not weights: give `BatchNormalization` the momentum ``1 - momentum`` of PyTorch
    (and expect its running variance, which divides by ``n - 1``, to go on as the biased one), and
    `RmsNormalization` its eps.

    Examples
    --------
    >>> import numpy as np
    >>> import xplayers as xl
    >>> from xplayers import weights
    >>> state = {"fc.weight": np.asarray([[1.0, 2.0, 3.0]]), "fc.bias": np.asarray([0.5])}
    >>> net = weights.from_torch(xl.Sequential(xl.Affine.init(3, 1)), state)
    >>> net(np.ones((1, 3)))
    array([[6.5]])
    """
    check_layer("from_torch", net)
    state, ordered = given("from_torch", getattr(weights, "state_dict", lambda: weights)())
    load("from_torch", net, state, TORCH, names, ordered=ordered)
    return net


def to_torch(net: Layer, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the parameters and statistics of a network as a state dict of PyTorch.

    Parameters
    ----------
    net : Layer
        The network.
    names : mapping of str to str, optional
        As of `from_torch`.

    Returns
    -------
    dict of str to torch.Tensor
        New tensors on the CPU: ``module.load_state_dict(to_torch(net))`` sets them.

    Raises
    ------
    TypeError
        If a layer has no counterpart in ``torch.nn``.
    ImportError
        If PyTorch is not installed.

    See Also
    --------
    from_torch

    Notes
    -----
    The bias of an `Lstm` or `Rnn` is ``bias_ih``, and ``bias_hh`` is 0.

    Examples
    --------
    >>> import torch, xplayers as xl
    >>> from xplayers import weights
    >>> net = xl.Sequential(xl.Affine.init(3, 2, rng=0))
    >>> module = torch.nn.Sequential(torch.nn.Linear(3, 2))
    >>> module.load_state_dict(weights.to_torch(net))
    <All keys matched successfully>
    >>> x = torch.ones(1, 3)
    >>> torch.allclose(module(x), net.to(like=x)(x))
    True
    """
    return tensors("to_torch", net, TORCH, names)


def tensors(owner: str, net: Layer, form: Form, names: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the arrays of a network as tensors, by the keys of a form."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        message = f"{owner}: PyTorch is not installed. Install it: pip install 'xplayers[torch]'."
        raise ImportError(message) from error
    state = {}
    for key, a, like in collected(owner, net, form, names):
        tensor = torch.from_numpy(np.array(a, order="C"))
        dtype = dtype_name(like.dtype)  # NumPy has no bfloat16
        state[key] = tensor.to(torch.bfloat16) if dtype == "bfloat16" else tensor
    return state


def with_bias(
    weight: Relation, layer: Any, theirs: str = "bias", ours: str = "b"
) -> list[Relation]:
    """Return the relation of a weight and, if the layer has one, that of a bias."""
    return [weight, same(theirs, ours)] if getattr(layer, ours) is not None else [weight]


def _batch_normalization(layer: Layer) -> list[Relation]:
    names = {
        "weight": "gamma", "bias": "beta", "running_mean": "running_mean",
        "running_var": "running_var",
    }  # fmt: skip
    counted = Relation(
        ("num_batches_tracked",), (), lambda a: (), lambda: (np.zeros((), "int64"),), optional=True
    )
    return [*(same(*pair) for pair in names.items()), counted]


def _recurrent(layer: Recurrent) -> list[Relation]:
    relations = []
    for end in ("", "_reverse")[: 2 if layer.bidirectional else 1]:
        relations += [
            transposed(f"weight_ih{end}", f"Wx{end}"), transposed(f"weight_hh{end}", f"Wh{end}"),
        ]  # fmt: skip
        biases = f"bias_ih{end}", f"bias_hh{end}"
        if not isinstance(layer, Gru):
            relations.append(
                Relation(biases, (f"b{end}",), lambda a, b: (a + b,), lambda a: (a, 0 * a))
            )
        elif layer.reset_after:
            relations += [same(biases[0], f"b{end}"), same(biases[1], f"bh{end}")]
        else:
            message = f"{layer}: PyTorch has no GRU that resets before the product."
            raise TypeError(message)
    return relations


def _attention(layer: MultiHeadAttention) -> list[Relation]:
    if layer.n_kv_heads is not None or layer.rope_theta is not None:
        message = f"{layer}: torch.nn has no attention with n_kv_heads or rope_theta."
        raise TypeError(message)
    relations = [
        packed("in_proj_weight", ("Wq", "Wk", "Wv"), is_transposed=True),
        transposed("out_proj.weight", "Wo"),
    ]
    if layer.bq is not None:
        relations += [packed("in_proj_bias", ("bq", "bk", "bv")), same("out_proj.bias", "bo")]
    return relations


def _spelled(prefix: str, suffix: str) -> str:
    """Return the key of an array; a recurrent module numbers its layers in its keys."""
    match = re.fullmatch(_RECURRENT, suffix)
    if not match:
        return joined(prefix, suffix)
    module, _, number = prefix.partition(":")
    return joined(module, f"{match[1]}_l{number or 0}{match[2]}")


def _normal(key: str) -> str:
    """Return ``module:1.weight_ih_reverse`` for ``module.weight_ih_l1_reverse``."""
    match = re.fullmatch(r"(.*?)\.?((?:weight|bias)_[ih]h)_l(\d+)((?:_reverse)?)", key)
    if not match:
        return key
    module, name, number, reverse = match.groups()
    return joined(module if number == "0" else f"{module}:{number}", name + reverse)


_RECURRENT = r"((?:weight|bias)_[ih]h)((?:_reverse)?)"


def _norm(layer: Layer) -> list[Relation]:
    return [same("weight", "gamma"), same("bias", "beta")]


RULES: dict[type[Layer], Callable[..., list[Relation]]] = {
    Affine: lambda layer: with_bias(transposed("weight", "W"), layer),
    Convolution: lambda layer: with_bias(same("weight", "W"), layer),
    ConvolutionTranspose: lambda layer: with_bias(same("weight", "W"), layer),
    BatchNormalization: _batch_normalization,
    LayerNormalization: _norm,
    GroupNormalization: _norm,
    RmsNormalization: lambda layer: [same("weight", "gamma")],
    Embedding: lambda layer: [same("weight", "W")],
    PositionalEmbedding: lambda layer: [same("weight", "W")],
    Rnn: _recurrent,
    Lstm: _recurrent,
    Gru: _recurrent,
    MultiHeadAttention: _attention,
}
TORCH = Form("torch.nn", RULES, _spelled, _normal)
