"""What a run of the command leaves, how it goes on, and how it ends."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import TINY, assert_same, own, refusal, train
from helpers import python

import xplayers as xl
from xplayers.cli import config, datasets, main
from xplayers.cli.train import Log

# What a run leaves ----------------------------------------------------------------------------


def test_a_run_goes_on_to_the_same_bits(capsys, home):
    whole = ("--save", "whole.safetensors", "--log", "whole.jsonl", "--epochs", "3")
    train(capsys, *TINY, *whole)
    train(
        capsys, *TINY, "--checkpoint-dir", "run", "--checkpoint-every", "20", "--log", "run.jsonl"
    )
    assert sorted(p.name for p in Path("run").iterdir()) == [
        "config.toml", *(f"step-{step:09d}.safetensors" for step in (60, 80, 90)),
    ]  # fmt: skip
    run = ("--checkpoint-dir", "run", "--resume", "--epochs", "3")
    out = train(capsys, *run, "--save", "run.safetensors", "--log", "run.jsonl")  # options from run
    assert "64 -> 8 -> 10" in out
    assert "epoch 2/3" not in out
    assert_same("whole.safetensors", "run.safetensors")
    rows = [xl.History.from_jsonl(f"{name}.jsonl") for name in ("whole", "run")]
    assert [len(r) for r in rows] == [3, 3]
    for name in ("epoch", "step", "loss", "val_loss", "val_accuracy"):
        assert rows[0][name].tolist() == rows[1][name].tolist()


def test_checkpoints_of_another_run_are_not_touched(capsys, home):
    train(capsys, *TINY, "--checkpoint-dir", "run", "--checkpoint-keep", "1")
    before = {p: p.read_bytes() for p in Path("run").iterdir()}
    assert len(before) == 2
    line = refusal(capsys, "train", *TINY, "--seed", "5", "--checkpoint-dir", "run")
    assert "run has the checkpoints of another run; pass --resume" in line
    assert {p: p.read_bytes() for p in Path("run").iterdir()} == before
    line = refusal(capsys, "train", *TINY, "--seed", "5", "--checkpoint-dir", "run", "--resume")
    assert "belongs to another run: seed was 0, is 5" in line


def test_a_run_is_repeated_from_its_config(capsys, home):
    options = ("--hidden", "6", "5", "--optimizer", "sgd", "--lr", "0.003", "--batch-size", "50")
    train(capsys, *TINY, *options, "--seed", "9", "--save", "a.safetensors", "--log", "b.jsonl")
    config = tomllib.loads(Path("a.config.toml").read_text())
    assert config.items() >= {
        "backend": "numpy", "dataset": "digits", "hidden": [6, 5], "optimizer": "sgd", "lr": 0.003,
        "batch-size": 50, "seed": 9, "epochs": 2, "model": "mlp", "flip": False,
    }.items()  # fmt: skip
    assert not config.keys() & {"save", "log", "config", "debug", "run", "resume"}
    assert tomllib.loads(Path("b.config.toml").read_text()) == config
    train(capsys, "--config", "a.config.toml", "--save", "c.safetensors")
    assert_same("a.safetensors", "c.safetensors")
    out = train(capsys, "--config", "a.config.toml", "--hidden", "7", "--epochs", "1")
    assert "64 -> 7 -> 10" in out  # the command line comes before the file
    assert "epoch 1/1" in out


def test_a_config_names_files_from_anywhere(capsys, home, monkeypatch):
    own(home / 'a "b".npz')
    train(capsys, *TINY, "--dataset", 'a "b".npz', "--save", "m.safetensors")
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    train(capsys, "--config", "../m.config.toml", "--save", "m.safetensors")
    assert_same("m.safetensors", "../m.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 0", "c.toml: argument --epochs: '0' is not an integer"),
        ("epoch = 3", "c.toml: unrecognized arguments: --epoch=3"),
        ("epochs", "--config c.toml: "),
        ("hidden = [1.5]", "c.toml: argument --hidden: '1.5'"),
        ("epochs = {n = 1}", "c.toml: epochs is a dict; expected a string or number"),
        ("resume = true", "c.toml: resume is an option of a call"),
        ("data-dir = 'é'", "--config c.toml: 'utf-8' codec"),
    ],
)
def test_a_config_that_is_wrong(capsys, home, text, message):
    Path("c.toml").write_text(text, encoding="latin-1")
    assert message in refusal(capsys, "train", "--config", "c.toml")


@pytest.mark.parametrize("value", ['a\x7f\n"\\é\U0001f600', 1e-05, 1e22, 0.1, True, [1, 2], 3])
def test_values_come_back_from_toml(value):
    assert tomllib.loads(f"x = {config._toml(value)}")["x"] == value


def test_pictures(capsys, home):
    pytest.importorskip("matplotlib")
    train(capsys, *TINY, "--plot", "curve.png", "--save", "m.safetensors")
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", "m.safetensors", "--plot", "matrix.svg"]) == 0
    assert "<svg" in Path("matrix.svg").read_text()
    line = refusal(capsys, "train", *TINY, "--plot", "curve.doc")
    assert "--plot curve.doc: expected a name that ends in ." in line


def test_no_matplotlib(capsys, home, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refusal(capsys, "train", *TINY, "--plot", "curve.png")
    assert '--plot needs matplotlib: pip install "xplayers[train]"' in line


# How it ends ----------------------------------------------------------------------------------


def test_interrupt(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "read", interrupt)
    assert main(["train", *TINY]) == 130
    assert capsys.readouterr().err == "xplayers: interrupted\n"


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_in_training_keeps_what_there_is(capsys, home, monkeypatch):
    class Interrupting(Log):
        def __call__(self, event):
            super().__call__(event)
            if event.kind == "step" and event.step == 50:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("xplayers.cli.train.Log", Interrupting)
    options = ("--log", "run.jsonl", "--checkpoint-dir", "run", "--save", "m.safetensors")
    assert main(["train", *TINY, *options]) == 130
    out, err = capsys.readouterr()
    assert err == "xplayers: interrupted; continue by the same command with --resume\n"
    assert "held out: loss" in out
    assert Path("run/step-000000050.safetensors").exists()
    monkeypatch.undo()
    os.chdir(home)
    train(capsys, *TINY, *options, "--resume")
    train(capsys, *TINY, "--save", "whole.safetensors")
    assert_same("m.safetensors", "whole.safetensors")


def test_a_closed_pipe_ends_it_quietly():
    arguments = [sys.executable, "-m", "xplayers", "train", "--backend", "numpy"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert b"xplayers" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: 4 GB"), "out of memory (RESOURCE_EXHAUSTED: 4 GB)"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "out of memory (CUDA); use a"),
        (OSError(28, "No space left on device", "m.safetensors"), "error: m.safetensors: No space"),
        (ValueError("two\n  lines"), "error: two lines\n"),
        (ImportError("needs tqdm: pip install tqdm"), "error: needs tqdm: pip install tqdm\n"),
        (ZeroDivisionError("a bug"), "error: ZeroDivisionError: a bug (with --debug: where)"),
    ],
)
def test_any_error_is_a_line(capsys, monkeypatch, error, words):
    def fail(*args):
        raise error

    monkeypatch.setattr(datasets, "read", fail)
    assert words in refusal(capsys, "train", *TINY)
    assert main(["train", *TINY, "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert words in err


def test_out_of_memory_in_training_names_options_of_the_command(capsys, monkeypatch):
    def fail(self, x, t):
        raise MemoryError("Unable to allocate 7 GiB")

    monkeypatch.setattr(xl.TrainStep, "__call__", fail)
    line = refusal(capsys, "train", *TINY)
    assert "out of memory (Unable to allocate 7 GiB); use a smaller --batch-size" in line
    assert "accumulate=" not in line


def test_a_warning_is_a_line(home):
    code = (
        "import xplayers as xl; from xplayers.cli import main\n"
        "def fail(self, *args, **kwargs): raise OSError('the disk is full')\n"
        "xl.Checkpoint.save = fail\n"
        f"raise SystemExit(main(['train', *{TINY}, '--checkpoint-dir', 'run']))"
    )
    ran = python("-c", code)
    assert ran.returncode == 0
    assert ran.stderr == (
        "xplayers: warning: Trainer: no checkpoint at step 90: the disk is full. "
        "Training continues.\n"
    )


def test_a_log_that_cannot_be_written_ends_no_run(capsys, home):
    class Losing(Log):
        def __call__(self, event):
            self.path = "run.jsonl" if event.kind == "begin" else "no/such/folder"
            super().__call__(event)

    history = xl.History()
    log = Losing("run.jsonl")
    for kind, row in (("begin", None), ("epoch", {"epoch": 1, "loss": 0.5})):
        log(xl.Event(kind, None, history, 1, 1, 1, None, row=row))
    assert "xplayers: warning: epoch 1 is not in the log: " in capsys.readouterr().err
