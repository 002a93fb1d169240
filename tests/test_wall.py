"""The wall: the package is correct and complete without what accelerates it."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import pytest
from helpers import ROOT, TESTS, python

import xplayers as xl

PACKAGE = Path(xl.__file__).parent
SAMPLE = (  # of the table of layers
    "test_gradients_are_those_of_the_reference", "test_a_replay_gives_the_same_bits",
    "test_nan_in_nan_out", "test_jax_vjp_agrees_and_jit_is_equal",
)  # fmt: skip


def without_accelerate(folder):
    """Copy package and tests into a folder, but for `accelerate`; return what runs them there."""
    gone = shutil.ignore_patterns("accelerate", "cuda.py", "__pycache__")
    shutil.copytree(PACKAGE, folder / "xplayers", ignore=gone)
    shutil.copytree(TESTS, folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTEST_ADDOPTS": ""}
        command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
        return python(*command, cwd=folder, env=environment, timeout=None)

    return run


@pytest.mark.only("numpy", "strict", "torch", "jax")
def test_a_sample_of_the_table_passes_without_accelerate(xpv, tmp_path):
    run = without_accelerate(tmp_path)
    every = "Affine or Convolution or BatchNormalization or MaxPooling or Embedding or Dropout"
    if xpv.backend == "jax":  # which compiles each anew
        every = "Affine or BatchNormalization or MaxPooling"
    chosen = f"({every}) and ({' or '.join(SAMPLE)})"
    ran = run(f"--xp={xpv.backend}", "tests/layers/test_layers.py", "-k", chosen)
    assert ran.returncode == 0, ran.stdout[-5000:]
    assert " passed" in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("library", ["numpy", "strict", "torch", "jax"])
def test_the_whole_table_passes_without_accelerate(library, tmp_path):
    pytest.importorskip("array_api_strict" if library == "strict" else library)
    files = [f"tests/{name}/test_{name}.py" for name in ("layers", "losses", "optimizers")]
    own = ["-k", "not small_tensors_are_computed_by_numpy"]  # a test of an accelerator
    ran = without_accelerate(tmp_path)(f"--xp={library}", *files, *own)
    assert ran.returncode == 0, ran.stdout[-5000:]


def test_nobody_imports_what_accelerates():
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in ("accelerate", "cuda.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.startswith("xplayers.accelerate") for n in names), path


def test_portable_files_name_no_library():
    """But in the words of errors. What knows the libraries is in arrays/, accelerate/ and doors."""
    known = ("arrays", "accelerate", "cuda.py", "cli", "book", "_foreign.py")
    known += ("torch.py", "jax.py", "bridges", "onnx", "sklearn", "weights", "parallel")  # doors
    libraries = {"torch", "jax", "cupy", "dask", "array_api_strict", "array_api_compat.torch"}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in known:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            words += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            words += [node.value] if isinstance(node, ast.Constant) else []
            assert not libraries & {w for w in words if isinstance(w, str)}, (path, node.lineno)


@pytest.mark.parametrize("room", ["host", "replay", "cuda"])
def test_a_room_says_what_is_in_it(room):
    folder = PACKAGE / "accelerate" / room
    words = (folder / "README.md").read_text(encoding="utf-8")
    for path in folder.glob("*.py"):
        assert path.stem == "__init__" or f"`{path.name}`" in words or f"`{path.stem}`" in words, (
            path
        )
