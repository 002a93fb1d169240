"""A history of a step, played three ways that have to leave the same."""

import functools

import numpy as np
from helpers import assert_same_bits, to_numpy, values

import xplayers as xl
from xplayers import TrainStep

EXACT = ("numpy", "readonly", "torch")  # elsewhere a compiler rounds in its own way


def net(*between):
    return xl.Sequential(
        xl.Affine.init(6, 6, rng=0), xl.Tanh(), *between, xl.Affine.init(6, 6, rng=1),
        xl.Affine.init(6, 3, rng=2),
    )  # fmt: skip


def full():
    return net(xl.BatchNormalization.init(6), xl.Dropout(0.3))


def by_hand(step, x, t):
    """The loop that a step stands for."""
    value = step.loss.forward(step.net.forward(x), t)
    step.net.backward(step.loss.backward(), input_grad=False)
    step.optimizer.update(step.net.params, step.net.grads)
    return value


def same(xpv, history, make=full, optimizer=xl.Adam, loop=True, step=TrainStep, **options):
    """Run ``history(step, take)`` three ways, and compare all that they leave."""
    runs = []
    for how in ("auto", False, "loop")[: 2 + loop]:
        one = step(make(), xl.SoftmaxWithLoss(), optimizer(), compile=how == "auto" and how,
                   **options)  # fmt: skip
        call = functools.partial(by_hand, one) if how == "loop" else one
        losses = []

        def take(n, call=call, losses=losses, **options):
            x = xpv.asarray(values((n, 6), seed=len(losses)), "float32")
            losses.append(np.array(to_numpy(call(x, xpv.asarray(np.arange(n) % 3), **options))))

        history(one, take)
        arrays = {f"loss {i}": v for i, v in enumerate(losses)}
        arrays |= {k: np.array(to_numpy(a)) for k, a in one.net.arrays.items()}
        for k, v in one.optimizer.state.items():
            named = v if isinstance(v, dict) else {"": v}
            arrays |= {f"{k} {name}": np.array(to_numpy(a)) for name, a in named.items()}
        runs.append(arrays)
    for other in runs[1:]:
        assert runs[0].keys() == other.keys()
        for name, a in runs[0].items():
            if xpv.backend in EXACT:
                assert_same_bits(a, other[name], name)
            else:
                np.testing.assert_allclose(a, other[name], rtol=1e-3, atol=2e-4, err_msg=name)
    return runs[0]
