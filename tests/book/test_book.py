"""A reader's scripts, run on these layers: what they print and learn is what their own code does.

The folders `volume1` and `volume2` are a reader's: layers written with loops after the book, and
scripts in its manner. On every library the losses are those of the reader's own code.
"""

import contextlib
import functools
import json
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from helpers import python

from xplayers.arrays import devices
from xplayers.book.__main__ import main

HERE = Path(__file__).parent
SCRIPTS = [str(p.relative_to(HERE)) for p in sorted(HERE.glob("volume?/ch/*.py"))]
STATE = "meta_path", "path", "argv"
on_devices = pytest.mark.only("numpy", "torch", "cupy")


def run(script, *options, folder, arguments=()):
    """Run a script in this process, and return its losses."""
    before, modules = {name: list(getattr(sys, name)) for name in STATE}, dict(sys.modules)
    losses = folder / "losses.json"
    try:
        assert main([*options, "--losses", str(losses), str(script), *arguments]) == 0
    finally:
        for name, values in before.items():
            getattr(sys, name)[:] = values
        for name in [n for n in sys.modules if n not in modules and _is_readers(sys.modules[n])]:
            del sys.modules[name]
        sys.modules["__main__"] = modules["__main__"]
        sys.path_importer_cache.pop("..", None)  # of the folder that the script has run in
    return json.loads(losses.read_text())[0]


def _is_readers(module):
    return str(HERE) in str(getattr(module, "__file__", ""))


@pytest.fixture
def run_on(xpv, tmp_path, monkeypatch):
    def run_it(script, *options):
        script = HERE / script
        monkeypatch.chdir(script.parent)
        arguments = [str(tmp_path / "params.pkl")]
        return run(script, "--on", xpv.backend, *options, folder=tmp_path, arguments=arguments)

    return run_it


@functools.cache
def own_losses(script):
    """Return the losses of a script with the reader's own code."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir((HERE / script).parent):
        arguments = [str(Path(folder, "params.pkl"))]
        return run(HERE / script, "--own", folder=Path(folder), arguments=arguments)


@on_devices
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_learns_what_it_does_with_the_readers_own_code(script, run_on, capsys):
    ours, own = run_on(script), own_losses(script)
    assert len(ours) == len(own) > 7
    np.testing.assert_allclose(ours, own, rtol=1e-9)
    said = capsys.readouterr().err
    assert "common.layers: " in said
    assert "of xplayers" in said


@on_devices
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_in_float32(script, run_on):
    if "two_layer" in script:
        pytest.skip("it compares with differences of 1e-4")
    np.testing.assert_allclose(run_on(script, "--dtype", "float32"), own_losses(script), rtol=2e-3)


def test_what_is_replaced_and_what_is_the_readers_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(HERE / "volume1/ch")
    run("two_layer_network.py", folder=tmp_path)
    out, err = capsys.readouterr()
    assert out.startswith("accuracy ")
    assert "common.functions: sigmoid, sigmoid_grad, relu, softmax, cross_entropy_error of" in err
    assert "yours: step" in err
    assert "SoftmaxWithLoss, BatchNormalization, Dropout, Convolution, Pooling of xplayers" in err
    assert "yours: Scale" in err
    assert "trainer" not in err


def test_both_ways_are_compared(tmp_path):
    shutil.copytree(HERE / "volume1", tmp_path / "book")
    folder = tmp_path / "book/ch"
    ran = python("-m", "xplayers.book", "--compare", "batch_normalization.py", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    first, *rows, last, seconds = ran.stdout.splitlines()
    assert first.split() == ["loss", "the", "book", "xplayers"]
    assert len(rows) == 10
    number, own, ours = rows[-1].split()
    assert int(number) == 36
    assert own == ours
    assert float(last.rpartition(": ")[2]) < 1e-10
    assert seconds.startswith("seconds: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["missing.py"], "there is no script missing.py"),
        (["--on", "mars", "two_layer_network.py"], "--on is 'mars'; expected numpy, cupy, torch"),
        (["--dtype", "float16", "two_layer_network.py"], "invalid choice: 'float16'"),
    ],
)
def test_what_cannot_be_run_is_an_error_of_one_sentence(options, words, monkeypatch, capsys):
    monkeypatch.chdir(HERE / "volume1/ch")
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert words in capsys.readouterr().err


def test_a_script_runs_from_any_folder_and_says_what_it_lacks(tmp_path):
    shutil.copytree(HERE / "volume1", tmp_path / "book")
    script = tmp_path / "book/ch/two_layer_network.py"
    seeded = "import numpy\nnumpy.random.seed(0)\n" + script.read_text(encoding="utf-8")
    script.write_text(seeded, encoding="utf-8")
    ran = python("-m", "xplayers.book", "book/ch/two_layer_network.py", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    shutil.copy(HERE / "volume1/ch/two_layer_network.py", tmp_path / "alone.py")
    ran = python("-m", "xplayers.book", "alone.py", cwd=tmp_path)
    assert ran.returncode == 1
    assert "needs the folder common of the book's repository, in its own folder" in ran.stderr


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_a_library_that_is_not_installed_is_named_with_its_command(library, monkeypatch, capsys):
    monkeypatch.chdir(HERE / "volume1/ch")
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main(["--on", f"{library}:0", "two_layer_network.py"])
    assert f'{library} is not installed: pip install "xplayers[' in capsys.readouterr().err


def test_a_script_without_the_books_modules_runs_as_it_is(tmp_path, capsys, monkeypatch):
    script = tmp_path / "alone.py"
    script.write_text("import sys\nprint(__name__, sys.argv[1:])\n", encoding="utf-8")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    run(script, folder=tmp_path, arguments=["--lr", "1"])
    out, err = capsys.readouterr()
    assert out == "__main__ ['--lr', '1']\n"
    assert "nothing was replaced" in err


def test_data_that_cannot_be_downloaded_are_said_with_where_they_go(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    script = tmp_path / "reads.py"
    script.write_text("from urllib.request import urlopen\nurlopen('http://localhost:1/mnist')\n")
    with pytest.raises(URLError) as error:
        main([str(script)])
    (note,) = error.value.__notes__
    assert "train-images-idx3-ubyte.gz" in note
    assert note.endswith("into the book's folder `dataset`.")
