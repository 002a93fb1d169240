"""What the tests of the CUDA path share."""

from __future__ import annotations

import emulator
import pytest


@pytest.fixture
def cuda():
    """Return an emulated GPU that a step is captured on."""
    from emulator.emulated_graph import EmulatedCuda, EmulatedGemm

    EmulatedGemm.made = []
    return EmulatedCuda()


@pytest.fixture
def make(cuda):
    """Return what makes a `CapturedStep` on it."""
    from emulator.emulated_graph import capturing

    with capturing(cuda) as make:
        yield make


@pytest.fixture
def gpu(monkeypatch):
    """Let kernels run on the host; return what they are launched on, which writes it down."""
    from emulator.emulated_kernels import emulating

    with emulating(monkeypatch) as gpu:
        yield gpu


@pytest.fixture
def dnn():
    """Return a `Cudnn` over the emulated library, which layers go through."""
    pytest.importorskip("cupy")
    from emulator.emulated_cudnn import EmulatedRuntime

    from xplayers.accelerate.cuda.cudnn import Cudnn

    made = Cudnn(runtime=EmulatedRuntime())
    with made.layers():
        yield made
    made.close()
    assert not made._runtime.cudnn.handles


@pytest.fixture
def copies(monkeypatch):
    """Return the shapes of what is copied before a kernel of our own, which the host does."""
    pytest.importorskip("cupy")
    from emulator.emulated_gpu import fabricated, host

    from xplayers.accelerate.cuda import kernels

    shapes = []

    def copied(a):
        shapes.append(a.shape)
        return fabricated(host(a).copy(order="C"))

    monkeypatch.setattr(kernels, "copied", copied)
    return shapes


@pytest.fixture
def cudnn_library():
    """Return cuDNN's frontend. It judges graphs without a GPU."""
    if emulator.installed():
        pytest.skip("an emulated one is in its place")
    try:
        import cudnn

        cudnn.backend_version()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"cuDNN is not there: {error}")
    return cudnn
