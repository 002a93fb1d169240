"""Words in columns: CJK characters, marks, long names."""

import pytest

import xplayers as xl
from xplayers._text import columns, left, right, truncate, truncate_uniquely

pytestmark = pytest.mark.host


@pytest.mark.parametrize(
    ("text", "width"),
    [("", 0), ("cat", 3), ("\u732b", 2), ("\u732bcat\uff21", 7), ("e\u0301", 1), ("\u00e9", 1),
     ("\uac00", 2), ("\uff8a", 1), ("\U0001f431", 2), ("a\u200bb", 2)],
)  # fmt: skip
def test_columns(text, width):
    assert columns(text) == width
    assert left(text, 9) == text + " " * (9 - width)
    assert right(text, 9) == " " * (9 - width) + text


def test_what_is_long_is_cut():
    assert truncate("short", 5) == "short"
    assert truncate("longer", 5) == "long\u2026"
    assert truncate("\u732b" * 9, 6) == "\u732b\u732b\u2026"
    assert truncate("two\nlines\tand \x1b[31mred", 40) == "two lines and [31mred"
    assert columns(truncate("x" * 100_000, 30)) == 30


def test_names_stay_apart_when_they_are_cut():
    names = ["class " + "x" * 50 + end for end in "ab"] + ["c", "c"]
    first, second, *rest = truncate_uniquely(names, 20)
    assert first != second
    assert (first[-3:], second[-3:], rest) == (" #0", " #1", ["c", "c"])
    assert all(columns(name) <= 20 for name in (first, second))


def test_tables_line_up():
    table = xl.History([{"epoch": 1, "\u8aa4\u5dee": 0.123456}, {"epoch": 2, "\u8aa4\u5dee": 0.5}])
    lines = repr(table).split("\n")
    assert lines[0] == "epoch    \u8aa4\u5dee"
    assert len({columns(line) for line in lines}) == 1
    net = xl.Sequential(**{"\u7279\u5fb4": xl.Affine.init(3, 2), "b": xl.Relu()})
    lines = str(xl.summary(net, (3,))).split("\n")
    assert len({columns(line) for line in lines}) == 1
