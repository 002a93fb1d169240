"""Where the command writes: checked before the work, and never over what is not its own."""

import os
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, assert_same, contents, main, refused, train, write_mnist

pytestmark = pytest.mark.host

TRAIN = ("train", *TINY, "--dataset", "own.npz", "--batch-size", "8")


def run(capsys, *arguments):
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


# Two files of one name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--save own.npz", "--save own.npz would overwrite own.npz, which is read"),
        ("--save ./own.npz", "would overwrite own.npz"),
        ("--save OWN.npz", "would overwrite own.npz"),
        ("--log own.npz", "--log own.npz would overwrite own.npz"),
        ("--save link", "--save link would overwrite own.npz"),
        ("--log hard", "--log hard would overwrite own.npz"),
        ("--save q --log q", "--save q and --log q are the same file; rename one"),
        ("--save q --log ../{here}/q", "are the same file"),
        ("--save q --log Q", "are the same file"),
        ("--save caf\u00e9 --log cafe\u0301", "are the same file"),
        ("--save q.png --plot q.png", "--save q.png and --plot q.png are the same file"),
        ("--log q.png --plot q.png", "are the same file"),
        ("--save new --log dangling", "are the same file"),
        ("--save q --log q.config.toml", "and q.config.toml (the options of the run) are the"),
        ("--save q.config.toml --log q", "are the same file"),
        ("--save run --checkpoint-dir run", "--save run conflicts with --checkpoint-dir run"),
        ("--log run --checkpoint-dir run/a/b", "conflicts with --checkpoint-dir run/a/b"),
        ("--save there/config.toml --checkpoint-dir there", "are the same file"),
        (
            "--save there/step-000000007.safetensors --checkpoint-dir there",
            "has the name of a checkpoint in --checkpoint-dir; rename it",
        ),
        ("--save there/Step-7.safetensors --checkpoint-dir there", "the name of a checkpoint"),
        ("--config c.toml --save c.toml", "--save c.toml would overwrite c.toml"),
        ("--config c.toml --log c.toml", "--log c.toml would overwrite c.toml"),
    ],
)
def test_files_that_would_destroy_each_other(capsys, data, arguments, words):
    os.symlink("own.npz", "link")
    os.symlink("new", "dangling")
    os.link("own.npz", "hard")
    Path("there").mkdir()
    Path("c.toml").write_text("epochs = 1\n")
    arguments = arguments.format(here=data.name).split()
    assert words in refused(capsys, *TRAIN, *arguments)


def test_what_is_read_is_not_written(capsys, data):
    run(capsys, *TRAIN, "--save", "m.safetensors")
    np.save("x.npy", np.zeros((4, 6, 6)))
    predict = ("predict", "m.safetensors", "x.npy")
    assert "would overwrite x.npy" in refused(capsys, *predict, "--output", "x.npy")
    shutil.copy("m.safetensors", "m.npy")
    line = refused(capsys, "predict", "m.npy", "x.npy", "--output", "m.npy")
    assert "--output m.npy would overwrite m.npy" in line
    line = refused(capsys, "evaluate", "m.safetensors", "--plot", "m.safetensors")
    assert "--plot m.safetensors would overwrite m.safetensors" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--save no/such", "--save no/such cannot be written to no: there is no such folder"),
        ("--save there", "--save there is a folder; expected a file name"),
        ("--log new/", "--log new/ is a folder"),
        ("--save=", "'' is not a file name"),
        ("--log fifo", "--log fifo is a pipe or a device; expected a file name"),
        ("--save /dev/null", "is a pipe or a device"),
        ("--checkpoint-dir own.npz", "--checkpoint-dir own.npz: own.npz is a file; expected a fo"),
        ("--checkpoint-dir own.npz/a", "own.npz is a file; expected a folder"),
    ],
)
def test_places_where_no_file_can_be(capsys, data, arguments, words):
    Path("there").mkdir()
    if os.name == "posix":
        os.mkfifo("fifo")
    assert words in refused(capsys, *TRAIN, *arguments.split())


