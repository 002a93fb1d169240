"""Weights of Keras: of models and layers, and the lists of `get_weights`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xplayers._checks import flag, instance
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
    Reshape,
    RmsNormalization,
    Rnn,
    Transpose,
)
from xplayers.layers.scan import Recurrent
from xplayers.saving.network import check_layer
from xplayers.weights.matching import (
    Form,
    Relation,
    collected,
    given,
    joined,
    layers_of,
    load,
    same,
    transposed,
)
from xplayers.weights.pytorch import with_bias


def from_keras(
    net: Layer,
    weights: Any,
    names: Mapping[str, str] | None = None,
    *,
    channels_last: bool = True,
) -> Layer:
    """Set the parameters and statistics of a network to those of a Keras model.

    Everything is checked before anything is set.

    Parameters
    ----------
    net : Layer
        The network. Its arrays keep library, device and dtype; gradients and pending passes are
        dropped.
    weights : keras.Model, keras.Layer, sequence, mapping or path
        The model; or ``model.get_weights()``; or arrays by the paths of their variables
        (``"sequential/dense/kernel"``); or a file ``.npz`` or ``.safetensors`` of either.
    names : mapping of str to str, optional
        Our names of layers or containers, and theirs of layers, as for `from_torch`. Without it
        layers are taken by name if the names are the same, else in the order of the model.
    channels_last : bool
        Whether the model has its channels last, the default of Keras: the rows of an `Affine` that
        takes flattened images are put in the order of ours, channels first.

    Returns
    -------
    Layer
        `net` itself.

    Raises
    ------
    ValueError
        If arrays are missing, unexpected or of another shape: all are listed, and nothing is set.
        If the normalizations of a model have another eps.
    TypeError
        If an argument has the wrong type, or a layer has no counterpart in Keras.
    OSError
        If the file cannot be read.

    See Also
    --------
    to_keras

    Notes
    -----
    Kernels of convolutions have other axes, the gates of ``GRU`` another order (z, r, h), and those
    of ``Bidirectional`` are two layers. Inputs have their channels first here: ``(n, c, h, w)``.

    Options are not weights: the normalizations of Keras have an eps of 1e-3 (here 1e-5; of
    ``RMSNormalization`` 1e-6 in both), its ``BatchNormalization`` a momentum of 0.99 (here 0.9),
    its ``gelu`` is ``Gelu("none")``.

    Examples
    --------
    >>> import numpy as np
    >>> import xplayers as xl
    >>> from xplayers import weights
    >>> net = weights.from_keras(xl.Affine.init(3, 1), [np.asarray([[1.0], [2.0], [3.0]]), [0.5]])
    >>> net(np.ones((1, 3)))
    array([[6.5]])
    """
    check_layer("from_keras", net)
    form, ordered = _form(net, channels_last), True
    variables = getattr(weights, "weights", None)
    if variables is not None:
        _check_eps("from_keras", net, weights)
        weights = {v.path: np.asarray(v) for v in variables}
    elif isinstance(weights, str | os.PathLike | Mapping):
        weights, ordered = given("from_keras", weights)
        if all(re.fullmatch(r"arr_\d+", name) for name in weights):  # of `numpy.savez(*arrays)`
            weights = list(weights.values())
    if isinstance(weights, Mapping):
        weights = _without_model(weights)
    else:
        weights = _by_name("from_keras", net, form, weights)
    load("from_keras", net, weights, form, names, ordered=ordered)
    return net


def to_keras(net: Layer, *, channels_last: bool = True) -> list[np.ndarray]:
    """Return the parameters and statistics of a network as a list of arrays for Keras.

    Parameters
    ----------
    net : Layer
        The network.
    channels_last : bool
        As of `from_keras`.

    Returns
    -------
    list of numpy.ndarray
        ``model.set_weights(to_keras(net))`` sets them, in a model of the same layers in the same
        order.

    Raises
    ------
    TypeError
        If a layer has no counterpart in Keras.

    See Also
    --------
    from_keras

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> from xplayers import weights
    >>> net = xl.Sequential(xl.Affine.init(4, 8, rng=0), xl.Relu(), xl.Affine.init(8, 3, rng=1))
    >>> arrays = weights.to_keras(net)
    >>> [a.shape for a in arrays]
    [(4, 8), (8,), (8, 3), (3,)]
    >>> same = xl.Sequential(xl.Affine.init(4, 8), xl.Relu(), xl.Affine.init(8, 3))
    >>> x = np.ones((2, 4), "float32")
    >>> bool((weights.from_keras(same, arrays)(x) == net(x)).all())
    True
    """
    check_layer("to_keras", net)
    form = _form(net, channels_last)
    return [np.array(a, order="C") for _, a, _ in collected("to_keras", net, form, None)]


def _check_eps(owner: str, net: Layer, model: Any) -> None:
    """Check that normalizations add to the variance what those of a model add, if all have one."""
    theirs = [each.epsilon for each in _sublayers(model) if getattr(each, "epsilon", None)]
    ours = [(n, eps) for n, a in layers_of(net) if (eps := getattr(a, "eps", None)) is not None]
    if len(theirs) != len(ours):
        return
    pairs = zip(ours, theirs, strict=True)
    other = [f"{n} has eps {a}, theirs {b}" for (n, a), b in pairs if a != b]
    if other:
        message = f"{owner}: the layers compute otherwise, and nothing is loaded: "
        raise ValueError(message + f"{', '.join(other)}. Pass model.get_weights() to ignore that.")


def _sublayers(model: Any) -> Iterator[Any]:
    yield model
    for layer in getattr(model, "layers", ()):
        yield from _sublayers(layer)


def _by_name(owner: str, net: Layer, form: Form, arrays: Any) -> dict[str, Any]:
    """Return a list of arrays by the names that those of the network would have."""
    expected = "a model, a list of arrays, a mapping of arrays by name, or the path of a file"
    arrays = instance(owner, "weights", arrays, Sequence, expected)
    names = [form.spelled(leaf.name, s) for leaf in form.leaves(owner, net) for s in leaf.suffixes]
    if len(names) != len(arrays):
        message = (
            f"{owner}: there are {len(arrays)} arrays, expected {len(names)}: {', '.join(names)}."
        )
        raise ValueError(message)
    return {name: np.asarray(a) for name, a in zip(names, arrays, strict=True)}


def _without_model(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arrays without the name of the model, where all have it before that of a layer."""
    first = {path.partition("/")[0] for path in weights}
    if len(first) != 1 or any(_normal(path).count(".") < 2 for path in weights):
        return weights
    return {path.partition("/")[2]: a for path, a in weights.items()}


