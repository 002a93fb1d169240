"""What the tests of kernels share."""

import pytest

from xplayers.accelerate.host.kernels import kernel


@pytest.fixture
def for_all_sizes(monkeypatch):
    """Let kernels compute arrays of any size; without Numba there are none."""
    pytest.importorskip("numba")
    monkeypatch.setattr(kernel, "smallest", lambda: 0)
