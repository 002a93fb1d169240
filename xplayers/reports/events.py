"""What a trainer tells its callbacks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xplayers.arrays.namespaces import Array
from xplayers.reports.history import History, Row

__all__ = ["Event"]


class Event(NamedTuple):
    """Something that has happened in a run of training.

    A callback is any function of an event; it looks at `kind` and does nothing for the others ::

        def show(event):
            if event.kind == "epoch":
                print(event.row)

    Attributes
    ----------
    kind : str
        ``"begin"`` of the run; ``"step"``, an update; ``"losses"``, those of some steps have come
        over to the host; ``"epoch"``, one is complete, with its evaluation; ``"checkpoint"``, one
        was written; ``"end"`` of the run, also where an error ends it.
    trainer : Trainer
        The trainer, with its ``net`` and ``optimizer``; ``trainer.stop()`` ends the run.
    history : History
        The table so far.
    epoch : int
        The epoch under way, from 1; 0 at the beginning.
    step : int
        Updates so far.
    samples : int
        Samples gone through so far, each as often as it was.
    total_samples : int or None
        What `samples` will be after all epochs, if that is known.
    loss : array or None
        The loss of a ``"step"``, 0-d. It is on the device: looking at its value waits for it.
    losses : numpy.ndarray or None
        The ``"losses"``, float64 on the host, the last of them that of `step`.
    row : dict or None
        The row of an ``"epoch"`` in `history`.
    """

    kind: str
    trainer: Any  # whose class is no part of this file
    history: History
    epoch: int
    step: int
    samples: int
    total_samples: int | None
    loss: Array | None = None
    losses: np.ndarray | None = None
    row: Row | None = None
