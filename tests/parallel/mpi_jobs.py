"""How tests start processes by MPI, kill some of them, and wait for the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import killed_programs
import pytest
from helpers import ROOT

# The mpiexec of this environment: another may be of another MPI.
MPIEXEC = Path(sys.executable).with_name("mpiexec")
HERE = MPIEXEC.exists() and find_spec("mpi4py") is not None
IS_OPEN_MPI = HERE and MPIEXEC.with_name("ompi_info").exists()
NO_MPI = pytest.mark.skipif(not HERE, reason="no MPI is here")
NO_OPEN_MPI = pytest.mark.skipif(not IS_OPEN_MPI, reason="no Open MPI is here")
# Open MPI refuses root, and more processes than cores.
ENVIRONMENT = {
    **os.environ,
    **{f"OMPI_ALLOW_RUN_AS_ROOT{suffix}": "1" for suffix in ("", "_CONFIRM")},
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "PYTHONPATH": str(ROOT),
}
ELASTIC = ("--with-ft", "ulfm")
PATIENCE = 60.0  # seconds after which a job is taken to hang


def mpiexec(size, *arguments, before=()):
    """Run Python in several processes, and return what they said and how they ended."""
    line = [MPIEXEC, *before, "-n", size, sys.executable, *arguments]
    return subprocess.run(
        [*map(str, line)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


class Job:
    """A job of several processes, which write their numbers into files of a folder."""

    def __init__(self, folder, size, *arguments, options=(), module=()):
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.pid"):
            path.unlink()
        self.folder, self.size = folder, size
        program = [*module, killed_programs.__file__]
        line = [MPIEXEC, *options, "-n", size, sys.executable, *program, *arguments, folder]
        with (folder / "words").open("w") as file:
            self.process = subprocess.Popen(
                [*map(str, line)], env=ENVIRONMENT, stdout=file, stderr=file, text=True,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def words(self):
        return (self.folder / "words").read_text()

    def begun(self):
        """Wait until all processes have begun to train, and return the time."""
        end = time.perf_counter() + PATIENCE
        while not all((self.folder / f"{i}.pid").exists() for i in range(self.size)):
            assert time.perf_counter() < end, self.words
            assert self.process.poll() is None, self.words
            time.sleep(0.002)
        return time.perf_counter()

    def kill(self, number, how=signal.SIGKILL):
        """Send a signal to a process; return whether it was still at work."""
        with open(self.folder / f"{number}.pid") as file:
            pid = int(file.read())
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return False
        return number not in self.ended

    @property
    def ended(self):
        """The numbers of the processes that have saved their results."""
        return {int(path.stem) for path in self.folder.glob("*.npz")}

    def wait(self):
        """Return the exit code, and the seconds until then; a job that hangs fails."""
        start = time.perf_counter()
        try:
            code = self.process.wait(PATIENCE)
            self.end = time.perf_counter()
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            pytest.fail(f"a job hangs:\n{self.words}")
        return code, self.end - start
