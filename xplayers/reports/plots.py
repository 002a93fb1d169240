"""Figures of training. matplotlib is imported on first use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xplayers._calls import explained
from xplayers._checks import instance, integer
from xplayers._text import columns as columns_of
from xplayers.arrays.namespaces import Array, namespace
from xplayers.arrays.transfer import to_numpy
from xplayers.layers.base import Layer
from xplayers.layers.containers import Container
from xplayers.reports.columns import MEASURES
from xplayers.reports.figures import Figure, figure_of, finished, fitted, wrap_in
from xplayers.reports.fitting import FittedCurves, FittedMatrix
from xplayers.reports.layer_outputs import layer_outputs
from xplayers.reports.lettering import lettered
from xplayers.saving.files import AnyPath

__all__ = ["plot_activations", "plot_confusion_matrix", "plot_curves", "plot_mistakes"]

MOST_NUMBERS = 30  # classes of a confusion matrix with a number in each cell
MOST_LABELS = 60  # of one axis
FAINT = 0.5  # of a row: below, the darkest colour is the largest fraction
MOST_PANELS = 3  # of curves, side by side
LARGEST = 10.0  # inches, at 150 pixels each: the side of a confusion matrix
TRAINING, VALIDATION = "C0", "C1"  # the colours of curves, in all panels
POINTS = 72  # in an inch


@explained()
def plot_curves(
    columns: Mapping[str, Any], path: AnyPath | None = None, *, best_epoch: int | None = None
) -> Figure:
    """Plot the losses and metrics over the epochs.

    Each quantity has a panel, with the values of training (solid) and of validation (dashed); its
    title has the last ones. In a figure that is made smaller (``figure.set_size_inches(1.5, 1.5)``)
    texts shrink, and a legend that does not fit is left out.

    Parameters
    ----------
    columns : mapping of str to sequence of float
        Columns of a `History`: ``epoch``, and others by name; ``val_`` marks those of validation.
    path : path, optional
        Write the figure to this file (``~`` is the home directory); the suffix selects the format
        (``.png``, ``.pdf``, ``.svg``). Without it the figure is one of pyplot, for ``plt.show()``.
    best_epoch : int, optional
        Epoch of a vertical line.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the history is empty.
    """
    names = [name for name in columns if name not in MEASURES]
    if not names or not len(columns[names[0]]):
        message = "plot_curves: the history is empty; train first."
        raise ValueError(message)
    epochs = columns["epoch"]
    few = {"marker": "o", "markersize": 3} if len(epochs) <= 30 else {}
    panels = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    across = min(len(panels), MOST_PANELS)
    rows = -(-len(panels) // across)
    figure, grid = figure_of(path, 4.8 * across, 3.6 * rows, rows, across)
    titles, plain = lettered(panels, 40)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for panel, title, axes in zip(panels, titles, grid, strict=False):
        last = []
        for name, label, style, colour in (
            (panel, "training", "-", TRAINING), (f"val_{panel}", "validation", "--", VALIDATION),
        ):  # fmt: skip
            if name in columns:
                axes.plot(epochs, columns[name], style, color=colour, label=label, **few)
                last.append(f"{label} {columns[name][-1]:.4g}")
        wrap_in(axes, axes.set_title(", ".join(last), fontsize=9))
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.7", linewidth=1, zorder=0, label="best")
        axes.set_xlabel("epoch")
        axes.set_ylabel(title, **plain)
        if len(epochs) == 1:
            axes.set_xticks(epochs)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    fitted(figure, FittedCurves)
    return finished(figure, path)


def plot_rate_test(
    rates: np.ndarray, losses: np.ndarray, suggestion: float, path: AnyPath | None
) -> Figure:
    """Plot a learning-rate range test, for `RateTest.plot`."""
    figure, (axes,) = figure_of(path, 4.8, 3.6)
    axes.plot(rates, losses, color=TRAINING)
    at = int(np.argmin(np.abs(rates - suggestion)))
    axes.plot(suggestion, losses[at], "o", color=VALIDATION, label=f"suggestion {suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    axes.set_title("learning-rate range test")
    axes.grid(alpha=0.3)
    axes.legend()
    return finished(figure, path)


def plot_regression(y: np.ndarray, t: np.ndarray, path: AnyPath | None) -> Figure:
    """Plot predictions against targets, a panel for each value of a sample."""
    y, t = (a.reshape(len(a), -1) for a in (y, t))
    n = y.shape[1]
    figure, grid = figure_of(path, 4.2 * min(n, 4), 4.0 * -(-n // 4), -(-n // 4), min(n, 4))
    for i, axes in enumerate(grid):
        axes.set_visible(i < n)
        if i < n:
            ends = [min(y[:, i].min(), t[:, i].min()), max(y[:, i].max(), t[:, i].max())]
            axes.plot(ends, ends, color="0.6", linewidth=1, label="exact")
            axes.plot(t[:, i], y[:, i], ".", color=TRAINING, markersize=4, alpha=0.7)
            axes.set(xlabel="target", ylabel="prediction", aspect="equal")
            axes.set_title("predictions" if n == 1 else f"value {i} (from 0)")
            axes.locator_params(nbins=5)  # the same on both axes
            axes.grid(alpha=0.3)
            axes.legend()
    return finished(figure, path)


@explained("Write plot_confusion_matrix(confusion_matrix(y, t)).")
def plot_confusion_matrix(
    matrix: Array, path: AnyPath | None = None, *, labels: Sequence[str] | None = None
) -> Figure:
    """Plot a confusion matrix: counts in the cells, colours by the fraction of each row.

    A row has the samples of one target class. The title has how many are right. In a figure that is
    made smaller texts shrink, and numbers and names that do not fit are left out.

    Parameters
    ----------
    matrix : array of shape (c, c)
        From `confusion_matrix`: entry ``[i, j]`` counts samples of class ``i`` that were predicted
        as ``j``.
    path : path, optional
        As in `plot_curves`.
    labels : sequence of str, optional
        Names of the classes; by default their numbers. Long names are truncated. With more than 30
        classes there are colours without counts, with more than 60 only some rows are labelled.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the matrix is not square, or the number of labels is wrong.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> matrix = np.asarray([[8, 2], [1, 9]])
    >>> figure = xl.plot_confusion_matrix(matrix, labels=["cat", "dog"])
    >>> figure.get_suptitle().splitlines()[0]
    '17 of 20 right (85.00%)'
    """
    namespace(matrix, "plot_confusion_matrix", "matrix")
    counts = to_numpy(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        message = f"plot_confusion_matrix: matrix has shape {counts.shape}; expected (c, c)."
        raise ValueError(message)
    names = _labels("plot_confusion_matrix", labels, len(counts))
    names, style = lettered(names, 24)
    n, longest = len(counts), max(map(columns_of, names), default=0)
    margin = 0.075 * longest + 1.0  # of labels, in inches
    cell = min(0.45, (LARGEST - margin) / max(n, 1))
    side = max(3.6, cell * n + margin)
    figure, (axes,) = figure_of(path, side, side)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    most = float(fractions.max(initial=0.0))
    most, until = (most, f", up to {most:.0%}") if 0.0 < most < FAINT else (1.0, "")
    axes.imshow(fractions, cmap="Blues", vmin=0.0, vmax=most)
    digits = len(str(counts.max(initial=0)))
    for (i, j), count in np.ndenumerate(counts if n <= MOST_NUMBERS else counts[:0]):
        if count:
            colour = "white" if fractions[i, j] > 0.5 * most else "black"
            size = min(8.0, 1.4 * cell * POINTS / max(digits, 2))
            axes.text(j, i, f"{count}", ha="center", va="center", color=colour, fontsize=size)
    ticks = range(0, n, max(-(-n // MOST_LABELS), 1))
    size = min(9.0, 0.9 * cell * POINTS * (ticks.step if n else 1))
    style = {**style, "fontsize": size}
    narrow = 0.7 * size * longest > cell * POINTS * ticks.step  # for names side by side
    turned = 90 if longest > 3 or narrow else 0
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=turned, **style)
    axes.set_yticks(ticks, [names[i] for i in ticks], **style)
    axes.set_xlabel("predicted")
    axes.set_ylabel("target")
    total, right = counts.sum(), np.trace(counts)
    figure.suptitle(
        f"{right} of {total} right ({right / max(total, 1):.2%})\n"
        f"rows: target classes; colours: fractions of a row{until}",
        fontsize=9,
    )
    fitted(figure, FittedMatrix, longest, digits)
    return finished(figure, path)


@explained()
def plot_mistakes(
    x: Array,
    y: Array,
    t: Array,
    path: AnyPath | None = None,
    *,
    shape: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    most: int = 25,
) -> Figure:
    """Plot misclassified images, the most confident ones first.

    The title of each image is ``target -> predicted``, and under it the probability of what was
    predicted.

    Parameters
    ----------
    x : array of shape (n, h, w), (n, 1, h, w), (n, 3, h, w) or (n, h * w)
        Images. Each is scaled to its minimum and maximum.
    y : array of shape (n, c)
        Scores or probabilities: ``net.predict(x)``.
    t : array of shape (n,) or (n, c)
        Integer labels, or one-hot targets.
    path : path, optional
        As in `plot_curves`.
    shape : sequence of int, optional
        Shape of an image, for `x` of rows: ``(h, w)`` or ``(channels, h, w)``; by default a square.
    labels : sequence of str, optional
        Names of the classes; by default their numbers.
    most : int
        Maximum number of images.

    Returns
    -------
    matplotlib.figure.Figure
        Without images if all are classified correctly.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np, xplayers as xl
    >>> _, (x, t) = xl.data.load_digits()
    >>> y = np.eye(10)[(t + (t == 3)) % 10]  # takes each 3 for a 4
    >>> figure = xl.plot_mistakes(x, y, t, most=2)
    >>> [axes.get_title().splitlines() for axes in figure.axes]
    [['3 → 4', '100%'], ['3 → 4', '100%']]
    """
    for name, a in (("x", x), ("y", y), ("t", t)):
        namespace(a, "plot_mistakes", name)
    most = integer("plot_mistakes", "most", most)
    images, scores, target = (to_numpy(a) for a in (x, y, t))
    if scores.ndim != 2 or len(images) != len(scores) or len(target) != len(scores):
        message = (
            f"plot_mistakes: x has shape {images.shape}, y {scores.shape}, t {target.shape}; "
            "expected n images, (n, c) scores and n targets."
        )
        raise ValueError(message)
    names, style = lettered(_labels("plot_mistakes", labels, scores.shape[1]), 16)
    arrow = " \N{RIGHTWARDS ARROW} "
    if max(map(columns_of, names), default=0) > 7:  # too wide for one line
        arrow = f"\n{arrow.lstrip()}"
    target = target if target.ndim == 1 else target.argmax(axis=1)
    outside = target[(target < 0) | (target >= scores.shape[1])]
    if len(outside):
        message = f"plot_mistakes: t has the label {outside[0]}; y has {scores.shape[1]} scores."
        raise ValueError(message)
    predicted, probabilities = scores.argmax(axis=1), _probabilities(scores)
    (wrong,) = np.nonzero(predicted != target)
    rows = np.arange(len(scores))
    margin = scores[rows, predicted] - scores[rows, target]  # where several probabilities are 1
    worst = wrong[np.lexsort((-margin[wrong], -probabilities[wrong]))][:most]
    images = _images(images[worst], shape)
    columns = max(math.ceil(math.sqrt(len(worst))), 1)
    lines = max(math.ceil(len(worst) / columns), 1)
    titles = [f"{names[target[i]]}{arrow}{names[predicted[i]]}" for i in worst]
    widest = max((columns_of(line) for title in titles for line in title.split("\n")), default=0)
    width, height = max(1.3, 0.085 * widest), 1.7 + 0.15 * arrow.count("\n")
    figure, grid = figure_of(path, max(width * columns, 4), height * lines + 0.5, lines, columns)
    figure.suptitle(f"{len(wrong)} of {len(scores)} wrong")
    for axes in grid:
        axes.set_axis_off()
    for i, image, title, axes in zip(worst, images, titles, grid, strict=False):
        axes.imshow(image, cmap="gray")
        axes.set_title(f"{title}\n{probabilities[i]:.0%}", fontsize=9, **style)
    return finished(figure, path)


@explained()
def plot_activations(
    net: Layer,
    x: Array,
    path: AnyPath | None = None,
    *,
    bins: int = 30,
    layers: Sequence[str] | None = None,
) -> Figure:
    """Plot a histogram of the outputs of each layer, as in section 6.2 of the book.

    Outputs that are all near 0, or saturate a sigmoid, indicate initial values that are too small
    or too large. The vertical axis is the fraction of the values.

    Parameters
    ----------
    net : Layer
        The network, evaluated by inference; it is not changed.
    x : array
        A batch.
    path : path, optional
        As in `plot_curves`.
    bins : int
        Number of bins.
    layers : sequence of str, optional
        Names of the layers, as in `layer_outputs`; by default all but containers.

    Returns
    -------
    matplotlib.figure.Figure
        The titles have the mean and the standard deviation.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If a name is unknown.

    References
    ----------
    Saitoh, *Deep Learning from Scratch*, section 6.2.

    Examples
    --------
    >>> import xplayers as xl
    >>> x = xl.data.load_digits()[0][0]
    >>> figure = xl.plot_activations(xl.mlp([64, 50, 10], rng=0), x)
    >>> [axes.get_title().splitlines()[0] for axes in figure.axes]
    ['0 Affine', '1 Relu', '2 Affine']
    """
    instance("plot_activations", "net", net, Layer, "a network: plot_activations(net, x)")
    bins = integer("plot_activations", "bins", bins)
    outputs = {name: (layer, y) for name, layer, y in layer_outputs(net, x)}
    if layers is None:
        layers = [name for name, (layer, _) in outputs.items() if not isinstance(layer, Container)]
    unknown = [name for name in layers if name not in outputs]
    if unknown:
        message = f"plot_activations: no layer {unknown[0]!r}; there are {', '.join(outputs)}."
        raise ValueError(message)
    columns = min(len(layers), 5)
    lines = math.ceil(len(layers) / columns)
    figure, grid = figure_of(path, 2.6 * columns, 2.4 * lines, lines, columns)
    for axes in grid[len(layers) :]:
        axes.set_axis_off()
    titles, style = lettered((f"{name} {type(outputs[name][0]).__name__}" for name in layers), 32)
    for name, title, axes in zip(layers, titles, grid, strict=False):
        y = outputs[name][1]
        values = to_numpy(y).astype(np.float64).ravel()
        values = values[np.isfinite(values)]
        axes.hist(values, bins=bins, weights=np.full(len(values), 1 / max(len(values), 1)))
        if len(values):
            title += f"\n{values.mean():.2g} \N{PLUS-MINUS SIGN} {values.std():.2g}"
        axes.set_title(title, fontsize=9, **style)
        axes.tick_params(labelsize=7)
    return finished(figure, path)


def _labels(owner: str, labels: Sequence[str] | None, classes: int) -> list[str]:
    names = list(map(str, range(classes) if labels is None else labels))
    if len(names) != classes:
        message = f"{owner}: there are {len(names)} labels; expected {classes}, one per class."
        raise ValueError(message)
    return names


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the largest probability of each row, of scores, or of probabilities."""
    y = scores.astype(np.float64)
    if not (np.all(y >= 0) and np.allclose(y.sum(axis=1), 1.0, atol=1e-3)):
        y = np.exp(y - y.max(axis=1, keepdims=True))
        y /= y.sum(axis=1, keepdims=True)
    return y.max(axis=1)


def _images(x: np.ndarray, shape: Sequence[int] | None) -> np.ndarray:
    """Return images as ``(n, h, w)``, or RGB as ``(n, h, w, 3)`` in [0, 1]."""
    original = x.shape
    if shape is None and x.ndim == 2:
        side = math.isqrt(x.shape[1])
        shape = (side, side)
    if shape is not None:
        if x.size != len(x) * math.prod(shape):
            message = f"plot_mistakes: x has shape {original}; a row is no image {tuple(shape)}."
            raise ValueError(message + " Pass shape=(h, w).")
        x = x.reshape(len(x), *shape)
    if x.ndim == 4 and x.shape[1] == 1:
        x = x[:, 0]
    if x.ndim == 4 and x.shape[1] == 3:
        x = np.moveaxis(x, 1, 3).astype(np.float64)
        axes = (1, 2, 3)
        low, high = x.min(axis=axes, keepdims=True), x.max(axis=axes, keepdims=True)
        return (x - low) / np.where(high > low, high - low, 1)
    if x.ndim != 3:
        message = (
            f"plot_mistakes: x has shape {original}; expected (n, h, w), (n, 1, h, w) or "
            "(n, 3, h, w)."
        )
        raise ValueError(message)
    return x
