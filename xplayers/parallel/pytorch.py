"""A group of processes by ``torch.distributed``, for those who start with ``torchrun``."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import sys
from typing import Any

import numpy as np

from xplayers._checks import flag
from xplayers.arrays.namespaces import Array, library
from xplayers.parallel.groups import check_dtype

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun


class TorchGroup:
    """The processes of a process group of PyTorch.

    Arrays are tensors of PyTorch, on the CPU or on CUDA, and NumPy's.

    Parameters
    ----------
    process_group : torch.distributed.ProcessGroup, optional
        By default that of all processes, which is initialized from the environment of ``torchrun``
        if it is not yet.
    backend : str, optional
        That of ``torch.distributed.init_process_group``; by default gloo for arrays on the CPU and
        NCCL for those on CUDA.
    synchronized : bool
        Whether `BatchNormalization` takes the statistics of the whole batch, and not those of the
        part of its process; see `xplayers.parallel`.

    Raises
    ------
    ImportError
        If PyTorch is not installed, or is built without ``torch.distributed``.
    RuntimeError
        If the processes were not started by ``torchrun``.

    Notes
    -----
    No GPU has run this yet: NCCL is untried. ``torchrun`` ends all processes when one fails.

    Examples
    --------
    In a script that ``torchrun --nproc-per-node 4 train.py`` starts::

        group = xl.parallel.TorchGroup()
        trainer = xl.Trainer(net, loss, optimizer, batch_size=512, group=group)
        trainer.fit(x, t)
    """

    def __init__(
        self,
        process_group: Any = None,
        backend: str | None = None,
        *,
        synchronized: bool = False,
    ) -> None:
        distributed = _imported()
        if not distributed.is_initialized():
            missing = [name for name in _VARIABLES if name not in os.environ]
            if missing:
                message = (
                    f"TorchGroup: {', '.join(missing)} are not in the environment: start the "
                    "processes with torchrun --nproc-per-node 2 train.py, or call "
                    "torch.distributed.init_process_group before."
                )
                raise RuntimeError(message)
            distributed.init_process_group(backend)
            atexit.register(_destroy, distributed)
        self._process_group, self._distributed = process_group, distributed
        self.synchronized = flag("TorchGroup", "synchronized", synchronized)
        self.rank = distributed.get_rank(process_group)
        self.size = distributed.get_world_size(process_group)
        self._first = distributed.get_global_rank(process_group, 0) if process_group else 0

    def __repr__(self) -> str:
        return f"TorchGroup(rank={self.rank}, size={self.size})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._process_group is not None:
            message = "TorchGroup: only the group of all processes can be pickled."
            raise TypeError(message)
        return functools.partial(TorchGroup, synchronized=self.synchronized), ()

    def sum_(self, flat: Array) -> None:
        """Write the sum over the ranks into an array of one axis, with the same bits on all."""
        self._distributed.all_reduce(_tensor(flat), group=self._process_group)

    def broadcast_(self, flat: Array) -> None:
        """Write the array of rank 0 into those of all ranks."""
        self._distributed.broadcast(_tensor(flat), self._first, group=self._process_group)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum_(np.zeros(1, np.float32))

    def abort(self, code: int = 1) -> None:
        """End this process at once, with an exit code; ``torchrun`` then ends the others."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _imported() -> Any:
    try:
        distributed = importlib.import_module("torch.distributed")
    except ImportError as error:
        message = 'TorchGroup: PyTorch is not installed: pip install "xplayers[torch]".'
        raise ImportError(message) from error
    if not distributed.is_available():
        message = "TorchGroup: this PyTorch is built without torch.distributed."
        raise ImportError(message)
    return distributed


def _destroy(distributed: Any) -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _tensor(flat: Array) -> Any:
    """Return an array as a tensor on its memory."""
    torch = importlib.import_module("torch")
    check_dtype("TorchGroup", flat)
    if isinstance(flat, np.ndarray):
        return torch.from_numpy(flat)
    if not isinstance(flat, torch.Tensor):
        message = f"TorchGroup: got an array of {library(flat)}; expected tensors, or NumPy's."
        raise TypeError(message)
    return flat
