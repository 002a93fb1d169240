"""A run that goes on from its checkpoints: what the tests of kills start, and kill.

    python resumable_run.py FOLDER RESULT STEPS [LINE]

With LINE it kills itself at that line, counted over all lines of the files that write checkpoints.
"""

import os
import signal
import sys

import xplayers as xl
from xplayers.saving import checkpoint, files, safetensors
from xplayers.saving.checkpoint import Checkpoint
from xplayers.saving.network import save

PER_EPOCH = 6


def run(folder, result, steps):
    """Train with all that has a state: moments, running statistics, masks, a generator."""
    (x, t), (x_val, t_val) = xl.data.load_digits()
    net = xl.Sequential(
        xl.Affine.init(64, 16, rng=0),
        xl.BatchNormalization.init(16),
        xl.Relu(),
        xl.Dropout(0.2),
        xl.Affine.init(16, 10, rng=1),
    )
    trainer = xl.Trainer(
        net,
        xl.SoftmaxWithLoss(),
        xl.Adam(lr=xl.schedules.Cosine(0.01, steps)),
        batch_size=20,
        epochs=steps // PER_EPOCH,
        checkpoint=Checkpoint(folder, every_steps=3),
        callbacks=[ready],
        progress=False,
    )
    n = 20 * PER_EPOCH
    history = trainer.fit(x[:n], t[:n], validation=(x_val[:50], t_val[:50]), resume=True)
    table = {name: history[name].tolist() for name in ("step", "loss", "val_loss", "val_accuracy")}
    save(result, net, table)


def ready(event):
    if event.kind == "begin":
        print("ready", flush=True)  # noqa: T201 - the test waits for it


def kill_at(line):
    """Let this process be killed before it executes that line of what writes files."""
    paths = {module.__file__ for module in (files, safetensors, checkpoint)}
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        if frame.f_code.co_filename not in paths:
            return None
        if event == "line":
            count += 1
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


if __name__ == "__main__":
    if len(sys.argv) > 4:
        kill_at(int(sys.argv[4]))
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
