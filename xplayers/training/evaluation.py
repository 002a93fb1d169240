"""Evaluation of a network: the exact loss and metrics of a whole data set."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import instance, integer, processes, shown
from xplayers.arrays.namespaces import Array, namespace, size, widest_floating
from xplayers.data.batches import minibatches, own_part
from xplayers.data.loading import Batches
from xplayers.layers.base import Layer
from xplayers.losses import Loss, SoftmaxWithLoss
from xplayers.losses.weights import check_weights, spread, takes
from xplayers.metrics import accuracy, hits
from xplayers.parallel.groups import RanksLost
from xplayers.reports.columns import checked_metrics
from xplayers.training.exchange import gathered
from xplayers.training.fetching import BLOCK, fetched

__all__ = ["evaluate"]

Metrics = Mapping[str, Callable[[Array, Array], Any]]
Pairs = Iterable[tuple[Array, Array]]

_HINT = "evaluate(net, loss, x, t)"


@explained()
def evaluate(
    net: Layer,
    loss: Loss,
    x: Array | Pairs,
    t: Array | None = None,
    *,
    metrics: Metrics | None = None,
    batch_size: int = 256,
    group: Any = None,
    sample_weight: Array | None = None,
) -> dict[str, float]:
    """Return the loss and the metrics of a network on a data set.

    Every sample has the same weight, also in a smaller last batch: the result is the loss of the
    whole set as one batch, up to rounding, independent of `batch_size`. Where a loss is a weighted
    mean (``class_weights`` or ``ignore_index`` of `SoftmaxWithLoss`), so is the result.

    Parameters
    ----------
    net : Layer
        The network, evaluated by `predict`.
    loss : Loss
        With ``reduction="mean"``; with ``"sum"`` the sum is divided by the number of samples.
    x, t : array
        Samples and targets; or instead of `x` an iterable of batches ``(x, t)``, or ``(x, t, w)``
        with the weights of samples.
    metrics : mapping of str to callable, optional
        Functions of scores and targets that return the mean over the samples of a batch, a number
        or 0-d array; with weights they are passed `sample_weight` by name. Without, `accuracy` is
        computed as a quotient of two integers, rounded once. By default
        ``{"accuracy": accuracy}`` for a `SoftmaxWithLoss` without ``ignore_index``, and none for
        other losses.
    batch_size : int
        Samples per batch, if `x` is an array.
    group : Group, optional
        Of several processes (`xplayers.parallel`), which all pass the same data, each evaluates a
        part of the samples or, of batches, each so manyth. The result is the same on all.
    sample_weight : array, optional
        The weight of each sample, 0 or more, as in `Loss.forward`: the results are means over the
        sum of the weights.

    Returns
    -------
    dict of str to float
        ``"loss"`` and the metrics by name; NaN for no samples. The values of many batches are
        fetched from the device at once.

    Raises
    ------
    ValueError
        If shapes do not match, or a metric or the loss is not a scalar.
    TypeError
        If an argument has the wrong type, a metric is not a number, or libraries or devices do not
        match.

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
    metrics = checked_metrics("evaluate", metrics, reserved=("loss",))
    weights = sample_weight
    if weights is not None:
        if t is None:
            message = "evaluate: sample_weight goes with arrays x and t; batches are (x, t, w)."
            raise TypeError(message)
        check_weights("evaluate", weights, x)
    processes("evaluate", group)
    while True:
        try:
            return _evaluated(net, loss, x, t, metrics, batch_size, group, weights)
        except RanksLost:  # those that are left have other parts
            if isinstance(x, Iterator):  # which has been used
                raise


