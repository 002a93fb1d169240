"""User-provided names in figures: no TeX, a font that has their characters, and truncation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xplayers._text import truncate_uniquely

# A dollar sign does not start a formula.
_PLAIN = {"parse_math": False, "usetex": False}


def lettered(names: Iterable[str], most: int) -> tuple[list[str], dict[str, Any]]:
    """Return names of at most `most` columns, and the options of a `matplotlib.text.Text` for them.

    Different names stay different. Characters that the font of matplotlib lacks are drawn in
    another installed font, and escaped, as in Python's strings, if there is none.
    """
    names = truncate_uniquely(list(names), most)
    missing = {c for name in names for c in name if not c.isascii()}
    if not missing:
        return names, _PLAIN
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    missing -= _in_font(findfont(FontProperties()), missing)
    families = list(rcParams["font.family"])
    fonts = sorted(fontManager.ttflist, key=lambda f: (f.style != "normal", f.weight != 400))
    for font in fonts:
        if not missing:
            break
        if "last resort" not in font.name.lower():  # it has a box for every character
            available = _in_font(font.fname, missing)
            if available:
                families.append(font.name)
                missing -= available
    escapes = {ord(c): c.encode("unicode_escape").decode() for c in missing}
    names = truncate_uniquely([name.translate(escapes) for name in names], most)
    return names, {**_PLAIN, "family": families}


def _in_font(path: str, characters: set[str]) -> set[str]:
    """Return those of the characters that a font has."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
        if not getattr(font, "scalable", True):  # bitmap fonts cannot be drawn
            return set()
        return {c for c in characters if font.get_char_index(ord(c))}
    except (OSError, RuntimeError):  # damaged, or deleted
        return set()
