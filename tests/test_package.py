"""The package as a whole: what it imports and names, and whether the papers beside it are true."""

import ast
import os
import re
import sys
import tomllib
import types
from collections import Counter
from pathlib import Path

import pytest
from helpers import ROOT, TESTS, python

import xplayers as xl
from xplayers import gradient_check, layers, losses, metrics, optimizers, training

PACKAGE = ROOT / "xplayers"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def words_of(code):
    """Run `code` in a new interpreter on this package, and return the words it prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(xl.__file__).parents[1])}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling is no part of an import
    run = python("-c", code, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


# What is imported


def test_import_loads_no_array_library_but_numpy():
    libraries = ("torch", "jax", "jaxlib", "cupy", "array_api_strict", "tensorflow", "scipy")
    loaded = words_of("import sys, xplayers; print(*{m.partition('.')[0] for m in sys.modules})")
    assert "numpy" in loaded
    assert not set(libraries) & set(loaded)


def test_import_loads_no_part_of_numpy_that_numpy_leaves():
    """`numpy.ma` alone took as long to import as a fifth of the package."""
    parts = "*{m for m in sys.modules if m.startswith('numpy')}"
    ours = set(words_of(f"import sys, xplayers; print({parts})"))
    assert ours == set(words_of(f"import sys, numpy; print({parts})"))


def test_import_is_quick():
    """It takes some 35 ms on top of NumPy; a busy machine makes both slower."""
    code = (
        "import time; c = time.process_time\n"
        "start = c(); import numpy; middle = c(); import xplayers; end = c()\n"
        "print(middle - start, end - middle)"
    )
    times = [[float(t) for t in words_of(code)] for _ in range(5)]
    numpy, ours = (min(column) for column in zip(*times, strict=True))
    print(f"import xplayers: {1e3 * ours:.0f} ms on top of {1e3 * numpy:.0f} ms")  # noqa: T201
    assert ours < 0.05 or ours < 0.6 * numpy


def test_what_few_use_is_imported_when_it_is_used():
    code = (
        "import sys, xplayers; print('xplayers.schedules' in sys.modules); "
        "from xplayers import *; print(schedules.__name__)"
    )
    assert words_of(code) == ["False", "xplayers.schedules"]


def module_name(path):
    """Return `layers.base` for layers/base.py, and `layers` for layers/__init__.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(p): p for p in PACKAGE.rglob("*.py")}
# Imported on demand, each the only module that imports these libraries.
DOORS = {"onnx": {"onnx", "ndonnx"}, "sklearn": {"sklearn"}}


def floors():
    """Return the floor of each folder and of each file beside them, as ARCHITECTURE.md says."""
    rows = re.findall(r"^\| (`\w+`(?: `\w+`)*) \|", read("ARCHITECTURE.md"), re.M)
    return {name: i for i, row in enumerate(rows) for name in re.findall(r"`(\w+)`", row)}


def imported(node):
    """Return the modules of the package that an import statement asks for."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif node.level:
        pytest.fail("a relative import; the package names its modules in full")
    else:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        if name.partition(".")[0] == "xplayers":
            module = name.removeprefix("xplayers").removeprefix(".")
            # a module, or a name from a module
            yield module if module in FILES else module.rpartition(".")[0] or "__init__"


def statements(path, at_import_time=False):
    """Return the import statements of a file; those in functions run when they are needed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    later = {n for f in functions for n in ast.walk(f)} if at_import_time else set()
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return [n for n in imports if n not in later]


def test_imports_point_downwards():
    floor = floors()
    tops = {module.partition(".")[0] for module in FILES} - {"__init__", "__main__", ""}
    assert tops == set(floor)
    for module, path in FILES.items():
        top = module.partition(".")[0]
        if top in ("__init__", "__main__", ""):
            continue
        for node in statements(path):
            for other in {name.partition(".")[0] for name in imported(node)} - {top}:
                allowed = floor[other] <= floor[top] if other in floor else top in ("book", "cli")
                assert allowed, f"{module}, line {node.lineno}: imports {other}"


def test_the_package_needs_numpy_and_array_api_compat_only():
    for module, path in FILES.items():
        for node in statements(path, at_import_time=True):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            tops = {name.partition(".")[0] for name in names}
            needed = {"xplayers", "numpy", "array_api_compat"}
            needed |= DOORS.get(module.partition(".")[0], set())
            assert tops <= sys.stdlib_module_names | needed, f"{path.name}, line {node.lineno}"


# What is named


