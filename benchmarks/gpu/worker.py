"""One section, in a process of its own: prints its rows, a JSON object a line.

python -m benchmarks.gpu.worker SECTION DEVICE SECONDS
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu import checks
from benchmarks.gpu.checks import said
from benchmarks.gpu.timing import measure
from benchmarks.gpu.workloads import TOYS, WORKLOADS, Skipped

# A function of checks.py, or module and function of an implementation of the steps.
SECTIONS = {
    "correctness": "",
    "on_device": "",
    "replay": "",
    "gemm": "",
    "cudnn": "",
    "bandwidth": "",
    "products": "",
    "xplayers": "ours.plain",
    "xplayers-graph": "ours.graph",
    "xplayers-fused": "ours.fused",
    "xplayers-fused-10": "ours.many",
    "xplayers-cudnn": "ours.convolved",
    "torch": "with_torch.eager",
    "torch-graph": "with_torch.graph",
    "torch-compile": "with_torch.compiled",
    "jax": "with_jax.jitted",
}
CHECKED = 3  # steps whose losses are compared


def rows(section: str, device: str, seconds: float) -> Iterator[dict[str, Any]]:
    module, _, name = SECTIONS[section].partition(".")
    if not module:
        yield from getattr(checks, section)(device, seconds)
        return
    implementation = importlib.import_module(f"benchmarks.gpu.{module}")
    wait = implementation.wait(device)
    for workload in TOYS if device == "cpu" else WORKLOADS:
        try:
            run = getattr(implementation, name)(workload, device)
            per = implementation.STEPS if name == "many" else 1
            losses = [v for _ in range(-(-CHECKED // per)) for v in _losses(run())]
            row = {"time": measure(run, wait, seconds, per), "losses": losses[:CHECKED]}
        except Skipped:
            continue
        except Exception as error:
            row = {"error": said(error)}
        yield {"row": workload.name, **row}
        run = None  # its memory is needed for the next


def _losses(result: Any) -> list[float]:
    value = result[0] if isinstance(result, tuple) else result
    host = value.get() if hasattr(value, "get") else value.cpu() if hasattr(value, "cpu") else value
    return [float(v) for v in np.ravel(np.asarray(host))]


def main() -> None:
    section, device, seconds = sys.argv[1:]
    # Libraries may print: the rows have the standard output for themselves.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for row in rows(section, device, float(seconds)):
            print(json.dumps(row), file=out, flush=True)
    except Exception as error:
        print(json.dumps({"row": section, "error": said(error)}), file=out, flush=True)


if __name__ == "__main__":
    main()
