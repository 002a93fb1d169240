"""Names in pictures: as they are, whatever characters are in them; and whole files."""

import numpy as np
import pytest

import xplayers as xl
from xplayers.reports.history import History

pytestmark = pytest.mark.host

NAMES = ["日本", "a$b$c", "$\\foo$", "$", "x_y^2", "é", "\x00\n", "n" * 200, "%&#", ""]
DRAWN = [r"\u65e5\u672c", *NAMES[1:6], "#6", "n" * 23 + "…", "%&#", ""]


@pytest.fixture
def plots(plots, monkeypatch):
    from xplayers.reports import lettering

    known = lettering._in_font

    def in_font(path, letters):  # fonts of this machine are another's
        return known(path, letters) if path.endswith("DejaVuSans.ttf") else set()

    monkeypatch.setattr(lettering, "_in_font", in_font)
    return plots


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
    short = [name if len(name) < 16 else name[:15] + "…" for name in DRAWN]
    assert titles == {f"{short[i]}\n→ {short[9 - i]}\n100%" for i in range(10)}


def test_names_of_metrics_and_layers(plots, tmp_path):
    row = {"epoch": 1, "loss": 1.0, "$\\foo$": 2.0, "日": 3.0}
    figure = History([row]).plot(tmp_path / "h.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "$\\foo$", r"\u65e5"]
    net = xl.Sequential(**{"a$\\b$": xl.Affine.init(4, 2, rng=0)})
    figure = plots.plot_activations(net, np.zeros((3, 4), np.float32), tmp_path / "a.png")
    assert figure.axes[0].get_title().startswith("a$\\b$ Affine\n")


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


def test_no_other_font_is_asked_for_letters_of_the_own(plots, monkeypatch, tmp_path):
    from xplayers.reports import lettering

    known, asked = lettering._in_font, []

    def in_font(path, letters):
        asked.append(path)
        return known(path, letters)

    monkeypatch.setattr(lettering, "_in_font", in_font)
    for labels in (["a", "b", "c"], ["a", "é", "ß"]):
        plots.plot_confusion_matrix(np.eye(3, dtype=int), tmp_path / "m.png", labels=labels)
    assert {path.endswith("DejaVuSans.ttf") for path in asked} == {True}
