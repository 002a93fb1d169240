"""What processes do that `test_mpi.py` starts: ``mpiexec -n 2 python mpi_programs.py NAME ...``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import xplayers as xl
from xplayers.arrays.transfer import to_numpy

STEPS, BATCH = 100, 59  # 30 samples, and 29


def array_of(library: str, values: np.ndarray):
    if library == "numpy":
        return values
    import torch

    torch.set_num_threads(1)
    return torch.from_numpy(values)


def sums(group, library: str) -> None:
    """Check what a group does."""
    for dtype in ("float32", "float64", "int64"):
        flat = array_of(library, np.arange(5).astype(dtype) + group.rank)
        group.sum_(flat)
        assert flat.tolist() == [2 * i + 1 for i in range(5)]
        flat[...] = 7 + group.rank
        group.broadcast_(flat)
        assert flat.tolist() == [7] * 5
    group.barrier()


def train(group, library: str, dtype: str, folder: str) -> None:
    """Take steps on parts of batches of digits, and save the parameters of each rank."""
    (x, t), _ = xl.data.load_digits()
    x, t = array_of(library, x.astype(dtype)), array_of(library, t.astype("int64"))
    net = xl.mlp([64, 50, 10], rng=group.rank if group.size > 1 else 0, dtype=dtype)
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Momentum(0.1), group=group)
    for i in range(STEPS):
        rows = np.random.default_rng([0, i]).permutation(len(x))[:BATCH]
        mine = rows[group.rank :: group.size]
        loss = step(x[mine, ...], t[mine])
    (taker,) = step._compiled.values()
    assert taker.replays.replays
    arrays = {name: to_numpy(a) for name, a in net.params.items()}
    np.savez(Path(folder) / f"{group.rank} of {group.size}.npz", loss=to_numpy(loss), **arrays)


def one_ends(group, how: str) -> None:
    """End rank 1 in the middle, while rank 0 waits for its gradients."""
    step = xl.TrainStep(xl.mlp([4, 3], rng=0), xl.SoftmaxWithLoss(), xl.SGD(), group=group)
    x, t = np.ones((6, 4), "float32"), np.arange(6) % 3
    for i in range(5):
        if i == 3 and group.rank == 1:
            if how == "label":
                t = t + 5
            elif how == "exit":
                sys.exit(3)
            elif how == "kill":
                import os
                import signal

                os.kill(os.getpid(), signal.SIGKILL)
        step(x, t)
    time.sleep(60)


def differ(group) -> None:
    """Begin with another optimizer on rank 1."""
    optimizer = [xl.SGD(), xl.Adam()][group.rank]
    step = xl.TrainStep(xl.mlp([4, 3], rng=0), xl.SoftmaxWithLoss(), optimizer, group=group)
    step(np.ones((6, 4), "float32"), np.arange(6) % 3)


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    group = xl.parallel.group()
    {"sums": sums, "train": train, "one_ends": one_ends, "differ": differ}[name](group, *arguments)
    if group.rank == 0:
        print("finished", group.size)  # noqa: T201
