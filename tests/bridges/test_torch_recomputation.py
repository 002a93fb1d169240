"""Modules where PyTorch computes a pass again, or in 16 bits."""

from __future__ import annotations

import pytest
from helpers import says, values

import xplayers as xl

torch = pytest.importorskip("torch")
from torch.utils.checkpoint import checkpoint  # noqa: E402

from xplayers.torch import Module  # noqa: E402

REENTRANT = pytest.mark.parametrize("reentrant", [True, False])


def network():
    return xl.Sequential(
        xl.Affine.init(6, 8, rng=0),
        xl.BatchNormalization.init(8),
        xl.Dropout(0.5, seed=3),
        xl.Affine.init(8, 2, rng=1),
    )


def input_of(*shape, dtype=torch.float64):
    return torch.tensor(values(shape), dtype=dtype, requires_grad=True)


def gradients(module, x, run):
    """Return output and gradients of two passes, of which the first is gone backwards last."""
    first, second = run(module, x), run(module, x)
    (second.square().sum() + 3.0 * first.square().sum()).backward()
    grads = [x.grad, *[p.grad for p in module.parameters()]]
    return [first.detach(), second.detach(), *grads]


@REENTRANT
def test_a_checkpoint_drops_the_same(reentrant):
    results, buffers = [], []
    for run in (
        lambda module, x: module(x),
        lambda module, x: checkpoint(module, x, use_reentrant=reentrant),
    ):
        torch.manual_seed(0)
        module = Module(network()).double()
        results.append(gradients(module, input_of(5, 6), run))
        buffers.append({name: b.clone() for name, b in module.named_buffers()})
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(buffers[1], buffers[0], rtol=0, atol=0)
    assert not torch.equal(results[0][0], results[0][1])  # each pass drops others


@REENTRANT
def test_a_checkpoint_of_further_inputs_drops_the_same(reentrant):
    """Inputs that are differentiated go another way through the module."""
    results = []
    for through in (lambda f, *a: f(*a), lambda f, *a: checkpoint(f, *a, use_reentrant=reentrant)):
        torch.manual_seed(0)
        module = Module(xl.MultiHeadAttention.init(4, 2, dropout=0.5, seed=1, rng=0)).double()
        x, context = input_of(2, 3, 4), input_of(2, 5, 4)
        through(module, x, context).square().sum().backward()
        results.append([x.grad, context.grad, *[p.grad for p in module.parameters()]])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


def test_what_cannot_be_known_again_is_refused():
    module = Module(xl.Dropout(0.5))
    x = input_of(5, 6)
    y = checkpoint(module, x, use_reentrant=False, preserve_rng_state=False)
    words = "Dropout: computed again in a backward pass, and which elements were dropped the first"
    with pytest.raises(RuntimeError, match=says(words)):
        y.square().sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_autocast_leaves_the_dtype(training):
    """What comes from 16-bit layers of PyTorch is computed in the dtype of the parameters."""
    torch.manual_seed(0)
    linear, module = torch.nn.Linear(4, 6), Module(network()).train(training)
    plain = Module(network()).train(training)
    x = torch.randn(5, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = linear(x)
        y = module(hidden)
        if training:  # else PyTorch computes the gradient, here in 16 bits
            y.square().sum().backward()
    if not training:
        y.square().sum().backward()
    assert hidden.dtype == torch.bfloat16
    assert y.dtype == torch.float32
    wide = hidden.detach().float().requires_grad_()
    expected = plain(wide)
    expected.square().sum().backward()
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    for p, q in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-6)
    assert linear.weight.grad.dtype == torch.float32


def test_a_loss_under_autocast():
    loss = Module(xl.SoftmaxWithLoss())
    scores, labels = input_of(5, 3, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 1, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(scores, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert scores.grad.dtype == torch.bfloat16
    torch.testing.assert_close(value, loss(scores.detach(), labels))
