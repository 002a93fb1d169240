"""The columns of a history, and checks of the names of metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from xplayers._checks import shown

MEASURES = ("epoch", "step", "lr", "seconds", "samples_per_s")  # neither losses nor metrics
COLUMNS = ("loss", *MEASURES)


def checked_metrics(
    owner: str, metrics: Any, reserved: Collection[str] = COLUMNS
) -> dict[str, Callable[..., Any]]:
    """Check metrics, functions by name, and return them as a dict.

    A name is not that of another column: it is none of `reserved`, nor begins with ``val_``.
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
        if not name or name in reserved or (name.startswith("val_") and "epoch" in reserved):
            message = (
                f"{owner}: a metric is called {name!r}, like another column of the history. "
                "Rename it."
            )
            raise ValueError(message)
        if not callable(metric) or isinstance(metric, type):
            message = (
                f"{owner}: metric {name} is {shown(metric)}; expected a function of scores and "
                "targets."
            )
            raise TypeError(message)
    return dict(metrics)
