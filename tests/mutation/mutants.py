"""The mutants of a file: faults that mutmut puts into it, but for those that only word errors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import libcst as cst

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "mutation"

# mutmut passes over functions with decorators. Of those here, the first change nothing at run
# time, and the others can be written as a call under the function.
BARE, CALLS = {"final"}, {"property", "elementwise", "staticmethod", "functools.cache"}

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


def kept(path: Path) -> tuple[str, list[str]]:
    """Return what `mutated` returns, which takes a minute for all files."""
    file = BUILD / f"{path.stem}-{digest([path, Path(__file__)])[:16]}.json"
    if not file.exists():
        file.write_text(json.dumps(mutated(path), ensure_ascii=False))
    code, names = json.loads(file.read_text())
    return code, names


def digest(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()
