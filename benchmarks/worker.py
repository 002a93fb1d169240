"""One implementation of one workload, in a process of its own.

    python -m benchmarks.worker WORKLOAD IMPLEMENTATION

Reads requests and writes replies, a JSON object a line: start, check, prepare, time.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from statistics import median
from typing import Any

import numpy as np

from benchmarks import workloads
from benchmarks.implementations import NotRun, Task, load

# So small that the parameters stay: the last of thousands of repetitions computes with numbers like
# those of the first, not with the denormal gradients of a batch that has been learnt by heart.
TIMED_RATE = 1e-7
SAMPLE = 2e-3  # seconds; shorter repetitions are timed several at once
SAMPLES = 3  # at least


class Worker:
    def __init__(self, workload: str, implementation: str) -> None:
        self.workload, self.implementation = workloads.find(workload), implementation

    def start(self) -> dict[str, Any]:
        """Import the library, and say whether there is anything to run."""
        made = load(self.implementation)
        if getattr(made, self.workload.kind, None) is None:
            return {"skipped": True}
        try:
            self.maker = made()
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "jax"):
                raise
            return {"not_run": f"{error.name} is not installed"}
        return {}

    def check(self) -> dict[str, Any]:
        """Return fingerprints of the results of the first repetitions, for the self-check."""
        task = self._build(_checked_rate(self.workload))
        if task.figures:
            return {"values": []}
        values = []
        for _ in range(4):  # the fourth loss is that after three updates
            result = task.run()
            task.wait(result)
            values += [v for array in result for v in fingerprint(np.asarray(array))]
        return {"values": values}

    def prepare(self, seconds: float) -> dict[str, Any]:
        """Build the task, warm up, and find how many repetitions fill a batch of `seconds`."""
        self.task = self._build(TIMED_RATE)
        if self.task.figures:
            self.batches = max(10, int(seconds * 200))
            return {}
        self._sample(2)
        once = min(self._sample(1) for _ in range(3))
        self.repetitions = max(1, round(SAMPLE / once))
        once = self._sample(self.repetitions) / self.repetitions
        self.repetitions = max(1, round(SAMPLE / once))
        self.samples = max(SAMPLES, round(seconds / (once * self.repetitions)))
        return {"repetitions": self.repetitions, "samples": self.samples}

    def time(self) -> dict[str, Any]:
        """Return the median time of a repetition in one batch."""
        gc.collect()
        gc.disable()  # as timeit does
        try:
            if self.task.figures:
                return {"figures": self.task.figures(self.batches)}
            self._sample(self.repetitions)  # caches and thread pools have gone cold meanwhile
            times = [self._sample(self.repetitions) for _ in range(self.samples)]
        finally:
            gc.enable()
        return {"seconds": median(times) / self.repetitions}

    def _build(self, lr: float) -> Task:
        return getattr(self.maker, self.workload.kind)(workloads.data(self.workload), lr)

    def _sample(self, repetitions: int) -> float:
        # Waits once, after the last repetition: as in training, where steps may follow each other
        # into the queue of a library that computes asynchronously.
        start = time.perf_counter()
        for _ in range(repetitions):
            result = None  # given back before the next, as a training loop does
            result = self.task.run()
        self.task.wait(result)
        return time.perf_counter() - start


def _checked_rate(workload: workloads.Workload) -> float:
    """Return a learning rate at which three steps change the loss by more than the tolerance.

    And by so little that it stays below 16, where the book's logarithm of y + 1e-7 ends.
    """
    return min(1e-3, 0.2 / max(workload.sizes, default=1))


def fingerprint(array: np.ndarray) -> list[tuple[float, float]]:
    """Return numbers that tell arrays apart, each with the scale to compare it at."""
    flat = array.astype(np.float64).ravel()
    norm = float(np.linalg.norm(flat))
    if flat.size == 1:
        return [(float(flat[0]), norm)]
    signs = np.random.default_rng(1).choice([-1.0, 1.0], flat.size)
    return [(norm, norm), (float(flat @ signs), norm)]


def main() -> None:
    # Libraries may print: the replies have the standard output for themselves.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(*sys.argv[1:])
    for line in sys.stdin:
        request = json.loads(line)
        cpu = time.process_time()
        try:
            reply = getattr(worker, request.pop("do"))(**request)
            reply["cpu_seconds"] = time.process_time() - cpu
        except NotRun as error:
            reply = {"not_run": str(error)}
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
