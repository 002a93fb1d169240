"""``xplayers export``: a saved model as an ONNX file."""

import sys

import numpy as np
import pytest
from commands import TINY, main, own, refusal, train

import xplayers as xl

pytestmark = pytest.mark.host


@pytest.fixture
def model(home, capsys):
    own("own.npz", 60)
    train(capsys, *TINY, "--dataset", "own.npz", "--save", "m.safetensors")


@pytest.mark.usefixtures("model")
def test_the_file_computes_what_predict_writes(capsys):
    pytest.importorskip("onnx.checker")
    runtime = pytest.importorskip("onnxruntime")
    assert main(["export", "m.safetensors", "m.onnx"]) == 0
    out, err = capsys.readouterr()
    assert out == "saved in m.onnx: x (N, 6, 6), float32, to probabilities (N, 3)\n"
    assert not err
    x = np.load("own.npz")["x"].astype(np.float32)
    y = runtime.InferenceSession("m.onnx").run(["probabilities"], {"x": x})[0]
    np.testing.assert_allclose(y, xl.load_model("m.safetensors").predict_proba(x), atol=3e-6)
    assert main(["export", "m.safetensors", "m.onnx"]) == 0  # replaces what it has written
    with open("other.onnx", "wb") as file:
        file.write(b"of another program")
    line = refusal(capsys, "export", "m.safetensors", "other.onnx")
    assert "other.onnx: a file of that name exists, which is not such a result" in line


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m.safetensors", "m.pb"], "m.pb: expected a name that ends in .onnx"),
        (["m.safetensors", "none/m.onnx"], "cannot be written to none: there is no such folder"),
        (["own.npz", "m.onnx"], "own.npz is a zip archive, as .npz files are; expected a model"),
        (["nothing.safetensors", "m.onnx"], "nothing.safetensors: No such file"),
        (["m.safetensors"], "the following arguments are required: FILE.onnx"),
    ],
)
def test_what_cannot_be_exported(capsys, arguments, words):
    assert words in refusal(capsys, "export", *arguments)


@pytest.mark.usefixtures("model")
def test_without_onnx(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("xplayers.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    line = refusal(capsys, "export", "m.safetensors", "m.onnx").rstrip()
    assert line == 'xplayers: error: xplayers.onnx needs onnx: pip install "xplayers[onnx]"'
