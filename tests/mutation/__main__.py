"""Mutation testing: faults are put into the package one by one; which do the tests let pass?

`nox -s mutation` runs it. After `--` may follow a part of the package (`layers`, with the losses,
or `engine`: elementwise functions, recordings and replays), files of it (`layers/affine.py`) or
names of mutants, to try these alone, `--every=K`, to try each K-th mutant only, `--from=N`, to
begin with the N-th, `--again`, to try only those that have survived the last time, `--seconds=S`,
to give up on a mutant after tests that take so long, and `--xp=NAMES`, the libraries.

The mutants are those of mutmut, which writes all of them into a module, each as a function. The
tests are collected once, not for every mutant as `mutmut run` does. A mutant is tried in a fork of
that process, where its function gets its code, by the tests that come through that function, until
the first one fails. `build/` keeps the mutants of a file, and which tests come through which
function, until something changes.

Left out are mutants that change nothing but the words of an error, the `strict` of a `zip`,
which guards against mistakes of our own, and those of `equivalent.toml`, which change nothing that
can be seen; it says why.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import inspect
import itertools
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import textwrap
import threading
import tomllib
import traceback
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mutmut.mutation.trampoline as trampoline
import pytest
from mutants import BUILD, ROOT, digest, kept

RESULTS = BUILD / "results.jsonl"
LOOKED = BUILD / "looked.json"
EQUIVALENT = Path(__file__).with_name("equivalent.toml").resolve()


class Part(NamedTuple):
    """Files of the package, and the tests that have to find what is wrong with them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    libraries: str


PARTS = {
    "layers": Part(
        ("layers/*.py", "losses/*.py"),
        (
            "layers/test_*.py", "losses/test_*.py", "training/test_training.py",
            "functional/test_functional.py", "test_bad_input.py", "test_gradient_check.py",
        ),
        "numpy",
    ),
    "engine": Part(
        (
            "arrays/elementwise.py", "accelerate/operators.py", "accelerate/tape.py",
            "accelerate/host/elementwise.py",
            "accelerate/host/machine_code.py", "accelerate/host/program.py",
            "accelerate/host/roots.py", "accelerate/replay/*.py",
        ),
        ("arrays/test_elementwise*.py", "accelerate/host/test_*.py", "accelerate/replay/test_*.py"),
        "numpy,torch",
    ),
}  # fmt: skip

# What runs when the module is imported, before there is a mutant: it is run again.
AT_IMPORT = {"xplayers.accelerate.operators.x__give_operators"}

FUNCTIONS: dict[str, tuple[Any, dict[str, Any]]] = {}  # each with its mutants, by its name there


def unwrapped(mutants: dict[str, Any], is_classmethod: bool = False) -> Callable[[Any], Any]:
    """Take the place of mutmut's decorator, which looks at every call which mutant is meant."""

    def known(function: Any) -> Any:
        name = function.__qualname__
        name = f"xǁ{name.replace('.', 'ǁ')}" if "." in name else f"x_{name}"
        FUNCTIONS[f"{function.__module__}.{name}"] = function, mutants
        return function

    return known


def _import_all(mutants: Iterable[str]) -> None:
    """Import the modules of these mutants, of which some are imported where they are needed."""
    for module in sorted({name.rpartition(".")[0] for name in mutants}):
        importlib.import_module(module)
    lacking = {name.rpartition("__mutmut_")[0] for name in mutants} - FUNCTIONS.keys()
    if lacking:  # what cannot be put in would count as killed
        pytest.exit(f"mutants of unknown functions: {', '.join(sorted(lacking))}", returncode=1)


def activate(mutant: str) -> None:
    """Let a function be one of its mutants, in this process."""
    name = mutant.rpartition("__mutmut_")[0]
    function, mutants = FUNCTIONS[name]
    other = mutants[mutant.rpartition(".")[2]]
    function.__code__, function.__defaults__ = code_of(other, function), other.__defaults__
    function.__kwdefaults__ = other.__kwdefaults__
    forget()
    if name in AT_IMPORT:
        _undo(function)
        function()


