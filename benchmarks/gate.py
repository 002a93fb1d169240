"""A run beside an earlier one: ``python -m benchmarks --gate FILE``.

The times of two runs are not compared as they stand: a shared machine is another one every hour.
All that are not ours and are in both runs say how much faster or slower it has become, the peers of
a row for the row, else those of all rows. What is asked is that no row of ours has become slower
than that by more than `LIMIT`. A workload that is slower is measured again, by new processes, and
the least times of all its runs count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.against import LIMIT

AGAIN = 2  # times

Entries = Mapping[str, Any]  # of the key "workloads" of the JSON


class Unreadable(Exception):
    """The file has no earlier run; the message says why."""


def read(path: Path) -> Entries:
    """Return the entries of an earlier run."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["workloads"]
        if not all(time > 0 for entry in entries.values() for time in _least(entry).values()):
            raise ValueError
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = "it is not the JSON of a run of times"
        raise Unreadable(message) from error
    return entries


def compare(earlier: Entries, now: Entries, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of ours: what has become of them, in `ratio`, and of their peers, `machine`.

    Parameters
    ----------
    earlier, now : mapping
        Entries of the two runs by workload.
    names : sequence of str
        Implementations that this run has been asked for. A row of theirs that only the earlier run
        has is `missing`.
    """
    everywhere, rows = [], {}
    changes = {name: _changes(earlier.get(name, {}), entry) for name, entry in now.items()}
    for name, entry in now.items():
        before, after = _least(earlier.get(name, {})), _least(entry)
        machine = [change for each, change in changes[name].items() if not _is_ours(each)]
        everywhere += machine
        for each in filter(_is_ours, [*before, *(name for name in after if name not in before)]):
            if each in changes[name]:
                beside = machine and median(machine)
                rows[f"{name}, {each}"] = {"change": changes[name][each], "machine": beside}
            elif each in names:
                state = "missing" if each in before else "new"
                rows[f"{name}, {each}"] = {"state": state}
    for row in rows.values():
        if "change" in row:
            row["machine"] = row["machine"] or (median(everywhere) if everywhere else None)
            row["ratio"] = row["change"] / (row["machine"] or 1.0)
            row["state"] = "slower" if row["ratio"] > LIMIT else "as before"
    return rows


def slower(rows: Mapping[str, dict[str, Any]]) -> set[str]:
    """Return the workloads that have slower rows."""
    return {name.partition(", ")[0] for name, row in rows.items() if row["state"] == "slower"}


def add(entry: dict[str, Any], again: Mapping[str, Any]) -> None:
    """Add a further run of a workload to its entry: the least times."""
    least = _least(again)
    for name, row in entry["implementations"].items():
        row["min"] = min(row["min"], least.get(name, row["min"]))


def failed(rows: Mapping[str, dict[str, Any]]) -> bool:
    """Say whether a row is slower or missing, or none has been compared."""
    states = {row["state"] for row in rows.values()}
    return bool(states & {"slower", "missing"}) or "as before" not in states


def table(path: Path, rows: Mapping[str, dict[str, Any]]) -> str:
    return "\n".join([f"beside {path}", *_lines(rows)])


def _lines(rows: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    yield f"  {'now / then':<52}{'time':>8}{'peers':>8}{'ratio':>8}"
    for name, row in rows.items():
        if "ratio" not in row:
            yield f"  {name:<52}{row['state']:>24}"
            continue
        machine = f"{row['machine']:.2f}" if row["machine"] else "none"
        mark = "  slower" if row["state"] == "slower" else ""
        yield f"  {name:<52}{row['change']:>8.2f}{machine:>8}{row['ratio']:>8.3f}{mark}"
    if not any("ratio" in row for row in rows.values()):
        yield "  No row of ours is in both runs."
    if any("ratio" in row and not row["machine"] for row in rows.values()):
        yield "  No peer is in both runs: the ratios are those of the times, and of the machine."


def _is_ours(name: str) -> bool:
    return name.startswith("xplayers")


def _least(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the least times of an entry; the shell's figures are differences, and not compared."""
    return {name: row["min"] for name, row in entry.get("implementations", {}).items()}


def _changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, float]:
    before, after = _least(earlier), _least(now)
    return {name: after[name] / before[name] for name in after if name in before}
