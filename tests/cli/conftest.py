"""What the tests of the command share."""

import pytest
from commands import own


@pytest.fixture
def data(home):
    """Work in a folder with a data set of one's own."""
    own("own.npz")
    return home
