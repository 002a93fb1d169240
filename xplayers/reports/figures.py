"""Figures of matplotlib, for files, pyplot and notebooks."""

from __future__ import annotations

import functools
import io
import os
from typing import Any

from xplayers._terminal import in_notebook
from xplayers.reports.fitting import layout_class
from xplayers.saving.files import AnyPath, in_full, replacing

Figure = Any  # matplotlib.figure.Figure; there are no types without matplotlib

PIXELS = 150  # an inch, in files
# The name of this package in the metadata of a figure, and the field for it by format.
MARK = "xplayers"
_MARKS = {"png": "Software", "pdf": "Creator", "svg": "Creator", "eps": "Creator", "ps": "Creator"}


def figure_of(
    path: AnyPath | None, width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Any]]:
    """Return a figure for a file, pyplot or a notebook, and the axes of its panels."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "Plots need matplotlib: pip install matplotlib."
        raise ImportError(message) from error
    size: Any = {"figsize": (width, height), "layout": "constrained"}
    if path is not None:
        _check_suffix(in_full(path, "plot"))  # fail early
    # With a path pyplot would need a display, and keep a reference.
    if in_notebook():
        figure = _notebook_figure()(**size)
    elif path is not None:
        figure = Figure(**size)
    else:
        import matplotlib.pyplot as plt

        figure = plt.figure(**size)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel().tolist()


@functools.cache
def _notebook_figure() -> Any:
    """Return a class of figures that a notebook shows as the result of a cell.

    It would show a figure of pyplot twice, and any other one only after pyplot was imported.
    """
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return NotebookFigure


def wrap_in(axes: Any, text: Any) -> None:
    """Let a title continue on further lines where its panel, made smaller, is too narrow for it.

    Matplotlib itself wraps texts at the edges of the figure, not at those of a panel.
    """
    text.set_wrap(True)
    text._get_wrap_line_width = functools.partial(getattr, axes.bbox, "width")


def fitted(figure: Figure, layout: type, *options: Any) -> None:
    """Give a figure that is complete a layout for smaller sizes."""
    figure.set_layout_engine(layout_class(layout)(figure, *options))


def finished(figure: Figure, path: AnyPath | None) -> Figure:
    """Write a figure to its file, if it has one, and return it."""
    if path is None:
        return figure
    path = in_full(path, "plot")
    suffix = _check_suffix(path)
    if not suffix:
        figure.savefig(path, dpi=PIXELS)  # matplotlib adds one
        return figure
    mark: dict[str, Any] = {"metadata": {_MARKS[suffix]: MARK}} if suffix in _MARKS else {}
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=PIXELS, format=suffix, **mark)
    with replacing(path) as file:
        file.write(buffer.getbuffer())
    return figure


def _check_suffix(path: str) -> str:
    """Return the format of a file by its suffix, "" if it has none."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    suffix = os.path.splitext(path)[1][1:].lower()
    if suffix and suffix not in known:
        message = f"plot: {path} ends in .{suffix}; expected .{', .'.join(sorted(known))}."
        raise ValueError(message)
    return suffix
