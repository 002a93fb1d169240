"""The derivative of ReLU: array in, array out, nothing changed.

A question asked again and again goes like this:

    def relu_derivative(z):
        z[z > 0] = 1
        z[z <= 0] = 0
        return z

    y = relu(x)
    d = relu_derivative(y)  # d is right, and y has become d: the function wrote into its argument
"""

import numpy as np

import xplayers as xl
from xplayers.functional import relu, relu_derivative

# 1. The derivative is a fresh array.
x = np.asarray([5, 1, -4, 0])
y = relu(x)
d = relu_derivative(y)
print("x", x, "  relu", y, "  derivative", d)
assert x.tolist() == [5, 1, -4, 0]
assert y.tolist() == [5, 1, 0, 0]
assert d.tolist() == [1, 1, 0, 0]
assert not np.shares_memory(d, y)

# 2. Any shape, the dtype kept; and it is what people write by hand.
x = np.asarray([[1.5, -2.0, 0.0], [-0.0, 3.0, -1e-30]], dtype=np.float32)
d = relu_derivative(x)
print("a matrix", d.tolist(), d.dtype)
by_hand = {
    "x > 0": x > 0,
    "1.0 * (x > 0)": 1.0 * (x > 0),
    "(x > 0) * 1": (x > 0) * 1,
    "(x > 0).astype(x.dtype)": (x > 0).astype(x.dtype),
    "np.greater(x, 0)": np.greater(x, 0),
    "np.where(x > 0, 1, 0)": np.where(x > 0, 1, 0),
    "np.where(x <= 0, 0, 1)": np.where(x <= 0, 0, 1),
    "np.heaviside(x, 0)": np.heaviside(x, 0),
    "np.sign(np.maximum(x, 0))": np.sign(np.maximum(x, 0)),
    "np.vectorize(lambda v: 1 if v > 0 else 0)(x)": np.vectorize(lambda v: 1 if v > 0 else 0)(x),
}
for code, values in by_hand.items():
    assert np.array_equal(values, d), code
print(f"{len(by_hand)} ways to write it by hand agree")

# 3. In a network the upstream gradient goes through where x > 0 and is 0 elsewhere. This is what
#    `drelu[x <= 0] = 0` means; the layer does it without writing into the upstream gradient.
dy = np.asarray([[0.5, 7.0, -3.0], [2.0, -4.0, 1.0]], dtype=np.float32)
dy.flags.writeable = False  # an attempt to write would raise
layer = xl.Relu()
layer.forward(x)
dx = layer.backward(dy)
print("upstream", dy.tolist(), "  passed on", dx.tolist())
assert np.array_equal(dx, dy * relu_derivative(x))
