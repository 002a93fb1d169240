"""The layers of *Deep Learning from Scratch* in plain NumPy, in our words; see `book`.

Convolution and pooling copy the windows of the whole batch into columns, a row each, as ``im2col``
of the book does, here without its detour over float64. Batch normalization of images has one pair
of parameters for a channel, as all others here; the book's code, which would have one for a pixel,
gets the pixels as rows.
"""

from __future__ import annotations

import numpy as np


class Relu:
    def forward(self, x):
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout):
        dout[self.mask] = 0
        return dout


class Sigmoid:
    def forward(self, x):
        self.out = 1 / (1 + np.exp(-x))
        return self.out

    def backward(self, dout):
        return dout * (1.0 - self.out) * self.out


class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.original_shape = x.shape
        self.x = x.reshape(x.shape[0], -1)
        return np.dot(self.x, self.W) + self.b

    def backward(self, dout):
        dx = np.dot(dout, self.W.T)
        self.dW = np.dot(self.x.T, dout)
        self.db = np.sum(dout, axis=0)
        return dx.reshape(*self.original_shape)


class Flatten:
    def forward(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dout):
        return dout.reshape(self.shape)


class Convolution:
    def __init__(self, W, b, padding):
        if padding != "same" or W.shape[2] % 2 == 0:
            message = f"filters of {W.shape[2:]} with padding {padding!r}; expected odd and 'same'"
            raise ValueError(message)
        self.W, self.b, self.pad = W, b, W.shape[2] // 2

    def forward(self, x):
        n, _, height, width = self.shape = x.shape
        n_out, _, *self.size = self.W.shape
        self.col = im2col(x, self.size, 1, self.pad)
        self.col_W = self.W.reshape(n_out, -1).T
        out = np.dot(self.col, self.col_W) + self.b
        return out.reshape(n, height, width, -1).transpose(0, 3, 1, 2)

    def backward(self, dout):
        dout = dout.transpose(0, 2, 3, 1).reshape(-1, len(self.W))
        self.db = np.sum(dout, axis=0)
        self.dW = np.dot(self.col.T, dout).T.reshape(self.W.shape)
        return col2im(np.dot(dout, self.col_W.T), self.shape, self.size, 1, self.pad)


class MaxPooling:
    def __init__(self, size):
        self.size = size

    def forward(self, x):
        n, c, height, width = self.shape = x.shape
        windows = im2col(x, (self.size, self.size), self.size, 0).reshape(-1, self.size**2)
        self.winners = np.argmax(windows, axis=1)
        out = np.max(windows, axis=1)
        outputs = (n, height // self.size, width // self.size, c)
        return out.reshape(outputs).transpose(0, 3, 1, 2)

    def backward(self, dout):
        dout = dout.transpose(0, 2, 3, 1)
        windows = np.zeros((dout.size, self.size**2), dout.dtype)
        windows[np.arange(dout.size), self.winners] = dout.flatten()
        rows = dout.shape[0] * dout.shape[1] * dout.shape[2]
        col = windows.reshape(rows, -1)
        return col2im(col, self.shape, (self.size, self.size), self.size, 0)


class BatchNormalization:
    def __init__(self, gamma, beta, momentum=0.9):
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.running_mean, self.running_var = np.zeros_like(beta), np.zeros_like(beta)

    def forward(self, x):
        rows, self.shape = as_rows(x), x.shape
        mu = rows.mean(axis=0)
        self.xc = rows - mu
        var = np.mean(self.xc**2, axis=0)
        self.std = np.sqrt(var + 1e-5)
        self.xn = self.xc / self.std
        self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mu
        self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
        return from_rows(self.gamma * self.xn + self.beta, x.shape)

    def backward(self, dout):
        dout = as_rows(dout)
        n = len(dout)
        self.dbeta = dout.sum(axis=0)
        self.dgamma = np.sum(self.xn * dout, axis=0)
        dxn = self.gamma * dout
        dxc = dxn / self.std
        dstd = -np.sum((dxn * self.xc) / (self.std * self.std), axis=0)
        dvar = 0.5 * dstd / self.std
        dxc += (2.0 / n) * self.xc * dvar
        dmu = np.sum(dxc, axis=0)
        return from_rows(dxc - dmu / n, self.shape)


def as_rows(x):
    return x if x.ndim == 2 else x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def from_rows(rows, shape):
    if len(shape) == 2:
        return rows
    n, c, height, width = shape
    return rows.reshape(n, height, width, c).transpose(0, 3, 1, 2)


def im2col(x, size, stride, pad):
    """Return the windows of images ``(n, c, h, w)``, one a row."""
    n, c, height, width = x.shape
    out_h, out_w = (
        (k + 2 * pad - s) // stride + 1 for k, s in zip((height, width), size, strict=True)
    )
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    col = np.zeros((n, c, *size, out_h, out_w), x.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i, i + stride * out_h, stride)
            columns = slice(j, j + stride * out_w, stride)
            col[:, :, i, j] = padded[:, :, rows, columns]
    return col.transpose(0, 4, 5, 1, 2, 3).reshape(n * out_h * out_w, -1)


def col2im(col, shape, size, stride, pad):
    """Return the images in which each row of `col` is added where its window is."""
    n, c, height, width = shape
    out_h, out_w = (
        (k + 2 * pad - s) // stride + 1 for k, s in zip((height, width), size, strict=True)
    )
    col = col.reshape(n, out_h, out_w, c, *size).transpose(0, 3, 4, 5, 1, 2)
    image = np.zeros((n, c, height + 2 * pad, width + 2 * pad), col.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i, i + stride * out_h, stride)
            columns = slice(j, j + stride * out_w, stride)
            image[:, :, rows, columns] += col[:, :, i, j]
    return image[:, :, pad : pad + height, pad : pad + width]
