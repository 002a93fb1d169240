"""First mistakes with files: those of networks, checkpoints, and their paths."""

import pytest

import xplayers as xl

pytestmark = pytest.mark.host

NET = xl.mlp([4, 5, 3], rng=0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"every_steps": 0}, ValueError, "every_steps is 0; expected a positive number"),
        ({"every_steps": -3}, ValueError, "every_steps is -3"),
        ({"every_steps": True}, TypeError, "every_steps is True"),
        ({"every_steps": 2.5}, TypeError, "every_steps is 2.5"),
        ({"every_steps": "10"}, TypeError, "every_steps is '10'"),
        ({"every_minutes": float("nan")}, ValueError, "every_minutes is nan"),
        ({"every_minutes": float("inf")}, ValueError, "every_minutes is inf"),
        ({"every_minutes": "1"}, TypeError, "every_minutes is '1'"),
        ({"every_minutes": True}, TypeError, "every_minutes is True"),
        ({"keep": 0}, ValueError, "keep is 0"),
        ({"keep": None}, TypeError, "keep is None"),
        ({"keep": 1.0}, TypeError, "keep is 1.0"),
        ({"folder": NET}, TypeError, "folder is "),
    ],
)
def test_checkpoint(options, error, words, tmp_path):
    with pytest.raises(error, match=f"Checkpoint: {words}"):
        xl.Checkpoint(**{"folder": tmp_path, **options})


def test_checkpoint_methods(tmp_path):
    checkpoint = xl.Checkpoint(tmp_path / "run")
    for call, error, words in (
        (lambda: checkpoint.save(NET, 3), TypeError, r"The order is save\(step, net\)"),
        (lambda: checkpoint.save(-1, NET), ValueError, "step is -1; expected 0 or more"),
        (lambda: checkpoint.save("3", NET), TypeError, "step is '3'"),
        (lambda: checkpoint.save(True, NET), TypeError, "step is True"),
        (lambda: checkpoint.save(1, xl.Relu), TypeError, r"Call the class: Relu\(\)"),
        (lambda: checkpoint.save(1, NET.params), TypeError, "Pass the network itself"),
        (lambda: checkpoint.restore("net"), TypeError, "net is a str; expected a layer"),
    ):
        with pytest.raises(error, match=words):
            call()
    assert not list(tmp_path.iterdir())


def test_save_and_load(tmp_path):
    path = tmp_path / "net.safetensors"
    xl.save(path, NET)
    for call, words in (
        (lambda: xl.save(NET, path), r"net is a \w*Path; .*The order is save\(path, net\)"),
        (lambda: xl.load(NET, path), r"The order is load\(path, net\)"),
        (lambda: xl.load(path), r"load: net is missing\. .* create the network by the same code"),
        (lambda: xl.load(path, xl.Relu), r"the class Relu; .*Call the class: Relu\(\)"),
        (lambda: xl.save(path, dict(NET.params)), "Pass the network itself, not its arrays"),
        (lambda: xl.load(path, NET, cast="yes"), "cast is 'yes'; expected True or False"),
        (lambda: xl.load(path, NET, verify=0), "verify is 0; expected True or False"),
        (lambda: xl.read_metadata(NET), "path is "),
        (lambda: xl.save(path, NET, "notes"), "metadata is a str; expected a dict"),
    ):
        with pytest.raises(TypeError, match=words):
            call()
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_an_empty_path_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: xl.save("", NET),
        lambda: xl.load("", NET),
        lambda: xl.Checkpoint(""),
        lambda: xl.History().to_jsonl(""),
        lambda: xl.data.read_idx(""),
        lambda: xl.data.load_mnist(""),
    ):
        with pytest.raises(ValueError, match="(path|folder) is empty; expected a path; '.' is the"):
            call()
    assert not list(tmp_path.iterdir())
