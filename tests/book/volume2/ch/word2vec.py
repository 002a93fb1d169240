import sys

sys.path.append("..")
import collections
from common.layers import *
from common.np import *
from common.optimizer import Adam
from common.trainer import Trainer


def create_contexts_target(corpus, window=1):
    target, contexts = corpus[window:-window], []
    for i in range(window, len(corpus) - window):
        contexts.append([corpus[i + t] for t in range(-window, window + 1) if t != 0])
    return np.array(contexts), np.array(target)


class EmbeddingDot:
    def __init__(self, W):
        self.embed = Embedding(W)
        self.params, self.grads = self.embed.params, self.embed.grads

    def forward(self, h, idx):
        self.cache = h, self.embed.forward(idx)
        return np.sum(self.cache[1] * h, axis=1)

    def backward(self, dout):
        h, target = self.cache
        dout = dout.reshape(dout.shape[0], 1)
        self.embed.backward(dout * h)
        return dout * target


class NegativeSampling:
    def __init__(self, W, corpus, n=3):
        counts = collections.Counter()
        for word in corpus:
            counts[word] += 1
        self.p = np.power(np.array([float(counts[i]) for i in range(len(counts))]), 0.75)
        self.losses = [SigmoidWithLoss() for _ in range(n + 1)]
        self.dots = [EmbeddingDot(W) for _ in range(n + 1)]
        self.params = [p for layer in self.dots for p in layer.params]
        self.grads = [g for layer in self.dots for g in layer.grads]

    def forward(self, h, target):
        n, loss = len(self.dots) - 1, 0
        negative = np.zeros((len(target), n), dtype=np.int32)
        for i in range(len(target)):
            p = self.p.copy()
            p[target[i]] = 0
            p /= p.sum()
            negative[i, :] = np.random.choice(len(p), size=n, replace=False, p=p)
        for i, (layer, dot) in enumerate(zip(self.losses, self.dots)):
            label = np.zeros(len(target), dtype=np.int32) + (i == 0)
            loss += layer.forward(dot.forward(h, negative[:, i - 1] if i else target), label)
        return loss

    def backward(self, dout=1):
        dh = 0
        for layer, dot in zip(self.losses, self.dots):
            dh += dot.backward(layer.backward(dout))
        return dh


class CBOW:
    def __init__(self, vocab_size, hidden_size, corpus):
        W_in = 0.1 * np.random.randn(vocab_size, hidden_size)
        W_out = 0.1 * np.random.randn(vocab_size, hidden_size)
        self.in_layers = [Embedding(W_in), Embedding(W_in)]
        self.loss = NegativeSampling(W_out, corpus)
        self.params, self.grads = [], []
        for layer in [*self.in_layers, self.loss]:
            self.params += layer.params
            self.grads += layer.grads
        self.word_vecs = W_in

    def forward(self, contexts, target):
        h = 0
        for i, layer in enumerate(self.in_layers):
            h += layer.forward(contexts[:, i])
        h *= 1 / len(self.in_layers)
        return self.loss.forward(h, target)

    def backward(self, dout=1):
        dout = self.loss.backward(dout)
        dout *= 1 / len(self.in_layers)
        for layer in self.in_layers:
            layer.backward(dout)


class SimpleSkipGram:
    def __init__(self, vocab_size, hidden_size):
        W_in, W_out = (
            np.random.randn(vocab_size, hidden_size),
            np.random.randn(hidden_size, vocab_size),
        )
        self.layers = [MatMul(W_in), MatMul(W_out)]
        self.losses = [SoftmaxWithLoss(), SoftmaxWithLoss()]
        self.params = self.layers[0].params + self.layers[1].params
        self.grads = self.layers[0].grads + self.layers[1].grads

    def forward(self, target, contexts):
        s = self.layers[1].forward(self.layers[0].forward(target))
        return sum(l.forward(s, contexts[:, i]) for i, l in enumerate(self.losses))

    def backward(self, dout=1):
        ds = self.losses[0].backward(dout) + self.losses[1].backward(dout)
        self.layers[0].backward(self.layers[1].backward(ds))


words = "you say goodbye and i say hello . and i say hello and you say goodbye .".split(" ")
word_to_id = {word: i for i, word in enumerate(dict.fromkeys(words))}
id_to_word = {i: word for word, i in word_to_id.items()}
corpus = np.array([word_to_id[w] for w in words])
contexts, target = create_contexts_target(corpus)

model = CBOW(len(word_to_id), 5, corpus)
Trainer(model, Adam(0.01)).fit(contexts, target, max_epoch=4, batch_size=5)

one_hot = np.zeros((*contexts.shape, len(word_to_id)), dtype=np.int32)
for i, ids in enumerate(contexts):
    for j, word in enumerate(ids):
        one_hot[i, j, word] = 1
Trainer(SimpleSkipGram(len(word_to_id), 3), Adam(0.1)).fit(
    np.array([[int(w == i) for i in range(len(word_to_id))] for w in target]), one_hot, 4, 5
)

similarity = np.zeros(len(word_to_id))
for i in range(len(word_to_id)):
    similarity[i] = np.dot(model.word_vecs[i], model.word_vecs[0])
print([id_to_word[i] for i in (-1 * similarity).argsort()], np.sum(model.word_vecs))
