"""What callbacks of the package show of a run: a bar, lines, TensorBoard."""

from __future__ import annotations

import importlib.util
import io
import sys
import types

import pytest
from trainers import T, X, trainer

from xplayers.reports.progress import Progress, clock
from xplayers.reports.tensorboard import TensorBoard
from xplayers.training.fetching import BLOCK


def test_progress_in_lines():
    file = io.StringIO()
    trainer(epochs=3, callbacks=[Progress("auto", file)]).fit(X, T, validation=(X, T))
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss ")
    assert "  val_accuracy 0." in lines[0]
    assert " samples/s  0:0" in lines[0]
    assert lines[2].endswith(" 0:00 left")


def test_progress_is_about_twenty_lines(monkeypatch):
    file = io.StringIO()
    trainer(epochs=45, callbacks=[Progress("lines", file)]).fit(X, T)
    epochs = [line.split()[1] for line in file.getvalue().splitlines()]
    assert epochs == [f"{i}/45" for i in range(3, 46, 3)]
    file = io.StringIO()
    trainer(epochs=23, callbacks=[Progress("lines", file)]).fit(X, T)
    assert file.getvalue().splitlines()[-1].startswith("epoch 23/23")
    monkeypatch.setattr("xplayers.reports.progress.MOST_SECONDS", -1.0)
    file = io.StringIO()
    trainer(epochs=1, callbacks=[Progress("lines", file)]).fit([(X, T)] * (BLOCK + 1))
    assert len(file.getvalue().splitlines()) == 3  # two blocks and the epoch


def test_progress_in_a_bar():
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    trainer(epochs=2, callbacks=[Progress(file=file)]).fit(X, T, validation=(X, T))
    last = file.getvalue().split("\r")[-1]
    assert last.startswith("epoch 2/2: 100%")
    assert "44.0/44.0" in last
    assert "samples/s" in last
    assert "val_accuracy" in last


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("width", "measures", "speed"),
    [(200, 3, True), (100, 3, False), (80, 3, False), (60, 2, False)],
)
def test_a_bar_keeps_the_loss_and_the_last_metric(width, measures, speed, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    file = Terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(tqdm.std, "_screen_shape_wrapper", lambda: lambda file: (width, 24))
    history = trainer(epochs=2, callbacks=[Progress(file=file)]).fit(X, T, validation=(X, T))
    *_, last = file.getvalue().rstrip().split("\r")
    assert len(last) <= width
    assert last.startswith("epoch 2/2: 100%")
    row = history[-1]
    names = ("loss", "val_loss", "val_accuracy") if measures == 3 else ("loss", "val_accuracy")
    assert "  ".join(f"{name} {row[name]:.4g}" for name in names) in last
    assert last.count("loss") == measures - 1
    assert ("samples/s" in last) == speed


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_a_bar_has_colour_unless_nobody_wants_it(variables, coloured, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    file = Terminal()
    trainer(epochs=1, callbacks=[Progress("bar", file)]).fit(X, T)
    assert ("\x1b[32m" in file.getvalue()) == coloured


def test_each_epoch_leaves_its_line_above_the_bar():
    pytest.importorskip("tqdm")
    file = Terminal()
    history = trainer(epochs=3, callbacks=[Progress("bar", file)]).fit(X, T, validation=(X, T))
    lines = [line for line in file.getvalue().replace("\r", "\n").split("\n") if "  loss" in line]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert [f"loss {loss:.4g}" for loss in history["loss"]] == [s.split("  ")[1] for s in lines]


@pytest.mark.parametrize(
    ("width", "gap", "measures"), [(80, "  ", 3), (60, "  ", 3), (54, " ", 3), (50, "  ", 2)]
)
def test_the_line_of_an_epoch_stays_in_the_terminal(width, gap, measures, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    file = Terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(tqdm.std, "_screen_shape_wrapper", lambda: lambda file: (width, 24))
    history = trainer(epochs=1, callbacks=[Progress(file=file)]).fit(X, T, validation=(X, T))
    names = [*("loss", "val_loss", "val_accuracy")[:: 3 - measures + 1]]
    row = [f"{name} {history[-1][name]:.4g}" for name in names]
    lines = file.getvalue().replace("\r", "\n").split("\n")
    assert gap.join(["epoch 1/1", *row]) in lines
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("style", ["lines", "bar"])
def test_stopping_early_is_said(style):
    if style == "bar":
        pytest.importorskip("tqdm")
    file = Terminal()
    options = {"epochs": 9, "patience": 2, "metrics": {"constant": lambda y, t: y[0, 0] * 0}}
    fit = trainer(**options, monitor="val_constant", callbacks=[Progress(style, file)]).fit
    assert fit(X, T, validation=(X, T)).stopped == "patience"
    last = file.getvalue().splitlines()[-1]
    assert last == "stopped early: no improvement for 2 epochs; epoch 1 is restored"


def test_a_bar_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="a bar needs tqdm: pip install tqdm"):
        trainer(callbacks=[Progress("bar", io.StringIO())]).fit(X, T)
    trainer(progress="auto").fit(X, T)  # goes without


def test_a_bar_in_a_notebook_without_widgets_is_that_of_terminals(monkeypatch, capsys):
    """That of tqdm's notebooks would warn, which fails a test."""
    pytest.importorskip("tqdm")
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    trainer(callbacks=[Progress("bar")]).fit(X, T)
    assert "100%" in capsys.readouterr().err


def test_clock():
    assert [clock(s) for s in (0.4, 59.6, 754, 3723)] == ["0:00", "1:00", "12:34", "1:02:03"]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    history = trainer(epochs=2, callbacks=[TensorBoard(tmp_path)]).fit(X, T)
    (path,) = tmp_path.iterdir()
    data, scalars = path.read_bytes(), []
    while data:  # a record: its length, a checksum of that, the event, a checksum of that
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        scalars += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    steps = [step for tag, step, _ in scalars if tag == "step/loss"]
    assert steps == [1, 2, 3, 4, 5, 6]
    losses = {step: value for tag, step, value in scalars if tag == "loss"}
    assert losses == {s: pytest.approx(v) for s, v in zip((3, 6), history["loss"], strict=True)}
    assert {tag for tag, _, _ in scalars} >= {"lr", "samples_per_s", "seconds"}


def test_tensorboard_needs_a_writer(tmp_path, monkeypatch):
    modules = sys.modules
    monkeypatch.setitem(modules, "tensorboardX", None)
    monkeypatch.setitem(modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        trainer(callbacks=[TensorBoard(tmp_path)]).fit(X, T)
