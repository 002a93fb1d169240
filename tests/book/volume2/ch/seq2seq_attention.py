import sys

sys.path.append("..")
from common.layers import Softmax
from common.np import *
from common.optimizer import Adam
from common.time_layers import *
from common.trainer import Trainer


class Attention:
    """Of the reader: the weights of all steps of the encoder, and their sum."""

    def forward(self, hs, h):
        self.softmax = Softmax()
        n, time, width = hs.shape
        hr = h.reshape(n, 1, width).repeat(time, axis=1)
        a = self.softmax.forward(np.sum(hs * hr, axis=2))
        self.cache = hs, hr, a.reshape(n, time, 1)
        return np.sum(hs * a.reshape(n, time, 1), axis=1)

    def backward(self, dc):
        hs, hr, a = self.cache
        n, time, width = hs.shape
        dt = dc.reshape(n, 1, width).repeat(time, axis=1)
        ds = self.softmax.backward(np.sum(dt * hs, axis=2)).reshape(n, time, 1)
        return dt * a + ds * hr, np.sum(ds * hs, axis=1)


class TimeAttention:
    def forward(self, enc, dec):
        out, self.layers = np.empty_like(dec), []
        for t in range(dec.shape[1]):
            self.layers.append(Attention())
            out[:, t, :] = self.layers[t].forward(enc, dec[:, t, :])
        return out

    def backward(self, dout):
        denc, ddec = 0, np.empty_like(dout)
        for t, layer in enumerate(self.layers):
            dhs, ddec[:, t, :] = layer.backward(dout[:, t, :])
            denc += dhs
        return denc, ddec


class Encoder:
    def __init__(self, V, D, H):
        rn = np.random.randn
        self.embed = TimeEmbedding(rn(V, D) / 10)
        self.lstm = TimeLSTM(rn(D, 4 * H) / np.sqrt(D), rn(H, 4 * H) / np.sqrt(H), np.zeros(4 * H))
        self.params = self.embed.params + self.lstm.params
        self.grads = self.embed.grads + self.lstm.grads

    def forward(self, xs):
        return self.lstm.forward(self.embed.forward(xs))

    def backward(self, dhs):
        return self.embed.backward(self.lstm.backward(dhs))


class Decoder(Encoder):
    def __init__(self, V, D, H):
        super().__init__(V, D, H)
        self.lstm.stateful = True
        self.affine = TimeAffine(np.random.randn(2 * H, V) / np.sqrt(2 * H), np.zeros(V))
        self.attention = TimeAttention()
        self.params += self.affine.params
        self.grads += self.affine.grads

    def forward(self, xs, enc):
        self.lstm.set_state(enc[:, -1])
        return self.score(xs, enc)

    def score(self, xs, enc):
        dec = super().forward(xs)
        return self.affine.forward(np.concatenate((self.attention.forward(enc, dec), dec), axis=2))

    def backward(self, dscore):
        dout = self.affine.backward(dscore)
        H = dout.shape[2] // 2
        denc, ddec = self.attention.backward(dout[:, :, :H])
        super().backward(ddec + dout[:, :, H:])
        denc[:, -1] += self.lstm.dh
        return denc

    def generate(self, enc, start, n):
        self.lstm.set_state(enc[:, -1])
        sampled = [start]
        for _ in range(n):
            score = self.score(np.array([sampled[-1]]).reshape((1, 1)), enc)
            sampled.append(np.argmax(score.flatten()))
        return sampled


class Seq2seq:
    def __init__(self, *sizes):
        self.encoder, self.decoder = Encoder(*sizes), Decoder(*sizes)
        self.loss = TimeSoftmaxWithLoss()
        self.params = self.encoder.params + self.decoder.params
        self.grads = self.encoder.grads + self.decoder.grads

    def forward(self, xs, ts):
        enc = self.encoder.forward(xs)
        return self.loss.forward(self.decoder.forward(ts[:, :-1], enc), ts[:, 1:])

    def backward(self, dout=1):
        self.encoder.backward(self.decoder.backward(self.loss.backward(dout)))


x = np.random.randint(1, 5, (48, 4))
t = np.concatenate((np.zeros((48, 1), dtype=int), x), axis=1)
x = x[:, ::-1]
model = Seq2seq(5, 4, 6)
Trainer(model, Adam(0.01)).fit(x, t, max_epoch=3, batch_size=8, max_grad=5.0)

guess = model.decoder.generate(model.encoder.forward(x[[0]]), t[0, 0], 4)
characters = {0: "_", 1: "a", 2: "b", 3: "c", 4: "d"}
print("".join([characters[int(c)] for c in t[[0]].flatten()]), [characters[c] for c in guess])
