"""The learning-rate range test: short training at growing rates."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import integer, number
from xplayers.arrays.namespaces import Array, namespace
from xplayers.data.batches import minibatches
from xplayers.layers.base import Layer
from xplayers.losses import Loss
from xplayers.optimizers import Optimizer
from xplayers.saving.files import AnyPath
from xplayers.training.fetching import fetched
from xplayers.training.stateful import check_parts
from xplayers.training.step import TrainStep

__all__ = ["RateTest", "find_learning_rate"]

SMOOTHING = 0.9  # of the exponential moving average of the losses
DIVERGED = 4.0  # times the least smoothed loss: there the test ends


@dataclasses.dataclass(frozen=True, eq=False)
class RateTest:
    """The result of `find_learning_rate`.

    Attributes
    ----------
    rates : numpy.ndarray of shape (steps,)
        The learning rates of the steps, growing by a constant factor.
    losses : numpy.ndarray of shape (steps,)
        The loss of each step, smoothed: an exponential moving average without its initial bias.
    suggestion : float
        The rate at which the loss falls fastest by the logarithm of the rate: after a tenth of the
        steps, before its minimum.

    Examples
    --------
    >>> import xplayers as xl
    >>> (x, t), _ = xl.data.load_digits()
    >>> net = xl.mlp([64, 50, 10], rng=0)
    >>> found = xl.find_learning_rate(net, xl.SoftmaxWithLoss(), xl.Adam(), x, t)
    >>> found.rates.shape == found.losses.shape
    True
    >>> bool(found.rates[0] < found.suggestion < found.rates[-1])
    True
    """

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float

    def __repr__(self) -> str:
        ends = f"{self.rates[0]:.2g} to {self.rates[-1]:.2g}"
        return f"<RateTest: {len(self.rates)} steps, {ends}; suggestion {self.suggestion:.2g}>"

    def plot(self, path: AnyPath | None = None) -> Any:
        """Plot the losses by the rates, with the suggestion.

        Parameters
        ----------
        path : path, optional
            Write the figure to this file; the suffix selects the format.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from xplayers.reports.plots import plot_rate_test

        return plot_rate_test(self.rates, self.losses, self.suggestion, path)


@explained()
def find_learning_rate(
    net: Layer,
    loss: Loss,
    optimizer: Optimizer,
    x: Array,
    t: Array,
    *,
    least: float = 1e-6,
    most: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    seed: int = 0,
) -> RateTest:
    """Train a copy of a network at growing learning rates, and see where the loss falls.

    The rate of step ``i`` is ``least * (most / least)**(i / (steps - 1))``. The test ends early
    where the smoothed loss is not finite, or four times its minimum.

    Parameters
    ----------
    net : Layer
        The network; it is not changed.
    loss : Loss
        With ``reduction="mean"`` or ``"sum"``.
    optimizer : Optimizer
        Its learning rate is replaced, in a copy.
    x, t : array
        Samples and targets, of which batches are taken in random order.
    least, most : float
        The first and the last rate.
    steps : int
        Steps, 10 or more.
    batch_size, seed : int
        As in `Trainer`.

    Returns
    -------
    RateTest
        ``rates``, ``losses`` and a ``suggestion``; `RateTest.plot` draws them.

    Raises
    ------
    ValueError
        If a number is out of range, or the loss is not finite from the beginning.
    TypeError
        If the parts are not a network, a loss and an optimizer.

    References
    ----------
    Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3. The
    suggestion is that of fast.ai ("steep").

    Examples
    --------
    >>> import xplayers as xl
    >>> train, _ = xl.data.load_digits()
    >>> net = xl.mlp([64, 50, 10], rng=0)
    >>> test = find_learning_rate(net, xl.SoftmaxWithLoss(), xl.Adam(), *train)
    >>> 1e-3 < test.suggestion < 0.3
    True
    """
    from xplayers.schedules import Exponential  # which few use

    owner = "find_learning_rate"
    check_parts(owner, net, loss, optimizer)
    least = number(owner, "least", least, above=0.0)
    most = number(owner, "most", most, above=least)
    steps = integer(owner, "steps", steps, least=10)
    seed = integer(owner, "seed", seed, least=0)
    optimizer = copy.deepcopy(optimizer)
    optimizer.lr = Exponential(least, steps - 1, most / least)
    step = TrainStep(copy.deepcopy(net), loss, optimizer)
    rates, losses = least * (most / least) ** (np.arange(steps) / (steps - 1)), []
    average, lowest = 0.0, np.inf
    with np.errstate(all="ignore"):
        for i, batch in enumerate(itertools.islice(_batches(x, t, batch_size, seed), steps), 1):
            (value,) = fetched([step(*batch)]).tolist()
            average = SMOOTHING * average + (1.0 - SMOOTHING) * value
            smooth = average / (1.0 - SMOOTHING**i)
            if not np.isfinite(smooth) or smooth > DIVERGED * lowest:
                break
            losses.append(smooth)
            lowest = min(lowest, smooth)
    if len(losses) < 2:
        message = f"{owner}: the loss is not finite from the beginning; use a smaller least."
        raise ValueError(message)
    smoothed = np.asarray(losses)
    # The first ones are means of few losses.
    first, lowest_at = min(steps // 10, len(losses) - 2), int(np.argmin(smoothed))
    slopes = np.gradient(smoothed)[first : max(lowest_at, first) + 1]
    steepest = first + int(np.argmin(slopes))
    return RateTest(rates[: len(smoothed)], smoothed, float(rates[steepest]))


def _batches(x: Array, t: Array, batch_size: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Yield batches without end, each epoch in an order of its own."""
    namespace(x, "find_learning_rate", "x")
    if 0 in x.shape[:1]:  # of these there is no end
        message = f"find_learning_rate: x has shape {tuple(x.shape)}; there are no samples."
        raise ValueError(message)
    for epoch in itertools.count():
        yield from minibatches(x, t, batch_size, np.random.default_rng([seed, epoch]))
