"""How good a network is on a data set: the loss and the metrics of the whole, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from xplayers._checks import instance, integer, shown
from xplayers.arrays.namespaces import Array, namespace, on_host
from xplayers.data.batches import minibatches
from xplayers.layers.base import Layer
from xplayers.losses import Loss, SoftmaxWithLoss
from xplayers.metrics import accuracy, hits
from xplayers.reports.columns import checked_metrics
from xplayers.training.fetching import BLOCK, fetched

__all__ = ["evaluate"]

Metrics = Mapping[str, Callable[[Array, Array], Any]]
Batches = Iterable[tuple[Array, Array]]

_HINT = "evaluate(net, loss, x, t)"


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
        or 0-d array, as `accuracy` does, which itself is counted: what comes out is the quotient of
        two integers, rounded once. By default ``{"accuracy": accuracy}`` for a
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
        If shapes do not fit, or a metric or the loss is not one number.
    TypeError
        If an argument is of another kind, a metric is no number, or libraries or devices do not
        fit.

    Examples
    --------
    >>> import xplayers as xl
    >>> (x, t), _ = xl.data.load_digits()
    >>> list(evaluate(xl.mlp([64, 10], rng=0), xl.SoftmaxWithLoss(), x, t))
    ['loss', 'accuracy']
    """
    instance("evaluate", "net", net, Layer, f"a network: {_HINT}")
    instance("evaluate", "loss", loss, Loss, f"a loss, as SoftmaxWithLoss(): {_HINT}")
    integer("evaluate", "batch_size", batch_size)
    if t is None:
        _check_batches(x)
    metrics = default_metrics(loss) if metrics is None else metrics
    metrics = checked_metrics("evaluate", metrics, taken=("loss",))
    totals = _Totals(loss, metrics)
    with np.errstate(invalid="ignore", divide="ignore"):  # of empty batches
        for batch_x, batch_t in x if t is None else minibatches(x, t, batch_size):
            totals.add(net.predict(batch_x), batch_t, int(batch_x.shape[0]))
        totals.collect()
    return {name: total.value() for name, total in totals.by_name.items()}


def _check_batches(x: Any) -> None:
    if hasattr(x, "shape") or isinstance(x, str | Mapping) or not isinstance(x, Iterable):
        message = f"evaluate: x is {shown(x)}, t is missing; expected {_HINT} or batches (x, t)."
        raise TypeError(message)
    if isinstance(x, list | tuple) and x and hasattr(x[0], "shape"):
        message = f"evaluate: x is a {type(x).__name__} of arrays; expected {_HINT}."
        raise TypeError(message)


class _Totals:
    """Loss and metrics over batches; their numbers wait on the device until they are a block."""

    def __init__(self, loss: Loss, metrics: Metrics) -> None:
        self.loss, self.metrics, self.mean = loss, metrics, _Mean()
        self.by_name: dict[str, _Mean | _Hits] = {"loss": self.mean}
        for name, metric in metrics.items():
            self.by_name[name] = _Hits() if metric is accuracy else _Mean()
        self._batches: list[tuple[int, int, bool]] = []  # samples, labels, whether with weights
        self._waiting: list[Array | float] = []

    def add(self, y: Array, t: Array, samples: int) -> None:
        """Measure the scores of a batch."""
        loss, waiting = self.loss, self._waiting
        waiting.append(_number("the loss", loss(y, t)))
        for name, metric in self.metrics.items():
            count = hits if metric is accuracy else metric
            waiting.append(_number(f"metric {name}", count(y, t)))
        weights = label_weights(loss, loss.arrays, len(y.shape), t) if has_weights(loss) else None
        if weights is not None:
            waiting.append(weights)
        self._batches.append((samples, math.prod(y.shape[:-1]), weights is not None))
        if len(waiting) + 2 + len(self.metrics) > BLOCK:
            self.collect()

    def collect(self) -> None:
        """Fetch the numbers that wait, and add them up."""
        numbers = iter(fetched(self._waiting).tolist())
        for n, labels, weighted in self._batches:
            value, *measured = (next(numbers) for _ in self.by_name)
            weight = next(numbers) if weighted else n
            if n == 0:
                continue
            # What the loss has divided by is 1 where there is no weight.
            summed = self.loss.reduction == "sum"
            self.mean.add_total(value if summed else value * (weight or 1.0), weight)
            for name, number in zip(self.metrics, measured, strict=True):
                self.by_name[name].add(number, n, max(labels, 1))
        self._batches.clear()
        self._waiting.clear()


