"""The two-layer network of *Deep Learning from Scratch*, in its own form, on handwritten digits.

Written as in chapter 5: a dict of parameters, an ordered dict of layers that hold the same arrays,
a gradient check, and the loop. One thing differs: the network is evaluated with `predict`, which
keeps nothing, and trained with `forward`.
"""

from collections import OrderedDict

import numpy as np

import xplayers as xl
from xplayers.data import load_digits


class TwoLayerNet:
    """Affine, Relu, Affine, SoftmaxWithLoss."""

    def __init__(self, input_size, hidden_size, output_size, weight_init_std=0.01, rng=0):
        rng = np.random.default_rng(rng)
        params = {
            "W1": weight_init_std * rng.standard_normal((input_size, hidden_size)),
            "b1": np.zeros(hidden_size),
            "W2": weight_init_std * rng.standard_normal((hidden_size, output_size)),
            "b2": np.zeros(output_size),
        }
        self.build(params)

    def build(self, params):
        self.params = params
        self.layers = OrderedDict(
            Affine1=xl.Affine(params["W1"], params["b1"]),
            Relu1=xl.Relu(),
            Affine2=xl.Affine(params["W2"], params["b2"]),
        )
        self.last_layer = xl.SoftmaxWithLoss()
        return self

    def predict(self, x):
        for layer in self.layers.values():
            x = layer.predict(x)
        return x

    def loss(self, x, t):
        return self.last_layer(self.predict(x), t)

    def accuracy(self, x, t):
        return xl.accuracy(self.predict(x), t)

    def gradient(self, x, t):
        for layer in self.layers.values():
            x = layer.forward(x)
        self.last_layer.forward(x, t)

        dout = self.last_layer.backward()
        for layer in reversed(self.layers.values()):
            dout = layer.backward(dout)

        first, second = self.layers["Affine1"], self.layers["Affine2"]
        return {"W1": first.dW, "b1": first.db, "W2": second.dW, "b2": second.db}

    def numerical_gradient(self, x, t):
        def loss_with(key, value):
            changed = TwoLayerNet.__new__(TwoLayerNet).build({**self.params, key: value})
            return changed.loss(x, t)

        return {
            key: xl.numerical_gradient(lambda value, key=key: loss_with(key, value), array)
            for key, array in self.params.items()
        }


(x_train, t_train), (x_test, t_test) = load_digits()
x_train, x_test = x_train.astype(np.float64), x_test.astype(np.float64)  # as in the book
network = TwoLayerNet(input_size=64, hidden_size=50, output_size=10)

print("gradient check: mean absolute difference to finite differences")
x_batch, t_batch = x_train[:3], t_train[:3]
grad = network.gradient(x_batch, t_batch)
grad_numerical = network.numerical_gradient(x_batch, t_batch)
for key in grad:
    difference = np.mean(np.abs(grad[key] - grad_numerical[key]))
    print(f"  {key} {difference:.1e}")
    assert difference < 1e-9

learning_rate, batch_size, iters_num = 0.1, 100, 5000
iter_per_epoch = len(x_train) // batch_size
rng = np.random.default_rng(0)
for i in range(iters_num):
    batch_mask = rng.choice(len(x_train), batch_size)
    grad = network.gradient(x_train[batch_mask], t_train[batch_mask])
    for key in ("W1", "b1", "W2", "b2"):
        network.params[key] -= learning_rate * grad[key]

    if i % (50 * iter_per_epoch) == 0 or i == iters_num - 1:
        train = float(network.accuracy(x_train, t_train))
        test = float(network.accuracy(x_test, t_test))
        print(f"step {i:5d}   accuracy {train:.3f}   held out {test:.3f}")

assert test >= 0.95
