"""Adam by PyTorch's fused kernels, and where its bits have to be those of other ways."""

from __future__ import annotations

import pytest
from helpers import assert_close, values

import xplayers as xl
from xplayers.accelerate.pytorch import adam
from xplayers.accelerate.replay.flat import is_large
from xplayers.training import TrainStep

torch = pytest.importorskip("torch")

OPTIMIZERS = {
    "adam": lambda: xl.Adam(0.01),
    "of the paper, with a penalty": lambda: xl.Adam(0.01, eps_hat=False, weight_decay=0.01),
    "without a mean": lambda: xl.Adam(0.01, beta1=0.0, beta2=0.0),
    "adamw": lambda: xl.AdamW(0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values(name, dtype):
    def tensors(a):
        return {"large": torch.from_numpy(a.astype(dtype)), "W": torch.from_numpy(a[:3, :5].copy())}

    params, optimizer = tensors(values((512, 528), 1)), OPTIMIZERS[name]()
    expected = {"W": values((512, 528), 1)}
    portable = OPTIMIZERS[name]()
    for seed in range(3):
        g = values((512, 528), 2 + seed)
        before = {k: p.clone() for k, p in params.items()}
        grads = tensors(g)
        state = optimizer.state or optimizer.init(params)
        new, _ = optimizer.step(params, grads, state)  # writes nothing
        assert all(torch.equal(params[k], before[k]) for k in params)
        optimizer.update(params, grads)
        assert all(torch.equal(params[k], new[k]) for k in params)
        portable.update(expected, {"W": g})
    assert_close(params["large"], expected["W"], 1e-5 if dtype == "float32" else 1e-12)
    for m in optimizer.moments:
        tolerance = 1e-6 if dtype == "float32" else 1e-12
        assert_close(optimizer.state[m]["large"], portable.state[m]["W"], tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bits_of_a_replay(name):
    """Of large parameters, and small ones that fill no lines, in one network."""
    x, t = torch.from_numpy(values((20, 512), 1)).float(), torch.arange(20) % 3
    results = []
    for way in ("auto", False, "loop"):
        net, loss, optimizer = xl.mlp([512, 528, 528, 3], rng=0), xl.SoftmaxWithLoss(), None
        net, optimizer = net.to(like=x), OPTIMIZERS[name]()
        step = None if way == "loop" else TrainStep(net, loss, optimizer, compile=way)
        for _ in range(5):
            if step is not None:
                step(x, t)
                continue
            loss.forward(net.forward(x), t)
            net.backward(loss.backward())
            optimizer.update(net.params, net.grads)
        results.append(net.params)
    for params in results[1:]:
        assert all(torch.equal(params[k], results[0][k]) for k in params)


def test_what_is_declined():
    options, numbers = {"rule": xl.Adam.rule, "decays": False}, (0.1, 0.1, 0.999, 0.001, 1e-7, 1.0)

    def fits(*shape, numbers=numbers, **changes):
        arrays = [torch.ones(shape) for _ in range(4)]
        return adam.is_fused(adam._apply, (*arrays, *numbers), {**options, **changes})

    assert fits(512, 512)
    assert fits(1 << 18)
    assert not fits((1 << 18) + 8)  # whose last elements are rounded otherwise
    assert not fits(512, 500)
    assert not fits(512, 512, rule=xl.RMSprop.rule)
    assert not fits(512, 512, numbers=(torch.tensor(0.1), *numbers[1:]))
    p = torch.ones(512, 512)
    assert not adam.is_fused(adam._apply, (p, p.T, p, p, *numbers), options)
    assert not adam.is_fused(adam._apply, (p, p.double(), p, p, *numbers), options)
    recorded = p.clone().requires_grad_()
    assert not adam.is_fused(adam._apply, (recorded, p, p, p, *numbers), options)
    assert is_large(tuple(p.shape)) is not is_large((3, 3))
