"""Where training is shown: streams that are closed, full, missing, or of another kind."""

import errno
import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import xplayers as xl
from xplayers.reports.progress import Progress

pytestmark = pytest.mark.host

X = np.random.default_rng(0).normal(size=(22, 4)).astype(np.float32)
T = np.arange(22) % 3


def train(file=None, style="auto", **options):
    """Train for three epochs; return the parameters."""
    net = xl.mlp([4, 3], rng=0)
    callbacks = [] if file is None else [Progress(style, file)]
    trainer = xl.Trainer(
        net, xl.SoftmaxWithLoss(), xl.SGD(), batch_size=10, epochs=3, callbacks=callbacks,
        progress=style if file is None else False, **options,
    )  # fmt: skip
    history = trainer.fit(X, T)
    assert (len(history), history.stopped) == (3, "finished")
    return {name: np.asarray(p) for name, p in net.params.items()}


EXPECTED = train(style=False)


def check(got):
    for name, p in EXPECTED.items():
        np.testing.assert_array_equal(got[name], p)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Raising(Terminal):
    """Whatever is asked of it, it raises."""

    def __init__(self, error, *names):
        super().__init__()
        self.error, self.names = error, names

    def __getattribute__(self, name):
        if name in ("write", "flush", "isatty", "encoding") and name in super().__getattribute__(
            "names"
        ):
            error = super().__getattribute__("error")

            def fail(*_):
                raise error

            return fail
        return super().__getattribute__(name)


def closed():
    file = Terminal()
    file.close()
    return file


STREAMS = {
    "closed": closed,
    "no terminal is known": lambda: type("File", (), {"write": lambda self, text: None})(),
    "write": lambda: Raising(OSError(errno.EIO, "gone"), "write"),
    "flush": lambda: Raising(OSError(errno.ENOSPC, "full"), "flush"),
    "pipe": lambda: Raising(BrokenPipeError(errno.EPIPE, "gone"), "write", "flush"),
    "isatty": lambda: Raising(OSError(errno.EIO, "gone"), "isatty"),
    "of one's own": lambda: Raising(RuntimeError("mine"), "write", "flush", "isatty"),
    "ascii": lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
}


@pytest.mark.parametrize("style", ["auto", "lines", "bar"])
@pytest.mark.parametrize("name", STREAMS)
def test_training_goes_on(name, style):
    if style == "bar":
        pytest.importorskip("tqdm")
    check(train(STREAMS[name](), style, metrics={"\u8aa4\u5dee": lambda y, t: 0.0}))


@pytest.mark.parametrize("style", ["auto", "lines", "bar", True])
@pytest.mark.parametrize("name", ["none", *STREAMS])
@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_training_goes_on_on_the_streams_of_the_system(stream, name, style, monkeypatch):
    if style == "bar":
        pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, stream, None if name == "none" else STREAMS[name]())
    check(train(style=style))


class Full(io.StringIO):
    """A disk that is full after so many characters, until some are deleted."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def write(self, text):
        super().write(text[: self.room])
        if len(text) > self.room:
            self.room = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(text)
        return len(text)


@pytest.mark.parametrize("room", [0, 1, 10, 70, 100])
def test_half_of_a_line_is_ended(room):
    file = Full(room)

    def clear(event):
        if event.kind == "epoch" and event.epoch == 2:
            file.room = 10_000

    net = xl.mlp([4, 3], rng=0)
    options = {"batch_size": 10, "epochs": 3, "progress": False}
    callbacks = [Progress("lines", file), clear]
    xl.Trainer(net, xl.SoftmaxWithLoss(), xl.SGD(), callbacks=callbacks, **options).fit(X, T)
    lines = file.getvalue().split("\n")
    assert lines[-2].startswith("epoch 3/3  loss ")
    assert all(line.count("epoch") <= 1 for line in lines)


def test_words_that_a_file_has_no_letters_for():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, "ascii")
    metrics = {"\u732b": lambda y, t: 0.5}
    train(file, "lines", metrics=metrics, train_metrics=True)
    assert raw.getvalue().count(b"  \\u732b 0.5  ") == 3


def test_what_is_no_file():
    for file in (3, "log.txt", []):
        with pytest.raises(TypeError, match="Progress: file is .*; expected an open text file"):
            Progress("lines", file)


def test_a_warning_with_stderr_closed_does_not_end_a_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("xplayers.saving.checkpoint.write", full)

    def closed_file(*_, **__):  # what Python's own does then
        message = "I/O operation on closed file."
        raise ValueError(message)

    monkeypatch.setattr(warnings, "warn", closed_file)
    check(train(style=False, checkpoint=xl.Checkpoint(tmp_path / "run")))


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
@pytest.mark.parametrize("how", ["2>&-", ">&- 2>&-", "2>/dev/full", "2>/dev/full >/dev/full"])
def test_a_process_without_stderr(how, tmp_path):
    if "full" in how and not os.path.exists("/dev/full"):
        pytest.skip("a disk that is always full is there on Linux")
    code = (
        "import numpy as np, xplayers as xl, pathlib\n"
        "net = xl.mlp([4, 3], rng=0)\n"
        "trainer = xl.Trainer(net, xl.SoftmaxWithLoss(), xl.SGD(), epochs=2)\n"
        "trainer.fit(np.ones((9, 4), np.float32), np.arange(9) % 3)\n"
        "pathlib.Path('done').write_text(str(trainer.history[-1]['epoch']))\n"
    )
    (tmp_path / "train.py").write_text(code)
    script = f"'{sys.executable}' train.py {how}"
    run = subprocess.run(["sh", "-c", script], cwd=tmp_path, check=False, env={
        **os.environ, "PYTHONPATH": str(os.path.dirname(os.path.dirname(xl.__file__))),
    })  # fmt: skip
    assert run.returncode == 0 or "full" in how  # Python itself complains at its end
    assert (tmp_path / "done").read_text() == "2"
