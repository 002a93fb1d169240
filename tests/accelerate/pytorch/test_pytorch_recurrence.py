"""Recurrent layers by PyTorch's kernels against the portable body of float64."""

from __future__ import annotations

import pytest
from helpers import assert_close, values

import xplayers as xl
from xplayers.accelerate.pytorch import recurrence as pytorch
from xplayers.arrays.operation import body_of, portable_body
from xplayers.layers import scan

torch = pytest.importorskip("torch")


def layers(kind, **options):
    """Return a layer of float32, and the same of float64."""
    layer = kind.init(3, 4, rng=0, **options)
    wide = {name: torch.from_numpy(a.astype("float64")) for name, a in layer.arrays.items()}
    return layer.to(like=torch.zeros(1)), kind(**wide)


def passed(layer, x, dy, state, input_grad=True):
    """Return output, last state, and all gradients."""
    y, cache = layer.apply(layer.arrays, x, *state)
    if not input_grad:
        return y, *layer.param_grads(cache, dy).values()
    dx, grads = layer.vjp(cache, dy)
    return y, *layer.final_state(cache), *(dx if state else [dx]), *grads.values()


@pytest.mark.parametrize("input_grad", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize(("n", "time"), [(2, 5), (1, 5), (5, 1), (1, 1)])
def test_lstm(n, time, has_state, bidirectional, input_grad):
    layer, exact = layers(xl.Lstm, bidirectional=bidirectional)
    width = 4 * (1 + bidirectional)
    x, dy = torch.from_numpy(values((n, time, 3), 1)), torch.from_numpy(values((n, time, width), 2))
    state = [torch.from_numpy(values((n, width), k)) for k in (3, 4)] if has_state else []
    ours = passed(layer, x.float(), dy.float(), [s.float() for s in state], input_grad)
    for a, b in zip(ours, passed(exact, x, dy, state, input_grad), strict=True):
        assert a.dtype == torch.float32
        assert_close(a, b, 1e-5)


def test_what_takes_a_kernel():
    layer, exact = layers(xl.Lstm)
    x = torch.ones(2, 5, 3)
    weights, state = tuple(layer.arrays.values()), (torch.zeros(2, 4),) * 2
    body = body_of(scan.recurrence, x)
    assert body is pytorch.recurrence
    assert body(x, layer, weights, state, False)[2].dtype == torch.uint8
    wide = tuple(exact.arrays.values())
    assert body(x.double(), exact, wide, state, False) is NotImplemented
    assert body(x[:0], layer, weights, state, False) is NotImplemented
    assert body(x.clone().requires_grad_(), layer, weights, state, False) is NotImplemented
    other = type("Other", (xl.Lstm,), {})(**layer.arrays)
    assert body(x, other, weights, state, False) is NotImplemented


@pytest.mark.parametrize("mode", ["no_grad", "enable_grad", "inference_mode"])
def test_modes_of_pytorch(mode):
    """Without `enable_grad` the kernel would not remember what its gradient needs."""
    layer, exact = layers(xl.Lstm)
    x, dy = (torch.from_numpy(values((2, 5, n), n)) for n in (3, 4))
    want = passed(exact, x, dy, [])
    with getattr(torch, mode)():
        ours = passed(layer, x.float(), dy.float(), [])
        inside = passed(layer, torch.ones(2, 5, 3), torch.ones(2, 5, 4), [])
    for a, b in zip(ours, want, strict=True):
        assert_close(a, b, 1e-5)
    for a, b in zip(
        inside, passed(layer, torch.ones(2, 5, 3), torch.ones(2, 5, 4), []), strict=True
    ):
        assert torch.equal(a, b)


class Cudnn:
    """What cuDNN computes, by modules of PyTorch: arguments are those of the real operators."""

    def __getattr__(self, name):
        schema = getattr(torch.ops.aten, name).default._schema
        names = [a.name for a in schema.arguments]
        kernel = {"_cudnn_rnn": self.forward, "_cudnn_rnn_backward": self.backward}[name]

        def default(*args):
            given = dict(zip(names, args, strict=True))
            assert (given["weight_stride0"], given["num_layers"], given["dropout"]) == (4, 1, 0.0)
            assert not given["batch_first"]
            assert not given["bidirectional"]
            return kernel(**given)

        return type("Operator", (), {"default": staticmethod(default)})

    def run(self, input, weight, hx, cx, mode, hidden_size, **options):
        module = {1: torch.nn.RNN, 2: torch.nn.LSTM, 3: torch.nn.GRU}[mode]
        module = module(input.shape[2], hidden_size).double()
        arrays = [input, hx, *([] if cx is None else [cx]), *weight]
        arrays = [a.detach().clone().requires_grad_() for a in arrays]
        x, *state, Wx, Wh, b, bh = arrays
        values = {"weight_ih_l0": Wx, "weight_hh_l0": Wh, "bias_ih_l0": b, "bias_hh_l0": bh}
        y, last = torch.func.functional_call(
            module, values, (x, (*state,) if mode == 2 else state[0])
        )
        return arrays, y, last if mode == 2 else (last, torch.empty(0))

    def forward(self, **given):
        _, y, last = self.run(**given)
        memory = torch.zeros(1, dtype=torch.uint8)
        return y.detach(), *(a.detach() for a in last), memory, torch.zeros(1)

    def backward(self, grad_output, output, weight_buf, reserve, output_mask, **given):
        arrays, y, _ = self.run(**given)
        assert torch.equal(y, output)
        assert len(reserve) == len(weight_buf) == 1
        assert output_mask == [True, True, given["cx"] is not None, True]
        dx, *grads = torch.autograd.grad(y, arrays, grad_output)
        return dx, grads[0], None if given["cx"] is None else grads[1], grads[-4:]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", [xl.Rnn, xl.Lstm, xl.Gru])
def test_cudnn_is_called_for_what_it_computes(kind, reverse, monkeypatch):
    monkeypatch.setattr(pytorch, "aten", Cudnn)
    layer = layers(kind)[1]
    x, dy = torch.from_numpy(values((2, 5, 3), 1)), torch.from_numpy(values((2, 5, 4), 2))
    state = [torch.from_numpy(values((2, 4), k)) for k in range(1 + (kind is xl.Lstm))]
    weights, mode = tuple(layer.arrays.values()), pytorch._MODES[kind]
    recurrence, gradient = map(portable_body, (scan.recurrence, scan.recurrence_gradient))
    results = recurrence(x, layer, weights, state, reverse)
    last, results = results[: len(state)], results[len(state) :]
    dx, *grads = gradient(dy, x, layer, weights, state, last, results, reverse, True)
    operands = [*(W.T.contiguous() for W in weights[:2]), *pytorch._biases(weights)]
    steps = x.transpose(0, 1)
    y, ours, memory, buffer = pytorch._cudnn(steps, operands, state, mode, reverse)
    assert_close(y, torch.stack(results[1]), 1e-12)
    for a, b in zip(ours, last, strict=True):
        assert_close(a, b, 1e-12)
    arguments = dy.transpose(0, 1), y, steps, operands, state, memory, buffer, mode, reverse
    dsteps, dstate, dweights = pytorch._cudnn_gradient(*arguments)
    assert_close(dsteps.transpose(0, 1), dx, 1e-12)
    dweights = [dweights[0].T, dweights[1].T, *dweights[2:]][: len(weights)]
    for a, b in zip((*dstate, *dweights), grads, strict=True):
        assert_close(a, b, 1e-12)
