"""Every example as a notebook, in a kernel of its own: a cell may fail where the program does not.

The programs are tested at their full length in `test_examples.py`. Here what takes long is
shortened, and nothing is asserted about what is learned in that time.
"""

import importlib.util
import re
import shutil

import pytest
from helpers import ROOT
from test_examples import EXAMPLES, need

pytestmark = pytest.mark.host
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

SHORTER = {
    "convolutional_network": [("epochs, batch_size = 27, 32", "epochs, batch_size = 1, 500")],
    "generate_text": [
        ("steps=200", "steps=3"), ("i % 100 == 0", "i == steps"),
        ('"Alice was ", 200', '"Alice was ", 5'),
    ],
    "half_precision": [("range(10)", "range(1)")],
    "jax_sharded": [("epochs=5", "epochs=1")],
    "jax_step": [("range(20)", "range(1)")],
    "lstm_adds": [("steps = 800", "steps = 3"), ("n=500", "n=20")],
    "many_processes": [("epochs=10", "epochs=1")],
    "own_layer": [("range(40)", "range(2)")],
    "pytorch_module": [("range(8)", "range(1)"), ("epochs=8", "epochs=1")],
    "same_loop": [("epochs=30", "epochs=1")],
    "sklearn_digits": [("max_iter=60", "max_iter=3"), ("max_iter=30", "max_iter=2")],
    "small_gpt": [("steps, loss = 500", "steps, loss = 3"), ("range(300)", "range(3)")],
    "two_layer_network": [("iters_num = 0.1, 100, 5000", "iters_num = 0.1, 100, 20")],
}  # fmt: skip
WHOLE = {"book_layers", "export_onnx", "relu_derivative"}


def made(program):
    """Return the notebook that the page of a program offers."""
    path = ROOT / "docs" / "_ext" / "notebooks.py"
    spec = importlib.util.spec_from_file_location("notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.notebook(program)


def shorten(notebook, replacements):
    for old, new in replacements:
        found = [cell for cell in notebook.cells if old in cell.source]
        assert found, f"the program has no {old!r}"
        for cell in found:
            cell.source = cell.source.replace(old, new)
    for cell in notebook.cells:
        cell.source = re.sub(r"^( *)assert ", r"\1", cell.source, flags=re.M)


def test_every_example_is_tried():
    assert {p.stem for p in EXAMPLES} == WHOLE | {*SHORTER}


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda path: path.stem)
def test_the_notebook_of_an_example(program, home, monkeypatch):
    for module in re.findall(r"^import (\w+)", program.read_text(encoding="utf-8"), re.M):
        need(module)
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # the networks are small
        monkeypatch.setenv(threads, "1")
    (home / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "alice.txt", home / "examples")
    notebook = made(program)
    if program.stem in SHORTER:
        shorten(notebook, SHORTER[program.stem])
    resources = {"metadata": {"path": str(home)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    shown = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    print(shown)  # noqa: T201 - with `pytest -s` it is seen
    assert shown
