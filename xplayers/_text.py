"""Text in the columns of a terminal: its width, padding and truncation."""

from __future__ import annotations

from collections.abc import Sequence


def columns(text: str) -> int:
    """Return the width of a text in columns of a terminal: two for a CJK character."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    import unicodedata  # not needed for ASCII

    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def left(text: str, width: int) -> str:
    """Pad a text on the right, to `width` columns."""
    return text + " " * (width - columns(text))


def right(text: str, width: int) -> str:
    """Pad a text on the left, to `width` columns."""
    return " " * (width - columns(text)) + text


def aligned(rows: Sequence[Sequence[str]], lefts: int = 0) -> list[str]:
    """Return the rows of a table as lines; the cells of the first `lefts` columns on the left."""
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    pads = [left] * lefts + [right] * (len(widths) - lefts)
    return [
        "  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True))
        for row in rows
    ]


def truncate(text: str, most: int) -> str:
    """Return a text in one line of at most `most` columns, truncated with an ellipsis."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if columns(text) <= most:
        return text
    while columns(text) >= most:
        text = text[: min(len(text) - 1, most)]
    return f"{text}\N{HORIZONTAL ELLIPSIS}"


def truncate_uniquely(texts: list[str], most: int) -> list[str]:
    """Truncate each text; where several become the same, append their numbers."""
    short = [truncate(text, most) for text in texts]
    numbered = [f"{truncate(text, most - len(f' #{i}'))} #{i}" for i, text in enumerate(texts)]
    count = {text: short.count(text) for text in set(short)}
    return [
        n if count[s] > 1 and s != t else s for s, n, t in zip(short, numbered, texts, strict=True)
    ]
