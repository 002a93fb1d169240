"""What the pages of the documentation say; `nox -s docs` builds them and runs their code."""

import ast
import json
import re

import numpy as np
import pytest
from helpers import ROOT

import xplayers as xl
from xplayers import cli, cuda, data, functional, initializers, models, parallel, schedules, weights

DOCS = ROOT / "docs"
DOORS = ("onnx/__init__.py", "sklearn/__init__.py", "torch.py", "jax.py")
TABLES = sorted((DOCS / "coming-from").glob("*.md"))


def entries(page):
    """Return the names that a page of the reference documents."""
    text = (DOCS / "reference" / page).read_text(encoding="utf-8")
    return set(re.findall(r"^\.\. auto(?:class|function|data):: (\w+)", text, re.M))


def test_every_public_name_is_in_the_reference():
    documented = set().union(*(entries(p.name) for p in (DOCS / "reference").glob("*.md")))
    names = set(xl.__all__) - {"data", "functional", "initializers", "schedules"}
    for module in (functional, initializers, schedules, data, models, parallel, cuda, weights):
        names |= set(module.__all__)
    assert documented == names | names_of_doors()


def names_of_doors():
    """Return the names of modules that import a library, which need not be here."""
    names = set()
    for door in DOORS:
        code = (ROOT / "xplayers" / door).read_text(encoding="utf-8")
        names |= set(ast.literal_eval(re.search(r"^__all__ = (\[.+?\])", code, re.M | re.S)[1]))
    return names


WITHOUT_EXAMPLES = {
    "MPIGroup": "mpiexec has to start the processes",
    "NcclGroup": "mpiexec has to start the processes, and each has a GPU",
    "TorchGroup": "torchrun has to start the processes",
}


def with_examples():
    """Return module and name of all classes and functions that have examples for doctest."""
    for path in (ROOT / "xplayers").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                inits = [n for n in node.body if getattr(n, "name", "") == "init"]
                if any(">>> " in (ast.get_docstring(n) or "") for n in (node, *inits)):
                    yield module, node.name


def test_every_public_name_has_examples_that_run():
    modules = (xl, cli, cuda, data, functional, initializers, models, parallel, schedules, weights)
    public = {getattr(m, name) for m in modules for name in m.__all__} - {*modules}
    names = {(of.__module__, of.__name__) for of in public}
    for door in DOORS:
        for node in ast.parse((ROOT / "xplayers" / door).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                names |= {(node.module, alias.name) for alias in node.names}
    assert {name for _, name in names - {*with_examples()}} == {*WITHOUT_EXAMPLES}


def test_every_example_has_a_page_and_a_record():
    programs = {p.stem for p in (ROOT / "examples").glob("*.py")}
    recorded = json.loads((DOCS / "examples" / "recorded.json").read_text(encoding="utf-8"))
    index = (DOCS / "examples" / "index.md").read_text(encoding="utf-8")
    assert set(recorded) == programs
    assert set(re.findall(r"<programs/(\w+)>", index)) == programs


def snippets_of(page):
    """Return the right column of the tables of counterparts, in order."""
    table = re.search(r"^\| .+ \| xplayers \|\n\|---\|---\|\n((?:\|.+\n)+)", page, re.M)
    rows = [row.rsplit(" | ", 1)[1] for row in table[1].splitlines()]
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("page", [p for p in TABLES if p.stem != "index"], ids=lambda p: p.stem)
def test_the_tables_of_counterparts_run(page, tmp_path, monkeypatch):
    """Every snippet of the right column, in the order of the table."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((40, 64)).astype(np.float32), rng.integers(0, 10, 40)
    net, loss, optimizer = xl.mlp([64, 50, 10], rng=0), xl.SoftmaxWithLoss(), xl.Adam()
    names = {
        "xl": xl, "np": np, "x": x, "t": t, "x_val": x[:8], "t_val": t[:8],
        "net": net, "loss": loss, "optimizer": optimizer,
        "W": np.ones((64, 50), np.float32), "b": np.zeros(50, np.float32),
        "x64": x[:2, :4].astype(np.float64),
    }  # fmt: skip
    snippets = snippets_of(page.read_text(encoding="utf-8"))
    assert len(snippets) >= 20
    for code in snippets:
        exec(code, names)
