import numpy as np


class SGD:
    def __init__(self, lr=0.01):
        self.lr = lr

    def update(self, params, grads):
        for key in params:
            params[key] -= self.lr * grads[key]


class Momentum:
    def __init__(self, lr=0.01, momentum=0.9):
        self.lr, self.momentum, self.v = lr, momentum, {}

    def update(self, params, grads):
        for key in params:
            self.v[key] = self.momentum * self.v.get(key, 0) - self.lr * grads[key]
            params[key] += self.v[key]


class AdaGrad:
    def __init__(self, lr=0.01):
        self.lr, self.h = lr, {}

    def update(self, params, grads):
        for key in params:
            self.h[key] = self.h.get(key, 0) + grads[key] ** 2
            params[key] -= self.lr * grads[key] / (np.sqrt(self.h[key]) + 1e-7)


class Adam:
    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999):
        self.lr, self.beta1, self.beta2, self.iter, self.m, self.v = lr, beta1, beta2, 0, {}, {}

    def update(self, params, grads):
        self.iter += 1
        root = np.sqrt(1 - self.beta2**self.iter)
        lr = self.lr * root / (1 - self.beta1**self.iter)
        for key in params:
            m, v = self.m.get(key, 0), self.v.get(key, 0)
            self.m[key] = m + (1 - self.beta1) * (grads[key] - m)
            self.v[key] = v + (1 - self.beta2) * (grads[key] ** 2 - v)
            params[key] -= lr * self.m[key] / (np.sqrt(self.v[key]) + 1e-7)