def test_places_that_may_not_be_written(capsys, data, monkeypatch):
    """Asked of the system before the work; whoever is root may all."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for options in (("--save", "m"), ("--log", "m"), ("--checkpoint-dir", "run/a")):
        line = refused(capsys, *TRAIN, *options)
        assert f"{' '.join(options)} cannot be written to " in line
        assert ": permission denied" in line


# Files that are not one's own


@pytest.mark.parametrize("content", [b"my thesis", b"\x89PNG\r\n\x1a\n" + bytes(50), b"{}", b"\0"])
@pytest.mark.parametrize("option", ["--save", "--log", "--plot"])
def test_foreign_files_are_kept(capsys, data, option, content):
    Path("mine.png").write_bytes(content)
    line = refused(capsys, *TRAIN, option, "mine.png")
    assert f"{option} mine.png: a file of that name exists, which is not such" in line
    assert "use another name, or move it" in line


def test_predictions_are_not_written_over_labels(capsys, data):
    run(capsys, *TRAIN, "--save", "m.safetensors")
    np.save("x.npy", np.zeros((4, 6, 6)))
    for labels in (np.arange(4), np.asarray(list("abca")), np.zeros((4, 3), np.float32)):
        np.save("t.npy", labels)
        line = refused(capsys, "predict", "m.safetensors", "x.npy", "--output", "t.npy")
        assert "--output t.npy: a file of that name exists" in line
    line = refused(capsys, "evaluate", "m.safetensors", "--plot", "x.npy")
    assert "--plot x.npy: a file of that name" in line


def test_ones_own_results_are_replaced(capsys, data):
    pytest.importorskip("matplotlib")
    results = ("--save", "m.safetensors", "--log", "m.jsonl", "--plot", "m.png")
    run(capsys, *TRAIN, *results)
    first = contents()
    run(capsys, *TRAIN, *results, "--seed", "1")
    changed = {p.name for p, content in contents().items() if content != first[p]}
    assert changed == {"m.safetensors", "m.jsonl", "m.png", "m.config.toml"}
    np.save("x.npy", np.zeros((4, 6, 6)))
    for suffix in ("png", "svg", "pdf", "eps"):
        for _ in range(2):
            run(capsys, "evaluate", "m.safetensors", "--plot", f"e.{suffix}")
    for more in ((), ("--probabilities",), ()):
        run(capsys, "predict", "m.safetensors", "x.npy", "--output", "p.npy", *more)
    for name in ("new", "new.jsonl", "p.npy"):  # as mktemp makes them
        Path(name).write_bytes(b"")
    run(capsys, *TRAIN, "--save", "new", "--log", "new.jsonl")
    Path("new.jsonl").write_bytes(Path("new.jsonl").read_bytes()[:5])  # cut off by a full disk
    run(capsys, *TRAIN, "--save", "new", "--log", "new.jsonl")


@pytest.mark.parametrize("more", [(), ("--probabilities",)])
def test_predictions_are_a_file_as_all(capsys, data, more):
    run(capsys, *TRAIN, "--save", "m.safetensors")
    np.save("x.npy", np.zeros((4, 6, 6)))
    run(capsys, "predict", "m.safetensors", "x.npy", "--output", "p.npy", *more)
    predictions = np.load("p.npy")
    assert predictions.shape == ((4, 3) if more else (4,))
    assert np.load("p.npy", mmap_mode="r").tolist() == predictions.tolist()


# The options of a run


def test_each_run_has_options_of_its_own(capsys, data):
    for lr in ("0.1", "0.01"):
        run(capsys, *TRAIN, "--lr", lr, "--save", f"lr-{lr}")
    for lr in ("0.1", "0.01"):
        assert tomllib.loads(Path(f"lr-{lr}.config.toml").read_text())["lr"] == float(lr)
    run(capsys, *TRAIN, "--save", "net.small", "--log", "net.large")
    names = {"net.small.config.toml", "net.large.config.toml"}
    assert names <= set(os.listdir())
    run(capsys, *TRAIN, "--save", "net.safetensors", "--log", "net.jsonl")
    for name in ("net", "net.config.toml.safetensors"):  # whose options would be in one file
        if name == "net":
            line = refused(capsys, *TRAIN, "--save", name)
            assert "net.config.toml (the options of the run): that file belongs to ano" in line
        else:
            run(capsys, *TRAIN, "--save", name)
    run(capsys, *TRAIN, "--log", "net.jsonl")


def test_options_written_by_hand_are_kept(capsys, data):
    Path("m.config.toml").write_text("# mine\nepochs = 1\n")
    for options in (
        ("--save", "m.safetensors"),
        ("--log", "m.jsonl"),
        ("--config", "m.config.toml", "--save", "m.safetensors"),
    ):
        line = refused(capsys, *TRAIN, *options)
        assert "m.config.toml (the options of the run): that file belongs to another" in line
        assert "written or edited by hand; use another name, or move it" in line
    run(capsys, "train", "--config", "m.config.toml", "--dataset", "spiral", "--save", "n")
    Path("run").mkdir()
    Path("run/config.toml").write_text("epochs = 1\n")
    assert "run/config.toml" in refused(capsys, *TRAIN, "--checkpoint-dir", "run")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_of_files_that_are_no_text(capsys, data):
    """TOML cannot hold them; what can be, is repeated from the options."""
    name = os.fsdecode(b"caf\xe9\n.npz")
    os.rename("own.npz", name)
    arguments = ("train", *TINY, "--dataset", name, "--batch-size", "8")
    assert main([*arguments, "--save", os.fsdecode(b"m\xe9\n")]) == 0
    (path,) = Path().glob("*.config.toml")
    text = path.read_text()
    assert "# not UTF-8, pass it as an option: dataset" in text
    assert tomllib.loads(text)["batch-size"] == 8
    capsys.readouterr()
    run(capsys, "train", "--config", str(path), "--dataset", name, "--save", "n")
    assert_same(os.fsdecode(b"m\xe9\n"), "n")
    run(capsys, "evaluate", "n")


@pytest.mark.parametrize(("old", "new"), [("seed = 0", "seed = 7"), ("\n", "\r\n"), ("# ", "#")])
def test_options_changed_by_hand_are_kept(capsys, data, old, new):
    run(capsys, *TRAIN, "--save", "m.safetensors")
    path = Path("m.config.toml")
    path.write_bytes(path.read_text().replace(old, new).encode())
    line = refused(capsys, *TRAIN, "--save", "m.safetensors")
    assert "or was written or edited by hand" in line


def test_options_go_back_to_the_file_of_ours_that_they_came_from(capsys, data):
    run(capsys, *TRAIN, "--save", "m.safetensors")
    before = Path("m.config.toml").read_bytes()
    shutil.copy("m.safetensors", "first.safetensors")
    run(capsys, "train", "--config", "m.config.toml", "--save", "m.safetensors")
    assert Path("m.config.toml").read_bytes() == before
    assert_same("m.safetensors", "first.safetensors")
    run(capsys, "train", "--config", "m.config.toml", "--save", "m.safetensors", "--seed", "3")
    assert tomllib.loads(Path("m.config.toml").read_text())["seed"] == 3


def test_the_folder_of_a_data_set_may_have_its_name(capsys, data):
    """`digits` is a data set; as --data-dir it is a folder, of the same name from anywhere."""
    write_mnist(Path("digits"))
    options = ("--dataset", "mnist", "--data-dir", "digits", "--batch-size", "8")
    train(capsys, *TINY, *options, "--save", "m")
    config = tomllib.loads(Path("m.config.toml").read_text())
    assert config["data-dir"] == str(data / "digits")


# Homes


@pytest.mark.parametrize("option", ["save", "log", "plot", "checkpoint-dir"])
def test_a_tilde_is_a_home_where_no_shell_has_seen_it(capsys, data, monkeypatch, option):
    if option == "plot":
        pytest.importorskip("matplotlib")
    (data / "me").mkdir()
    monkeypatch.setenv("HOME" if os.name == "posix" else "USERPROFILE", str(data / "me"))
    run(capsys, *TRAIN, f"--{option}=~/a.png")
    assert (data / "me" / "a.png").exists()
    assert not Path("~").exists()


def test_a_tilde_in_what_is_read(capsys, data, monkeypatch):
    monkeypatch.setenv("HOME" if os.name == "posix" else "USERPROFILE", str(data))
    np.save("x.npy", np.zeros((4, 6, 6)))
    run(capsys, *TRAIN, "--save", "m.safetensors")
    Path("c.toml").write_text("dataset = '~/own.npz'\nsave = '~/n.safetensors'\nbatch-size = 8\n")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run(capsys, "train", *TINY, "--config", "~/c.toml")
    assert_same(data / "m.safetensors", data / "n.safetensors")
    run(capsys, "predict", "~/m.safetensors", "~/x.npy", "--output", "~/p.npy")
    run(capsys, "evaluate", "~/m.safetensors", "--dataset=~/own.npz")
    assert os.listdir() == []


def test_no_home(capsys, data, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda name: name)
    line = refused(capsys, *TRAIN, "--save=~/a")
    assert "~/a: there is no home directory; set HOME or pass an absolute path" in line
