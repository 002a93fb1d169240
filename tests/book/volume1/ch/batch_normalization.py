import sys, os

sys.path.append(os.pardir)
import numpy as np
from common.layers import *
from common.optimizer import *
from dataset.bars import load_images


class Net:
    def __init__(self, n_in, n_hidden, n_out):
        self.params = {
            "W1": 0.1 * np.random.randn(n_in, n_hidden),
            "gamma": np.ones(n_hidden), "beta": np.zeros(n_hidden),
            "W2": 0.1 * np.random.randn(n_hidden, n_out), "b2": np.zeros(n_out),
        }  # fmt: skip
        p = self.params
        self.layers = {
            "Affine1": Affine(p["W1"], np.zeros(n_hidden)),
            "BatchNorm": BatchNormalization(p["gamma"], p["beta"]),
            "Relu": Relu(),
            "Affine2": Affine(p["W2"], p["b2"]),
        }
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x, train_flg=False):
        for key, layer in self.layers.items():
            if "BatchNorm" in key:
                x = layer.forward(x, train_flg)
            else:
                x = layer.forward(x)
        return x

    def loss(self, x, t, train_flg=False):
        decay = 0.5 * 0.01 * np.sum(self.params["W1"] ** 2)
        return self.last_layer.forward(self.predict(x, train_flg), t) + decay

    def gradient(self, x, t):
        self.loss(x, t, train_flg=True)
        dout = self.last_layer.backward(1)
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        a, n, b = self.layers["Affine1"], self.layers["BatchNorm"], self.layers["Affine2"]
        return {
            "W1": a.dW + 0.01 * self.params["W1"],
            "gamma": n.dgamma, "beta": n.dbeta, "W2": b.dW, "b2": b.db,
        }  # fmt: skip


x, t = load_images(size=5)
for optimizer in (SGD(0.1), Momentum(0.05), AdaGrad(0.1), Adam(0.01)):
    network = Net(25, 6, 2)
    for i in range(8):
        mask = np.random.choice(len(x), 15)
        optimizer.update(network.params, network.gradient(x[mask], t[mask]))
    print(network.loss(x, t), network.layers["BatchNorm"].running_var[0])

image = BatchNormalization(np.ones(18), np.zeros(18), 0.5)  # per pixel
y = image.forward(np.random.rand(4, 2, 3, 3))
dx = image.backward(y * y)
print("image", np.sum(y * y), np.sum(dx * dx), np.sum(image.running_mean))

dropout = Dropout(0.25)
y = dropout.forward(np.ones((50, 40)))
assert np.all(dropout.backward(y) == y)
assert np.all((y == 1) == dropout.mask)
assert abs(np.sum(y) / 2000 - 0.75) < 0.05
assert np.all(dropout.forward(y, False) == 0.75 * y)

coordinates, gradients = {"x": -7.0, "y": 2.0}, {}
optimizer, history = Adam(lr=0.3), []
for i in range(5):
    history.append(coordinates["x"])
    gradients["x"], gradients["y"] = coordinates["x"] / 10.0, 2.0 * coordinates["y"]
    optimizer.update(coordinates, gradients)
print("history", history)
