"""What the tests of the CUDA path share."""

from __future__ import annotations

import emulator
import pytest


@pytest.fixture
def cuda():
    """Return what stands in for CuPy while a step is captured."""
    from emulator.emulated_graph import HostCuda, HostGemm

    HostGemm.made = []
    return HostCuda()


@pytest.fixture
def make(cuda):
    """Return what makes a `CapturedStep` on it."""
    from emulator.emulated_graph import capturing

    with capturing(cuda) as make:
        yield make


@pytest.fixture
def dnn():
    """Return a `Cudnn` over the stand-in of the library, which layers go through."""
    pytest.importorskip("cupy")
    from emulator.emulated_cudnn import HostRuntime

    from xplayers.cuda.cudnn import Cudnn

    made = Cudnn(runtime=HostRuntime())
    with made.layers():
        yield made
    made.close()
    assert not made._runtime.cudnn.handles


@pytest.fixture
def copies(monkeypatch):
    """Return the shapes of what is copied before a kernel of our own, which the host does."""
    pytest.importorskip("cupy")
    from emulator.emulated_gpu import fabricated, host

    from xplayers.cuda import kernels

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
        pytest.skip("a stand-in is in its place")
    try:
        import cudnn

        cudnn.backend_version()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"cuDNN is not there: {error}")
    return cudnn