def test_all_is_exactly_the_public_names():
    public = {
        name
        for name, value in vars(xl).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    modules = {n for n in xl.__all__ if isinstance(getattr(xl, n), types.ModuleType)}
    assert set(xl.__all__) - modules == public
    assert modules == {"data", "functional", "initializers", "schedules"}


def test_all_is_sorted_and_names_nothing_twice():
    """Names in capitals, classes, functions: the order that `ruff` makes."""

    def key(name):
        return not name.isupper(), not name[0].isupper(), name

    assert xl.__all__ == sorted(set(xl.__all__), key=key)


@pytest.mark.parametrize("module", [layers, losses, optimizers, metrics, gradient_check, training])
def test_what_a_module_offers_the_package_offers(module):
    assert set(module.__all__) <= set(xl.__all__)


# The papers


def test_the_reference_lists_every_layer_loss_and_optimizer():
    table = read("docs/reference/index.md").partition("## What there is\n")[2]
    named = set(re.findall(r"`(\w+)`", table))
    kinds = (xl.Layer, xl.Loss, xl.Optimizer)
    classes = {n for n, v in vars(xl).items() if isinstance(v, type) and issubclass(v, kinds)}
    assert classes <= named
    assert named <= set(xl.__all__)


def test_the_version_is_one():
    project = tomllib.loads(read("pyproject.toml"))
    assert "version" not in project["project"]  # it is read from xplayers/__init__.py
    assert project["tool"]["hatch"]["version"]["path"] == "xplayers/__init__.py"
    assert re.search(r"^version: (.+)$", read("CITATION.cff"), re.M)[1] == xl.__version__
    assert re.search(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.M)[1] == xl.__version__


def test_ci_runs_the_test_command_of_the_readme():
    (command,) = re.findall(r"<!-- test -->\n```sh\n(.+)\n```", read("README.md"))
    lines = read(".ci/run").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    code = [line for line in lines if line and not line.startswith("#")]
    assert code == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', command]
    assert os.name == "nt" or os.access(ROOT / ".ci/run", os.X_OK)


def test_files_that_the_papers_name_exist():
    for paper in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        for name in re.findall(r"`((?:examples|tests|benchmarks|\.ci)/[\w./]*)`", read(paper)):
            assert (ROOT / name).exists(), f"{paper}: {name}"
    for name in re.findall(r"`(\w+\.py)`", read("README.md")):
        assert (ROOT / "examples" / name).exists(), f"README.md: {name}"
    pages = [p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")]
    for paper in ("README.md", *(p for p in pages if "/programs/" not in p)):
        folder = (ROOT / paper).parent
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[\w-]+)?\)", read(paper)):
            built = "programs/" in link  # made of an example when the pages are built
            assert built or (folder / link).exists(), f"{paper}: {link}"


def test_extras_and_groups_agree():
    """What a user installs is what the tests install, where both name a library."""
    project = tomllib.loads(read("pyproject.toml"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    assert extras["jax"] == groups["jax"]
    assert extras["cuda13"] == groups["cupy"]


def test_each_test_has_a_session_with_what_it_needs():
    """What the session of NumPy lacks, others have: for their library, or for tests they name."""
    sessions, libraries = read("noxfile.py"), {"array_api_strict", "torch", "jax", "cupy"}
    left_out = {"cudnn", "cupy", "nvmath", "xplayers"}  # of GPUs, and parts of the package
    for path in TESTS.rglob("test_*.py"):
        source = path.read_text(encoding="utf-8")
        needed = set(re.findall(r'importorskip\("(\w+)', source)) - left_out
        if "\npytestmark = pytest.mark.host\n" in source or "\n    pytest.mark.host,\n" in source:
            own_session = path.parent.name in ("onnx", "sklearn")
            assert own_session or not needed & libraries, f"{path}: is run without {needed}"
        if needed & {"sklearn", "pandas", "onnx", "keras", "transformers", "equinox", "flax"}:
            named = path.stem in sessions or f'"tests/{path.parent.name}"' in sessions
            assert named, f"{path}: no session has {needed}"


def test_the_tests_have_the_folders_of_the_package():
    """What `layers/affine.py` does is tested in `tests/layers/`; the fuzzer is a tool beside."""
    ours = {p.parent.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py")}
    tests = {p.parent.relative_to(TESTS) for p in TESTS.rglob("test_*.py")}
    assert {p.as_posix() for p in tests ^ ours} == {"fuzzer"}


def test_the_files_of_the_tests_have_names_of_their_own():
    """They are imported by name, from folders that all are on the path."""
    readers = TESTS / "book"  # whose scripts are run, in their own folders
    files = [p for p in TESTS.rglob("*.py") if readers not in p.parents or p.parent == readers]
    names = Counter(p.name for p in files)
    shared = {"__init__.py", "__main__.py", "conftest.py"}  # one a folder
    assert {name for name, n in names.items() if n > 1} <= shared


def test_mutants_without_effect_are_those_of_lines_that_are_there():
    file = TESTS / "mutation" / "equivalent.toml"
    for each in tomllib.loads(file.read_text(encoding="utf-8"))["equivalent"]:
        module = max((m for m in FILES if f"{each['in']}.".startswith(f"{m}.")), key=len)
        lines = [line.strip() for line in FILES[module].read_text(encoding="utf-8").splitlines()]
        assert each["old"] in lines, f"{each['in']} has no such line: {each['old']}"


def test_variables_are_called_by_what_they_are():
    """Each of these words says how a value came to be there, and fits every value."""
    empty = {"place", "found", "made", "given", "kept"}
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            written = isinstance(getattr(node, "ctx", None), ast.Store)
            names = {"arg": isinstance(node, ast.arg), "id": written, "attr": written}
            named = [getattr(node, k, "") for k, counts in names.items() if counts]
            assert not empty & {n.strip("_") for n in named}, f"{path}, line {node.lineno}"


def test_no_file_of_the_tests_is_long():
    """Over 500 lines it has two subjects."""
    for path in TESTS.rglob("*"):
        if path.suffix in (".py", ".h", ".cpp"):
            lines = path.read_text(encoding="utf-8").count("\n")
            assert lines <= 500, f"{path.relative_to(ROOT)} has {lines} lines; split it by subject"


def test_no_file_names_a_place_on_somebodys_machine():
    place = re.compile(r"(?<![\w.~])/(?:home|root|Users|tmp|work|opt)/")
    for folder in ("xplayers", "tests", "examples", "benchmarks", "docs", ".ci"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".json", "") and path.is_file():
                found = place.search(path.read_text(encoding="utf-8"))
                assert not found, f"{path.relative_to(ROOT)}: {found and found[0]}"
    for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "pyproject.toml", "noxfile.py"):
        assert not place.search(read(name)), name
