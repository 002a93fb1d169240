from common.layers import *
from common.np import *


class Recurrent:
    """A step, its backward, and the loop over them; of the reader's own making."""

    states = 1

    def __init__(self, Wx, Wh, b, stateful=False):
        self.params, self.stateful = [Wx, Wh, b], stateful
        self.grads = [np.zeros_like(p) for p in self.params]
        self.h = self.c = self.dh = None

    def set_state(self, h, c=None):
        self.h, self.c = h, c

    def reset_state(self):
        self.set_state(None)

    def forward(self, xs):
        n, time, _ = xs.shape
        zeros = np.zeros((n, self.params[1].shape[0]))
        h = zeros if self.h is None or not self.stateful else self.h
        c = zeros if self.c is None or not self.stateful else self.c
        self.steps, hs = [], []
        for t in range(time):
            x = xs[:, t]
            a = np.dot(x, self.params[0]) + self.params[2]
            before = h, c
            h, c, cache = self.step(a, h, c)
            self.steps.append((x, *before, cache))
            hs.append(h)
        self.h, self.c = h, c
        return np.array(hs).transpose(1, 0, 2)

    def backward(self, dhs):
        Wx, Wh, _ = self.params
        for gradient in self.grads:
            gradient[...] = 0
        dh = dc = np.zeros_like(dhs[:, 0])
        dxs = np.zeros((*dhs.shape[:2], Wx.shape[0]))
        for t in reversed(range(dhs.shape[1])):
            x, h, c, cache = self.steps[t]
            da, dh, dc = self.step_back(dhs[:, t] + dh, dc, h, c, cache)
            self.grads[0] += np.dot(x.T, da)
            self.grads[2] += da.sum(axis=0)
            dxs[:, t] = np.dot(da, Wx.T)
        self.dh = dh
        return dxs


class TimeRNN(Recurrent):
    def step(self, a, h, c):
        h = np.tanh(a + np.dot(h, self.params[1]))
        return h, c, h

    def step_back(self, dh, dc, h, c, after):
        da = dh * (1 - after**2)
        self.grads[1] += np.dot(h.T, da)
        return da, np.dot(da, self.params[1].T), dc


class TimeLSTM(Recurrent):
    def step(self, a, h, c):
        f, g, i, o = np.split(a + np.dot(h, self.params[1]), 4, axis=1)
        f, g, i, o = sigmoid(f), np.tanh(g), sigmoid(i), sigmoid(o)
        c = f * c + g * i
        return o * np.tanh(c), c, (f, g, i, o, np.tanh(c))

    def step_back(self, dh, dc, h, c, cache):
        f, g, i, o, out = cache
        dc = dc + dh * o * (1 - out**2)
        parts = (
            dc * c * f * (1 - f), dc * i * (1 - g**2), dc * g * i * (1 - i), dh * out * o * (1 - o),
        )  # fmt: skip
        da = np.concatenate(parts, axis=1)
        self.grads[1] += np.dot(h.T, da)
        return da, np.dot(da, self.params[1].T), dc * f


class TimeGRU(Recurrent):
    def step(self, a, h, c):
        (az, ar, an), (Uz, Ur, Un) = np.split(a, 3, axis=1), np.split(self.params[1], 3, axis=1)
        z, r = sigmoid(az + np.dot(h, Uz)), sigmoid(ar + np.dot(h, Ur))
        n = np.tanh(an + np.dot(r * h, Un))
        return (1 - z) * h + z * n, c, (z, r, n)

    def step_back(self, dh, dc, h, c, cache):
        (z, r, n), (Uz, Ur, Un) = cache, np.split(self.params[1], 3, axis=1)
        dn = dh * z * (1 - n**2)
        dm = np.dot(dn, Un.T)
        dz, dr = dh * (n - h) * z * (1 - z), dm * h * r * (1 - r)
        dU = np.dot(h.T, dz), np.dot(h.T, dr), np.dot((r * h).T, dn)
        self.grads[1] += np.concatenate(dU, axis=1)
        before = dh * (1 - z) + dm * r + np.dot(dz, Uz.T) + np.dot(dr, Ur.T)
        return np.concatenate((dz, dr, dn), axis=1), before, dc


class TimeBiLSTM:
    """Of the reader, who has written it by two of the above; it stays."""

    def __init__(self, *params):
        self.one, self.two = TimeLSTM(*params[:3]), TimeLSTM(*params[3:])
        self.params = self.one.params + self.two.params
        self.grads = self.one.grads + self.two.grads

    def forward(self, xs):
        back = self.two.forward(xs[:, ::-1])[:, ::-1]
        return np.concatenate((self.one.forward(xs), back), axis=2)

    def backward(self, dhs):
        one, two = np.split(dhs, 2, axis=2)
        return self.one.backward(one) + self.two.backward(two[:, ::-1])[:, ::-1]


class TimeEmbedding(Embedding):
    pass


class TimeAffine:
    def __init__(self, W, b):
        self.params, self.grads = [W, b], [np.zeros_like(W), np.zeros_like(b)]

    def forward(self, x):
        self.x = x
        return np.dot(x, self.params[0]) + self.params[1]

    def backward(self, dout):
        W, width = self.params[0], dout.shape[-1]
        self.grads[0][...] = np.dot(self.x.reshape(-1, W.shape[0]).T, dout.reshape(-1, width))
        self.grads[1][...] = dout.reshape(-1, width).sum(axis=0)
        return np.dot(dout, W.T)


class TimeDropout:
    def __init__(self, dropout_ratio=0.5):
        self.params, self.grads = [], []
        self.dropout_ratio, self.train_flg = dropout_ratio, True

    def forward(self, xs):
        if not self.train_flg:
            return xs
        self.mask = (np.random.rand(*xs.shape) > self.dropout_ratio) / (1 - self.dropout_ratio)
        return xs * self.mask

    def backward(self, dout):
        return dout * self.mask


class TimeSoftmaxWithLoss:
    def __init__(self):
        self.params, self.grads, self.ignore_label = [], [], -1

    def forward(self, xs, ts):
        if ts.ndim == 3:
            ts = ts.argmax(axis=2)
        self.shape, ts = xs.shape, ts.reshape(-1)
        self.y, self.mask = softmax(xs).reshape(len(ts), -1), ts != self.ignore_label
        self.t = np.where(self.mask, ts, 0)
        rows = np.log(self.y[np.arange(len(ts)), self.t]) * self.mask
        return -np.sum(rows) / self.mask.sum()

    def backward(self, dout=1):
        dx = self.y.copy()
        dx[np.arange(len(dx)), self.t] -= 1
        dx *= self.mask.reshape(-1, 1)
        return (dx * dout / self.mask.sum()).reshape(*self.shape)
