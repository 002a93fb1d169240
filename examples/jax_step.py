"""JAX: the pure functions of a network under `jax.jit`, and the whole training step compiled."""

import jax
import jax.numpy as jnp

import xplayers as xl
from xplayers.data import load_digits

(x_train, t_train), (x_test, t_test) = jax.tree.map(jnp.asarray, load_digits())
net = xl.mlp([64, 50, 10], rng=0).to(like=x_train)
loss = xl.SoftmaxWithLoss()


# 1. What layers compute are pure functions of arrays: they can be compiled and differentiated.
@jax.jit
def loss_and_grads(params, x, t):
    """Return the loss and the gradients that xplayers computes."""
    scores, cache = net.apply(params, x)
    value, loss_cache = loss.apply({}, scores, t)
    return value, net.param_grads(cache, loss.vjp(loss_cache, 1.0))


@jax.jit
def by_jax(params, x, t):
    """Return the loss and the gradients that JAX derives from the forward pass."""
    return jax.value_and_grad(lambda p: loss.apply({}, net.apply(p, x)[0], t)[0])(params)


params = dict(net.params)
value, grads = loss_and_grads(params, x_train, t_train)
value_by_jax, grads_by_jax = by_jax(params, x_train, t_train)
print(f"loss {value:.6f}; largest difference to the gradients that JAX derives:")
for name in params:
    difference = float(jnp.max(jnp.abs(grads[name] - grads_by_jax[name])))
    print(f"  {name} {difference:.1e}")
    assert difference < 1e-6
assert abs(value - value_by_jax) < 1e-6

# 2. The whole step, forward to update, is one compiled function: no change to the loop but this.
step = xl.TrainStep(net, loss, xl.Adam(lr=0.01))
for epoch in range(20):
    for x, t in xl.minibatches(x_train, t_train, 100, rng=epoch, drop_last=True):
        value = step(x, t)  # a 0-d array; nothing waits here

accuracy = float(xl.accuracy(net.predict(x_test), t_test))
print(f"trained with TrainStep: loss {value:.4f}   held out {accuracy:.3f}")
assert accuracy >= 0.95
