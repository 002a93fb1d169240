"""Data-parallel training on two devices of JAX: arrays that are sharded run as they are.

Here the devices are two parts of the CPU; with two GPUs leave out the line that says so.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import xplayers as xl
from xplayers.data import load_digits

train, held_out = load_digits()
mesh = Mesh(np.asarray(jax.devices()[:2]), ("batch",))
by_rows = NamedSharding(mesh, PartitionSpec("batch"))


def trained(where):
    """Return a network that was trained on arrays in that place, and its accuracy there."""
    # Rows for both devices alike: a mesh does not divide an odd number of samples.
    x, t, x_test, t_test = (
        jax.device_put(a[: len(a) // 2 * 2], where) for a in (*train, *held_out)
    )
    net = xl.mlp([64, 50, 10], rng=0)
    trainer = xl.Trainer(net, xl.SoftmaxWithLoss(), xl.Adam(0.01), batch_size=100, epochs=5, seed=0)
    trainer.fit(x, t)
    result = xl.evaluate(
        net, xl.SoftmaxWithLoss(), x_test, t_test, metrics={"accuracy": xl.accuracy}
    )
    return net, result["accuracy"]


one, accuracy = trained(jax.devices()[0])
two, accuracy_of_two = trained(by_rows)
print(f"held out: one device {accuracy:.3f}, {mesh.size} devices {accuracy_of_two:.3f}")
for name, W in two.params.items():
    assert W.sharding.is_fully_replicated  # each device has all parameters, and half of a batch
    difference = float(np.max(np.abs(np.asarray(W) - np.asarray(one.params[name]))))
    print(f"  {name}: largest difference {difference:.1e}")
    assert difference < 1e-5
assert accuracy_of_two >= 0.9
