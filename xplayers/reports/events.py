"""The events that a trainer passes to its callbacks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xplayers.arrays.namespaces import Array
from xplayers.reports.history import History, Row

__all__ = ["Event"]


class Event(NamedTuple):
    """An event in a training run.

    A callback is any function of an event; it handles some kinds and ignores the others ::

        def show(event):
            if event.kind == "epoch":
                print(event.row)

    Attributes
    ----------
    kind : str
        ``"begin"`` of the run; ``"step"``, an update; ``"losses"``, those of several steps were
        fetched to the host; ``"epoch"``, one is complete, with its evaluation; ``"checkpoint"``,
        one was written; ``"regroup"``, processes are lost and those of an elastic group that are
        left go on; ``"end"`` of the run, also after an error.
    trainer : Trainer
        The trainer, with its ``net`` and ``optimizer``; ``trainer.stop()`` ends the run.
    history : History
        The table so far.
    epoch : int
        The current epoch, from 1; 0 at the beginning.
    step : int
        Updates so far.
    samples : int
        Samples processed so far, counted in every epoch.
    total_samples : int or None
        `samples` after all epochs, if known.
    loss : array or None
        The loss of a ``"step"``, 0-d, on the device: reading its value synchronizes.
    losses : numpy.ndarray or None
        The ``"losses"``, float64 on the host; the last one is that of `step`.
    row : dict or None
        The row of an ``"epoch"`` in `history`.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> def show(event):
    ...     if event.kind == "epoch":
    ...         print(event.epoch, event.step, list(event.row)[:3])
    >>> x, t = np.eye(4, dtype="float32"), np.arange(4)
    >>> net, loss = xl.mlp([4, 4], rng=0), xl.SoftmaxWithLoss()
    >>> trainer = xl.Trainer(net, loss, xl.SGD(), epochs=2, callbacks=[show], progress=False)
    >>> history = trainer.fit(x, t)
    1 1 ['epoch', 'step', 'loss']
    2 2 ['epoch', 'step', 'loss']
    """

    kind: str
    trainer: Any  # a Trainer, which imports this module
    history: History
    epoch: int
    step: int
    samples: int
    total_samples: int | None
    loss: Array | None = None
    losses: np.ndarray | None = None
    row: Row | None = None
