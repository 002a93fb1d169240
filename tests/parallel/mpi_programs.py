"""What processes do that `test_mpi.py` starts: ``mpiexec -n 2 python mpi_programs.py NAME ...``."""

from __future__ import annotations

import functools
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
PIECE = 8  # characters of a text


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


def perceptron(rng, dtype):
    """Return a network for digits."""
    return xl.mlp([64, 50, 10], rng=rng, dtype=dtype)


def convolutional(rng, dtype, *, normalized=False):
    """Return a network for images of digits."""

    def convolution(n_in, n_out):
        options = {"padding": "same", "bias": not normalized, "rng": rng, "dtype": dtype}
        more = [xl.BatchNormalization.init(n_out, dtype=dtype)] if normalized else []
        return xl.Convolution.init(n_in, n_out, 3, **options), *more, xl.Relu(), xl.MaxPooling(2)

    return xl.Sequential(
        xl.Reshape(1, 8, 8),
        *convolution(1, 8),
        *convolution(8, 16),
        xl.Flatten(),
        xl.Affine.init(64, 10, rng=rng, dtype=dtype),
    )


def transformer(rng, dtype):
    """Return a small GPT."""
    width, context, n = 16, PIECE, 27
    normal = functools.partial(xl.initializers.normal, std=0.5)

    def block():
        attention = xl.MultiHeadAttention.init(width, 4, causal=True, rng=rng, dtype=dtype)
        up = xl.Affine.init(width, 4 * width, flatten=False, rng=rng, dtype=dtype)
        down = xl.Affine.init(4 * width, width, flatten=False, rng=rng, dtype=dtype)
        return (
            xl.Residual(xl.LayerNormalization.init(width, dtype=dtype), attention),
            xl.Residual(xl.LayerNormalization.init(width, dtype=dtype), up, xl.Gelu(), down),
        )

    return xl.Sequential(
        xl.Embedding.init(n, width, initializer=normal, rng=rng, dtype=dtype),
        xl.PositionalEmbedding.init(context, width, initializer=normal, rng=rng, dtype=dtype),
        *block(),
        *block(),
        xl.LayerNormalization.init(width, dtype=dtype),
        xl.Affine.init(width, n, flatten=False, rng=rng, dtype=dtype),
    )


# The networks, and the rate of each.
NETWORKS = {
    "perceptron": (perceptron, 0.1),
    "convolutional": (convolutional, 0.05),
    "normalized": (functools.partial(convolutional, normalized=True), 0.05),
    "transformer": (transformer, 0.05),
}


def samples(name: str):
    """Return what a network learns: images of digits, or pieces of a text and what comes next."""
    if name != "transformer":
        (images, labels), _ = xl.data.load_digits()
        return images, labels
    words = "the quick brown fox jumps over the lazy dog and runs into the deep dark wood"
    codes = np.asarray([max(ord(c) - 96, 0) for c in (words + " ") * 20])
    pieces = codes[np.arange(len(codes) - PIECE)[:, None] + np.arange(PIECE + 1)]
    return pieces[:, :-1].copy(), pieces[:, 1:].copy()


def train(group, library: str, name: str, folder: str) -> None:
    """Take steps on parts of batches, and save the parameters of each rank."""
    x, t = (a if a.dtype.kind == "f" else a.astype("int64") for a in samples(name))
    make, rate = NETWORKS[name]
    for dtype in ("float32", "float64"):
        x_there = array_of(library, x.astype(dtype) if x.dtype.kind == "f" else x)
        t_there = array_of(library, t)
        rng = np.random.default_rng(group.rank)  # rank 0 has that of one process
        net = make(rng, dtype)
        step = xl.TrainStep(net, xl.SoftmaxWithLoss(), xl.Momentum(rate), group=group)
        for i in range(STEPS):
            rows = np.random.default_rng([0, i]).permutation(len(x))[:BATCH]
            mine = rows[group.rank :: group.size]
            loss = step(x_there[mine, ...], t_there[mine, ...])
        (taker,) = step._compiled.values()
        assert taker.replays.replays
        arrays = {k: to_numpy(a) for k, a in net.arrays.items()}
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
    group = xl.parallel.group(synchronized="normalized" in arguments)
    {f.__name__: f for f in (sums, train, fit, one_ends, differ)}[name](group, *arguments)
    if group.rank == 0:
        print("finished")  # noqa: T201
