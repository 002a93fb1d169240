"""Checks of the data of a run before its first step, rather than after its first epoch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from xplayers._checks import shown
from xplayers.arrays.checks import check_same, converted
from xplayers.arrays.namespaces import Array, is_floating, is_integer, namespace
from xplayers.arrays.values import host_values
from xplayers.data.loading import Batches
from xplayers.layers.base import Layer
from xplayers.losses import Loss, SoftmaxWithLoss
from xplayers.losses.softmax import wrong_label
from xplayers.losses.weights import check_weights
from xplayers.training.identity import are_arrays, is_short

OWNER = "Trainer.fit"
_MOST = 100_000  # maximum number of batches to check


def check_data(
    x: Any, t: Any, validation: Any, weights: Any, *, again: bool, again_validation: bool
) -> None:
    """Check types, libraries and dtypes of these arguments of `Trainer.fit`.

    `again`, `again_validation`: whether batches are iterated over more than once.
    """
    if t is None and weights is not None:
        message = f"{OWNER}: sample_weight goes with arrays x and t; batches are (x, t, w)."
        raise TypeError(message)
    if t is not None:
        _check_pair("x", x, "t", t)
        if weights is not None:
            check_weights(OWNER, weights, x)
    elif hasattr(x, "shape") or are_arrays(x):
        fault = "x is a tuple of two arrays" if are_arrays(x) else "t is missing"
        message = f"{OWNER}: {fault}; expected fit(x, t) or fit(batches)."
        raise TypeError(message)
    elif isinstance(x, Batches) or not callable(x):
        _check_batches("batches", x, "an iterable of batches (x, t)", again=again)
    if validation is None:
        return
    of_arrays = isinstance(validation, tuple) and is_short(validation)
    if of_arrays and not all(map(_is_batch, validation)):  # two batches are a tuple, too
        _check_pair("validation x", validation[0], "validation t", validation[1])
        for w in validation[2:]:
            check_weights(f"{OWNER}: validation", w, validation[0])
        first = (x, t) if t is not None else _first(x)
        if first is not None:
            _check_alike(validation, first)
    else:
        expected = "a tuple of two arrays (or with float weights), or an iterable of batches (x, t)"
        _check_batches("validation", validation, expected, again=again_validation)


def check_values(net: Layer, loss: Loss, x: Any, t: Array | None, validation: Any) -> None:
    """Check labels on the host against the network, and validation shapes that differ from `x`.

    For this an empty batch is passed through the network, by inference. (Not for labels of JAX,
    which would compile that pass; there the loss becomes NaN, and the run reports the cause.)
    """
    first = (x, t) if t is not None else _first(x)
    if first is None:
        return
    pair = validation[:2] if are_arrays(validation) else None
    labels = t is not None and is_integer(t) and host_values(t) is not None
    if isinstance(loss, SoftmaxWithLoss) and labels:
        try:
            y = _predicted(net, x)
        except Exception:  # the first step will raise it
            return
        if y.shape[-1] < 2:  # likewise
            return
        for name, target in (("t", t), ("validation t", None if pair is None else pair[1])):
            if target is not None and is_integer(target) and len(target.shape) < len(y.shape):
                _check_labels(name, target, int(y.shape[-1]), loss.ignore_index)
    if pair is not None and list(map(_kind, pair)) != list(map(_kind, first)):
        _check_shapes(net, loss, *pair)


def _check_pair(x_name: str, x: Any, t_name: str, t: Any) -> None:
    for name, a in ((x_name, x), (t_name, t)):
        kind = getattr(getattr(a, "dtype", None), "kind", "")
        if isinstance(kind, str) and kind in tuple("OSUTMm"):
            content = "names" if kind in tuple("OSUT") else "times"
            hint = "names, t = numpy.unique(t, return_inverse=True) converts names to integers."
            message = f"{OWNER}: {name} is {a.dtype}, {content}; expected numbers."
            targets = "t" in name.split()
            raise TypeError(f"{message} {hint if targets else converted(name, a.dtype, 'float32')}")
    namespace(x, OWNER, x_name)
    check_same(OWNER, t_name, t, x, like_name=x_name)
    if not len(x.shape) or x.shape[:1] != t.shape[:1]:
        message = (
            f"{OWNER}: {x_name} has shape {tuple(x.shape)}, {t_name} has shape "
            f"{tuple(t.shape)}; expected as many targets as samples."
        )
        raise ValueError(message)
    if x.shape[0] == 0:
        message = f"{OWNER}: {x_name} has shape {tuple(x.shape)}; there are no samples."
        raise ValueError(message)


def _check_alike(validation: tuple[Array, Array], first: tuple[Array, Array]) -> None:
    """Check that validation samples have the library and dtype of the training samples."""
    x_val, x = validation[0], first[0]
    check_same(OWNER, "validation x", x_val, x)
    if is_floating(x) and x_val.dtype != x.dtype:
        message = f"{OWNER}: validation x is {x_val.dtype}; expected {x.dtype} as x."
        raise TypeError(message)
    if len(x_val.shape) != len(x.shape):
        message = (
            f"{OWNER}: validation x has shape {tuple(x_val.shape)}; expected as many axes as x "
            f"has, of shape {tuple(x.shape)}."
        )
        raise ValueError(message)


def _check_batches(name: str, batches: Any, expected: str, *, again: bool) -> None:
    fault = ""
    if hasattr(batches, "shape"):
        fault = shown(batches)
    elif isinstance(batches, str | bytes | Mapping) or not isinstance(batches, Iterable):
        fault = f"a {type(batches).__name__}"
    elif isinstance(batches, Collection):
        wrong = [b for b in itertools.islice(batches, _MOST) if not _is_batch(b)]
        if wrong and hasattr(wrong[0], "shape"):
            fault = f"a {type(batches).__name__} of {len(batches)} arrays"
        elif wrong:
            fault = f"a {type(batches).__name__} with {shown(wrong[0])} in it"
    if fault:
        hint = ""
        if isinstance(batches, float) and 0 < batches < 1:
            hint = " Split the samples before: fit(x[k:], t[k:], validation=(x[:k], t[:k]))."
        message = f"{OWNER}: {name} is {fault}; expected {expected}.{hint}"
        raise TypeError(message)
    if again and isinstance(batches, Iterator):
        message = (
            f"{OWNER}: {name} is an iterator, which can be used only once; pass a list, a data "
            "loader or a function batches(epoch)."
        )
        raise ValueError(message)
    if name == "validation" and isinstance(batches, list | tuple) and not batches:
        message = f"{OWNER}: validation has no batches; expected {expected}."
        raise ValueError(message)


def _is_batch(batch: Any) -> bool:
    return (
        isinstance(batch, tuple | list)
        and all(hasattr(a, "shape") and hasattr(a, "dtype") for a in batch)
        and is_short(batch)
    )


def _first(batches: Any) -> tuple[Array, Array] | None:
    """Return the first batch of a list or tuple."""
    if isinstance(batches, list | tuple) and batches:
        return tuple(batches[0][:2])
    return None


def _kind(a: Array) -> tuple[Any, ...]:
    """Return the dtype and the shape of a sample."""
    return a.dtype, tuple(a.shape[1:])


def _check_shapes(net: Layer, loss: Loss, x: Array, t: Array) -> None:
    try:
        with np.errstate(all="ignore"):  # mean of an empty batch
            loss.apply(loss.arrays, _predicted(net, x), t[:0, ...])
    except (ValueError, TypeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        cause = str(error).replace("(0,", f"({x.shape[0]},")  # the batch was empty
        message = (
            f"{OWNER}: validation x has shape {tuple(x.shape)}, validation t has shape "
            f"{tuple(t.shape)} and is {t.dtype}, which does not fit: {cause}"
        )
        raise kind(message) from error


def _predicted(net: Layer, x: Array) -> Array:
    """Return the scores of an empty batch, for their shape."""
    with np.errstate(all="ignore"):
        return net.predict(x[:0, ...])


def _check_labels(name: str, t: Array, classes: int, ignored: int | None) -> None:
    bad = wrong_label(t, classes, ignored)
    if bad is not None:
        message = (
            f"{OWNER}: {name} has the label {bad}; expected 0 to {classes - 1}, as the network has "
            f"{classes} scores."
        )
        raise ValueError(message)
