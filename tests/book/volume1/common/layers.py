"""The layers as a reader of volume 1 writes them, with loops, and without 1e-7 in the loss."""

import numpy as np

from common.functions import cross_entropy_error, softmax


class Relu:
    def forward(self, x):
        self.mask = x <= 0
        return np.where(self.mask, 0, x)

    def backward(self, dout):
        return np.where(self.mask, 0, dout)


class Scale:
    """A layer of the reader's own, which stays."""

    def __init__(self, factor):
        self.factor = factor

    def forward(self, x):
        return x * self.factor

    backward = forward


class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.x = x.reshape(x.shape[0], -1)
        self.shape = x.shape
        return np.dot(self.x, self.W) + self.b

    def backward(self, dout):
        self.dW, self.db = np.dot(self.x.T, dout), np.sum(dout, axis=0)
        return np.dot(dout, self.W.T).reshape(*self.shape)


class SoftmaxWithLoss:
    def forward(self, x, t):
        self.y, self.t = softmax(x), t
        self.loss = cross_entropy_error(self.y, t)
        return self.loss

    def backward(self, dout=1):
        if self.t.size == self.y.size:
            return (self.y - self.t) / len(self.y)
        dx = self.y.copy()
        dx[np.arange(len(dx)), self.t.reshape(-1)] -= 1
        return dx / len(dx)


class BatchNormalization:
    def __init__(self, gamma, beta, momentum=0.9, running_mean=None, running_var=None):
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.running_mean, self.running_var = running_mean, running_var

    def forward(self, x, train_flg=True):
        self.shape = x.shape
        x = x.reshape(x.shape[0], -1)
        if self.running_mean is None:
            self.running_mean, self.running_var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        mean, var = self.running_mean, self.running_var
        if train_flg:
            mean, var = x.mean(axis=0), np.mean((x - x.mean(axis=0)) ** 2, axis=0)
            m = self.momentum
            self.running_mean = m * self.running_mean + (1 - m) * mean
            self.running_var = m * self.running_var + (1 - m) * var
        self.std = np.sqrt(var + 1e-6)
        self.xn = (x - mean) / self.std
        return (self.gamma * self.xn + self.beta).reshape(*self.shape)

    def backward(self, dout):
        dout = dout.reshape(dout.shape[0], -1)
        self.dgamma, self.dbeta = np.sum(dout * self.xn, axis=0), np.sum(dout, axis=0)
        rest = dout - self.dbeta / len(dout) - self.xn * (self.dgamma / len(dout))
        return (self.gamma / self.std * rest).reshape(*self.shape)


class Dropout:
    def __init__(self, dropout_ratio=0.5):
        self.dropout_ratio = dropout_ratio

    def forward(self, x, train_flg=True):
        if not train_flg:
            return x * (1 - self.dropout_ratio)
        self.mask = np.random.rand(*x.shape) > self.dropout_ratio
        return x * self.mask

    def backward(self, dout):
        return dout * self.mask


class Convolution:
    def __init__(self, W, b, stride=1, pad=0):
        self.W, self.b, self.stride, self.pad = W, b, stride, pad

    def windows(self, x):
        n, c, h, w = self.W.shape
        for i in range(0, x.shape[2] - h + 1, self.stride):
            for j in range(0, x.shape[3] - w + 1, self.stride):
                at = slice(None), slice(None), slice(i, i + h), slice(j, j + w)
                yield i // self.stride, j // self.stride, at

    def forward(self, x):
        around = (0, 0), (0, 0), (self.pad, self.pad), (self.pad, self.pad)
        self.x = np.pad(x, around)
        n, _, h, w = self.W.shape
        sizes = [(self.x.shape[a] - k) // self.stride + 1 for a, k in ((2, h), (3, w))]
        y = np.zeros((len(x), n, *sizes))
        for i, j, at in self.windows(self.x):
            y[:, :, i, j] = np.tensordot(self.x[at], self.W, axes=([1, 2, 3], [1, 2, 3])) + self.b
        return y

    def backward(self, dout):
        dx, self.dW, self.db = np.zeros_like(self.x), np.zeros_like(self.W), dout.sum((0, 2, 3))
        for i, j, at in self.windows(self.x):
            dx[at] += np.tensordot(dout[:, :, i, j], self.W, axes=1)
            self.dW += np.tensordot(dout[:, :, i, j], self.x[at], axes=(0, 0))
        p = self.pad
        return dx[:, :, p : dx.shape[2] - p, p : dx.shape[3] - p]


class Pooling:
    def __init__(self, pool_h, pool_w, stride=2, pad=0):
        self.pool_h, self.pool_w, self.stride, self.pad = pool_h, pool_w, stride, pad

    def forward(self, x):
        self.x = x
        n, c, height, width = x.shape
        rows = (height - self.pool_h) // self.stride + 1
        y = np.zeros((n, c, rows, (width - self.pool_w) // self.stride + 1))
        for index in np.ndindex(*y.shape):
            y[index] = self.window(x, index).max()
        return y

    def window(self, x, index):
        n, c, i, j = index[0], index[1], index[2] * self.stride, index[3] * self.stride
        return x[n, c, i : i + self.pool_h, j : j + self.pool_w]

    def backward(self, dout):
        dx = np.zeros_like(self.x)
        for index in np.ndindex(*dout.shape):
            first = self.window(self.x, index).argmax()
            self.window(dx, index)[first // self.pool_w, first % self.pool_w] += dout[index]
        return dx
