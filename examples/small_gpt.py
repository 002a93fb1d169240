"""A small GPT learns to continue a text, one character after the other.

The text is `alice.txt`: Lewis Carroll, *Alice's Adventures in Wonderland*, 1865, in the public
domain (Project Gutenberg, "Millennium Fulcrum Edition 2.9", the file alice29.txt of the Canterbury
Corpus, with single empty lines). The network learns from the first nine tenths. On the last one it
is compared with bigram models, which know the character before alone: one that is counted on the
same nine tenths, and the best one there is, counted on the very text that is held out.
"""

import functools
from pathlib import Path

import numpy as np
import numpy as xp  # or: import cupy as xp, import torch as xp, import jax.numpy as xp

import xplayers as xl

context, width, heads, depth = 32, 64, 4, 2
text = Path(__file__).with_name("alice.txt").read_text(encoding="ascii")
characters = sorted(set(text))
codes = np.asarray([characters.index(c) for c in text])
train, held_out = np.split(codes, [len(codes) * 9 // 10])


def windows(codes, starts):
    """Return pieces of the text, and the same one character later: what is to be predicted."""
    pieces = xl.move(codes[np.asarray(starts)[:, None] + np.arange(context + 1)], xp=xp)
    return pieces[:, :-1], pieces[:, 1:]


def bigram(counted, at_least):
    """Return the perplexity of the held-out text by the pairs of characters that `counted` has."""
    counts = np.full((len(characters), len(characters)), at_least)
    np.add.at(counts, (counted[:-1], counted[1:]), 1.0)
    table = counts / np.maximum(np.sum(counts, axis=1, keepdims=True), 1.0)
    return np.exp(-np.mean(np.log(table[held_out[:-1], held_out[1:]])))


def block():
    """Return a block of the transformer, with the normalization before each part."""
    attention = xl.MultiHeadAttention.init(width, heads, causal=True, rng=rng)
    up = xl.Affine.init(width, 4 * width, flatten=False, rng=rng)
    down = xl.Affine.init(4 * width, width, flatten=False, rng=rng)
    return (
        xl.Residual(xl.LayerNormalization.init(width), attention),
        xl.Residual(xl.LayerNormalization.init(width), up, xl.Gelu(), down),
    )


rng = np.random.default_rng(0)
normal = functools.partial(xl.initializers.normal, std=0.5)
net = xl.Sequential(
    xl.Embedding.init(len(characters), width, initializer=normal, rng=rng),
    xl.PositionalEmbedding.init(context, width, initializer=normal, rng=rng),
    *(layer for _ in range(depth) for layer in block()),
    xl.LayerNormalization.init(width),
    xl.Affine.init(width, len(characters), flatten=False, rng=rng),
)

steps, loss = 500, xl.SoftmaxWithLoss()
optimizer = xl.AdamW(lr=xl.schedules.OneCycle(0.01, steps=steps, rise=0.1), weight_decay=0.1)
step = xl.TrainStep(net, loss, optimizer)
for i in range(1, steps + 1):
    value = step(*windows(train, rng.integers(0, len(train) - context, 32)))
    if i % 100 == 0:
        print(f"step {i} of {steps}   perplexity {np.exp(float(value)):.2f} per character")

x, t = windows(held_out, range(0, len(held_out) - context, context))
perplexity = np.exp(float(loss(net.predict(x), t)))
best = bigram(held_out, 0.0)
print(f"held out {perplexity:.2f}   bigram {bigram(train, 1.0):.2f}   best bigram {best:.2f}")
assert perplexity < 0.75 * best

written = held_out[:context].tolist()
for _ in range(300):
    scores = net.predict(xl.move(np.asarray([written[-context:]]), xp=xp))[0, -1, :]
    noise = rng.gumbel(size=len(characters))  # the largest sum is a draw from the softmax
    written.append(int(np.argmax(xl.to_numpy(scores) / 0.7 + noise)))
continued = "".join(characters[c] for c in written)
print(f"given: {continued[:context]!r}, continued:\n{continued[context:]}")
