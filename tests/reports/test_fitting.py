"""Figures that are made smaller: nothing overlaps, nothing is cut, all can be read."""

import itertools
import pickle
import warnings

import numpy as np
import pytest

from xplayers.reports.history import History

pytestmark = pytest.mark.host
SIZES = (1.5, 2.4)  # inches, of a panel


def shown(figure):
    """Draw a figure, and return its visible texts with their sizes and boxes in pixels."""
    for _ in range(2):  # the layout of matplotlib is settled after the second time
        figure.draw_without_rendering()
    renderer = figure._get_renderer()
    texts = [figure._suptitle] if figure._suptitle else []
    for axes in figure.axes:
        if axes.get_visible():
            texts += [axes.title, *axes.texts]
            for axis in (axes.xaxis, axes.yaxis):
                drawn = [tick.label1 for tick in axis._update_ticks()]
                texts += [axis.label, axis.get_offset_text(), *drawn]
    texts = [t for t in texts if t.get_visible() and t.get_text()]
    return [(t.get_text(), t.get_fontsize(), t.get_window_extent(renderer)) for t in texts]


def check(figure):
    texts = shown(figure)
    assert min(size for _, size, _ in texts) >= 5.0
    for (a, _, left), (b, _, right) in itertools.combinations(texts, 2):
        apart = left.padded(-0.5)  # boxes may touch
        assert not apart.overlaps(right.padded(-0.5)), f"{a!r} overlaps {b!r}"
    for words, _, box in texts:
        inside = box.x0 >= -1 and box.x1 <= figure.bbox.width + 1
        assert inside, f"{words!r} leaves the figure"
        assert box.y0 >= -1, f"{words!r} leaves the figure"
        assert box.y1 <= figure.bbox.height + 1, f"{words!r} leaves the figure"


def is_as_before(figure, texts, legends):
    assert [text[:2] for text in shown(figure)] == [text[:2] for text in texts]
    there = [axes.get_legend() and bool(axes.get_legend().get_visible()) for axes in figure.axes]
    assert there == legends


def history(names, scale=1.0):
    rows = [{"epoch": i, **{name: scale * 0.7**i for name in names}} for i in range(1, 21)]
    made = History(rows)
    made.best_epoch = 12
    return made


MATRICES = {
    "two": (2, 9, None),
    "digits": (10, 40, None),
    "names": (3, 40, ["cat", "dog", "bird"]),
    "long names": (10, 99_999, [f"a long name {i}" for i in range(10)]),
    "thirty": (30, 400, None),
    "hundred": (100, 9, [f"n{i}" for i in range(100)]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MATRICES)
def test_a_confusion_matrix(name, size, plots):
    n, most, labels = MATRICES[name]
    counts = np.random.default_rng(0).integers(0, most, (n, n))
    figure = plots.plot_confusion_matrix(counts, labels=labels)
    before, made_for = shown(figure), figure.get_size_inches().copy()
    figure.set_size_inches(size, size)
    check(figure)
    assert [axes.get_xlabel() for axes in figure.axes] == ["predicted"]
    figure.set_size_inches(made_for)
    is_as_before(figure, before, [None])


def test_what_of_a_confusion_matrix_is_left_out(plots):
    """First the numbers, then every other name, at last all names and the line about colours."""
    figure = plots.plot_confusion_matrix(123 * np.eye(10, dtype=int))
    (axes,) = figure.axes

    def there(size):
        figure.set_size_inches(size, size)
        figure.draw_without_rendering()
        numbers = any(text.get_visible() for text in axes.texts)
        return numbers, len(axes.get_xticklabels()), figure.get_suptitle().count("\n")

    assert there(4.0) == (True, 10, 1)
    assert there(2.4) == (True, 10, 1)
    assert there(1.4) == (False, 5, 0)  # at 1.5 matplotlib 3.9 has room for all
    long = plots.plot_confusion_matrix(np.eye(3, dtype=int), labels=["a" * 20, "b", "c"])
    long.set_size_inches(1.5, 1.5)
    assert not {"b", "c"} & {words for words, *_ in shown(long)}


CURVES = {
    "loss": (["loss"], 1.0),
    "validation": (["loss", "val_loss"], 1.0),
    "accuracy": (["loss", "val_loss", "accuracy", "val_accuracy"], 1.0),
    "small": (["loss", "val_loss", "error"], 1e-6),
    "large": (["loss", "val_loss"], 1e7),
    "long": (["loss", "a_metric_with_a_name_that_is_very_long"], 1.0),
    "five": (["loss", "a", "b", "c", "d"], 1.0),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CURVES)
def test_curves(name, size, plots):
    names, scale = CURVES[name]
    figure = history(names, scale).plot()
    before, made_for = shown(figure), figure.get_size_inches().copy()
    rows, columns = figure.axes[0].get_gridspec().get_geometry()
    figure.set_size_inches(size * columns, size * rows)
    check(figure)
    for axes in figure.axes:
        if axes.get_visible() and axes.get_legend().get_visible():
            box = axes.get_legend().get_window_extent()
            panel = axes.get_window_extent()
            assert box.width * box.height < 0.3 * panel.width * panel.height
    figure.set_size_inches(made_for)
    is_as_before(figure, before, [a.get_legend() and True for a in figure.axes])


def test_a_legend_that_would_hide_curves_is_left_out(plots):
    figure = history(["loss", "val_loss"]).plot()
    for size, there in ((3.0, True), (1.5, False), (2.4, True)):
        figure.set_size_inches(size, size)
        figure.draw_without_rendering()
        assert bool(figure.axes[0].get_legend().get_visible()) is there


def test_a_figure_goes_into_a_pickle_with_its_layout(plots):
    figure = plots.plot_confusion_matrix(np.eye(30, dtype=int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a figure manager that another process has not
        same = pickle.loads(pickle.dumps(figure))
    same.set_size_inches(1.5, 1.5)
    check(same)
