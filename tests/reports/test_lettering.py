"""Names in pictures: dollars, CJK characters, lines, thousands of letters and classes."""

import numpy as np
import pytest

import xplayers as xl
from xplayers._text import columns

pytest.importorskip("matplotlib")

from xplayers.reports.lettering import lettered
from xplayers.reports.plots import (
    plot_activations,
    plot_confusion_matrix,
    plot_curves,
    plot_mistakes,
)

pytestmark = pytest.mark.host

NAMES = {
    "dollars": ["cost $5", "$x^2$", "$\\frac{$", "a_b^c"],
    "backslashes": ["\\alpha", "C:\\new", "%d {x}", "#&~"],
    "chinese": ["\u732b", "\u72ac", "\u9ce5\u7c7b", "\u732bcat"],
    "many scripts": [
        "\uac00\ub098",
        "\u0e41\u0e21\u0e27",
        "\u0639\u0631\u0628\u064a",
        "\U0001f431",
    ],
    "lines": ["two\nlines", "tab\tstop", "bell\x07", "end\r\n"],
    "long": ["x" * 5000 + end for end in "abc"] + ["\u732b" * 300],
    "empty": ["", " ", "none", "none"],
    "surrogates": ["\udc80", "\ud83d", "ok", "\x00"],
}


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, "png") for name in NAMES), ("chinese", "svg"), ("dollars", "pdf")]
)
def test_names_of_classes(name, suffix, tmp_path):
    """Warnings are errors: of glyphs that are missing, and of a layout that fails."""
    path = tmp_path / f"picture.{suffix}"
    labels = NAMES[name]
    plot_confusion_matrix(np.eye(4, dtype=int), path, labels=labels)
    x, y = np.random.default_rng(0).normal(size=(9, 16)), np.eye(4)[np.arange(9) % 4]
    plot_mistakes(x, y, (np.arange(9) + 1) % 4, path, labels=labels)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", NAMES)
def test_names_of_metrics_and_layers(name, tmp_path):
    path = tmp_path / "picture.png"
    columns = {"epoch": [1, 2], **{metric: [0.5, 0.25] for metric in NAMES[name]}}
    plot_curves(columns, path)
    named = {part.replace(".", "") or "no": xl.Relu() for part in NAMES[name]}
    net = xl.Sequential(**{k: v for k, v in named.items() if k.strip()})
    plot_activations(net, np.ones((3, 4), np.float32), path)


def test_dollars_are_dollars(tmp_path):
    figure = plot_confusion_matrix(np.eye(2), tmp_path / "a.png", labels=["$a$", "$b^"])
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["$a$", "$b^"]
    assert not any(t.get_parse_math() for t in (*axes.get_xticklabels(), *axes.get_yticklabels()))


def test_a_pyplot_figure_is_drawn_without_a_warning(monkeypatch):
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure = plot_confusion_matrix(np.eye(2), labels=["\u732b", "$\u72ac"])
    figure.canvas.draw()
    plt.close(figure)


def test_letters_that_no_font_has(monkeypatch):
    from matplotlib.font_manager import fontManager

    monkeypatch.setattr(fontManager, "ttflist", [])
    names, style = lettered(["\u732b", "\u00e4", "a", "\U00020000", "cat"], 30)
    assert names == ["\\u732b", "\u00e4", "a", "\\U00020000", "cat"]
    assert style["parse_math"] is False
    assert lettered(["a", "b"], 30) == (["a", "b"], {"parse_math": False, "usetex": False})


def test_letters_that_another_font_has():
    names, style = lettered(["\u2a0c"], 30)  # not in DejaVu Sans? in a font of formulas it is
    assert names in (["\u2a0c"], ["\\u2a0c"])
    assert style["family"][0] == "sans-serif"


def test_many_classes_stay_a_picture(tmp_path):
    path = tmp_path / "many.png"
    n = 300
    figure = plot_confusion_matrix(
        np.eye(n, dtype=int), path, labels=[f"class number {i}" for i in range(n)]
    )
    width, height = figure.get_size_inches()
    assert max(width, height) < 40
    assert len(figure.axes[0].get_xticklabels()) <= 60
    assert len(figure.axes[0].texts) == 0  # counts that nobody could read


def test_names_are_cut_and_stay_apart():
    names, _ = lettered(NAMES["long"], 24)
    assert len(set(names)) == 4
    assert all(columns(name) <= 24 for name in names)
