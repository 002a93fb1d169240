"""A convolutional network reads handwritten digits, on any library.

Four convolutions with batch normalization and dropout. Each time an image is seen it is shifted by
up to one pixel, at random. Sizes and rates were chosen by cross-validation on the training part;
the digits held out are for the figure at the end.
"""

import numpy as np
import numpy as xp  # or: import cupy as xp, import torch as xp, import jax.numpy as xp

import xplayers as xl
from xplayers.data import load_digits


def convolution(n_in, n_out):
    """Return a convolution that keeps the size; what follows it takes the place of its bias."""
    return (
        xl.Convolution.init(n_in, n_out, 3, padding="same", bias=False, rng=rng),
        xl.BatchNormalization.init(n_out),
        xl.Relu(),
    )


(x_train, t_train), (x_test, t_test) = load_digits(flatten=False)
x_train, t_train, x_test, t_test = (xl.move(a, xp=xp) for a in (x_train, t_train, x_test, t_test))

rng = np.random.default_rng(0)
net = xl.Sequential(
    *convolution(1, 32),
    *convolution(32, 32),
    xl.MaxPooling(2),  # 8 x 8 pixels become 4 x 4
    xl.Dropout(0.3, seed=1),
    *convolution(32, 64),
    *convolution(64, 64),
    xl.MaxPooling(2),
    xl.Dropout(0.3, seed=2),
    xl.Affine.init(64 * 2 * 2, 10, rng=rng),
)

epochs, batch_size = 27, 32
steps = epochs * (len(x_train) // batch_size)
optimizer = xl.AdamW(lr=xl.schedules.OneCycle(0.005, steps=steps))
step = xl.TrainStep(net, xl.SoftmaxWithLoss(label_smoothing=0.1), optimizer)
for epoch in range(epochs):
    for x, t in xl.minibatches(x_train, t_train, batch_size, rng=rng, drop_last=True):
        value = step(xl.data.random_shift(x, 1, rng), t)
    if (epoch + 1) % 9 == 0:
        print(f"epoch {epoch + 1} of {epochs}   loss of the last batch {float(value):.3f}")

accuracy = float(xl.accuracy(net.predict(x_test), t_test))
wrong = round((1 - accuracy) * len(t_test))
print(f"held out {accuracy:.4f}: {wrong} of {len(t_test)} digits are taken for another")
assert accuracy >= 0.985
