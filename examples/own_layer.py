"""A custom layer: Swish with a trainable slope, its gradients checked, then trained."""

import numpy as np

import xplayers as xl
from xplayers.data import load_digits
from xplayers.functional import sigmoid


class Swish(xl.Layer):
    """Swish, ``y = x * s`` with ``s = sigmoid(beta * x)`` and one `beta` for each feature.

    Backward: ``dx = dy * (s + beta * r)`` and ``dbeta = sum(dy * x * r)`` with
    ``r = x * s * (1 - s)``.
    """

    beta, dbeta = xl.Parameter(), xl.Gradient()

    def __init__(self, beta):
        self.beta = beta

    def apply(self, arrays, x):
        s = sigmoid(arrays["beta"] * x)
        return x * s, (x, s, arrays["beta"])

    def vjp(self, cache, dy):
        x, s, beta = cache
        xp = xl.namespace(x)
        r = x * s * (1 - s)
        return dy * (s + beta * r), {"beta": xp.sum(dy * x * r, axis=0)}


class WrongSwish(Swish):
    """The same, with the derivative of `s` forgotten."""

    def vjp(self, cache, dy):
        _, s, _ = cache
        return dy * s, super().vjp(cache, dy)[1]


rng = np.random.default_rng(0)
x, beta = rng.standard_normal((5, 7)), rng.uniform(0.5, 1.5, 7)
xl.check_gradients(Swish(beta), x)  # raises where a gradient is wrong
print("Swish: the gradients of x and beta agree with finite differences")
try:
    xl.check_gradients(WrongSwish(beta), x)
except AssertionError as error:
    print("A mistake is found:", error)
else:
    raise AssertionError("the mistake was not found")

(x_train, t_train), (x_test, t_test) = load_digits()
net = xl.Sequential(
    fc1=xl.Affine.init(64, 50, rng=0),
    swish=Swish(np.ones(50, np.float32)),
    fc2=xl.Affine.init(50, 10, rng=1),
)
loss, optimizer = xl.SoftmaxWithLoss(), xl.Adam(lr=3e-3)
for epoch in range(40):
    for x, t in xl.minibatches(x_train, t_train, 64, rng=epoch):
        loss.forward(net.forward(x), t)
        net.backward(loss.backward())
        optimizer.update(net.params, net.grads)

accuracy = float(xl.accuracy(net.predict(x_test), t_test))
learnt = net.swish.beta
print(f"held out {accuracy:.3f}   beta went from 1 to {learnt.min():.2f} ... {learnt.max():.2f}")
assert accuracy >= 0.95
assert learnt.std() > 0.01
