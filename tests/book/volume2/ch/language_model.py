import sys

sys.path.append("..")
import pickle
from common.np import *
from common.optimizer import SGD
from common.time_layers import *
from common.trainer import Trainer


class Rnnlm:
    def __init__(self, kind, vocab_size=9, size=6):
        V, D, rn = vocab_size, size, np.random.randn
        n = {TimeRNN: 1, TimeGRU: 3, TimeLSTM: 4}[kind]
        embed_W = rn(V, D) / 10
        b = np.zeros(n * D)
        self.layers = [
            TimeEmbedding(embed_W),
            TimeDropout(0.5),
            kind(rn(D, n * D) / np.sqrt(D), rn(D, n * D) / np.sqrt(D), b, stateful=True),
            TimeAffine(embed_W.T, np.zeros(V)),
        ]
        self.layers[1].train_flg = False
        self.loss_layer, self.rnn = TimeSoftmaxWithLoss(), self.layers[2]
        self.params, self.grads = [], []
        for layer in self.layers:
            self.params += layer.params
            self.grads += layer.grads

    def predict(self, xs):
        for layer in self.layers:
            xs = layer.forward(xs)
        return xs

    def forward(self, xs, ts):
        return self.loss_layer.forward(self.predict(xs), ts)

    def backward(self, dout=1):
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            if layer is not self.layers[1]:
                dout = layer.backward(dout)


corpus = np.array([(i * i) % 9 for i in range(321)])
xs, ts = corpus[:-1].reshape(64, 5), corpus[1:].copy().reshape(64, 5)
ts[3, 2] = -1  # ignored
for kind in (TimeRNN, TimeLSTM, TimeGRU):
    model = Rnnlm(kind)
    optimizer = SGD(1.0)
    Trainer(model, optimizer).fit(xs, ts, max_epoch=2, batch_size=16, max_grad=1.0)
    optimizer.lr /= 4.0
    Trainer(model, optimizer).fit(xs, ts, batch_size=16)
    model.rnn.reset_state()
    print("perplexity", np.exp(model.forward(xs[:10], ts[:10])))

with open(sys.argv[1], "wb") as f:
    pickle.dump([p.astype(np.float16) for p in model.params], f)
with open(sys.argv[1], "rb") as f:
    params = [p.astype("f") for p in pickle.load(f)]
for param, value in zip(model.params, params):
    param[...] = value
model.rnn.reset_state()
word, words = 1, []
while len(words) < 8:
    score = model.predict(np.array(word).reshape(1, 1)).flatten()
    p = softmax(score)
    word = int(np.argmax(p))
    words.append(word)
print(words)

params = [np.random.randn(*s) for s in ((4, 12), (3, 12), (12,)) * 2]
both = TimeBiLSTM(*params)
y = both.forward(np.random.randn(2, 5, 4))
loss = TimeSoftmaxWithLoss()
print("both directions", loss.forward(y, np.ones((2, 5), dtype=int)), y.shape)
dx = both.backward(loss.backward())
weights = [np.sum(g * g) for g in both.grads]
for i, part in enumerate([np.sum(dx * dx), *weights]):  # written down as losses, to be compared
    SoftmaxWithLoss().forward(np.array([[0.0, 1.0]]) * float(part), np.array([1]))

dropout = TimeDropout(0.5)
y = dropout.forward(np.ones((20, 10, 10)))
assert np.all((y == 0) | (y == 2.0))
assert np.all(dropout.backward(y) == y * y)
