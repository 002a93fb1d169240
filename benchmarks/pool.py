"""The parent's side of the workers: one process for each implementation."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, worker_environment

# Between two workers: the threads of OpenBLAS go on spinning for 110 ms after their work.
REST = 0.15


class WorkerFailed(Exception):
    """A worker raised, or is gone; the message has its traceback."""


class Process:
    """A worker process, and the conversation with it.

    With a `checkout` it measures the package that lies there, else that beside the benchmarks.
    """

    def __init__(self, implementation: str, threads: int, checkout: Path | None = None) -> None:
        self.name, self.threads = implementation, threads
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", implementation, str(checkout or ROOT)],
            env=worker_environment(threads),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, do: str, **arguments: Any) -> None:
        assert self.process.stdin is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            self._gone()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._gone()
        reply = json.loads(line)
        if "error" in reply:
            message = f"{self.name}:\n{reply['error']}"
            raise WorkerFailed(message)
        return reply

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.send(do, **arguments)
        return self.receive()

    def rest(self) -> None:
        """Wait until the threads of the worker before have stopped spinning."""
        if self.threads > 1:
            time.sleep(REST)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()  # it has nothing to save
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _gone(self) -> None:
        message = f"{self.name}: the worker ended with status {self.process.wait()}"
        raise WorkerFailed(message)


@contextlib.contextmanager
def workers(
    implementations: Sequence[str], threads: int, checkouts: Sequence[Path | None] = ()
) -> Iterator[list[Process]]:
    """Start a worker for each implementation, and end them afterwards."""
    processes: list[Process] = []
    try:
        for name, checkout in itertools.zip_longest(implementations, checkouts):
            processes.append(Process(name, threads, checkout))
        yield processes
    finally:
        for process in processes:
            process.close()