def _undo(function: Any) -> None:
    """Take away the methods that a function has given to classes of its module."""
    classes = [c for c in vars(sys.modules[function.__module__]).values() if isinstance(c, type)]
    for each in classes:
        for name, value in list(vars(each).items()):
            if getattr(value, "__qualname__", "").startswith(f"{function.__qualname__}.<locals>"):
                delattr(each, name)


def code_of(mutant: Any, function: Any) -> types.CodeType:
    """Return the code of a mutant, in a class if its function is in one that it asks for."""
    if mutant.__code__.co_freevars == function.__code__.co_freevars:
        return mutant.__code__
    source = textwrap.indent(textwrap.dedent(inspect.getsource(mutant)), "    ")
    made: dict[str, Any] = {}
    exec(f"from __future__ import annotations\nclass _:\n{source}", {}, made)
    code = vars(made["_"])[mutant.__name__].__code__
    return code.replace(co_freevars=function.__code__.co_freevars)  # if it has no `super()` left


class Trials:
    """The plugin of pytest that tries every mutant instead of running the tests once."""

    def __init__(self, names: list[str], most: float, before: list[dict[str, Any]] | None) -> None:
        self.names, self.most = names, most
        self.before = before  # the results of the last run, if only its survivors are to be tried
        self.finished = False
        self.survivors: list[str] = []
        self.equivalent: list[str] = []
        self.failed = False
        self.kills: Counter[Any] = Counter()  # by test and function, test and module, and test

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            pytest.exit("the tests cannot be collected", returncode=1)
        _import_all(self.names)
        self._choose()
        gc.collect()
        gc.freeze()  # so that forks share what is there
        looked = self._look_at(session)
        seconds = [looked[item.nodeid][0] for item in session.items]
        through = defaultdict(list)
        for i, item in enumerate(session.items):
            for function in looked[item.nodeid][1]:
                through[function].append(i)
        with RESULTS.open("w") as results:
            for name in self.names:
                function = name.rpartition("__mutmut_")[0]
                everything = range(len(seconds)) if function in AT_IMPORT else ()
                tests = through.get(function, everything)
                tests = self._in_order(session, function, tests, seconds)
                spent = itertools.accumulate(seconds[i] for i in tests)
                tests = [i for i, until in zip(tests, spent, strict=True) if until < self.most]
                status, killer = self._forked(
                    lambda out, name=name, tests=tests: self._try(session, name, tests, out),
                    limit=10 + 5 * sum(seconds[i] for i in tests),
                )
                if killer:
                    self._count(int(killer), function)
                if not status:
                    self.survivors.append(name)
                verdict = "killed" if status else "survived" if tests else "not reached"
                by = session.items[int(killer)].nodeid if killer else ""
                row = {"mutant": name, "verdict": verdict, "status": status, "by": by}
                row |= {"diff": "" if status else difference(name)}
                print(json.dumps(row, ensure_ascii=False), file=results, flush=True)
        self.finished = True
        return True

    def _choose(self) -> None:
        """Leave out what changes nothing, and what the last run has killed."""
        if self.before is not None:
            alive = {(place(row["mutant"]), row["diff"]) for row in self.before if row["diff"]}
            places = {where for where, _ in alive}
            near = [n for n in self.names if place(n) in places]
            self.names = [n for n in near if (place(n), difference(n)) in alive]
        known = tomllib.loads(EQUIVALENT.read_text())["equivalent"]
        known = {(each["in"], each["old"], each["new"]) for each in known}
        places = {where for where, *_ in known}
        self.equivalent = [
            n for n in self.names if place(n) in places and (place(n), *changed(n)) in known
        ]
        self.names = [n for n in self.names if n not in set(self.equivalent)]

    def _in_order(
        self, session: pytest.Session, function: str, tests: Iterable[int], seconds: list[float]
    ) -> list[int]:
        """Return the tests that are likely to kill soon first."""
        module = function.rpartition(".")[0]
        subject = module.rpartition(".")[2].strip("_")

        def chance(i: int) -> float:
            kills = 4 * self.kills[i, function] + 2 * self.kills[i, module] + self.kills[i]
            near = 4 * session.items[i].path.name.startswith(f"test_{subject}")
            return (1 + kills + near) / (0.01 + seconds[i])

        return sorted(tests, key=lambda i: (-chance(i), i))

    def _count(self, test: int, function: str) -> None:
        for key in ((test, function), (test, function.rpartition(".")[0]), test):
            self.kills[key] += 1

    def _run(self, session: pytest.Session, i: int) -> bool:
        """Run one test and say whether it failed."""
        self.failed = False
        item = session.items[i]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return self.failed

    def _look_at(self, session: pytest.Session) -> dict[str, Any]:
        """Return for each test how long it takes, and which functions it comes through."""
        modules = sorted({function.__module__ for function, _ in FUNCTIONS.values()})
        package = digest(Path(str(sys.modules[name].__file__)) for name in modules)  # with mutants
        python = sorted(Path("tests").rglob("*.py"))
        others = [p for p in python if p.name[:5] != "test_" and "mutation" not in p.parts]
        files = {item.location[0] for item in session.items}
        states = {f: f"{package} {digest(others)} {digest([Path(f)])}" for f in files}
        looked: dict[str, Any] = json.loads(LOOKED.read_text()) if LOOKED.exists() else {}
        looked = {f: each for f, each in looked.items() if states.get(f) == each["state"]}
        known = {name for each in looked.values() for name in each["tests"]}
        new = [i for i, item in enumerate(session.items) if item.nodeid not in known]
        if new:
            status, found = self._forked(lambda out: self._look(session, new, out))
            if status:
                message = f"too many tests fail without any mutant, or it was killed: {status}"
                pytest.exit(message, returncode=1)
            for i, seen in zip(new, json.loads(found), strict=True):
                file = session.items[i].location[0]
                each = looked.setdefault(file, {"state": states[file], "tests": {}})
                each["tests"][session.items[i].nodeid] = seen
            LOOKED.write_text(json.dumps(looked, ensure_ascii=False))
        return {name: seen for each in looked.values() for name, seen in each["tests"].items()}

    def _look(self, session: pytest.Session, tests: list[int], out: int) -> int:
        """Run the tests without a mutant, and write which functions each comes through."""
        codes: set[Any] = set()

        def trace(frame: Any, event: str, arg: Any) -> None:
            codes.add(frame.f_code)

        threading.settrace(trace)
        of = {function.__code__: name for name, (function, _) in FUNCTIONS.items()}
        found, broken = [], 0
        for i in tests:
            forget()  # so that a function is not called by the first of its tests alone
            codes.clear()
            before = sum(os.times()[:2])
            sys.settrace(trace)
            failed = self._run(session, i)
            sys.settrace(None)
            if failed:
                name = session.items[i].nodeid
                print("left out, as it fails without any mutant:", name, file=sys.stderr)
                codes.clear()
                broken += 1
            found.append([sum(os.times()[:2]) - before, sorted(of[c] for c in codes if c in of)])
        if broken > len(session.items) // 20:
            return 1
        with os.fdopen(out, "w") as file:
            json.dump(found, file)
        return 0

    def _try(self, session: pytest.Session, name: str, tests: list[int], out: int) -> int:
        """Run `tests` with a mutant, and write which one has failed."""
        activate(name)
        for i in tests:
            if self._run(session, i):
                os.write(out, str(i).encode())
                return 1
        return 0

    def _forked(self, work: Callable[[int], int], limit: float = 0.0) -> tuple[int, bytes]:
        """Do `work` in a child, with a limit of seconds of CPU; return its status and output."""
        here, there = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                signal.setitimer(signal.ITIMER_PROF, limit)  # its signal ends the process, and
                signal.alarm(900 if limit else 0)  # so does this one, if the process only waits
                status = work(there)
            except BaseException:
                traceback.print_exc()  # as of a mutant that cannot even be put in
            finally:
                os._exit(status)
        os.close(there)
        with os.fdopen(here, "rb") as file:
            output = file.read()
        return os.waitpid(child, 0)[1], output


