"""The table of a run: columns, rows, text, files."""

import json
import math
import sys

import numpy as np
import pytest

from xplayers.reports.history import History

ROWS = [
    {"epoch": 1, "step": 45, "loss": 1.0 / 3.0, "val_loss": math.nan},
    {"epoch": 2, "step": 90, "loss": -math.inf, "val_loss": math.inf, "lr": 1e-300},
    {"epoch": 3, "step": 135, "loss": 0.1 + 0.2},
]


def same(a, b):
    return repr(a) == repr(b)  # NaN is not equal to itself


def test_columns_and_rows():
    history = History(ROWS)
    assert history.columns == ("epoch", "step", "loss", "val_loss", "lr")
    assert len(history) == 3
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["epoch"].dtype.kind == "i"
    assert same(history["loss"].tolist(), [1 / 3, -math.inf, 0.1 + 0.2])
    assert same(history["lr"].tolist(), [math.nan, 1e-300, math.nan])  # before and after it came
    assert same(list(history), ROWS)
    assert same(history[-1], ROWS[2])
    assert "loss" in history
    assert "accuracy" not in history


def test_what_it_gives_is_not_itself():
    history = History(ROWS)
    history["epoch"][0] = 7
    history[0]["epoch"] = 7
    assert history["epoch"].tolist() == [1, 2, 3]


def test_numbers_of_numpy_are_numbers():
    history = History([{"epoch": np.int64(1), "loss": np.float32(0.5)}])
    assert [type(value) for value in history[0].values()] == [int, float]


def test_wrong_rows_and_names():
    history = History(ROWS)
    for value in ("0.5", True, None, np.ones(2)):
        with pytest.raises(TypeError, match="History: loss is a .*; expected a number"):
            history.append({"step": 1, "loss": value})
    assert same(list(history), ROWS)  # nothing of a wrong row is kept
    with pytest.raises(KeyError, match="no column 'acc'; there are epoch, step, loss, val_loss, "):
        history["acc"]
    for row in (3, -4):
        with pytest.raises(IndexError, match=f"History: row {row} of 3"):
            history[row]


def test_equal_tables():
    assert History(ROWS) == History(ROWS)
    assert History(ROWS) != History(ROWS[:2])
    assert History(ROWS) != ROWS
    other = History(ROWS)
    other.stopped = "patience"  # not part of the table
    assert other == History(ROWS)


def test_printed():
    assert repr(History()) == "History()"
    history = History([{"epoch": 9, "loss": 0.123456}, {"epoch": 10, "loss": 98765.4}])
    assert repr(history) == "epoch    loss\n    9  0.1235\n   10   98765"
    lines = repr(History(ROWS)).splitlines()
    assert lines[1].split() == ["1", "45", "0.3333", "nan"]
    assert len({len(line) for line in lines}) == 1


def test_a_long_table_is_printed_by_its_ends():
    lines = repr(History([{"epoch": i} for i in range(1, 101)])).splitlines()
    assert [line.strip() for line in lines[:2]] == ["epoch", "1"]
    assert lines[11] == "... 80 more rows ..."
    assert lines[12].split() == ["91"]
    assert lines[-1].split() == ["100"]
    assert len(lines) == 22
    assert len(repr(History([{"epoch": i} for i in range(20)])).splitlines()) == 21


def test_json_lines_and_back(tmp_path):
    path = tmp_path / "run.jsonl"
    History(ROWS).to_jsonl(path)
    history = History.from_jsonl(path)
    assert same(list(history), ROWS)  # to the last bit, integers as integers
    assert history.columns == History(ROWS).columns
    lines = path.read_text(encoding="utf-8").splitlines()

    def refuse(word):
        raise AssertionError(word)

    strict = [json.loads(line, parse_constant=refuse) for line in lines]  # for other languages
    assert strict[1] == {
        "epoch": 2, "step": 90, "loss": "-Infinity", "val_loss": "Infinity", "lr": 1e-300,
    }  # fmt: skip
    History(ROWS[:1]).to_jsonl(path)
    assert same(list(History.from_jsonl(path)), ROWS[:1])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"epoch": 1', "line 2 is not JSON: "),
        ("[1, 2]", "line 2 is a JSON list, not an object"),
        ('{"loss": "low"}', "line 2: loss is 'low'; expected a number"),
        ('{"loss": true}', "line 2: loss is True"),
        ('{"loss": null}', "line 2: loss is None"),
        ('{"loss": [1]}', r"line 2: loss is \[1\]"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_files_that_are_none(line, words, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"epoch": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"run.jsonl, {words}"):
        History.from_jsonl(path)


def test_other_files(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="run.jsonl is not UTF-8 text"):
        History.from_jsonl(path)
    path.write_text('\n{"epoch": 1}\n\n', encoding="utf-8")
    assert list(History.from_jsonl(path)) == [{"epoch": 1}]
    with pytest.raises(FileNotFoundError):
        History.from_jsonl(tmp_path / "none.jsonl")


def test_pandas():
    pytest.importorskip("pandas")
    frame = History(ROWS).to_pandas()
    assert list(frame.columns) == ["epoch", "step", "loss", "val_loss", "lr"]
    assert frame["epoch"].tolist() == [1, 2, 3]
    assert same(frame["loss"].tolist(), [row["loss"] for row in ROWS])
    assert frame["lr"].isna().tolist() == [True, False, True]


@pytest.mark.parametrize(("module", "method"), [("pandas", "to_pandas"), ("matplotlib", "plot")])
def test_what_needs_more_says_so(module, method, monkeypatch):
    modules = sys.modules
    for name in [m for m in modules if m.partition(".")[0] == module]:
        monkeypatch.setitem(modules, name, None)
    monkeypatch.setitem(modules, module, None)
    with pytest.raises(ImportError, match=f"pip install {module}"):
        getattr(History(ROWS), method)()
