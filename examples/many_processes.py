"""The same script in one process, in many, and on many devices of JAX.

`python examples/many_processes.py`, or `mpiexec -n 2 python examples/many_processes.py`: each
process has the same network and data, and takes its part of every batch. What they learn is what
one process learns, up to rounding. Many need ``pip install ".[mpi]" mpich``. With
`python examples/many_processes.py jax` it is the devices of one process that do so, by arrays which
lie on all of them; here these are two parts of the CPU.
"""

import os
import sys
import time

import xplayers as xl

by_jax = "jax" in sys.argv
group = xl.parallel.group()  # of one, where the script was started alone
train, test = xl.data.load_digits()
if by_jax:
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    import jax

    mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    rows = [len(x) // jax.device_count() * jax.device_count() for x, _ in (train, test)]
    train, test = (
        jax.device_put((x[:n], t[:n]), by_rows)
        for n, (x, t) in zip(rows, (train, test), strict=True)
    )

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
history = trainer.fit(*train, validation=test)
if group.rank == 0:
    count = "one process" if group.size == 1 else f"{group.size} processes"
    if by_jax:
        count = f"{count}, {jax.device_count()} devices"
    print(f"{count}: {time.perf_counter() - start:.1f} s")
    print(f"accuracy on held-out digits: {history['val_accuracy'][-1]:.4f}")