def forget() -> None:
    """Empty the caches of functions."""
    for module in [m for name, m in sys.modules.items() if name.startswith("xplayers.")]:
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def place(name: str) -> str:
    """Return where a mutant is, as one would say it: `_replay._Compiler.compiled`."""
    module, _, function = name.rpartition("__mutmut_")[0].rpartition(".")
    function = function.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    return f"{module.removeprefix('xplayers.')}.{function}"


def changed(name: str) -> tuple[str, str]:
    """Return the lines that a mutant changes, and those in their place."""
    lines = difference(name).splitlines()
    old, new = ([line[1:].strip() for line in lines if line[0] == sign] for sign in "-+")
    return " ".join(old), " ".join(new)


def difference(name: str) -> str:
    """Return the lines that a mutant changes."""
    function = name.rpartition(".")[2]
    original = re.sub(r"\d+$", "", function)
    _, mutants = FUNCTIONS[name.rpartition("__mutmut_")[0]]
    sources = [
        inspect.getsource(mutants[key]).replace(mutants[key].__name__, original).splitlines()
        for key in ("_mutmut_orig", function)
    ]
    lines = difflib.unified_diff(*sources, n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = {pattern: sorted(folder.glob(pattern)) for pattern in patterns}
    lacking = [pattern for pattern, paths in found.items() if not paths]
    if lacking:
        sys.exit(f"mutation: {folder} has no {', '.join(lacking)}; its files have moved.")
    return [path for paths in found.values() for path in paths]


def _option(arguments: list[str], name: str, default: float) -> str | float:
    return next((a.partition("=")[2] for a in arguments if a.startswith(f"{name}=")), default)


def main(arguments: list[str]) -> int:
    part = PARTS[next((a for a in arguments if a in PARTS), "layers")]
    libraries = [a for a in arguments if a.startswith("--xp")] or [f"--xp={part.libraries}"]
    every, first = int(_option(arguments, "--every", 1)), int(_option(arguments, "--from", 0))
    most = float(_option(arguments, "--seconds", math.inf))
    asked = [a for a in arguments if not a.startswith("--") and a not in PARTS]
    BUILD.mkdir(parents=True, exist_ok=True)
    again = "--again" in arguments
    before = list(map(json.loads, RESULTS.read_text().splitlines())) if again else None
    # Threads that wait for work of others take the time of the tests.
    trampoline.wrap_in_trampoline = unwrapped
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    names = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("xplayers", "tests"):
            shutil.copytree(ROOT / name, Path(folder, name))
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        sys.path.insert(0, folder)
        for path in matching(ROOT / "xplayers", part.files):
            file = path.relative_to(ROOT)
            module = ".".join(file.with_suffix("").parts)
            if asked and not any(str(file).endswith(a) or module in a for a in asked):
                continue
            code, found = kept(path)
            file.write_text(code)
            found = [f"{module}.{name}" for name in found]
            names += [n for n in found if not asked or n in asked or str(file)[9:] in asked]
        names = names[first::every]
        chosen = list(map(str, matching(Path("tests"), part.tests)))
        options = ["-q", "-s", "-p", "no:cacheprovider", "--assert=plain", "--tb=no", *libraries]
        trials = Trials(names, most, before)
        pytest.main([*options, *chosen], plugins=[trials])
        if trials.finished:
            report(trials.names, trials.survivors, len(trials.equivalent))
    return 0 if trials.finished else 1


def report(names: list[str], survivors: list[str], equivalent: int) -> None:
    print()
    for name in survivors:
        print(name, difference(name), sep="\n", end="\n\n")
    for module in dict.fromkeys(name.rpartition(".")[0] for name in names):
        n, alive = (sum(x.startswith(f"{module}.x") for x in each) for each in (names, survivors))
        print(f"{module:35} {n - alive:5} of {n:5} killed, {(n - alive) / max(n, 1):7.1%}")
    n, alive = len(names), len(survivors)
    print(f"{'all':35} {n - alive:5} of {n:5} killed, {(n - alive) / max(n, 1):7.1%}")
    print(f"Besides, {equivalent} change nothing that can be seen.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
