"""One implementation, in a process of its own.

    python -m benchmarks.worker IMPLEMENTATION CHECKOUT

Reads requests and writes replies, a JSON object a line: start with a workload, prepare and time;
or memory; or profile. The package that is measured is that of the checkout.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from benchmarks import resident, workloads
from benchmarks.implementations import OTHER_LIBRARIES, NotRun, Task, load

# So small that the parameters stay: the last of thousands of repetitions computes with numbers like
# those of the first, not with the denormal gradients of a batch that has been learnt by heart.
TIMED_RATE = 1e-7
SAMPLE = 2e-3  # seconds; shorter repetitions are timed several at once
SAMPLES = 3  # at least
REPEATED = 4  # for the self-check: the fourth loss is that after three updates


class Worker:
    def __init__(self, name: str) -> None:
        self.name = name
        self.implementation: Any = None
        self.task: Any = None

    def start(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Build a workload, and return fingerprints of its first results for the self-check."""
        self.task = None  # gives back the memory of the last one
        gc.collect()
        self.workload = workloads.Workload(**workload)
        if self.implementation is None:
            self.implementation = _implementation(self.name)
        if getattr(self.implementation, self.workload.kind, None) is None:
            return {"skipped": True}
        task = self._build()
        if task.figures or task.comparable is None:
            return {}
        values = []
        for _ in range(REPEATED):
            values += self._fingerprints(task)
        return {"values": values}

    def memory(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Return bytes that are resident after a tiny step, and peaks of a workload's steps.

        Also the fingerprints of `start`. Without a tiny step first, what a library loads when it is
        first used would count as the step's.
        """
        reply = self.start(asdict(workloads.WARM_UP))
        if "skipped" in reply:
            return reply
        self.workload = workloads.Workload(**workload)
        gc.collect()
        level = resident.now()
        task = self._build()
        # Two, which xplayers records to replay them in the others.
        values = self._fingerprints(task) + self._fingerprints(task)
        first = resident.peak()
        resident.forget_peak()
        for _ in range(REPEATED - 2):
            values += self._fingerprints(task)
        return {"values": values, "level": level, "first": first, "step": resident.peak()}

    def profile(self, workload: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the calls of a step that is replayed, with their times; nothing of others."""
        from benchmarks import profiling

        implementation = _implementation(self.name)
        if not hasattr(implementation, "train_step"):
            return {}
        data = workloads.data(workloads.Workload(**workload))
        calls = profiling.calls(*implementation.train_step(data, TIMED_RATE), seconds)
        return {} if calls is None else {"calls": calls}

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
        """Return the median and the least time of a repetition in one batch."""
        gc.collect()
        gc.disable()  # as timeit does
        try:
            if self.task.figures:
                return {"figures": self.task.figures(self.batches)}
            self._sample(self.repetitions)  # caches and thread pools have gone cold meanwhile
            times = [self._sample(self.repetitions) for _ in range(self.samples)]
        finally:
            gc.enable()
        return {
            "seconds": median(times) / self.repetitions,
            "least": min(times) / self.repetitions,
        }

    def _build(self, lr: float | None = None) -> Task:
        data = workloads.data(self.workload)
        self.comparison = workloads.comparison(data)
        build = getattr(self.implementation, self.workload.kind)
        return build(data, lr or _checked_rate(data))

    def _fingerprints(self, task: Task) -> list[tuple[float, float]]:
        result = task.run()
        task.wait(result)
        assert task.comparable is not None
        arrays = self.comparison(task.comparable(result))
        return [value for array in arrays for value in fingerprint(np.asarray(array))]

    def _sample(self, repetitions: int) -> float:
        # Waits once, after the last repetition: as in training, where steps may follow each other
        # into the queue of a library that computes asynchronously.
        start, result = time.perf_counter(), None
        for _ in range(repetitions):
            result = None  # given back before the next, as a training loop does
            result = self.task.run()
        self.task.wait(result)
        return time.perf_counter() - start


def _implementation(name: str) -> Any:
    try:
        return load(name)()
    except ModuleNotFoundError as error:
        if error.name not in OTHER_LIBRARIES:
            raise
        message = f"{OTHER_LIBRARIES[error.name]} is not installed"
        raise NotRun(message) from error


def _checked_rate(data: dict[str, Any]) -> float:
    """Return a learning rate at which three steps change the loss by more than the tolerance.

    And by so little that it stays below 16, where the book's logarithm of y + 1e-7 ends. A step
    moves an output by about the rate times the number of inputs, in each of the layers.
    """
    arrays = [layer.arrays for layer in data.get("layers", ()) if "W" in layer.arrays]
    inputs = sum(a["W"].size // a["b"].size for a in arrays)
    return min(3e-3, 0.15 / max(1, inputs))


def fingerprint(array: np.ndarray) -> list[tuple[float, float]]:
    """Return numbers that tell arrays apart, each with the scale to compare it at."""
    flat = array.astype(np.float64).ravel()
    norm = float(np.linalg.norm(flat))
    if flat.size == 1:
        return [(float(flat[0]), norm)]
    signs = 1.0 - 2.0 * (np.frombuffer(np.random.default_rng(1).bytes(flat.size), np.uint8) & 1)
    return [(norm, norm), (float(flat @ signs), norm)]


def main() -> None:
    # Libraries may print: the replies have the standard output for themselves.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    implementation, checkout = sys.argv[1:]
    sys.path.insert(0, checkout)  # before the package is imported
    worker = Worker(implementation)
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