def _evaluated(
    net: Layer,
    loss: Loss,
    x: Any,
    t: Array | None,
    metrics: Metrics,
    batch_size: int,
    group: Any,
    weights: Array | None,
) -> dict[str, float]:
    """Return the results, with checked arguments."""
    totals = _Totals(loss, metrics)
    if group is not None and group.size == 1:
        group = None
    if group is not None and isinstance(x, Batches):
        x = x._of(group)
    elif group is not None and t is None:
        x = itertools.islice(x, group.rank, None, group.size)
    elif group is not None:
        x, t, weights = own_part(group, x, t, weights)
    with np.errstate(invalid="ignore", divide="ignore"):  # for empty batches
        for batch in x if t is None else minibatches(x, t, batch_size, sample_weight=weights):
            totals.add(net.predict(batch[0]), *batch[1:])
        totals.collect()
    if group is not None:
        totals.gather(group)
    return {name: total.value() for name, total in totals.by_name.items()}


def _check_batches(x: Any) -> None:
    if hasattr(x, "shape") or isinstance(x, str | Mapping) or not isinstance(x, Iterable):
        message = f"evaluate: x is {shown(x)}, t is missing; expected {_HINT} or batches (x, t)."
        raise TypeError(message)
    if isinstance(x, list | tuple) and x and hasattr(x[0], "shape"):
        message = f"evaluate: x is a {type(x).__name__} of arrays; expected {_HINT}."
        raise TypeError(message)


class _Totals:
    """Loss and metrics over batches; their values are fetched from the device in blocks."""

    def __init__(self, loss: Loss, metrics: Metrics) -> None:
        self.loss, self.metrics, self.mean = loss, metrics, _Mean()
        self.by_name: dict[str, _Mean | _Hits] = {"loss": self.mean}
        for name, metric in metrics.items():
            self.by_name[name] = _Hits() if metric is accuracy else _Mean()
        # Samples and labels of each, and whether there are weights of the loss and of samples.
        self._batches: list[tuple[int, int, bool, bool]] = []
        self._unfetched: list[Array | float] = []

    def add(self, y: Array, t: Array, sample_weight: Array | None = None) -> None:
        """Compute loss and metrics of a batch."""
        loss, unfetched = self.loss, self._unfetched
        unfetched.append(_scalar("the loss", loss(y, t, sample_weight)))
        for name, metric in self.metrics.items():
            unfetched.append(
                _scalar(f"metric {name}", _measured(name, metric, y, t, sample_weight))
            )
        weight = batch_weight(loss, loss.arrays, len(y.shape), t, sample_weight)
        if weight is not None:
            unfetched.append(weight)
        if sample_weight is not None:
            unfetched.append(_sum_of(sample_weight))
        kind = weight is not None, sample_weight is not None
        self._batches.append((int(y.shape[0]), math.prod(y.shape[:-1]), *kind))
        if len(unfetched) + 3 + len(self.metrics) > BLOCK:
            self.collect()

    def collect(self) -> None:
        """Fetch the pending values, and add them to the totals."""
        numbers = iter(fetched(self._unfetched).tolist())
        for n, labels, weighted, sampled in self._batches:
            value, *measured = (next(numbers) for _ in self.by_name)
            weight = next(numbers) if weighted else n
            total = next(numbers) if sampled else None  # of the weights of samples
            if n == 0:
                continue
            # The loss divides by 1 where the weights sum to 0.
            is_sum = self.loss.reduction == "sum"
            self.mean.add_total(value if is_sum else value * (weight or 1.0), weight)
            for name, number in zip(self.metrics, measured, strict=True):
                if total is None:
                    self.by_name[name].add(number, n, max(labels, 1))
                else:
                    self.by_name[name].add_total(number * total, total)
        self._batches.clear()
        self._unfetched.clear()

    def gather(self, group: Any) -> None:
        """Add the totals of the other processes, in the order of their ranks."""
        texts = gathered(group, pickle.dumps(self.by_name).hex())
        self.by_name, *others = (pickle.loads(bytes.fromhex(text)) for text in texts)
        for other in others:
            for name, total in self.by_name.items():
                total.merge(other[name])


