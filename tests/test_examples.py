"""Every example, the loop of the README and the layer of its page, each in a new interpreter."""

import importlib.metadata
import importlib.util
import re

import pytest
from helpers import ROOT, python

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
(LOOP,) = re.findall(r"```python\n(.+?)```", README, re.S)
PAGE = (ROOT / "docs" / "learn" / "own-layer.md").read_text(encoding="utf-8")
LAYER = re.search(r"```\{code-cell\} ipython3\n(.+?)```", PAGE, re.S)[1]


def printed(*arguments):
    """Run Python with warnings as errors, show what it prints, and return it."""
    run = python("-W", "error", *arguments, cwd=ROOT)
    print(run.stdout + run.stderr)  # noqa: T201 - with `pytest -s` the figures are seen
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def need(module):
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None or spec.origin is None:  # a folder of tests may have its name
        pytest.skip(f"{module} is not installed")


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_example(script):
    for module in re.findall(r"^import (\w+)", script.read_text(encoding="utf-8"), re.M):
        need(module)
    assert printed(script)


@pytest.mark.parametrize("module", ["numpy", "torch", "jax.numpy"])
def test_the_loop_of_the_readme(module):
    need(module)
    assert LOOP in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert len([line for line in LOOP.splitlines() if line]) == 10
    code = LOOP.replace("import numpy as xp", f"import {module} as xp")
    accuracy = float(re.search(r"held-out digits: ([\d.]+)", printed("-c", code))[1])
    assert accuracy >= 0.95


def test_the_layer_of_its_page():
    assert "xl.check_gradients(" in LAYER
    printed("-c", LAYER)


def test_the_wheel_has_everything():
    """In the session `examples` of nox the package is installed as a wheel."""
    try:
        installed = importlib.metadata.files("xplayers")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("xplayers is not installed")
    if not any(file.as_posix() == "xplayers/__init__.py" for file in installed):
        pytest.skip("xplayers is installed in editable form")
    # Beside the bytecode of Python there is the machine code of Numba.
    ours = [f for f in installed if f.parts[0] == "xplayers" and "__pycache__" not in f.parts]
    shipped = {f.as_posix() for f in ours}
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "xplayers").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == there
    assert {"xplayers/py.typed", "xplayers/data/digits.npz"} <= shipped
