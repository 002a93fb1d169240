"""The columns of a history, and what metrics may be called beside them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from xplayers._checks import shown

MEASURES = ("epoch", "step", "lr", "seconds", "samples_per_s")  # that say nothing of the network
COLUMNS = ("loss", *MEASURES)


def checked_metrics(
    owner: str, metrics: Any, taken: Collection[str] = COLUMNS
) -> dict[str, Callable[..., Any]]:
    """Return metrics as a dict.

    Raises
    ------
    TypeError
        If they are no functions by name.
    ValueError
        If a name is that of another column: one of `taken`, or ``val_`` and something.
    """
    if not isinstance(metrics, Mapping):
        message = (
            f"{owner}: metrics is {shown(metrics)}; expected functions by name, as "
            '{"accuracy": xl.accuracy}.'
        )
        raise TypeError(message)
    for name, metric in metrics.items():
        if not isinstance(name, str):
            message = f"{owner}: metrics has the name {shown(name)}; expected a string."
            raise TypeError(message)
        if not name or name in taken or (name.startswith("val_") and "epoch" in taken):
            message = (
                f"{owner}: a metric is called {name!r}, as another column of the history is. "
                "Give it another name."
            )
            raise ValueError(message)
        if not callable(metric) or isinstance(metric, type):
            message = (
                f"{owner}: metric {name} is {shown(metric)}; expected a function of scores and "
                "targets."
            )
            raise TypeError(message)
    return dict(metrics)