class _Mean:
    """A weighted mean over batches."""

    def __init__(self) -> None:
        self.total = self.weight = 0.0
        self.empty = True

    def add(self, mean: float, samples: int, labels: int) -> None:
        self.add_total(mean * samples, samples)

    def add_total(self, total: float, weight: float) -> None:
        self.total, self.weight, self.empty = self.total + total, self.weight + weight, False

    def merge(self, other: _Mean) -> None:
        """Add those of another process."""
        self.total, self.weight = self.total + other.total, self.weight + other.weight
        self.empty = self.empty and other.empty

    def value(self) -> float:
        """Return the mean; NaN if empty, and the sum if all weights are 0."""
        return math.nan if self.empty else self.total / (self.weight or 1.0)


class _Hits:
    """The mean accuracy over samples, exact until it is rounded once."""

    def __init__(self) -> None:
        self.total: Any = 0
        self.samples: float = 0

    def add(self, hits: float, samples: int, labels: int) -> None:
        from fractions import Fraction  # on demand: it imports decimal

        self.add_total(Fraction(int(hits) * samples, labels), samples)

    def add_total(self, total: Any, weight: float) -> None:
        self.total, self.samples = self.total + total, self.samples + weight

    def merge(self, other: _Hits) -> None:
        """Add those of another process."""
        self.total, self.samples = self.total + other.total, self.samples + other.samples

    def value(self) -> float:
        """Return the mean; NaN if empty."""
        return float(self.total / self.samples) if self.samples else math.nan


def _measured(name: str, metric: Any, y: Array, t: Array, sample_weight: Array | None) -> Any:
    """Return what a metric says of a batch; without weights the number of hits, of accuracy."""
    if sample_weight is None:
        return (hits if metric is accuracy else metric)(y, t)
    if not takes("sample_weight", metric):
        message = (
            f"evaluate: the metric {name} takes no sample_weight; with weights it is called as "
            f"{name}(y, t, sample_weight=w)."
        )
        raise TypeError(message)
    return metric(y, t, sample_weight=sample_weight)


def default_metrics(loss: Loss) -> Metrics:
    """Return the default metrics for a loss."""
    labels = isinstance(loss, SoftmaxWithLoss) and loss.ignore_index is None
    return {"accuracy": accuracy} if labels else {}


def weighs_labels(loss: Loss) -> bool:
    """Whether the mean of a loss is weighted by labels."""
    return (
        isinstance(loss, SoftmaxWithLoss)
        and loss.reduction == "mean"
        and (loss.ignore_index is not None or loss.class_weights is not None)
    )


def batch_weight(
    loss: Loss, arrays: Mapping[str, Array], axes: int, target: Array, weights: Array | None = None
) -> Array | None:
    """Return the weight of a batch in the mean of a loss, for scores with `axes` axes.

    That is the sum of the weights of labels and of samples. None: the number of samples.
    """
    each = None
    if isinstance(loss, SoftmaxWithLoss) and weighs_labels(loss):
        each = loss.label_weights(arrays, axes, target)
    if each is None:
        return None if weights is None else _sum_of(weights)
    if weights is not None:
        each = each * spread(loss, weights, each.shape, each.dtype)
    return namespace(each).sum(each)


def _sum_of(weights: Array) -> Array:
    """Return the sum of the weights of samples; of those that have many, their mean."""
    xp, n = namespace(weights), weights.shape[0]
    return xp.sum(xp.astype(weights, widest_floating(weights))) * (n / max(size(weights), 1))


def _scalar(name: str, value: Any) -> Array | float:
    """Return a number as a float, and a 0-d array unchanged."""
    if isinstance(value, bool | int | float | np.generic):
        return float(value)
    shape = getattr(value, "shape", None)
    if shape is None or tuple(shape) != ():
        got = f"is a {type(value).__name__}" if shape is None else f"has shape {tuple(shape)}"
        message = f"{name} {got}; expected a scalar, the mean over the samples of a batch."
        raise (TypeError if shape is None else ValueError)(f"evaluate: {message}")
    return value
