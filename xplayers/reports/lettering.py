"""Names that people gave in pictures: no formulas, in a font that has their letters, and cut."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xplayers._text import truncate_uniquely

# A dollar sign is one, and not the beginning of a formula; neither is one of TeX.
_PLAIN = {"parse_math": False, "usetex": False}


def lettered(names: Iterable[str], most: int) -> tuple[list[str], dict[str, Any]]:
    """Return names of at most so many columns, and how matplotlib draws them.

    A letter that the font of matplotlib does not have is drawn in another font of this machine, and
    where none has it, its code stands in its place, as in Python's strings.

    Returns
    -------
    names : list of str
        Names that differed still do.
    style : dict
        Options of a `matplotlib.text.Text`.
    """
    names = truncate_uniquely(list(names), most)
    letters = {c for name in names for c in name if not c.isascii()}
    if not letters:
        return names, _PLAIN
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    letters -= _in_font(findfont(FontProperties()), letters)
    families = list(rcParams["font.family"])
    upright = sorted(fontManager.ttflist, key=lambda f: (f.style != "normal", f.weight != 400))
    for font in upright:
        if not letters:
            break
        if "last resort" not in font.name.lower():  # which has a box for every letter
            found = _in_font(font.fname, letters)
            if found:
                families.append(font.name)
                letters -= found
    codes = {ord(c): c.encode("unicode_escape").decode() for c in letters}
    names = truncate_uniquely([name.translate(codes) for name in names], most)
    return names, {**_PLAIN, "family": families}


def _in_font(path: str, letters: set[str]) -> set[str]:
    """Return those of the letters that a font has."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
        if not getattr(font, "scalable", True):  # pictures of a fixed size, which cannot be drawn
            return set()
        return {c for c in letters if font.get_char_index(ord(c))}
    except (OSError, RuntimeError):  # it is damaged, or gone
        return set()
