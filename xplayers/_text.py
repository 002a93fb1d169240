"""Words in the columns of a terminal: how wide they are, filled up, and cut where they are long."""

from __future__ import annotations


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a CJK character."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    import unicodedata  # which a table of ASCII does without

    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def left(text: str, width: int) -> str:
    """Fill a text up with spaces behind it, to so many columns."""
    return text + " " * (width - columns(text))


def right(text: str, width: int) -> str:
    """Fill a text up with spaces before it, to so many columns."""
    return " " * (width - columns(text)) + text


def cut(text: str, most: int) -> str:
    """Return a text in one line of at most so many columns; what is longer ends in an ellipsis."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if columns(text) <= most:
        return text
    while columns(text) >= most:
        text = text[: min(len(text) - 1, most)]
    return f"{text}\N{HORIZONTAL ELLIPSIS}"


def cut_apart(texts: list[str], most: int) -> list[str]:
    """Cut each text; where several became the same, a number tells which of all it is."""
    short = [cut(text, most) for text in texts]
    numbered = [f"{cut(text, most - len(f' #{i}'))} #{i}" for i, text in enumerate(texts)]
    times = {text: short.count(text) for text in set(short)}
    return [
        n if times[s] > 1 and s != t else s for s, n, t in zip(short, numbered, texts, strict=True)
    ]
