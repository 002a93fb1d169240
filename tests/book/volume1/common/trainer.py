"""Of the reader, with a `np` of its own; it is not replaced."""

import numpy as np

from common.optimizer import *


class Trainer:
    def __init__(self, network, x, t, optimizer="SGD", lr=0.01, batch_size=10):
        kinds = {"sgd": SGD, "momentum": Momentum, "adagrad": AdaGrad, "adam": Adam}
        self.network, self.x, self.t = network, x, t
        self.optimizer, self.batch_size = kinds[optimizer.lower()](lr), batch_size
        self.train_loss_list = []

    def train(self, steps):
        for _ in range(steps):
            mask = np.random.choice(self.x.shape[0], self.batch_size)
            x, t = self.x[mask], self.t[mask]
            self.optimizer.update(self.network.params, self.network.gradient(x, t))
            loss = self.network.loss(x, t)
            self.train_loss_list.append(loss)
            print("train loss:" + str(loss))
