"""What jobs do of which tests kill processes, or let one of them fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

import xplayers as xl
from xplayers.arrays.transfer import to_numpy

EPOCHS, BATCH = 20, 64
COLUMNS = ("step", "loss", "val_loss")  # once an epoch is done


class Failure(Exception):
    """What no library raises."""


def fit(folder: Path, how: str, number: int = 0, step: int = 0) -> None:
    """Train on the digits, and save what each rank has learned.

    ``"plain"`` with checkpoints, ``"elastic"`` without, ``"synchronized"`` with batch
    normalization; any other `how` is what happens to the rank `number` after a step.
    """
    normalized = "synchronized" in how
    options = {"elastic": True, "synchronized": normalized}
    group = xl.parallel.MPIGroup(**options) if "elastic" in how else xl.parallel.group()
    rank = group.rank
    train, test = xl.data.load_digits()
    if how == "nan":
        train = [with_nan(*train, number, step, group.size)]
    net = xl.mlp([64, 50, 10], rng=rank)  # rank 0 has that of all
    if normalized:
        net = xl.Sequential(net, xl.BatchNormalization.init(10))

    def happen(event: xl.Event) -> None:
        if event.kind == "begin":
            (folder / f"{rank}.partial").write_text(str(os.getpid()))
            os.replace(folder / f"{rank}.partial", folder / f"{rank}.pid")
        if event.kind == "step" and rank == number and event.step == step:
            FAILURES[how]()

    checkpoint = xl.Checkpoint(folder / "checkpoints", every_steps=20)
    trainer = xl.Trainer(
        net, xl.SoftmaxWithLoss(), xl.Momentum(0.05), group=group,
        batch_size=BATCH, epochs=EPOCHS, callbacks=[happen], progress=False,
        checkpoint=checkpoint if how == "plain" else None,
    )  # fmt: skip
    history = trainer.fit(*train, validation=test, resume=how == "plain")
    result = {name: to_numpy(a) for name, a in net.arrays.items()}
    result |= {name: history[name] for name in history.columns if name in COLUMNS}
    np.savez(folder / f"{rank}.npz", **result)
    print(f"{history.stopped} {rank} of {group.size}", flush=True)  # noqa: T201


def with_nan(x, t, number: int, step: int, size: int):
    """Return the batches of an epoch, one with NaN in the part of a rank."""
    batches = [(x[i : i + BATCH].copy(), t[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    bad, _ = batches[step % len(batches)]
    bad[-(-len(bad) * number // size)] = np.nan
    return batches


def loop(folder: Path, how: str, number: int, step: int) -> None:
    """Train by a loop of one's own."""
    group = xl.parallel.group()
    (x, t), _ = xl.data.load_digits()
    take = xl.TrainStep(
        xl.mlp([64, 50, 10], rng=0), xl.SoftmaxWithLoss(), xl.Momentum(0.05), group=group
    )
    (folder / f"{group.rank}.pid").write_text(str(os.getpid()))
    for done in range(500):
        rows = np.random.default_rng(done).permutation(len(x))[:BATCH][group.rank :: group.size]
        batch = x[rows]
        if (group.rank, done) == (number, step):
            if how == "nan":
                batch[0] = np.nan
            else:
                FAILURES[how]()
        if not np.isfinite(take(batch, t[rows])):
            message = "the loss is not finite"
            raise Failure(message)
    print("finished")  # noqa: T201


def fail() -> None:
    message = "enough"
    raise Failure(message)


FAILURES = {
    **dict.fromkeys(
        ["plain", "elastic", "elastic, synchronized", "nan", "interrupt"], lambda: None
    ),
    "raise": fail, "raise, elastic": fail, "exit": lambda: sys.exit(3),
    "_exit": lambda: os._exit(3), "_exit(0)": lambda: os._exit(0),
    "memory": lambda: np.ones(10**16),
}  # fmt: skip


if __name__ == "__main__":
    name, how, number, step, folder = sys.argv[1:]
    {"fit": fit, "loop": loop}[name](Path(folder), how, int(number), int(step))
