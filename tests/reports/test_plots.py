"""What is drawn and listed of a network: pictures, the summary, the outputs of its layers."""

import itertools
import sys

import numpy as np
import pytest
from helpers import assert_same_arrays, assert_same_bits, values

import xplayers as xl
from xplayers.arrays.transfer import to_numpy
from xplayers.reports.history import History
from xplayers.reports.layer_outputs import layer_outputs
from xplayers.reports.summary import summary

PNG = b"\x89PNG\r\n\x1a\n"


def network(**parts):
    return xl.Sequential(
        fc1=xl.Affine.init(4, 6, rng=0),
        block=xl.Residual(
            xl.Affine.init(6, 6, rng=1), norm=xl.BatchNormalization.init(6), tanh=xl.Tanh()
        ),
        both=xl.Parallel(
            xl.Affine.init(6, 2, rng=2), xl.Affine.init(6, 1, rng=3), combine="concatenate"
        ),
        **parts,
    )


# Pictures


def test_curves(plots, tmp_path):
    rows = [{"epoch": i, "step": i, "loss": 1 / i, "val_loss": 2 / i, "lr": 1.0} for i in (1, 2, 3)]
    history = History([{**row, "val_accuracy": 0.5} for row in rows])
    history.best_epoch = 2
    path = tmp_path / "curve.png"
    loss, accuracy = history.plot(path).axes
    assert path.read_bytes().startswith(PNG)
    assert [axes.get_ylabel() for axes in (loss, accuracy)] == ["loss", "accuracy"]
    training, validation, best = loss.get_lines()
    assert training.get_ydata().tolist() == [1.0, 0.5, 1 / 3]
    assert validation.get_ydata().tolist() == [2.0, 1.0, 2 / 3]
    assert [line.get_label() for line in loss.get_lines()] == ["training", "validation", "best"]
    assert list(best.get_xdata()) == [2, 2]
    assert [line.get_label() for line in accuracy.get_lines()] == ["validation", "best"]
    assert accuracy.get_lines()[0].get_color() == validation.get_color() != training.get_color()
    assert [axes.get_title() for axes in (loss, accuracy)] == [
        "training 0.3333, validation 0.6667", "validation 0.5",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="the history is empty; train first"):
        History().plot(path)
    with pytest.raises(ValueError, match="the history is empty"):
        History([{"epoch": 1}]).plot(path)


def test_titles_of_curves_stay_apart_in_narrow_panels(plots, tmp_path):
    names = ("loss", "val_loss", "accuracy", "val_accuracy", "error", "val_error")
    history = History([{"epoch": 1, **dict.fromkeys(names, 0.1234)}])
    figure = history.plot(tmp_path / "curve.png")
    figure.set_size_inches(6.4, 2.4)
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert boxes[0].x0 > 0
    assert boxes[-1].x1 < figure.bbox.width


def test_the_curve_of_one_epoch(plots, tmp_path):
    (axes,) = History([{"epoch": 3, "loss": 0.5}]).plot(tmp_path / "curve.png").axes
    assert axes.get_xticks().tolist() == [3]
    assert axes.get_lines()[0].get_marker() == "o"  # a line has no length