def _spelled(prefix: str, suffix: str) -> str:
    return joined(prefix, suffix).replace(".", "/")


def _normal(path: str) -> str:
    """Return the dotted path of a variable, without the cells of recurrent layers."""
    path = re.sub(r"(?<![^/])(forward|backward)_[^/]+/[^/]*_cell(_\d+)?/", r"\1/", path)
    return re.sub(r"(?<![^/])[^/]*_cell(_\d+)?/", "", path).replace("/", ".")


def _form(net: Layer, channels_last: bool) -> Form:
    """Return the form of Keras for the layers of a network."""
    flattened = _flattened(net) if flag("from_keras", "channels_last", channels_last) else {}

    def affine(layer: Layer) -> list[Relation]:
        return with_bias(_rows("kernel", "W", flattened.get(id(layer))), layer)

    def batch_normalization(layer: Layer) -> list[Relation]:
        channels = flattened.get(id(layer))
        return [_rows(*pair, channels) for pair in _STATISTICS.items()]

    return Form(
        "Keras",
        {**_RULES, Affine: affine, BatchNormalization: batch_normalization},
        _spelled,
        _normal,
    )


_STATISTICS = {
    "gamma": "gamma", "beta": "beta", "moving_mean": "running_mean",
    "moving_variance": "running_var",
}  # fmt: skip


def _flattened(net: Layer) -> dict[int, int]:
    """Return the channels of the images that layers take flattened, by the id of the layer."""
    channels, images = 0, {}
    for _, layer in layers_of(net):
        width = 0
        if isinstance(layer, Convolution):
            channels = layer.W.shape[0]
        elif isinstance(layer, ConvolutionTranspose):
            channels = layer.W.shape[1]
        elif isinstance(layer, BatchNormalization):
            width = layer.gamma.shape[0]
        elif isinstance(layer, Affine) and layer.flatten:
            width = layer.W.shape[0]
        elif isinstance(layer, Reshape | Transpose):
            channels = 0
        if channels and width > channels and width % channels == 0:
            images[id(layer)] = channels
        if isinstance(layer, Affine):
            channels = 0
    return images


