"""The machine: its facts for the header, and an environment in which all workers are equal."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Variables that choose machine code, thread counts or waiting for one library and not for another.
# Workers start from the defaults of their libraries, whatever the caller's shell has set.
STEERING = re.compile(
    r".*_CORETYPE|.*DEBUG_CPU_TYPE|NPROC"
    r"|(OPENBLAS|GOTO|BLIS|MKL|NVPL|OMP|GOMP|KMP|VECLIB|ONEDNN|DNNL|ATEN|TORCH|TORCHINDUCTOR"
    r"|XLA|JAX|NPY)_.*"
)


def usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def worker_environment(threads: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a worker: nothing that steers, and `threads` for every library."""
    env = {name: value for name, value in environ.items() if not STEERING.fullmatch(name)}
    for name in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM"):
        env[f"{name}_NUM_THREADS".replace("MAXIMUM_NUM", "MAXIMUM")] = str(threads)
    env["NPROC"] = str(threads)  # the size of XLA's thread pool
    env["JAX_PLATFORMS"] = "cpu"
    return env


def removed_variables() -> list[str]:
    return sorted(name for name in os.environ if STEERING.fullmatch(name))


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()


def versions() -> dict[str, str]:
    numbers = {"python": platform.python_version()}
    for name in ("numpy", "numba", "torch", "jax", "jaxlib", "scikit-learn"):
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def busy_seconds() -> float | None:
    """Return the CPU time of all processes on the usable cores so far, or None if unknown."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    cores, ticks = {f"cpu{n}" for n in os.sched_getaffinity(0)}, 0
    for name, *fields in map(str.split, lines):
        if name in cores:
            user, nice, system, _idle, _iowait, *interrupts_and_steal = map(int, fields[:8])
            ticks += user + nice + system + sum(interrupts_and_steal)
    return ticks / os.sysconf("SC_CLK_TCK")


class OtherLoad:
    """The share of the usable cores that other processes take from now on."""

    def __init__(self) -> None:
        self.start, self.busy = time.perf_counter(), busy_seconds()

    def share(self, own_seconds: float) -> float | None:
        """Return it, if `own_seconds` is the CPU time of those who are measured; None: unknown."""
        wall, busy = time.perf_counter() - self.start, busy_seconds()
        if busy is None or self.busy is None:
            return None
        return max(0.0, (busy - self.busy - own_seconds) / (wall * usable_cores()))


def facts(threads: int) -> dict[str, object]:
    """Return what the header and the JSON say about the machine."""
    # In a process of its own: which kernels BLAS takes depends on the environment of the workers.
    probe = subprocess.run(
        [sys.executable, "-m", "benchmarks.machine"],
        env=worker_environment(threads),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "cpu": cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": usable_cores(),
        "threads": threads,
        "load": load(),
        "removed_variables": removed_variables(),
        "versions": versions() | json.loads(probe.stdout),
    }


def blas() -> str:
    """Return the BLAS that NumPy has loaded, with the kernels it has chosen."""
    import numpy as np

    np.ones((64, 64)) @ np.ones((64, 64))
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{built['name']} {built['version']} (install threadpoolctl to see its kernels)"
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return ", ".join(
        f"{library['internal_api']} {library['version']}, "
        f"{library.get('architecture', 'unknown')} kernels, {library['num_threads']} threads"
        for library in libraries
    )


if __name__ == "__main__":
    import xplayers

    print(json.dumps({"xplayers": xplayers.__version__, "blas": blas()}))
