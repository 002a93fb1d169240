"""A run that goes on from its checkpoints: what the tests of kills start, and kill.

    python resumable_run.py FOLDER RESULT STEPS [LINE]

With LINE it kills itself at that line, counted over all lines of the files that write checkpoints.
"""

import os
import signal
import sys

import numpy as np

import xplayers as xl
from xplayers import _files, _safetensors
from xplayers.saving import save
from xplayers.training import checkpoint
from xplayers.training.checkpoint import Checkpoint
from xplayers.training.step import TrainStep


def run(folder, result, steps):
    """Train with all that has a state: moments, running statistics, masks, a generator."""
    (x, t), _ = xl.data.load_digits()
    net = xl.Sequential(
        xl.Affine.init(64, 16, rng=0),
        xl.BatchNormalization.init(16),
        xl.Relu(),
        xl.Dropout(0.2),
        xl.Affine.init(16, 10, rng=1),
    )
    step = TrainStep(net, xl.SoftmaxWithLoss(), xl.Adam(lr=xl.schedules.Cosine(0.01, steps)))
    rng = np.random.default_rng(0)
    kept = Checkpoint(folder, every_steps=3)
    done, losses = 0, []
    saved = kept.restore(net)
    if saved is not None:
        done, losses, step.state = saved.step, saved.metadata["losses"], saved.state
        rng.bit_generator.state = saved.rng_state
    print("ready", done, flush=True)  # noqa: T201 - the test waits for it
    while done < steps:
        batch = rng.integers(0, len(x), 20)
        losses.append(float(step(x[batch], t[batch])))
        done += 1
        if kept.due(done):
            kept.save(done, net, step.state, rng=rng, metadata={"losses": losses})
    save(result, net, {"losses": losses})


def kill_at(line):
    """Let this process be killed before it executes that line of what writes files."""
    files = {module.__file__ for module in (_files, _safetensors, checkpoint)}
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        if frame.f_code.co_filename not in files:
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
