"""What the tests of saving share."""

import pytest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"
