"""Figures that are made smaller: their texts shrink, and what does not fit then is left out.

That is decided when a figure is drawn, since its size is not known before, and what was left out
comes back when it is made larger.
"""

from __future__ import annotations

import functools
import math
from typing import Any

Engine: Any = object  # the base is added by `layout_class`: matplotlib need not be there

SMALLEST = 5.0  # points: a smaller text is not legible
POINTS = 72  # in an inch


@functools.cache
def layout_class(kind: Any) -> Any:
    """Return a class of this module with the constrained layout of matplotlib as its base."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return type(kind.__name__, (kind, ConstrainedLayoutEngine), {})


def _unpickled(kind: Any) -> Any:
    return object.__new__(layout_class(kind))


class FittedLayout(Engine):
    """Constrained layout of a figure, which is as it was made where it is as large as then."""

    def __init__(self, figure: Any) -> None:
        super().__init__()
        self.made_for = [*figure.get_size_inches()]
        self.panels = [axes for axes in figure.axes if axes.get_visible()]
        texts = [text for axes in self.panels for text in self.texts(axes)]
        self.texts_made = [(text, text.get_fontsize()) for text in texts]
        self.labels_made = [
            (axis, _labels(axis)[0].get_fontsize())
            for axes in self.panels
            for axis in (axes.xaxis, axes.yaxis)
            if _labels(axis)
        ]
        self.was_small = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self).__bases__[0],), self.__dict__

    def execute(self, fig: Any) -> None:
        """Lay the figure out."""
        sides = zip(fig.get_size_inches(), self.made_for, strict=True)
        scale = min([now / first for now, first in sides])
        small = scale < 0.99
        if small or self.was_small:
            self.was_small = small
            self.shrink(fig, 1.6 * scale if small else 1.0)
        super().execute(fig)
        if small:
            for axes in self.panels:
                axes.apply_aspect()
                self.leave_out(fig, axes)
            super().execute(fig)

    def shrink(self, figure: Any, factor: float) -> None:
        """Let all that was made be there, with texts of other sizes."""
        for text, size in self.texts_made:
            text.set_fontsize(_shrunk(size, factor))
            text.set_visible(True)
        for axis, size in self.labels_made:
            axis.set_tick_params(labelsize=_shrunk(size, factor))

    def texts(self, axes: Any) -> list[Any]:
        """Return the texts of a panel that shrink, but for those of ticks."""
        axis = (axes.xaxis, axes.yaxis)
        powers = [each.get_offset_text() for each in axis]  # of ten
        return [axes.title, *powers, *(each.label for each in axis), *axes.texts]

    def leave_out(self, figure: Any, axes: Any) -> None:
        """Leave out of a panel, whose place is known, what does not fit into it."""
        raise NotImplementedError


class FittedCurves(FittedLayout):
    """The layout of curves: a legend that would hide them is left out, and a name that is long."""

    def texts(self, axes: Any) -> list[Any]:
        """Return them with those of the legend."""
        return [*super().texts(axes), *axes.get_legend().get_texts()]

    def shrink(self, figure: Any, factor: float) -> None:
        """Let all that was made be there, with texts of other sizes."""
        super().shrink(figure, factor)
        for axes in self.panels:
            axes.get_legend().set_visible(True)

    def leave_out(self, figure: Any, axes: Any) -> None:
        """Leave out what does not fit."""
        renderer, panel = figure._get_renderer(), axes.get_window_extent()
        legend, name = axes.get_legend(), axes.yaxis.label
        box = legend.get_window_extent(renderer)
        legend.set_visible(box.width < 0.7 * panel.width and box.height < 0.4 * panel.height)
        name.set_visible(name.get_window_extent(renderer).height < 1.2 * panel.height)


class FittedMatrix(FittedLayout):
    """The layout of a confusion matrix: numbers and names are left out where cells are small."""

    def __init__(self, figure: Any, longest: int, digits: int) -> None:
        super().__init__(figure)
        self.longest, self.digits = longest, digits  # of names and counts, in characters
        self.title, self.title_made = figure._suptitle, figure.get_suptitle()

    def texts(self, axes: Any) -> list[Any]:
        """Return them with the title."""
        return [*super().texts(axes), axes.figure._suptitle]

    def shrink(self, figure: Any, factor: float) -> None:
        """Let all that was made be there, with texts of other sizes."""
        from matplotlib import rcParams

        super().shrink(figure, factor)
        self.title.set_text(self.title_made)
        side = POINTS * min(figure.get_size_inches())
        for axis, size in self.labels_made:
            size = _shrunk(size, factor)
            long = factor < 1.0 and 0.6 * size * self.longest > 0.3 * side
            axis.set_tick_params(length=0.0 if factor < 1.0 else rcParams["xtick.major.size"])
            for label in _labels(axis):
                label.set_fontsize(size)
                label.set_visible(not long)

    def leave_out(self, figure: Any, axes: Any) -> None:
        """Leave out what does not fit."""
        n = len(axes.images[0].get_array())
        cell = POINTS * axes.get_window_extent().width / figure.dpi / max(n, 1)
        number = min(8.0, 1.4 * cell / max(self.digits, 2))
        for text in axes.texts:
            text.set_fontsize(number)
            text.set_visible(number >= SMALLEST)
        for axis, _ in self.labels_made:
            labels, ticks = _labels(axis), axis.get_ticklocs()
            size = labels[0].get_fontsize()
            turned = axis is axes.xaxis and not labels[0].get_rotation()
            needed = 0.7 * size * max(self.longest, 2) if turned else 1.2 * size
            apart = cell * (ticks[1] - ticks[0] if len(ticks) > 1 else 1)
            step = math.ceil(needed / apart)
            for i, label in enumerate(labels):
                label.set_visible(label.get_visible() and i % step == 0)
        renderer, words = figure._get_renderer(), self.title_made
        for part in (words, words.split("\n")[0], words.split("(")[1].split(")")[0]):
            self.title.set_text(part)
            if self.title.get_window_extent(renderer).width < figure.bbox.width:
                break


def _labels(axis: Any) -> list[Any]:
    """Return the labels of the ticks, those that are left out too."""
    return [tick.label1 for tick in axis.get_major_ticks()]


def _shrunk(size: float, factor: float) -> float:
    return size if factor >= 1.0 else max(min(size, SMALLEST), factor * size)
