"""Names in pictures: as they are, whatever characters are in them; and whole files."""

import numpy as np
import pytest

import xplayers as xl
from xplayers.training.history import History

pytestmark = pytest.mark.host

NAMES = ["日本", "a$b$c", "$\\foo$", "$", "x_y^2", "é", "\x00\n", "n" * 200, "%&#", ""]
DRAWN = [r"\u65e5\u672c", *NAMES[1:6], r"\x00\n", "n" * 29 + "…", "%&#", ""]


@pytest.fixture
def plots(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from xplayers.training import plots

    # Fonts of this machine are another's.
    monkeypatch.setattr(plots, "_font_with", lambda characters: None)
    yield plots
    import matplotlib.pyplot as plt

    plt.close("all")


def labels_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_labels_of_a_confusion_matrix(plots, tmp_path, suffix):
    path = tmp_path / f"matrix.{suffix}"
    figure = plots.plot_confusion_matrix(np.eye(10, dtype=int), path, labels=NAMES)
    (axes,) = figure.axes
    assert labels_of(axes.xaxis) == labels_of(axes.yaxis) == DRAWN
    assert path.stat().st_size > 1000


def test_labels_without_a_file_and_with_tex(plots, monkeypatch):
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "text.usetex", False)
    figure = plots.plot_confusion_matrix(np.eye(10, dtype=int), labels=NAMES)
    figure.canvas.draw()
    for label in figure.axes[0].get_xticklabels():
        assert not label.get_parse_math()
        assert not label.get_usetex()


def test_titles_of_mistakes(plots, tmp_path):
    x, y, t = np.zeros((10, 16)), np.eye(10)[::-1], np.arange(10)
    figure = plots.plot_mistakes(x, y, t, tmp_path / "m.png", labels=NAMES, most=10)
    titles = {axes.get_title() for axes in figure.axes if axes.get_title()}
    assert titles == {f"{DRAWN[i]} → {DRAWN[9 - i]}" for i in range(10)}


def test_names_of_metrics_and_layers(plots, tmp_path):
    row = {"epoch": 1, "loss": 1.0, "$\\foo$": 2.0, "日": 3.0}
    figure = History([row]).plot(tmp_path / "h.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "$\\foo$", r"\u65e5"]
    net = xl.Sequential(**{"a$\\b$": xl.Affine.init(4, 2, rng=0)})
    figure = plots.plot_activations(net, np.zeros((3, 4), np.float32), tmp_path / "a.png")
    assert figure.axes[0].get_title().startswith("a$\\b$ Affine\n")


def test_characters_come_from_a_font_that_has_them(plots, monkeypatch, tmp_path):
    from types import SimpleNamespace

    known = plots._characters
    other = SimpleNamespace(fname="cjk.ttf", name="Some CJK")

    def characters(font):
        return {ord("日")} if font == "cjk.ttf" else known(font)

    monkeypatch.setattr(plots, "_characters", characters)
    monkeypatch.setattr(plots, "_font_with", lambda lacking: other)
    names, options = plots._as_they_are(["日本", "a"])
    assert names == ["日\\u672c", "a"]
    assert options["family"][-1] == "Some CJK"
    names, options = plots._as_they_are(["a", "é"])
    assert "family" not in options


def test_a_font_is_looked_for(monkeypatch):
    pytest.importorskip("matplotlib")
    from xplayers.training import plots

    sans = plots._characters(None)
    assert {ord(c) for c in "aé$"} <= sans
    assert ord("日") not in plots._characters("no such file")
    lacking = {ord("\N{SCRIPT CAPITAL B}"), ord("\N{INTEGRAL}")} - sans
    if lacking:
        assert plots._characters(plots._font_with(lacking).fname) & lacking
    assert plots._font_with({0xE000FF}) is None


# Files


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "eps", "ps"])
def test_a_picture_says_where_it_comes_from(plots, tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    plots.plot_confusion_matrix(np.eye(3, dtype=int), path)
    assert b"xplayers" in path.read_bytes()


@pytest.mark.parametrize("name", ["m.jpg", "m.PNG", "m"])
def test_other_names_of_pictures(plots, tmp_path, name):
    plots.plot_confusion_matrix(np.eye(3, dtype=int), tmp_path / name)
    assert (tmp_path / (name if "." in name else f"{name}.png")).stat().st_size > 1000


def test_an_error_leaves_the_picture_that_was_there(plots, tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    plots.plot_confusion_matrix(np.eye(3, dtype=int), path)
    before = path.read_bytes()
    from matplotlib.figure import Figure

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="the disk is full"):
        plots.plot_confusion_matrix(np.eye(3, dtype=int), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_font_is_asked_for_without_names(plots, monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "_font_with", lambda characters: pytest.fail("asked"))
    plots.plot_confusion_matrix(np.eye(3, dtype=int), tmp_path / "m.png", labels=["a", "é", "ß"])
