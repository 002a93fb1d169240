"""Streams that are closed, missing, full or of another encoding: the work is done all the same."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, main, own, train

import xplayers as xl
from xplayers._text import columns
from xplayers.cli import messages
from xplayers.cli.log import Log

pytestmark = pytest.mark.host

POSIX = pytest.mark.skipif(os.name != "posix", reason="shells and devices of POSIX")
TRAIN = ("train", *TINY, "--dataset", "own.npz", "--batch-size", "8")
RESULTS = ("--save", "m.safetensors", "--log", "m.jsonl")


class Closed(io.StringIO):
    """A stream that nobody reads any more."""

    def __init__(self, after=0, error=BrokenPipeError):
        super().__init__()
        self.error, self.after = error, after

    def write(self, text):
        if self.after == 0:
            raise self.error(errno.ENOSPC, "No space left on device")
        self.after -= 1
        return super().write(text)


class Full(Closed):
    def __init__(self, after=0):
        super().__init__(after, OSError)


class Bare:
    """A stream of somebody else's, which can be written to and no more."""

    def __init__(self, after=0):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def run(monkeypatch, *arguments, out=None, err=None):
    """Run the command with these streams, and return its exit code."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        return main(list(arguments))


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("make", [Closed, Full, Bare, lambda after: None, lambda after: closed()])
def test_a_run_with_results_in_files_goes_on(data, monkeypatch, make, after):
    err = io.StringIO()
    code = run(monkeypatch, *TRAIN, *RESULTS, out=make(after), err=err)
    assert code == 0, err.getvalue()
    assert Path("m.safetensors").exists()
    assert len(xl.History.from_jsonl("m.jsonl")) == 2
    said = "xplayers: warning: the standard output: No space left on device; the command"
    assert err.getvalue().startswith(said) if make is Full else not err.getvalue()


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (Closed, 141, ""),
        (Full, 2, "xplayers: error: the standard output: No space left on device\n"),
        (lambda: None, 2, "xplayers: error: the standard output is closed\n"),
        (closed, 2, "xplayers: error: the standard output is closed\n"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "info", "--help"])
def test_where_the_output_is_the_result(data, monkeypatch, make, code, said, command):
    arguments = TRAIN if command == "train" else (command,)
    if command in ("evaluate", "predict"):
        run(monkeypatch, *TRAIN, "--save", "m.safetensors", out=io.StringIO())
        np.save("x.npy", np.zeros((4, 6, 6)))
        arguments = (command, "m.safetensors", *(("x.npy",) if command == "predict" else ()))
    err = io.StringIO()
    assert run(monkeypatch, *arguments, out=make(), err=err) == code
    assert err.getvalue() == said


def test_results_in_files_of_the_other_commands(data, monkeypatch):
    pytest.importorskip("matplotlib")
    run(monkeypatch, *TRAIN, "--save", "m.safetensors", out=io.StringIO())
    assert run(monkeypatch, "evaluate", "m.safetensors", "--plot", "e.png", out=Closed()) == 0
    assert Path("e.png").exists()
    np.save("x.npy", np.zeros((4, 6, 6)))
    assert run(monkeypatch, "predict", "m.safetensors", "x.npy", "--output", "p.npy") == 0
    assert len(np.load("p.npy")) == 4


@pytest.mark.parametrize(
    "make", [lambda: None, closed, Closed, Full, Bare, object], ids=lambda make: make.__name__
)
def test_errors_and_warnings_that_nobody_can_read(data, monkeypatch, make):
    out = io.StringIO()
    assert run(monkeypatch, "train", "--epochs", "0", out=out, err=make()) == 2
    assert run(monkeypatch, "train", "--epochs", "0", "--debug", out=out, err=make()) == 2
    assert out.getvalue() == ""  # where print would bring it, had it no stderr
    np.savez("own.npz", x=np.ones((60, 2)), t=np.arange(60) % 3)  # a warning
    assert run(monkeypatch, *TRAIN, "--save", "n.safetensors", out=out, err=make()) == 0
    assert "warning" not in out.getvalue()
    assert Path("n.safetensors").exists()


def text_stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_encodings_without_the_characters_of_classes(data, monkeypatch, encoding):
    own("own.npz", 60, labels="日é$")
    out, err = text_stream(encoding), text_stream(encoding)
    assert run(monkeypatch, *TRAIN, "--save", "m.safetensors", out=out, err=err) == 0
    np.save("x.npy", np.zeros((4, 6, 6)))
    for command in (("predict", "m.safetensors", "x.npy", "--probabilities"),):
        out, err = text_stream(encoding), text_stream(encoding)
        assert run(monkeypatch, *command, out=out, err=err) == 0
        out.flush()
        err.flush()
        first = out.buffer.getvalue().decode(encoding).splitlines()[0]
        names = ["$", "é", "日"]
        expected = [n.encode(encoding, "backslashreplace").decode(encoding) for n in names]
        assert first.split(",") == ["class", *expected]
        warned = f"the standard output is {encoding}: other characters are escaped"
        assert (warned in err.buffer.getvalue().decode()) == (encoding != "utf-8")
    out = text_stream(encoding)
    assert run(monkeypatch, "evaluate", "m.safetensors", out=out, err=err) == 0
    out.flush()
    axes, *lines = out.buffer.getvalue().decode(encoding).splitlines()[1:]
    assert axes == "rows: target, columns: predicted"
    assert len({columns(line) for line in lines}) == 1


def test_errors_with_characters_that_stderr_lacks(data, monkeypatch):
    err = text_stream("ascii")
    assert run(monkeypatch, "train", "--dataset", "日.npz", out=io.StringIO(), err=err) == 2
    err.flush()
    assert err.buffer.getvalue() == b"xplayers: error: \\u65e5.npz: No such file or directory\n"


# The whole process, to its exit code


def process(command, **more):
    environment = {**os.environ, "PYTHONPATH": str(Path(xl.__file__).parents[1]), **more}
    line = command.replace("xplayers", f"{sys.executable} -W error -m xplayers")
    return subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, check=False
    )


@POSIX
@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        ("| head -n 1; exit ${PIPESTATUS[0]}", 0, ""),
        (">&- 2>&-", 0, ""),
        ("2>&-", 0, ""),
        ("> /dev/full", 0, "xplayers: warning: the standard output"),
        ("> /dev/full 2> /dev/full", 0, ""),
    ],
)
def test_processes(data, streams, code, said):
    if "full" in streams and not Path("/dev/full").exists():
        pytest.skip("no device that is full")
    run = process(f"xplayers {' '.join(TRAIN)} --save m.safetensors {streams}")
    assert (run.returncode, Path("m.safetensors").exists()) == (code, True)
    assert run.stderr.startswith(said)
    assert bool(run.stderr) == bool(said)


@POSIX
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("xplayers train --epochs 0 2> /dev/full", 2),
        ("xplayers train --epochs 0 2>&1 | true; exit ${PIPESTATUS[0]}", 2),
        ("xplayers train --help | true; exit ${PIPESTATUS[0]}", 141),
        ("xplayers info > /dev/full", 2),
    ],
)
def test_processes_without_results(command, code):
    run = process(command)
    assert run.returncode in (code, 0 if "help" in command else code)  # head may be the faster
    assert "Exception ignored" not in run.stderr
    assert "Traceback" not in run.stderr


@POSIX
def test_no_home_to_write_to(data):
    pytest.importorskip("matplotlib")
    results = "--save m.safetensors --plot m.png"
    run = process(f"xplayers {' '.join(TRAIN)} {results}", HOME="/proc/nobody")
    assert run.returncode == 0
    assert Path("m.png").exists()


# The log


class FullDisk(Log):
    """A log on a disk that has room for so many bytes, and later for all."""

    room = 100

    def __call__(self, event):
        real = io.FileIO.write

        class File(io.FileIO):
            def write(file, data):
                room = max(FullDisk.room - file.tell(), 0)
                if not room:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(file, bytes(data[:room]))

        import builtins

        opened, builtins.open = builtins.open, lambda name, mode, **_: File(name, mode)
        try:
            super().__call__(event)
        finally:
            builtins.open = opened


def test_a_full_disk_leaves_no_half_of_a_line(capsys, home, monkeypatch):
    log, history = FullDisk("run.jsonl"), xl.History()
    rows = [{"epoch": i, "step": 10 * i, "loss": 1 / 3} for i in range(1, 7)]
    log(xl.Event("begin", None, history, 0, 0, 0, None))
    for i, row in enumerate(rows, 1):
        monkeypatch.setattr(FullDisk, "room", 10**6 if i == 5 else 100)
        history.append(row)
        log(xl.Event("epoch", None, history, i, 10 * i, 0, None, row=row))
        logged = xl.History.from_jsonl("run.jsonl")
        assert list(logged) == rows[: len(logged)]
        assert len(logged) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 5, 6: 5}[i]
    err = capsys.readouterr().err
    assert [line.split(":")[2] for line in err.splitlines()] == [
        f" epoch {i} is not in the log" for i in (2, 3, 4, 6)
    ]
    monkeypatch.setattr(FullDisk, "room", 10**6)
    log(xl.Event("end", None, history, 6, 60, 0, None))
    assert list(xl.History.from_jsonl("run.jsonl")) == rows


# Tables


def test_names_in_tables():
    names = ["cat", 7, "日本", "a\nb\t", "e\u0301", "n" * 40, "n" * 41, "$a$", "\ud800"]
    shown = messages.display_names(names)
    assert shown[:6] == ["cat", "7", "日本", "a b", "e\u0301", "n" * 40]
    assert shown[7:] == ["$a$", r"\ud800"]
    assert all(
        columns(name) <= 40 for name in messages.display_names(["日" * 30, "日" * 31, *names])
    )


def test_a_table_with_names_of_two_widths(capsys, data):
    own("own.npz", 60, labels="日a$")
    train(capsys, *TRAIN[1:], "--save", "m.safetensors")
    assert main(["evaluate", "m.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines.pop(0) == "rows: target, columns: predicted"
    assert lines[0].split() == ["$", "a", "日"]
    assert len({columns(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("no_colour", "start"), [("", "xplayers: \x1b[1;31merror:\x1b[0m "), ("1", "xplayers: error: ")]
)
def test_errors_are_red_on_a_terminal(monkeypatch, no_colour, start):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_colour)
    assert main(["train", "--dataset", "nowhere.npz"]) == 2
    assert sys.stderr.getvalue().startswith(start)
