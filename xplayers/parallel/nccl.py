"""A group of processes by NCCL, one for each GPU, through ``cupy.cuda.nccl``."""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

import numpy as np

from xplayers._checks import flag
from xplayers.arrays.namespaces import Array, device, library
from xplayers.parallel.groups import check_dtype
from xplayers.parallel.mpi import MPIGroup

_INSTALL = "pip install nvidia-nccl-cu13, or nvidia-nccl-cu12 beside cupy-cuda12x"


class NcclGroup:
    """The processes of an MPI communicator, each with a GPU, which sum by NCCL.

    Arrays are CuPy's, on the GPU of the process, and NumPy's, which go by MPI.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        The communicator; by default that of all processes, ``MPI.COMM_WORLD``.
    device : int, optional
        The GPU of this process; by default the processes of a node take them in turn. It becomes
        the current one.
    synchronized : bool
        Whether `BatchNormalization` takes the statistics of the whole batch, and not those of the
        part of its process; see `xplayers.parallel`.

    Raises
    ------
    ImportError
        If CuPy, NCCL, mpi4py or an MPI library is missing.
    RuntimeError
        If NCCL cannot connect the GPUs, or ``mpiexec`` and the library are of different MPIs.
    ValueError
        If a node has more processes than GPUs, or none.

    Notes
    -----
    A sum is a kernel on the current stream, and nobody waits for it. So it is captured in the CUDA
    graph of a step with ``compile="graph"``: processes then compare, by MPI before each step, which
    of their graphs comes next, and capture together. What has been run is said in `xplayers.cuda`.

    An exception that nobody catches ends all processes, as in `MPIGroup`.

    References
    ----------
    NVIDIA, "NCCL User Guide": one device per process or thread; using NCCL with CUDA graphs.

    Examples
    --------
    In a script that ``mpiexec -n 4 python train.py`` starts on a node with four GPUs::

        group = xl.parallel.NcclGroup()  # before there are arrays: it chooses the GPU
        step = xl.TrainStep(net, loss, optimizer, compile="graph", group=group)
        for x, t in xl.minibatches(x_train, t_train, 512, rng=0, group=group):  # of CuPy
            step(x, t)
    """

    def __init__(
        self, comm: Any = None, device: int | None = None, *, synchronized: bool = False
    ) -> None:
        cupy, self._library = _imported()
        self._host = MPIGroup(comm)
        self.rank, self.size = self._host.rank, self._host.size
        self.synchronized = flag("NcclGroup", "synchronized", synchronized)
        self._cuda = cupy.cuda
        self.device = self._chosen(device)
        self._cuda.Device(self.device).use()
        # A number that is the same for all, by which they find each other.
        first = self._library.get_unique_id() if self.rank == 0 else None
        identity = self._host.comm.bcast(first)
        try:
            self._nccl = self._library.NcclCommunicator(self.size, identity, self.rank)
        except self._library.NcclError as error:
            message = (
                f"NcclGroup: NCCL cannot connect GPU {self.device} of rank {self.rank} with the "
                f"others: {error}. Start one process for each GPU; NCCL_DEBUG=INFO says more."
            )
            raise RuntimeError(message) from error

    def __repr__(self) -> str:
        return f"NcclGroup(rank={self.rank}, size={self.size}, device={self.device})"

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(NcclGroup, synchronized=self.synchronized)
        return make, (self._host.comm, self.device)

    def sum_(self, flat: Array) -> None:
        """Write the sum over the ranks into an array of one axis, with the same bits on all."""
        if isinstance(flat, np.ndarray):
            self._host.sum_(flat)
        else:
            at, count, kind = self._buffer(flat)
            self._nccl.allReduce(at, at, count, kind, self._library.NCCL_SUM, self._stream)

    def broadcast_(self, flat: Array) -> None:
        """Write the array of rank 0 into those of all ranks."""
        if isinstance(flat, np.ndarray):
            self._host.broadcast_(flat)
        else:
            at, count, kind = self._buffer(flat)
            self._nccl.broadcast(at, at, count, kind, 0, self._stream)

    def barrier(self) -> None:
        """Wait for all ranks, and for what their GPUs do on the current stream."""
        self._cuda.get_current_stream().synchronize()
        self._host.barrier()

    def abort(self, code: int = 1) -> None:
        """End all processes at once, with an exit code."""
        self._host.abort(code)

    @property
    def _stream(self) -> int:
        return self._cuda.get_current_stream().ptr

    def _chosen(self, number: int | None) -> int:
        """Return the number of the GPU of this process, which asks the others of its node."""
        if number is not None:
            return number
        neighbours = self._host.comm.Split_type(_imported_mpi().COMM_TYPE_SHARED)
        rank, size, count = neighbours.rank, neighbours.size, self._cuda.runtime.getDeviceCount()
        neighbours.Free()
        if 1 < count < size:  # of one, a launcher may have given each its own
            message = (
                f"NcclGroup: this node has {size} processes and {count} GPUs; expected one process "
                f"for each. Start {count} on a node."
            )
            raise ValueError(message)
        return rank % count

    def _buffer(self, flat: Array) -> tuple[int, int, int]:
        """Return address, length and type of an array, after checking that NCCL can take it."""
        where = device(flat) if library(flat) == "cupy" else None
        if where is None or where.id != self.device:
            what = f"of {library(flat)} on {device(flat)}"
            message = (
                f"NcclGroup: got an array {what}; expected CuPy's on GPU {self.device}, which is "
                "that of this process, or NumPy's."
            )
            raise TypeError(message)
        check_dtype("NcclGroup", flat)
        if not flat.flags.c_contiguous:
            message = "NcclGroup: got an array with gaps; expected a contiguous one."
            raise ValueError(message)
        return flat.data.ptr, flat.size, getattr(self._library, f"NCCL_{flat.dtype.name.upper()}")


def _imported_mpi() -> Any:
    return importlib.import_module("mpi4py.MPI")


def _imported() -> tuple[Any, Any]:
    """Return CuPy and its module for NCCL."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        message = 'NcclGroup: CuPy is not installed: pip install "xplayers[cuda13]".'
        raise ImportError(message) from error
    if not cupy.is_available():
        message = "NcclGroup: CuPy finds no GPU: `xplayers info` says why."
        raise ValueError(message)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which says in ten lines what is said below
        library = importlib.import_module("cupy.cuda.nccl")
    if not library.available:
        message = f"NcclGroup: CuPy finds no NCCL: {_INSTALL}."
        raise ImportError(message)
    return cupy, library