@pytest.mark.parametrize("path", [None, "curve.svg"])
def test_a_notebook_shows_a_figure_without_magic(path, plots, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", plots)
    figure = History([{"epoch": 1, "loss": 0.5}]).plot(path and tmp_path / path)
    assert figure._repr_png_().startswith(PNG)


def test_without_a_path_the_figure_is_of_pyplot(plots, monkeypatch):
    import matplotlib.pyplot as plt

    history = History([{"epoch": 1, "loss": 0.5}])
    assert plt.figure(history.plot().number).axes[0].get_ylabel() == "loss"
    count = len(plt.get_fignums())
    monkeypatch.setitem(sys.modules, "ipykernel", plots)
    history.plot()
    assert len(plt.get_fignums()) == count  # a notebook would show it twice


def test_confusion_matrix(plots, tmp_path, xpv):
    counts = np.asarray([[5, 1, 0], [0, 7, 0], [2, 0, 0]])
    path = tmp_path / "matrix.pdf"
    (axes,) = plots.plot_confusion_matrix(xpv.asarray(counts), path, labels="abc").axes
    assert path.read_bytes().startswith(b"%PDF")
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "5", (1, 0): "1", (1, 1): "7", (0, 2): "2"}  # column, row
    np.testing.assert_allclose(axes.images[0].get_array(), counts / [[6], [7], [2]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "target")
    with pytest.raises(ValueError, match=r"matrix has shape \(2, 3\); expected \(c, c\)"):
        plots.plot_confusion_matrix(counts[:2])
    with pytest.raises(ValueError, match="there are 2 labels; expected 3"):
        plots.plot_confusion_matrix(counts, labels="ab")


def drawn(figure):
    """Draw a figure, and return what says how large its texts are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def _pixels(path):
    from matplotlib.image import imread

    return imread(path).shape[:2]


@pytest.mark.parametrize("n", [1, 30, 31, 300])
def test_confusion_of_many_classes(n, plots, tmp_path):
    counts, path = 12_345 * np.eye(n, dtype=int), tmp_path / "matrix.png"
    names = [f"a rather long name {i}" for i in range(n)]
    figure = plots.plot_confusion_matrix(counts, path, labels=names)
    assert max(_pixels(path)) <= 1600
    (axes,) = figure.axes
    assert len(axes.texts) == (n if n <= 30 else 0)
    sizes = [label.get_fontsize() for label in axes.get_yticklabels()]
    assert all(size >= 6 for size in sizes)
    assert len(sizes) == (n if n <= 60 else 60)
    renderer = drawn(figure)
    boxes = [t.get_window_extent(renderer) for t in (*axes.texts[:2], *axes.get_yticklabels())]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("n", [3, 10, 12, 31, 60, 61, 100, 300])
def test_the_numbers_of_classes_stay_apart(n, plots, tmp_path):
    figure = plots.plot_confusion_matrix(np.eye(n, dtype=int), tmp_path / "matrix.png")
    renderer = drawn(figure)
    for labels in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
        boxes = [label.get_window_extent(renderer) for label in labels]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_the_title_of_a_confusion_matrix(plots, tmp_path):
    counts = np.asarray([[5, 1, 0], [0, 7, 0], [2, 0, 0]])
    figure = plots.plot_confusion_matrix(counts, tmp_path / "matrix.png")
    first, second = figure.get_suptitle().split("\n")
    assert first == "12 of 15 right (80.00%)"
    assert second == "rows: target classes; colours: fractions of a row"
    faint = plots.plot_confusion_matrix(np.full((5, 5), 7), tmp_path / "faint.png")
    assert faint.get_suptitle().endswith("colours: fractions of a row, up to 20%")
    assert faint.axes[0].images[0].get_clim() == (0.0, 0.2)


def mistakes():
    """Return scores of six samples, of which three are wrong: by 1, by 3 and by 2."""
    target = np.asarray([0, 1, 2, 0, 1, 2])
    scores = np.zeros((6, 3), "float32")
    scores[np.arange(6), target] = 1.0
    scores[1, 0], scores[3, 2], scores[4, 2] = 2.0, 4.0, 3.0
    return scores, target


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (3, 4, 5)])
def test_mistakes(shape, plots, tmp_path):
    scores, target = mistakes()
    x = values((6, *shape))
    path = tmp_path / "mistakes.png"
    figure = plots.plot_mistakes(x, scores, target, path)
    assert path.read_bytes().startswith(PNG)
    assert figure.get_suptitle() == "3 of 6 wrong"
    drawn = [axes for axes in figure.axes if axes.images]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert [axes.get_title() for axes in drawn] == [
        f"0 → 2\n{p[3, 2]:.0%}", f"1 → 2\n{p[4, 2]:.0%}", f"1 → 0\n{p[1, 0]:.0%}",
    ]  # fmt: skip
    for i, axes in zip((3, 4, 1), drawn, strict=True):
        image = np.asarray(axes.images[0].get_array())
        if shape[0] == 3:
            low, high = x[i].min(), x[i].max()
            np.testing.assert_allclose(image, (np.moveaxis(x[i], 0, 2) - low) / (high - low))
        else:
            np.testing.assert_array_equal(image, x[i].reshape(4, 5))


def test_mistakes_in_rows_and_few_of_them(plots, tmp_path):
    scores, target = mistakes()
    x, path = values((6, 9)), tmp_path / "a.png"
    hot = np.eye(3, dtype=int)[target]
    figure = plots.plot_mistakes(x, scores, hot, path, most=1, labels=["cat", "dog", "cow"])
    assert [axes.get_title() for axes in figure.axes] == ["cat → cow\n94%"]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), x[3].reshape(3, 3))
    wide = plots.plot_mistakes(values((6, 10)), scores, target, path, shape=(2, 5))
    assert wide.axes[0].images[0].get_array().shape == (2, 5)
    right = plots.plot_mistakes(x, scores, scores.argmax(axis=1), path)
    assert right.get_suptitle() == "0 of 6 wrong"
    with pytest.raises(ValueError, match=r"a row is no image \(3, 3\). Pass shape=\(h, w\)"):
        plots.plot_mistakes(values((6, 10)), scores, target)
    with pytest.raises(ValueError, match=r"expected \(n, h, w\), \(n, 1, h, w\)"):
        plots.plot_mistakes(values((6, 2, 3, 3)), scores, target)
    with pytest.raises(ValueError, match=r"x has shape \(5, 9\), y \(6, 3\), t \(6,\)"):
        plots.plot_mistakes(x[:5], scores, target)


def test_mistakes_of_probabilities(plots, tmp_path):
    y, t = np.asarray([[0.75, 0.25], [0.9, 0.1], [0.3, 0.7]]), np.asarray([1, 1, 1])
    figure = plots.plot_mistakes(values((3, 4)), y, t, tmp_path / "a.png")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["1 → 0\n90%", "1 → 0\n75%"]


def test_titles_of_mistakes_do_not_overlap(plots, tmp_path):
    names = [f"a rather long name {i}" for i in range(10)]
    y, t = np.eye(10, dtype="float32")[np.arange(30) % 10], (np.arange(30) + 1) % 10
    figure = plots.plot_mistakes(values((30, 4)), y, t, tmp_path / "a.png", labels=names)
    renderer = drawn(figure)
    boxes = [axes.title.get_window_extent(renderer) for axes in figure.axes]
    boxes += [axes.get_window_extent(renderer) for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_activations(plots, tmp_path):
    net, x = network(), values((9, 4)).astype("float32")
    path = tmp_path / "activations.png"
    figure = plots.plot_activations(net, x, path, bins=7)
    assert path.read_bytes().startswith(PNG)
    titles = [axes.get_title().splitlines()[0] for axes in figure.axes[:4]]
    assert titles == [
        "fc1 Affine",
        "block.0 Affine",
        "block.norm BatchNormalization",
        "block.tanh Tanh",
    ]
    y = net.fc1.predict(x)
    parts, edges = np.histogram(y, 7)
    bars = figure.axes[0].patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], parts / y.size)
    np.testing.assert_allclose([bar.get_x() for bar in bars], edges[:-1], rtol=1e-5)
    assert figure.axes[0].get_title().splitlines()[1] == f"{y.mean():.2g} ± {y.std():.2g}"
    (axes,) = plots.plot_activations(net, x, path, layers=["block"]).axes
    assert axes.get_title().startswith("block Residual")
    with pytest.raises(ValueError, match="no layer 'fc9'; there are fc1, block.0, "):
        plots.plot_activations(net, x, path, layers=["fc9"])


# The outputs of the layers


def test_outputs_have_the_names_of_the_parts():
    net, x = network(), values((5, 4)).astype("float32")
    outputs = layer_outputs(net, x)
    assert [output.name for output in outputs] == [
        "fc1", "block.0", "block.norm", "block.tanh", "block", "both.0", "both.1", "both", "",
    ]  # fmt: skip
    assert outputs[0].layer is net.fc1
    assert outputs[2].layer is net.block.norm
    assert_same_bits(outputs[-1].y, net.predict(x))
    assert_same_bits(outputs[0].y, net.fc1.predict(x))
    assert_same_bits(outputs[4].y, net.block.predict(net.fc1.predict(x)))


def test_outputs_of_training_change_nothing():
    net, x = network(drop=xl.Dropout(0.5, seed=3)), values((5, 4)).astype("float32")
    before = {name: a.copy() for name, a in net.arrays.items()}
    outputs = layer_outputs(net, x, train=True)
    y, _ = net.apply(net.arrays, x)
    assert_same_bits(outputs[-1].y, y)
    assert np.any(outputs[-1].y == 0)
    assert_same_arrays(net.arrays, before)
    with pytest.raises(RuntimeError, match="no forward to undo"):
        net.backward(y)
    other = {name: 2 * a for name, a in net.arrays.items()}
    assert_same_bits(layer_outputs(net, x, arrays=other)[-1].y, net.infer(other, x))


def test_outputs_of_a_container_of_ones_own():
    class Twice(xl.Container):
        def __init__(self, inner):
            super().__init__({"inner": inner})

        def infer(self, arrays, x):
            (part,) = self._parts
            for _ in range(2):
                x = part.layer.infer(part.pick(arrays), x)
            return x

    outputs = layer_outputs(Twice(xl.Affine.init(3, 3, rng=0)), np.ones((2, 3), "float32"))
    assert [output.name for output in outputs] == ["inner", "inner", ""]
    assert_same_bits(outputs[1].y, outputs[2].y)


# The summary


def test_summary(xpv):
    shared = xl.Affine.init(6, 6, rng=1)
    net = xl.Sequential(
        conv=xl.Convolution.init(1, 2, 3, rng=0),
        norm=xl.BatchNormalization.init(2),
        flat=xl.Flatten(),
        fc=xl.Affine.init(8, 6, rng=0),
        a=shared,
        b=xl.Residual(shared),
    ).to(like=xpv.asarray(1.0, "float32"))
    before = {name: to_numpy(a).copy() for name, a in net.arrays.items()}
    table = summary(net, (1, 4, 4))
    assert [(row.name, row.shape, row.parameters) for row in table.rows] == [
        ("conv", (1, 2, 2, 2), 20),
        ("norm", (1, 2, 2, 2), 4),
        ("flat", (1, 8), 0),
        ("fc", (1, 6), 54),
        ("a", (1, 6), 42),
        ("b.0", (1, 6), 0),  # the same parameters again
    ]
    assert table.parameters == sum(to_numpy(p).size for p in net.params.values()) == 120
    buffers = sum(to_numpy(b).size for b in net.buffers.values())
    assert table.bytes == 4 * (120 + buffers)
    assert [row.bytes for row in table.rows][:3] == [80, 32, 0]
    assert_same_arrays(net.arrays, before)


def test_the_summary_is_a_table():
    lines = str(summary(xl.mlp([784, 50, 10], rng=0), (784,))).splitlines()
    assert [line.split() for line in lines] == [
        ["name", "layer", "output", "parameters", "bytes"],
        ["0", "Affine(784", "->", "50)", "(n,", "50)", "39,250", "157,000"],
        ["1", "Relu", "(n,", "50)", "0", "0"],
        ["2", "Affine(50", "->", "10)", "(n,", "10)", "510", "2,040"],
        ["total", "39,760", "159,040"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_the_summary_takes_integers_other_dtypes_and_places_nothing():
    net = xl.Sequential(xl.Embedding.init(10, 4, rng=0), xl.Map(xl.Affine.init(4, 3, rng=0)))
    table = summary(net, (7,))
    assert [row.shape for row in table.rows] == [(1, 7, 4), (7, 3)]
    assert "(7n, 3)" in str(table)
    half = xl.mlp([4, 3], rng=0, dtype="float16")
    assert summary(half, (4,)).bytes == 2 * 15
    assert not half[0]._variables.materialized
    assert summary(xl.Relu(), (4,)).rows[0].shape == (1, 4)
    with pytest.raises(ValueError, match="x has shape") as caught:
        summary(network(), (5,))
    assert "In part 'fc1' of Sequential." in caught.value.__notes__


@pytest.mark.only("torch")
def test_the_summary_counts_bytes_of_bfloat16(xpv):
    net = xl.mlp([4, 3], rng=0).to(like=xpv.asarray(1.0, "bfloat16"))
    assert summary(net, (4,)).bytes == 2 * 15


def test_many_curves_are_drawn_in_rows(plots, tmp_path):
    columns = {"epoch": [1, 2], **{name: [2.0, 1.0] for name in ("loss", "a", "b", "c")}}
    figure = plots.plot_curves(columns, tmp_path / "curves.png")
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2
    width, height = figure.get_size_inches()
    assert width < 3 * height
