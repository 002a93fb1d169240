"""Which of the tests a session runs: what one session has shown, the others need not show again."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import zlib
from collections import defaultdict
from types import ModuleType

import pytest

LIBRARIES = re.compile(r"\b(array_api_strict|torch|jax|cupy)\b")


def concerns_no_library(item: pytest.Function) -> bool:
    """Whether a test takes no array of `xpv`, and neither it nor its file names a library."""
    if "xpv" in item.fixturenames:
        return False
    rest, tests = _parts(item.module)
    return not (rest or tests.get(item.function.__name__, True))


@functools.cache
def _parts(module: ModuleType) -> tuple[bool, dict[str, bool]]:
    """Return whether a library is named outside of the tests of a file, and in which of them."""
    source = inspect.getsource(module)
    tests, rest = {}, []
    for node in ast.parse(source).body:
        words = bool(LIBRARIES.search(ast.get_source_segment(source, node) or ""))
        decorated = [
            d for d in getattr(node, "decorator_list", []) if LIBRARIES.search(ast.dump(d))
        ]
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            tests[node.name] = words or bool(decorated)
        else:
            rest.append(words)
    return any(rest), tests


def sample(items: list[pytest.Function], most: int) -> list[pytest.Function]:
    """Return at most so many rows of each test and library, but all rows of the tables (`case`).

    Which ones, depends on their names alone.
    """
    rows: dict[tuple, list[pytest.Function]] = defaultdict(list)
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        # a row of a table, and what stands alone, are each the only one of their key
        alone = "case" in parameters or "xpv" not in parameters
        key = item.nodeid if alone else (item.path, item.originalname, parameters["xpv"].name)
        rows[item.cls, key].append(item)
    chosen = {
        item
        for group in rows.values()
        for item in sorted(group, key=lambda item: zlib.crc32(item.name.encode()))[:most]
    }
    return [item for item in items if item in chosen]
