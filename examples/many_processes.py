"""The same script in one process and in many: ``mpiexec -n 2 python examples/many_processes.py``.

Each process has the same network and data, and takes its part of every batch. What they learn is
what one process learns, up to rounding. Many need ``pip install ".[mpi]" mpich``.
"""

import time

import xplayers as xl

group = xl.parallel.group()  # of one, where the script was started alone
(x, t), test = xl.data.load_digits()
net = xl.mlp([64, 256, 256, 10], rng=0)
trainer = xl.Trainer(
    net,
    xl.SoftmaxWithLoss(),
    xl.Adam(lr=0.003),
    batch_size=200,  # of all processes together
    epochs=10,
    progress=False,
    group=group,
)
start = time.perf_counter()
history = trainer.fit(x, t, validation=test)
if group.rank == 0:
    count = "one process" if group.size == 1 else f"{group.size} processes"
    print(f"{count}: {time.perf_counter() - start:.1f} s")
    print(f"accuracy on held-out digits: {history['val_accuracy'][-1]:.4f}")
