"""What notebooks show: networks as SVG, tables as HTML."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from xplayers._text import columns, truncate

LINE, ADVANCE = 18, 7.3  # height of a line of text, and width of a character, in pixels
PAD, GAP = 10, 22  # around a text, and between boxes
MOST = 48  # characters of a line
FILL, EDGE, INK, DIM, RED = "#eef3fa", "#5a7ba6", "#1f2933", "#5f6b7a", "#b3261e"


class Box(NamedTuple):
    """A part of a drawing: its lines of text, and the parts in it, in a column or side by side."""

    lines: tuple[str, ...]
    parts: tuple[Box, ...] = ()
    side_by_side: bool = False
    mark: str = ""  # what is written in it in red, if anything

    @property
    def head(self) -> float:
        """The height of the lines."""
        return (len(self.lines) + bool(self.mark)) * LINE + PAD

    def size(self) -> tuple[float, float]:
        """Return width and height."""
        width = max(columns(truncate(line, MOST)) for line in (*self.lines, self.mark)) * ADVANCE
        if not self.parts:
            return width + 2 * PAD, self.head + PAD / 2
        sizes = [part.size() for part in self.parts]
        widths, heights = zip(*sizes, strict=True)
        between = GAP * (len(sizes) - 1)
        if self.side_by_side:
            inner = sum(widths) + between, max(heights)
        else:
            inner = max(widths), sum(heights) + between
        return max(width, inner[0]) + 2 * PAD, self.head + inner[1] + PAD


def escape(text: str) -> str:
    """Return a text in which XML has nothing to read."""
    import html  # of notebooks alone, and slow to import

    return html.escape(text)


def svg(box: Box, title: str) -> str:
    """Return the drawing of a network, whose data flow from the top to the bottom."""
    width, height = box.size()
    marks = list(_marks(box, 1, 1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 2:.0f}" '
        f'height="{height + 2:.0f}" role="img" font-family="ui-monospace, monospace" '
        f'font-size="12"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(marks)}</svg>'
    )


def _marks(box: Box, x: float, y: float):
    width, height = box.size()
    fill, edge = "none" if box.parts else FILL, RED if box.mark else EDGE
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" '
        f'fill="{fill}" stroke="{edge}" stroke-width="{2 if box.mark else 1}"/>'
    )
    for i, line in enumerate((*box.lines, box.mark) if box.mark else box.lines):
        ink = RED if i == len(box.lines) else DIM if i else INK
        at = y + PAD / 2 + LINE * (i + 0.75)
        text = escape(truncate(line, MOST))
        yield f'<text x="{x + PAD:.1f}" y="{at:.1f}" fill="{ink}">{text}</text>'
    top = y + box.head
    if box.side_by_side:
        left = x + PAD
        for part in box.parts:
            yield from _marks(part, left, top)
            left += part.size()[0] + GAP
        return
    for part, following in itertools.zip_longest(box.parts, box.parts[1:]):
        part_width, part_height = part.size()
        yield from _marks(part, x + (width - part_width) / 2, top)
        top += part_height
        if following is not None:
            yield _arrow(x + width / 2, top)
            top += GAP


def _arrow(x: float, y: float) -> str:
    end = y + GAP - 1
    return (
        f'<path d="M{x:.1f} {y:.1f}V{end:.1f}M{x - 4:.1f} {end - 6:.1f}L{x:.1f} {end:.1f}'
        f'L{x + 4:.1f} {end - 6:.1f}" fill="none" stroke="{EDGE}"/>'
    )


def table(rows: Sequence[Sequence[str]], lefts: int = 0) -> str:
    """Return rows as an HTML table, the first one as its head, with `lefts` columns of text."""

    def line(cells: Sequence[str], tag: str) -> str:
        aligns = ["left" if i < lefts else "right" for i in range(len(cells))]
        return "".join(
            f'<{tag} style="text-align:{align}">{escape(cell)}</{tag}>'
            for align, cell in zip(aligns, cells, strict=True)
        )

    head, *body = rows
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in body)
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
