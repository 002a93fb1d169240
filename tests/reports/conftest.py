"""What the tests of reports share."""

import pytest


@pytest.fixture
def plots():
    """Return the module that draws; pictures are closed at the end."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from xplayers.reports import plots

    yield plots
    import matplotlib.pyplot as plt

    plt.close("all")
