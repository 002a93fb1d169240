import sys, os

sys.path.append(os.pardir)
import numpy as np
from collections import OrderedDict
from common.functions import softmax
from common.layers import *
from common.gradient import numerical_gradient
from common.optimizer import SGD
from dataset.bars import load_images


class TwoLayerNet:
    def __init__(self, n_in, n_hidden, n_out, std=0.1):
        self.params = {}
        self.params["W1"] = std * np.random.randn(n_in, n_hidden)
        self.params["b1"] = np.zeros(n_hidden)
        self.params["W2"] = std * np.random.randn(n_hidden, n_out)
        self.params["b2"] = np.zeros(n_out)
        self.layers = OrderedDict()
        self.layers["Affine1"] = Affine(self.params["W1"], self.params["b1"])
        self.layers["Relu1"] = Relu()
        self.layers["Scale"] = Scale(2.0)
        self.layers["Affine2"] = Affine(self.params["W2"], self.params["b2"])
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x):
        for layer in self.layers.values():
            x = layer.forward(x)
        return x

    def loss(self, x, t):
        return self.last_layer.forward(self.predict(x), t)

    def accuracy(self, x, t):
        y = np.argmax(self.predict(x), axis=1)
        if t.ndim != 1:
            t = np.argmax(t, axis=1)
        return np.sum(y == t) / float(x.shape[0])

    def numerical_gradient(self, x, t):
        loss_W = lambda W: self.loss(x, t)
        return {key: numerical_gradient(loss_W, self.params[key]) for key in self.params}

    def gradient(self, x, t):
        self.loss(x, t)
        dout = self.last_layer.backward(1)
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        affine1, affine2 = self.layers["Affine1"], self.layers["Affine2"]
        return {"W1": affine1.dW, "b1": affine1.db, "W2": affine2.dW, "b2": affine2.db}


x, t = load_images(size=4)
one_hot = np.zeros((t.size, 2))
for row, label in zip(one_hot, t):
    row[label] = 1

network = TwoLayerNet(16, 6, 2)
numerical = network.numerical_gradient(x[:3], one_hot[:3])
for key, gradient in network.gradient(x[:3], one_hot[:3]).items():
    assert np.average(np.abs(gradient - numerical[key])) < 1e-7, key

optimizer = SGD(lr=0.5)
for i in range(120):
    mask = np.random.choice(x.shape[0], 20)
    grads = network.gradient(x[mask], one_hot[mask])
    if i % 2:
        optimizer.update(network.params, grads)
    else:
        for key in ("W1", "b1", "W2", "b2"):
            network.params[key] -= 0.5 * grads[key]
assert network.accuracy(x, t) > 0.9
print("accuracy", network.accuracy(x, t), softmax(network.predict(x))[0])
