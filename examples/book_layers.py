"""The four layers of chapter 5 of *Deep Learning from Scratch*, with numbers to compare."""

import numpy as np

import xplayers as xl

# Relu and Sigmoid keep their output and need nothing else for backward.
x = np.asarray([[1.0, -0.5], [-2.0, 3.0]])
dy = np.ones_like(x)

relu = xl.Relu()
print("Relu", relu.forward(x).tolist(), "backward", relu.backward(dy).tolist())
assert relu(x).tolist() == [[1.0, 0.0], [0.0, 3.0]]

sigmoid = xl.Sigmoid()
y = sigmoid.forward(x)
dx = sigmoid.backward(dy)
print("Sigmoid", y.round(4).tolist(), "backward", dx.round(4).tolist())
assert np.array_equal(dx, dy * y * (1 - y))

# Affine flattens images to rows, and gives the gradient in the shape of the images.
rng = np.random.default_rng(0)
images = rng.standard_normal((2, 1, 3, 4))
affine = xl.Affine(rng.standard_normal((12, 5)), np.zeros(5))
scores = affine.forward(images)
dx = affine.backward(np.ones((2, 5)))
print("Affine", images.shape, "->", scores.shape, "  dx", dx.shape, "  dW", affine.dW.shape)
assert dx.shape == images.shape
assert np.allclose(affine.dW, images.reshape(2, 12).T @ np.ones((2, 5)))
assert affine.db.tolist() == [2.0] * 5

# SoftmaxWithLoss: the gradient is (y - t) / batch size, for labels and for one-hot targets.
loss = xl.SoftmaxWithLoss()
labels = np.asarray([3, 0])
one_hot = np.eye(5)[labels]
expected = (xl.functional.softmax(scores) - one_hot) / 2
for target in (labels, one_hot):
    value = loss.forward(scores, target)
    gradient = loss.backward()
    print(f"SoftmaxWithLoss {float(value):.6f}", "gradient as in the book:", end=" ")
    print(np.allclose(gradient, expected, rtol=0, atol=1e-15))
    assert np.allclose(gradient, expected, rtol=0, atol=1e-15)
