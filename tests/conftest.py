"""Run every test that takes `xpv` on every library that is there, or on those asked for by name."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import emulator
import pytest
from backends import BACKENDS, Variant, installed, variants
from selection import concerns_no_library, sample

collect_ignore = ["mutation", "book/volume1", "book/volume2"]  # no tests
collect_ignore_glob = ["*conftest.py"]  # by doctests, which want modules of names of their own

_passed: Counter[str] = Counter()
_files: set[str] = set()  # in the folder where the tests were started
_chosen: list[Variant] = []
_named: list[str] = []
_absent: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    names = ", ".join(b.name for b in BACKENDS)
    parser.addoption(
        "--xp",
        default="auto",
        help=f"libraries to test, separated by commas ({names}); 'auto': those that are there, "
        "'all': every one. A library asked for by name that cannot be used is an error.",
    )
    parser.addoption(
        "--emulated-gpu",
        nargs="?",
        type=int,
        const=0,
        metavar="SEED",
        help="let CuPy find emulated GPUs (tests/accelerate/cuda/emulator), slowly; "
        "--emulated-gpu=SEED: their streams get on with their work at random",
    )
    parser.addoption(
        "--sample",
        type=int,
        metavar="N",
        help="run at most N rows of each test on each library, but all rows of the tables "
        "of layers, losses and optimizers: where every shape is compiled anew",
    )


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--emulated-gpu")
    if seed is not None:
        emulator.install(seed=seed)
    asked = config.getoption("--xp")
    by_name = {b.name: b for b in BACKENDS}
    usual = [b.name for b in BACKENDS if not b.named]
    names = usual if asked in ("auto", "all") else asked.split(",")
    for name in names:
        if name not in by_name:
            message = f"--xp: there is no {name!r}; choose from {', '.join(by_name)}."
            raise pytest.UsageError(message)
        try:
            if asked == "auto" and not installed(by_name[name]):
                _absent.append(f"{name} (not installed)")
                continue
            _chosen.extend(variants(by_name[name]))
        except Exception as error:
            if asked == "auto":
                _absent.append(f"{name} ({error})")
                continue
            message = f"--xp={name}: cannot be used: {type(error).__name__}: {error}"
            raise pytest.UsageError(message) from error
    if asked != "auto":
        _named.extend(names)


def pytest_report_header() -> list[str]:
    return [
        "xp: " + ", ".join(v.name for v in _chosen),
        "NOT tested: " + (", ".join(_absent) or "nothing"),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "xpv" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("only")
        doubles = metafunc.definition.get_closest_marker("doubles")
        chosen = [
            v
            for v in _chosen
            if (marker is None or v.backend in marker.args) and (doubles or not v.doubles)
        ]
        metafunc.parametrize("xpv", chosen, ids=[v.name for v in chosen], indirect=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` asks for marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is of no library, and choose a sample.

    The tests of a row are kept in one process when they are distributed: JAX compiles per shape.
    """
    functions = [item for item in items if isinstance(item, pytest.Function)]
    for item in functions:
        if concerns_no_library(item):
            item.add_marker("host")
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        if case is not None:
            item.add_marker(pytest.mark.xdist_group(case.id))
    most = config.getoption("--sample")
    if most is not None:
        chosen = {id(item) for item in sample(functions, most)}
        left = [item for item in functions if id(item) not in chosen]
        config.hook.pytest_deselected(items=left)
        items[:] = [i for i in items if id(i) in chosen or not isinstance(i, pytest.Function)]


def pytest_collection_finish() -> None:
    gc.freeze()  # half a million objects that stay: a collection need not look through them


def pytest_sessionstart(session: pytest.Session) -> None:
    _files.update(os.listdir(session.config.invocation_params.dir))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail a test that leaves a file where the tests were started."""
    result = yield
    names = {*os.listdir(item.config.invocation_params.dir)} - _files
    _files.update(names)
    left = sorted(name for name in names if not name.startswith((".", "__pycache__")))
    if left:
        pytest.fail(f"left in the working directory: {', '.join(left)}; work in `home`")
    return result


@pytest.fixture
def xpv(request: pytest.FixtureRequest) -> Iterator[Variant]:
    variant = request.param
    with variant.context():
        yield variant


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _passed.update(v.backend for v in _chosen if f"[{v.name}" in report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workerinput"):  # of pytest-xdist, whose parent counts
        return
    if session.config.option.collectonly or session.testscollected == 0:
        return
    whole = not session.config.option.keyword and not session.config.option.file_or_dir
    silent = [name for name in _named if not _passed[name]]
    if exitstatus == 0 and whole and silent:
        print(f"\n--xp: no test passed on {', '.join(silent)}.")  # noqa: T201 - the report is over
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def two_threads(monkeypatch):
    """Let work be shared out between two threads, on any machine."""
    from xplayers.accelerate.host import threads

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        monkeypatch.setattr(threads, "usable_cores", lambda: 2)
        yield