def _rows(theirs: str, ours: str, channels: int | None) -> Relation:
    """Return the relation of arrays whose rows are pixels of channels, ours channels of pixels."""
    if channels is None:
        return same(theirs, ours)

    def ordered(a: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray]:
        return (a.reshape(*shape, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape),)

    return Relation(
        (theirs,),
        (ours,),
        lambda a: ordered(a, (-1, channels)),
        lambda a: ordered(a, (channels, -1)),
    )


def _convolution(layer: Convolution) -> list[Relation]:
    """``(*size, c, fn)`` is ``(fn, c, *size)`` here; of a transpose both have c and fn changed."""
    n = len(layer.W.shape)
    return with_bias(transposed("kernel", "W", (n - 1, n - 2, *range(n - 2))), layer)


def _recurrent(layer: Recurrent) -> list[Relation]:
    order = (1, 0, 2) if isinstance(layer, Gru) else range(len(layer._gates))
    sides = [("forward.", ""), ("backward.", "_reverse")] if layer.bidirectional else [("", "")]
    biases = ("b",) if getattr(layer, "bh", None) is None else ("b", "bh")
    return [
        _gates(prefix + theirs, tuple([name + end for name in ours]), order)
        for prefix, end in sides
        for theirs, ours in (("kernel", ("Wx",)), ("recurrent_kernel", ("Wh",)), ("bias", biases))
    ]


def _gates(theirs: str, ours: tuple[str, ...], order: Sequence[int]) -> Relation:
    """Return the relation of an array with blocks in another order; of two of ours the rows."""

    def turned(a: np.ndarray) -> np.ndarray:
        blocks = np.split(a, len(order), axis=-1)
        return np.concatenate([blocks[i] for i in order], axis=-1)

    def take(a: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(turned(a)) if len(ours) == 2 else (turned(a),)

    def give(*arrays: np.ndarray) -> tuple[np.ndarray]:
        return (turned(np.stack(arrays) if len(ours) == 2 else arrays[0]),)

    return Relation((theirs,), ours, take, give)


def _attention(layer: MultiHeadAttention) -> list[Relation]:
    """Kernels are ``(features, heads, d)``, that of the output ``(heads, d, features)``."""
    if layer.rope_theta is not None:
        message = f"{layer}: Keras has no attention with rope_theta."
        raise TypeError(message)
    features = layer.Wq.shape[0]
    heads = {"query": ("q", layer.n_heads), "key": ("k", layer.n_kv_heads or layer.n_heads)}
    heads |= {"value": ("v", heads["key"][1]), "attention_output": ("o", layer.n_heads)}
    relations = []
    for theirs, (name, n) in heads.items():
        kernel, bias = (features, n, -1), (n, -1)
        if name == "o":
            kernel, bias = (n, -1, features), (features,)
        relations.append(_reshaped(f"{theirs}.kernel", f"W{name}", layer, kernel))
        if layer.bq is not None:
            relations.append(_reshaped(f"{theirs}.bias", f"b{name}", layer, bias))
    return relations


def _reshaped(theirs: str, ours: str, layer: Layer, shape: tuple[int, ...]) -> Relation:
    flat = getattr(layer, ours).shape
    return Relation((theirs,), (ours,), lambda a: (a.reshape(flat),), lambda a: (a.reshape(shape),))


def _scale_and_shift(layer: Layer) -> list[Relation]:
    return [same("gamma", "gamma"), same("beta", "beta")]


_RULES: dict[type[Layer], Callable[..., list[Relation]]] = {
    Convolution: _convolution,
    ConvolutionTranspose: _convolution,
    LayerNormalization: _scale_and_shift,
    GroupNormalization: _scale_and_shift,
    RmsNormalization: lambda layer: [same("scale", "gamma")],
    Embedding: lambda layer: [same("embeddings", "W")],
    PositionalEmbedding: lambda layer: [same("embeddings", "W")],
    Rnn: _recurrent,
    Lstm: _recurrent,
    Gru: _recurrent,
    MultiHeadAttention: _attention,
}
