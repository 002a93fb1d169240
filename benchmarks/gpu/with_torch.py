"""PyTorch: eager with the fused Adam, compiled, and a CUDA graph captured by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.workloads import Workload, data


class Training:
    """A network, its optimizer and a batch on a device.

    For images `channels_last`. "float32" is strict in products and convolutions, "tf32" is what its
    name says, "bfloat16" is autocast over float32 parameters.
    """

    def __init__(self, workload: Workload, device: str, capturable: bool = False) -> None:
        strict = workload.precision == "float32"
        torch.set_float32_matmul_precision("highest" if strict else "high")
        torch.backends.cudnn.allow_tf32 = not strict
        host = data(workload)
        self.net = network(workload, host["layers"]).to(device)
        self.x, self.t = torch.from_numpy(host["x"]).to(device), torch.from_numpy(host["t"])
        self.t = self.t.to(device)
        if workload.filters:
            self.net = self.net.to(memory_format=torch.channels_last)
            self.x = self.x.to(memory_format=torch.channels_last)
        options: dict[str, Any] = {"capturable": True} if capturable else {}
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), lr=workload.lr, fused=True, **options
        )
        self.loss = nn.CrossEntropyLoss()
        self.half, self.kind = workload.precision == "bfloat16", torch.device(device).type

    def forward(self, x: Any, t: Any) -> Any:
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.half):
            return self.loss(self.net(x), t)

    def step(self, forward: Callable[..., Any]) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        value = forward(self.x, self.t)
        value.backward()
        self.optimizer.step()
        return value.detach()


def network(workload: Workload, layers: list[dict[str, Any]]) -> nn.Module:
    parts: list[nn.Module] = []
    if not workload.filters:
        for layer in layers:
            parts += [linear(layer), nn.ReLU()]
        return nn.Sequential(*parts[:-1])
    for i, layer in enumerate(layers[:-1]):
        n_out, n_in = layer["W"].shape[:2]
        part = nn.Conv2d(n_in, n_out, 3, padding=1)
        put(part, layer["W"], layer["b"])
        parts += [part, nn.ReLU()]
        if i:
            parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.Flatten(), linear(layers[-1]))


def linear(layer: dict[str, Any]) -> nn.Linear:
    n_in, n_out = layer["W"].shape
    part = nn.Linear(n_in, n_out)
    put(part, layer["W"].T, layer["b"])
    return part


def put(part: Any, W: Any, b: Any) -> None:
    with torch.no_grad():
        part.weight.copy_(torch.from_numpy(W.copy()))
        part.bias.copy_(torch.from_numpy(b))


def eager(workload: Workload, device: str) -> Callable[[], Any]:
    training = Training(workload, device)
    return lambda: training.step(training.forward)


def compiled(workload: Workload, device: str) -> Callable[[], Any]:
    training = Training(workload, device)
    forward = torch.compile(training.forward, mode="max-autotune", dynamic=False)
    return lambda: training.step(forward)


def graph(workload: Workload, device: str) -> Callable[[], Any]:
    """As PyTorch's manual has it: warm up on a stream aside, capture, copy the batch, replay."""
    training = Training(workload, device, capturable=True)
    before = {name: p.clone() for name, p in training.net.state_dict().items()}
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            training.step(training.forward)
    torch.cuda.current_stream().wait_stream(aside)
    training.net.load_state_dict(before)
    for state in training.optimizer.state.values():
        for value in state.values():
            value.zero_()
    x, t = training.x.clone(), training.t.clone()
    training.optimizer.zero_grad(set_to_none=True)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        value = training.step(training.forward)

    def run() -> Any:
        training.x.copy_(x)
        training.t.copy_(t)
        captured.replay()
        return value.clone()

    return run


def wait(device: str) -> Callable[[Any], Any]:
    return lambda result: torch.cuda.synchronize() if device != "cpu" else None
