"""What callbacks of the package show of a run: a bar, lines, TensorBoard."""

from __future__ import annotations

import io
import sys

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


def test_a_bar_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="a bar needs tqdm: pip install tqdm"):
        trainer(callbacks=[Progress("bar", io.StringIO())]).fit(X, T)
    trainer(progress="auto").fit(X, T)  # goes without


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
