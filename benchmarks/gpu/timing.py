"""The time of a repeated call."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

SAMPLE = 0.01  # seconds; shorter calls are timed several at once
FEWEST = 5


def measure(
    run: Callable[[], Any], wait: Callable[[Any], Any], seconds: float, per: int = 1
) -> dict[str, Any]:
    """Return the seconds of a call over `per`: median, minimum, quartiles.

    A sample is several calls in a row and one `wait` at its end, as in training, where steps follow
    each other into the queue of the device.
    """

    def sample(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            result = run()
        wait(result)
        return (time.perf_counter() - start) / n

    sample(2)
    once = min(sample(1), sample(1))
    n = max(1, round(SAMPLE / max(sample(max(1, round(SAMPLE / once / 4))), 1e-9)))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or time.perf_counter() < end:
        times.append(sample(n) / per)
    low, _, high = quantiles(times, n=4, method="inclusive")
    return {
        "median": median(times),
        "min": min(times),
        "quartiles": [low, high],
        "samples": len(times),
        "calls_per_sample": n,
    }
