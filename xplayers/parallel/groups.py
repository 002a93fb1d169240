"""Groups of processes: what they have to be able to do, and which one a script was started in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from xplayers._checks import choice, flag
from xplayers.arrays.namespaces import Array, dtype_name

# By these a launcher says how many processes it has started: Open MPI; MPICH and its kin; Slurm.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


# bfloat16 is summed by MPI as something else, without an error.
DTYPES = ("float32", "float64", "int32", "int64", "uint8")


class Group(Protocol):
    """Processes that train together; all of them call the same methods in the same order.

    Attributes
    ----------
    rank : int
        The number of this process, from 0. Rank 0 writes checkpoints and shows progress.
    size : int
        The number of processes.

    Notes
    -----
    One that goes on without processes that are lost has two attributes more: ``elastic``, True, and
    ``lost``, the ranks of those. Its methods raise `RanksLost` on all that are left, or on none.

    Examples
    --------
    >>> import numpy as np
    >>> from xplayers import parallel
    >>> def mean_of_all(group: parallel.Group, value):
    ...     total = np.asarray([value, 1.0])
    ...     group.sum_(total)  # in place, over the ranks
    ...     return float(total[0] / total[1])
    >>> mean_of_all(parallel.SelfGroup(), 0.5)
    0.5
    """

    rank: int
    size: int

    def sum_(self, flat: Array) -> None:
        """Write the sum over the ranks into an array of one axis, with the same bits on all."""

    def broadcast_(self, flat: Array) -> None:
        """Write the array of rank 0 into those of all ranks."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def abort(self, code: int = 1) -> None:
        """End all processes at once, with an exit code."""


class RanksLost(RuntimeError):
    """Processes of an elastic group are lost: it is smaller now, and what it was at is not done.

    All that are left get it from the same call; what that was to write to has any values, and all
    else is as before it. A `Trainer` goes on by itself. A loop of one's own takes the step again,
    with the parts of the batch that now fall to each ::

        while True:
            rows = slice(group.rank, None, group.size)
            try:
                value = step(x_batch[rows], t_batch[rows])
                break
            except xl.parallel.RanksLost:
                pass

    Attributes
    ----------
    ranks : tuple of int
        All that are lost so far, by the numbers that they had at first.
    size : int
        How many are left.

    Examples
    --------
    >>> print(RanksLost((0, 2), 1))
    ranks 0 and 2 are lost, 1 process is left
    """

    def __init__(self, ranks: tuple[int, ...], size: int) -> None:
        self.ranks, self.size = ranks, size
        names = " and ".join(map(str, ranks))
        are = f"rank {names} is" if len(ranks) == 1 else f"ranks {names} are"
        left = "1 process is" if size == 1 else f"{size} processes are"
        super().__init__(f"{are} lost, {left} left")

    def __reduce__(self) -> tuple[Any, ...]:
        return RanksLost, (self.ranks, self.size)


class SelfGroup:
    """A group of one process, which needs nothing.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> from xplayers import parallel
    >>> step = xl.TrainStep(
    ...     xl.mlp([4, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD(), group=parallel.SelfGroup()
    ... )
    >>> round(float(step(np.ones((2, 4), "float32"), np.asarray([0, 2]))), 4)
    0.9681
    """

    rank, size, synchronized = 0, 1, False  # all of a batch is here

    def __repr__(self) -> str:
        return "SelfGroup()"

    def sum_(self, flat: Array) -> None:
        """Do nothing: the sum is the array."""

    def broadcast_(self, flat: Array) -> None:
        """Do nothing."""

    def barrier(self) -> None:
        """Do nothing."""

    def abort(self, code: int = 1) -> None:
        """End this process."""
        raise SystemExit(code)


def check_dtype(owner: str, flat: Array) -> None:
    """Check that engines sum the dtype of an array."""
    if (name := dtype_name(flat.dtype)) not in DTYPES:
        message = f"{owner}: got {name}; expected one of {', '.join(DTYPES)}."
        raise TypeError(message)


def launched(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes the launcher of this one has started; 1 without one."""
    sizes = [environment.get(name, "") for name in _SIZES]
    return max([int(size) for size in sizes if size.isdecimal()], default=1)


def _has_gpu() -> bool:
    """Return whether the script has imported CuPy, and that finds a GPU."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and bool(cupy.is_available())


def group(kind: str = "auto", *, synchronized: bool = False) -> Group:
    """Return the group of all processes that were started together.

    Parameters
    ----------
    kind : {"auto", "mpi", "nccl", "torch", "self"}
        ``"auto"``: MPI where ``mpiexec`` or ``srun`` has started several processes, with NCCL if
        the script has imported CuPy and there is a GPU, and PyTorch where ``torchrun`` has, which
        their environment says; else a group of one, and none of these is imported.
    synchronized : bool
        Whether `BatchNormalization` takes the statistics of the whole batch, and not those of the
        part of its process; see `xplayers.parallel`.

    Returns
    -------
    Group
        An `MPIGroup`, an `NcclGroup`, a `TorchGroup` or a `SelfGroup`.

    Raises
    ------
    ImportError
        If mpi4py, an MPI library, CuPy, NCCL or PyTorch is missing.
    RuntimeError
        If ``mpiexec`` and the library are of different MPIs, NCCL cannot connect the GPUs, or
        ``"torch"`` is asked for without ``torchrun``.

    Examples
    --------
    >>> from xplayers import parallel
    >>> group = parallel.group()  # of one process, where no launcher has started more
    >>> group.rank, group.size
    (0, 1)
    """
    flag("group", "synchronized", synchronized)
    choice("group", "kind", kind, ("auto", "mpi", "nccl", "torch", "self"))
    if kind == "auto":
        by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") != "1"
        by_mpi = "nccl" if _has_gpu() else "mpi"
        kind = by_mpi if launched() > 1 else "torch" if by_torchrun else "self"
    if kind == "self":
        return SelfGroup()
    if kind == "nccl":
        from xplayers.parallel.nccl import NcclGroup

        return NcclGroup(synchronized=synchronized)
    if kind == "torch":
        from xplayers.parallel.pytorch import TorchGroup

        return TorchGroup(synchronized=synchronized)
    from xplayers.parallel.mpi import MPIGroup

    return MPIGroup(synchronized=synchronized)
