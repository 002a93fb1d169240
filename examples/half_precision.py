"""Mixed precision: a network that computes in 16 bits is as good as one in float32.

NumPy has float16 and computes it slowly; bfloat16 is in PyTorch and JAX, where they are installed.
"""

import importlib

import xplayers as xl
from xplayers.data import load_digits


def accuracy(xp, precision):
    """Train on the digits, and return the accuracy on those held out."""
    (x_train, t_train), (x_test, t_test) = (map(xp.asarray, part) for part in load_digits())
    net = xl.Sequential(
        xl.Affine.init(64, 200, rng=0),
        xl.BatchNormalization.init(200),
        xl.Relu(),
        xl.Dropout(0.3),
        xl.Affine.init(200, 10, rng=1),
    )
    optimizer = xl.Adam(lr=xl.schedules.Cosine(0.01, steps=280))
    step = xl.TrainStep(net, xl.SoftmaxWithLoss(), optimizer, precision=precision)
    for epoch in range(10):
        for x, t in xl.minibatches(x_train, t_train, 50, rng=epoch, drop_last=True):
            step(x, t)
    if precision is not None:  # the parameters are float32; now they are used in 16 bits
        skipped = int(step.state["precision"]["skipped_steps"])
        print(f"  trained in {precision.dtype}, {skipped} steps skipped")
        x_test = xl.move(x_test, dtype=precision.dtype)
        net.to(dtype=precision.dtype)
    return float(xl.accuracy(net.predict(x_test), t_test))


for module, dtype in (("numpy", "float16"), ("torch", "bfloat16"), ("jax.numpy", "bfloat16")):
    try:
        xp = importlib.import_module(module)
    except ImportError:
        print(f"{module}: not installed")
        continue
    print(f"{module}:")
    single, half = accuracy(xp, None), accuracy(xp, xl.MixedPrecision(dtype))
    print(f"  held out: float32 {single:.3f}   {dtype} {half:.3f}")
    assert min(single, half) >= 0.96
    assert abs(single - half) <= 0.01
