"""What the command standardises, and what it says of columns that are constant."""

import json

import numpy as np
import pytest
from commands import TINY, main

from xplayers import load_model
from xplayers.cli import datasets, models
from xplayers.models.model import from_metadata

pytestmark = pytest.mark.host

rng = np.random.default_rng(0)


def table(path, **columns):
    x = rng.normal(size=(60, 4))
    for i, value in columns.items():
        x[:, int(i[1:])] = value
    np.savez(path, x=x, t=np.arange(60) % 3)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"c1": 14.62}, "column 1 (from 0) of x is constant"),
        ({"c1": 14.62, "c3": 0.1}, "columns 1, 3 (from 0) of x are constant"),
    ],
)
def test_the_constant_columns_are_said(capsys, home, columns, words):
    table("own.npz", **columns)
    assert main(["train", *TINY, "--dataset", "own.npz", "--save", "m.safetensors"]) == 0
    err = capsys.readouterr().err
    assert err == f"xplayers: warning: own.npz: {words}, which is centred and not scaled\n"
    # A value beside the constant is as far away as it is, and not 1e13 times that.
    model = load_model("m.safetensors")
    x = np.full((1, 4), 0.0)
    x[0, 1] = 14.63
    assert abs(model.prepared(x)[0, 1]) == pytest.approx(0.01, abs=1e-5)


def test_many_constant_columns_are_counted(home):
    np.savez("own.npz", x=np.ones((60, 25)), t=np.arange(60) % 3)
    model = models.make("mlp", datasets.read("own.npz"), None, None)
    assert "7, 8, 9 and 15 more (from 0) of x are constant" in models.constants(model.standard)
    np.savez("own.npz", x=np.ones((60, 5, 5)), t=np.arange(60) % 3)
    model = models.make("mlp", datasets.read("own.npz"), None, None)
    assert models.constants(model.standard) == "x is constant"
    again = from_metadata(json.loads(json.dumps({"model": model.metadata()})))
    assert again.metadata() == model.metadata()


def test_nothing_is_said_of_other_columns(capsys, home):
    table("own.npz")
    assert main(["train", *TINY, "--dataset", "own.npz"]) == 0
    assert capsys.readouterr().err == ""