class _Mean:
    """A mean over batches, with weights."""

    def __init__(self) -> None:
        self.total = self.weight = 0.0
        self.empty = True

    def add(self, mean: float, samples: int, labels: int) -> None:
        self.add_total(mean * samples, samples)

    def add_total(self, total: float, weight: float) -> None:
        self.total, self.weight, self.empty = self.total + total, self.weight + weight, False

    def value(self) -> float:
        """Return the mean; NaN of nothing, and the sum where all weights are 0."""
        return math.nan if self.empty else self.total / (self.weight or 1.0)


class _Hits:
    """The mean over samples of the hits among their labels, as a quotient of integers."""

    def __init__(self) -> None:
        self.hits, self.of, self.samples = 0, 1, 0

    def add(self, hits: float, samples: int, labels: int) -> None:
        a, b = self.hits * labels + int(hits) * samples * self.of, self.of * labels
        common = math.gcd(a, b)
        self.hits, self.of = a // common, b // common
        self.samples += samples

    def value(self) -> float:
        """Return the mean, rounded once; NaN of nothing."""
        return self.hits / (self.of * self.samples) if self.samples else math.nan


def default_metrics(loss: Loss) -> Metrics:
    """Return the metrics that go with a loss where none are asked for."""
    labels = isinstance(loss, SoftmaxWithLoss) and loss.ignore_index is None
    return {"accuracy": accuracy} if labels else {}


def has_weights(loss: Loss) -> bool:
    """Whether the mean of a loss is over weights of labels, and not over samples."""
    return (
        isinstance(loss, SoftmaxWithLoss)
        and loss.reduction == "mean"
        and (loss.ignore_index is not None or loss.class_weights is not None)
    )


def label_weights(
    loss: Loss, arrays: Mapping[str, Array], axes: int, target: Array
) -> Array | None:
    """Return the sum of the weights that the mean of a loss of scores of so many axes is over.

    None: all samples count the same.
    """
    if not isinstance(loss, SoftmaxWithLoss) or len(target.shape) == axes:
        return None
    weights, ignored = arrays.get("class_weights"), loss.ignore_index
    if weights is None and ignored is None:
        return None
    xp = namespace(target)
    labels = xp.astype(xp.reshape(target, (-1,)), xp.arange(0).dtype)
    keep = labels == labels if ignored is None else labels != ignored
    if weights is None:
        return xp.sum(xp.astype(keep, xp.float32))
    if not on_host(labels):  # nobody has looked at them; where one is out of range the loss is NaN
        keep = keep & (labels >= 0) & (labels < weights.shape[0])
    each = xp.take(weights, xp.where(keep, labels, xp.zeros_like(labels)), axis=0)
    return xp.sum(each * xp.astype(keep, each.dtype))


def _number(name: str, value: Any) -> Array | float:
    """Return a number as a float, and a 0-d array as it is."""
    if isinstance(value, bool | int | float | np.generic):
        return float(value)
    shape = getattr(value, "shape", None)
    if shape is None or tuple(shape) != ():
        came = f"is a {type(value).__name__}" if shape is None else f"has shape {tuple(shape)}"
        message = f"{name} {came}; expected one number, the mean over the samples of a batch."
        raise (TypeError if shape is None else ValueError)(f"evaluate: {message}")
    return value
