"""Mutation testing: faults are put into the package one by one; which do the tests let pass?

`nox -s mutation` runs it. After `--` may follow a part of the package (`layers`, with the losses,
or `engine`: elementwise functions, recordings and replays), files of it (`layers/affine.py`) or
names of mutants, to try these alone, `--every=K`, to try each K-th mutant only, `--seconds=S`,
to give up on a mutant after tests that take so long, and `--xp=NAMES`, the libraries.

The mutants are those of mutmut, which writes all of them into a module, each behind a switch. The
tests are collected once, not for every mutant as `mutmut run` does. A mutant is tried in a fork of
that process, by the tests that come through its function, until the first one fails.

Left out are mutants that change nothing but the words of an error, and the `strict` of a `zip`,
which guards against mistakes of our own.
"""

from __future__ import annotations

import difflib
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
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import libcst as cst
import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "mutation.jsonl"


class Part(NamedTuple):
    """Files of the package, and the tests that have to find what is wrong with them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    libraries: str


PARTS = {
    "layers": Part(
        ("layers/*.py", "losses/*.py"),
        (
            "layers", "losses", "convolution", "pooling", "normalization", "sequences", "shell",
            "review", "bad_input", "training", "functional", "gradient_check",
        ),
        "numpy",
    ),
    "engine": Part(
        (
            "elementwise.py", "_flat.py", "_groups.py", "_jit.py", "_places.py", "_recording.py",
            "_replay.py", "_roots.py", "_tape.py", "_trace.py", "training/replays.py",
        ),
        ("elementwise*", "roots", "jit", "groups", "places", "replay*", "flat*"),
        "numpy,torch",
    ),
}  # fmt: skip

# mutmut passes over functions with decorators. Of those here, the first change nothing at run
# time, and the others can be written as a call under the function.
BARE, CALLS = {"final"}, {"property", "elementwise", "staticmethod", "functools.cache"}

# What runs when the module is imported, before there is a mutant: it is run again.
AT_IMPORT = {"xplayers._recording.x__give_operators"}

# What words an error: `raise`, what is assigned to these variables, and these arguments of checks.
MESSAGES = {"message", "hint"}
CHECKS = re.compile("check|namespace|per_axis|geometry|filter_size|zip")
NAMES = {"self", "owner", "name", "like_name", "fix", "strict"}


class _Undecorated(cst.CSTTransformer):
    """Take off the decorators that are known here."""

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> Any:
        kept, after = [], []
        name = updated_node.name.value
        for each in updated_node.decorators:
            decorator = cst.Module([]).code_for_node(each.decorator)
            if decorator in CALLS:
                after.insert(0, cst.parse_statement(f"{name} = {decorator}({name})"))
            elif decorator not in BARE:
                kept.append(each)
        return cst.FlattenSentinel([updated_node.with_changes(decorators=kept), *after])


class _Words(cst.CSTVisitor):
    """Collect the nodes that only word an error."""

    def __init__(self) -> None:
        self.found: set[cst.CSTNode] = set()

    def visit_Raise(self, node: cst.Raise) -> None:
        self._all_of(node)

    def visit_Assign(self, node: cst.Assign) -> None:
        target = node.targets[0].target
        if isinstance(target, cst.Name) and target.value in MESSAGES:
            self._all_of(node)

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        if isinstance(node.target, cst.Name) and node.target.value in MESSAGES:
            self._all_of(node)

    def visit_Call(self, node: cst.Call) -> None:
        for i, argument in enumerate(node.args if _checks(node) else ()):
            if _is_name(i, argument, node):
                self._all_of(argument)

    def _all_of(self, node: cst.CSTNode) -> None:
        self.found.add(node)
        for child in node.children:
            self._all_of(child)


def _checks(node: cst.CSTNode) -> bool:
    """Whether it is a call of a function that takes names for its errors."""
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Name):
        return False
    return CHECKS.search(node.func.value) is not None


def _is_name(i: int, argument: cst.Arg, call: cst.Call) -> bool:
    """Whether an argument is there for errors: the owner, which is the first one, or a name."""
    value, keyword = argument.value, argument.keyword
    if keyword is not None:
        return keyword.value in NAMES
    if isinstance(value, cst.Name) and value.value in NAMES:
        return True
    owned = isinstance(call.func, cst.Name) and call.func.value not in ("zip", "namespace")
    return isinstance(value, cst.SimpleString) or (i == 0 and owned)


def _unnames(original: cst.CSTNode, changed: cst.CSTNode) -> bool:
    """Whether a mutant only takes such arguments away."""
    return (
        _checks(original)
        and isinstance(changed, cst.Call)
        and all(
            _is_name(i, a, original) for i, a in enumerate(original.args) if a not in changed.args
        )
    )


def mutated(path: Path) -> tuple[str, list[str]]:
    """Return the source of a module with all mutants in it, and their names there."""
    from mutmut.mutation.file_mutation import combine_mutations_to_source, create_mutations

    source = cst.parse_module(path.read_text()).visit(_Undecorated()).code
    tree, mutations, *ignored = create_mutations(str(path), source)
    words = _Words()
    tree.visit(words)
    kept = [
        m
        for m in mutations
        if m.original_node not in words.found and not _unnames(m.original_node, m.mutated_node)
    ]
    result = combine_mutations_to_source(tree, kept, *ignored)
    return result.code, list(result.mutant_names)


class Trials:
    """The plugin of pytest that tries every mutant instead of running the tests once."""

    def __init__(self, names: list[str], most: float) -> None:
        self.names, self.most = names, most
        self.finished = False
        self.survivors: list[str] = []
        self.failed = False
        self.kills: Counter[int] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            pytest.exit("the tests cannot be collected", returncode=1)
        status, found = self._forked(lambda out: self._look(session, out))
        if status:
            pytest.exit("too many tests fail without any mutant", returncode=1)
        seconds, through = json.loads(found)
        with RESULTS.open("w") as results:
            for name in self.names:
                function = name.rpartition("__mutmut_")[0]
                everything = range(len(seconds)) if function in AT_IMPORT else ()
                tests = through.get(function, list(everything))
                # first what has killed others, then what is quick
                tests.sort(key=lambda i: (-self.kills[i], seconds[i]))
                spent = itertools.accumulate(seconds[i] for i in tests)
                tests = [i for i, until in zip(tests, spent, strict=True) if until < self.most]
                status, killer = self._forked(
                    lambda out, name=name, tests=tests: self._try(session, name, tests, out),
                    limit=10 + 5 * sum(seconds[i] for i in tests),
                )
                if killer:
                    self.kills[int(killer)] += 1
                if not status:
                    self.survivors.append(name)
                verdict = "killed" if status else "survived" if tests else "not reached"
                changes = "" if status else difference(name)
                row = {"mutant": name, "verdict": verdict, "status": status, "diff": changes}
                print(json.dumps(row, ensure_ascii=False), file=results, flush=True)
        self.finished = True
        return True

    def _run(self, session: pytest.Session, i: int) -> bool:
        """Run one test and say whether it failed."""
        self.failed = False
        item = session.items[i]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return self.failed

    def _look(self, session: pytest.Session, out: int) -> int:
        """Run the tests without a mutant, and write which of them come through each function."""
        from mutmut.state import state

        os.environ["MUTANT_UNDER_TEST"] = "stats"
        seconds, through, broken = [], defaultdict(list), 0
        for i, item in enumerate(session.items):
            state()._stats.clear()
            before = sum(os.times()[:2])
            if self._run(session, i):  # it looks at what the switches of the mutants add
                print(f"left out, as it fails without any mutant: {item.nodeid}", file=sys.stderr)
                state()._stats.clear()
                broken += 1
            seconds.append(sum(os.times()[:2]) - before)
            for function in state()._stats:
                through[function].append(i)
        if broken > len(seconds) // 20:
            return 1
        with os.fdopen(out, "w") as file:
            json.dump([seconds, through], file)
        return 0

    def _try(self, session: pytest.Session, name: str, tests: list[int], out: int) -> int:
        """Run `tests` with a mutant, and write which one has failed."""
        os.environ["MUTANT_UNDER_TEST"] = name
        function = name.rpartition("__mutmut_")[0]
        if function in AT_IMPORT:
            module, _, function = function.rpartition(".")
            vars(sys.modules[module])[function.removeprefix("x_")]()
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
            finally:
                os._exit(status)
        os.close(there)
        with os.fdopen(here, "rb") as file:
            output = file.read()
        return os.waitpid(child, 0)[1], output


def difference(name: str) -> str:
    """Return the lines that a mutant changes."""
    module, _, function = name.rpartition(".")
    original = re.sub(r"\d+$", "", function)
    mutants = vars(sys.modules[module])["mutants_" + original.removesuffix("_")]
    sources = [
        inspect.getsource(mutants[key]).replace(mutants[key].__name__, original).splitlines()
        for key in ("_mutmut_orig", function)
    ]
    lines = difflib.unified_diff(*sources, n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _option(arguments: list[str], name: str, default: float) -> str | float:
    return next((a.partition("=")[2] for a in arguments if a.startswith(f"{name}=")), default)


def main(arguments: list[str]) -> int:
    part = PARTS[next((a for a in arguments if a in PARTS), "layers")]
    libraries = [a for a in arguments if a.startswith("--xp")] or [f"--xp={part.libraries}"]
    every = int(_option(arguments, "--every", 1))
    most = float(_option(arguments, "--seconds", math.inf))
    asked = [a for a in arguments if not a.startswith("--") and a not in PARTS]
    RESULTS.parent.mkdir(exist_ok=True)
    names = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("xplayers", "tests"):
            shutil.copytree(ROOT / name, Path(folder, name))
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        sys.path.insert(0, folder)
        for path in matching(ROOT / "xplayers", part.files):
            place = path.relative_to(ROOT)
            module = ".".join(place.with_suffix("").parts)
            if asked and not any(str(place).endswith(a) or module in a for a in asked):
                continue
            code, found = mutated(path)
            place.write_text(code)
            found = [f"{module}.{name}" for name in found]
            names += [n for n in found if not asked or n in asked or str(place)[9:] in asked]
        names = names[::every]
        tests = matching(Path("tests"), [f"test_{name}.py" for name in part.tests])
        chosen = list(map(str, tests))
        options = ["-q", "-s", "-p", "no:cacheprovider", "--assert=plain", "--tb=short", *libraries]
        trials = Trials(names, most)
        pytest.main([*options, *chosen], plugins=[trials])
        if trials.finished:
            report(names, trials.survivors)
    return 0 if trials.finished else 1


def report(names: list[str], survivors: list[str]) -> None:
    print()
    for name in survivors:
        print(name, difference(name), sep="\n", end="\n\n")
    for module in dict.fromkeys(name.rpartition(".")[0] for name in names):
        n, alive = (sum(x.startswith(f"{module}.x") for x in each) for each in (names, survivors))
        print(f"{module:35} {n - alive:5} of {n:5} killed, {(n - alive) / max(n, 1):7.1%}")
    n, alive = len(names), len(survivors)
    print(f"{'all':35} {n - alive:5} of {n:5} killed, {(n - alive) / max(n, 1):7.1%}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
