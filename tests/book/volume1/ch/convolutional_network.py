import sys, os

sys.path.append(os.pardir)
import pickle
import numpy as np
from common.layers import *
from common.trainer import Trainer
from dataset.bars import load_images


class SimpleConvNet:
    def __init__(self, filters=3):
        self.params = {}
        self.params["W1"] = 0.1 * np.random.randn(filters, 1, 3, 3)
        self.params["b1"] = np.zeros(filters)
        self.params["W2"] = 0.1 * np.random.randn(filters * 16, 2)
        self.params["b2"] = np.zeros(2)
        self.layers = [
            Convolution(self.params["W1"], self.params["b1"], 1, 1),
            Relu(),
            Pooling(pool_h=2, pool_w=2, stride=2),
            Affine(self.params["W2"], self.params["b2"]),
        ]
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def loss(self, x, t):
        return self.last_layer.forward(self.predict(x), t)

    def gradient(self, x, t):
        self.loss(x, t)
        dout = self.last_layer.backward(1)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        conv, affine = self.layers[0], self.layers[3]
        return {"W1": conv.dW, "b1": conv.db, "W2": affine.dW, "b2": affine.db}

    def save_params(self, file):
        with open(file, "wb") as f:
            pickle.dump({key: val for key, val in self.params.items()}, f)

    def load_params(self, file):
        with open(file, "rb") as f:
            self.params.update(pickle.load(f))
        for i, layer in ((1, self.layers[0]), (2, self.layers[3])):
            layer.W, layer.b = self.params["W" + str(i)], self.params["b" + str(i)]


x, t = load_images(30, flatten=False)
network = SimpleConvNet()
Trainer(network, x, t, "Adam", 0.05, 10).train(12)

network.save_params(sys.argv[1])
other = SimpleConvNet()
other.load_params(sys.argv[1])
assert np.all(other.predict(x[:5]) == network.predict(x[:5]))
other.params["b2"] += 1.0  # the layers hold the arrays that were loaded
assert np.allclose(other.predict(x[:5]), network.predict(x[:5]) + 1.0)

blurred = Convolution(np.ones((1, 1, 2, 2)), 0, stride=2).forward(x[:1])
print("shape", blurred.shape, "sum", np.sum(blurred))
