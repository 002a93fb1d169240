"""What processes do that `test_mpi.py` starts: ``mpiexec -n 2 python mpi_programs.py NAME ...``."""

from __future__ import annotations

import itertools
import os
import signal
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


def sums(group, *libraries: str) -> None:
    """Check what a group does."""
    for library, dtype in itertools.product(libraries, ("float32", "float64", "int64")):
        flat = array_of(library, np.arange(5).astype(dtype) + group.rank)
        group.sum_(flat)
        assert flat.tolist() == [2 * i + 1 for i in range(5)]
        flat[...] = 7 + group.rank
        group.broadcast_(flat)
        assert flat.tolist() == [7] * 5
    group.barrier()


def train(group, library: str, folder: str) -> None:
    """Take steps on parts of batches of digits, and save the parameters of each rank."""
    (images, labels), _ = xl.data.load_digits()
    for dtype in ("float32", "float64"):
        x, t = array_of(library, images.astype(dtype)), array_of(library, labels.astype("int64"))
        net = xl.mlp([64, 50, 10], rng=group.rank, dtype=dtype)  # rank 0 has that of one process
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Momentum(0.1), group=group)
        for i in range(STEPS):
            rows = np.random.default_rng([0, i]).permutation(len(x))[:BATCH]
            mine = rows[group.rank :: group.size]
            loss = step(x[mine, ...], t[mine])
        (taker,) = step._compiled.values()
        assert taker.replays.replays
        arrays = {name: to_numpy(a) for name, a in net.params.items()}
        file = Path(folder) / f"{dtype} {group.rank} of {group.size}.npz"
        np.savez(file, loss=to_numpy(loss), **arrays)


def fit(group, how: str, folder: str) -> None:
    """Train with checkpoints until something happens to rank 1, and save what it has learned."""
    (x, t), test = xl.data.load_digits()
    x, t = x[:300], t[:300]
    bad = x.copy()
    bad[-1] = np.nan  # the last sample of a batch is of the last rank

    def happen(event):
        if event.kind != "step" or group.rank == 0:
            return
        if event.step == 12 and how in SIGNALS:
            os.kill(os.getpid(), SIGNALS[how])
        if event.step == 12 and how == "exit":
            sys.exit(3)
        if event.step == 12 and how == "memory":
            raise MemoryError

    trainer = xl.Trainer(
        xl.mlp([64, 20, 10], rng=group.rank), xl.SoftmaxWithLoss(), xl.Adam(), group=group,
        batch_size=49, epochs=4, callbacks=[happen], progress="lines",
        checkpoint=xl.Checkpoint(Path(folder) / "checkpoints", every_steps=5),
    )  # fmt: skip
    if how == "nan":
        trainer.fit([(x, t)] * 6 + [(bad, t)])
    history = trainer.fit(x, t, validation=test, resume=True)
    arrays = {name: to_numpy(a) for name, a in trainer.net.params.items()}
    result = {"val_loss": history["val_loss"], "step": len(history), **arrays}
    np.savez(Path(folder) / f"{how} {group.rank}.npz", **result)
    if group.rank == 0:
        print("stopped:", history.stopped)  # noqa: T201


SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}


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
    {f.__name__: f for f in (sums, train, fit, one_ends, differ)}[name](group, *arguments)
    if group.rank == 0:
        print("finished")  # noqa: T201
