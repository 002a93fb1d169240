"""How good a network is on a data set: the loss and the metrics of the whole, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from xplayers._arrays import Array, asarray, namespace
from xplayers.data.batches import minibatches
from xplayers.layers.base import Layer
from xplayers.losses import Loss, SoftmaxWithLoss
from xplayers.metrics import accuracy
from xplayers.training.blocks import BLOCK, fetched

__all__ = ["evaluate"]

Metrics = Mapping[str, Callable[[Array, Array], Any]]
Batches = Iterable[tuple[Array, Array]]


def evaluate(
    net: Layer,
    loss: Loss,
    x: Array | Batches,
    t: Array | None = None,
    *,
    metrics: Metrics | None = None,
    batch_size: int = 256,
) -> dict[str, float]:
    """Return the loss and the metrics of a network on a data set.

    Every sample counts the same, those of a smaller last batch too: what comes out is the loss of
    the whole set in one batch, up to rounding, whatever `batch_size` is. Where a loss takes the
    mean over weights (``class_weights`` or ``ignore_index`` of `SoftmaxWithLoss`), the mean is over
    all weights.

    Parameters
    ----------
    net : Layer
        The network, which computes by `predict`.
    loss : Loss
        With ``reduction="mean"``; with ``"sum"`` the result is the sum by the number of samples.
    x, t : array
        Samples and targets; or in the place of `x` an iterable of batches ``(x, t)``.
    metrics : mapping of str to callable, optional
        Functions of scores and targets which return the mean over the samples of a batch, a number
        or 0-d array, as `accuracy` does. By default ``{"accuracy": accuracy}`` for a
        `SoftmaxWithLoss` without ``ignore_index``, and none for other losses.
    batch_size : int
        Samples in a batch, where `x` is an array.

    Returns
    -------
    dict of str to float
        ``"loss"`` and the metrics by name; NaN for no samples. The numbers of many batches come
        over from the device at once.

    Raises
    ------
    ValueError
        If shapes do not fit, or a metric is not one number.
    TypeError
        If libraries or devices do not fit.

    Examples
    --------
    >>> import xplayers as xl
    >>> (x, t), _ = xl.data.load_digits()
    >>> list(evaluate(xl.mlp([64, 10], rng=0), xl.SoftmaxWithLoss(), x, t))
    ['loss', 'accuracy']
    """
    metrics = default_metrics(loss) if metrics is None else metrics
    width = 1 + len(metrics)
    total, weight = np.zeros(width), np.zeros(width)
    sizes: list[int] = []  # of the batches whose numbers wait on the device
    waiting: list[Array] = []

    def collect() -> None:
        table = fetched(waiting).reshape(len(sizes), -1)
        by = np.repeat(np.asarray(sizes, dtype=np.float64)[:, None], width, axis=1)
        if loss.reduction == "sum":
            table[:, 0] /= by[:, 0]
        elif table.shape[1] > width:
            by[:, 0] = table[:, width]
        # The mean over no weight at all counts nothing, and need not be a number.
        total[:] += np.sum(np.where(by > 0, table[:, :width] * by, 0.0), axis=0)
        weight[:] += np.sum(by, axis=0)
        sizes.clear()
        waiting.clear()

    with np.errstate(invalid="ignore", divide="ignore"):  # of empty batches
        for batch_x, batch_t in x if t is None else minibatches(x, t, batch_size):
            y = net.predict(batch_x)
            value = loss(y, batch_t)
            sizes.append(int(batch_x.shape[0]))
            found = [_number(name, metric(y, batch_t), value) for name, metric in metrics.items()]
            waiting += [value, *found]
            weights = label_weights(loss, loss.arrays, y, batch_t)
            if weights is not None:
                waiting.append(_number("the weight", weights, value))
            if len(waiting) + width >= BLOCK:
                collect()
        if sizes:
            collect()
        means = total / weight
    return dict(zip(("loss", *metrics), means.tolist(), strict=True))


def default_metrics(loss: Loss) -> Metrics:
    """Return the metrics that go with a loss where none are asked for."""
    labels = isinstance(loss, SoftmaxWithLoss) and loss.ignore_index is None
    return {"accuracy": accuracy} if labels else {}


def label_weights(
    loss: Loss, arrays: Mapping[str, Array], scores: Array, target: Array
) -> Array | None:
    """Return the sum of the weights that the mean of a loss is over; None: all samples alike."""
    if not isinstance(loss, SoftmaxWithLoss) or len(target.shape) == len(scores.shape):
        return None
    weights, ignored = arrays.get("class_weights"), loss.ignore_index
    if weights is None and ignored is None:
        return None
    xp = namespace(target)
    labels = xp.astype(xp.reshape(target, (-1,)), xp.arange(0).dtype)
    keep = labels == labels if ignored is None else labels != ignored
    if weights is None:
        return xp.sum(xp.astype(keep, xp.float32))
    each = xp.take(weights, xp.where(keep, labels, xp.zeros_like(labels)), axis=0)
    return xp.sum(each * xp.astype(keep, each.dtype))


def _number(name: str, value: Any, like: Array) -> Array:
    """Return a number or 0-d array as a 0-d array of the dtype of `like`."""
    if isinstance(value, bool | int | float | np.generic):
        return asarray(np.asarray(value), like)
    if tuple(value.shape) != ():
        message = (
            f"evaluate: metric {name} has shape {tuple(value.shape)}; expected one number, the "
            "mean over the samples of a batch."
        )
        raise ValueError(message)
    return namespace(like).astype(value, like.dtype)
