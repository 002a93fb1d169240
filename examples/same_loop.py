"""One loop on two libraries: NumPy on the CPU, CuPy on an NVIDIA GPU.

Without CuPy, or without a GPU that it can use, the loop runs on NumPy alone and says so.
"""

import time

import numpy as np

import xplayers as xl
from xplayers.data import load_digits


def libraries():
    """Yield NumPy, then CuPy where it can be used."""
    yield np
    try:
        import cupy
    except ImportError:
        print("cupy   not run: it is not installed")
        return
    if cupy.is_available():
        yield cupy
    else:
        print("cupy   not run: it finds no NVIDIA GPU")


def train(xp, epochs=30):
    """Train on the digits with the arrays of `xp`; return the losses and the held-out accuracy."""
    (x, t), (x_test, t_test) = load_digits()
    x, t, x_test, t_test = (xp.asarray(a) for a in (x, t, x_test, t_test))

    net = xl.mlp([64, 100, 10], rng=0)  # its parameters follow the first input
    loss, optimizer = xl.SoftmaxWithLoss(), xl.Adam(lr=3e-3)
    losses = []
    for epoch in range(epochs):
        for x_batch, t_batch in xl.minibatches(x, t, 64, rng=epoch):
            value = loss.forward(net.forward(x_batch), t_batch)
            net.backward(loss.backward(), input_grad=False)
            optimizer.update(net.params, net.grads)
        losses.append(value)  # a 0-d array: nothing waits for a GPU here

    return [float(v) for v in losses], float(xl.accuracy(net.predict(x_test), t_test))


results = {}
for xp in libraries():
    start = time.perf_counter()
    losses, accuracy = results[xp.__name__] = train(xp)
    seconds = time.perf_counter() - start
    print(f"{xp.__name__:6s} loss {losses[-1]:.4f}   held out {accuracy:.3f}   {seconds:.1f} s")
    assert accuracy >= 0.95

if "cupy" in results:  # the same initial values, batches and order; sums in another order
    assert abs(results["cupy"][0][0] - results["numpy"][0][0]) < 1e-3
    assert abs(results["cupy"][1] - results["numpy"][1]) < 0.02
