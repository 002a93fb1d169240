"""The printed tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def header(results: dict[str, Any]) -> str:
    facts = results["machine"]
    versions = dict(facts["versions"])
    blas = versions.pop("blas")
    parts = [f"{results['rounds']} rounds"] if "rounds" in results else []
    parts += [f"of {results['seconds']} s"] if "seconds" in results else []
    lines = [
        f"date      {results['date']}, {' '.join(parts)}",
        f"cpu       {facts['cpu']}, {facts['cores']} usable cores, {facts['system']}",
        f"threads   {facts['threads']} for every library; load at the start {facts['load']}",
        f"blas      {blas} (NumPy's)",
        f"versions  {', '.join(f'{name} {v}' for name, v in versions.items())}",
    ]
    if facts["removed_variables"]:
        removed = ", ".join(facts["removed_variables"])
        lines.append(f"removed   {removed} from the environment of the workers")
    return "\n".join(lines)


def table(name: str, entry: dict[str, Any]) -> str:
    text = titled(name, entry, _rows)
    return "\n".join([text, *load_lines(entry)])


def load_lines(entry: dict[str, Any]) -> Iterator[str]:
    """Say what share of the cores others took, and mark what was measured beside other load."""
    if entry.get("others"):
        share, most = entry["others"]["median"], entry["others"]["max"]
        yield f"  other processes took {share:.0%} of the cores, {most:.0%} at most"
    if entry.get("beside_load"):
        yield "  MEASURED BESIDE OTHER LOAD: do not believe differences of 10 %"


def titled(
    name: str, entry: dict[str, Any], rows: Callable[[dict[str, Any]], Iterator[str]]
) -> str:
    """Return the title of an entry and its rows, or why it failed."""
    lines = [f"  FAILED: {entry['failed']}"] if "failed" in entry else rows(entry)
    return "\n".join([f"{name}: {entry['title']}", *lines])


def _rows(entry: dict[str, Any]) -> Iterator[str]:
    if "microseconds" in entry:
        yield f"  {'us per layer and call':<28}{'median':>10}{'min':>10}{'quartiles':>22}"
        for name, row in entry["microseconds"].items():
            low, high = row["quartiles"]
            spread = f"{low:.2f} to {high:.2f}"
            yield f"  {name:<28}{row['median']:>10.2f}{row['min']:>10.2f}{spread:>22}"
        return
    yield (
        f"  {'':<22}{'median':>10}{'min':>10}{'quartiles':>22}"
        f"{'/ fastest peer':>16}{'book / this':>13}"
    )
    rows = entry["implementations"]
    for name in sorted(rows, key=lambda name: rows[name]["median"]):
        row = rows[name]
        low, high = row["quartiles"]
        spread = f"{duration(low)} to {duration(high)}"
        yield (
            f"  {name:<22}{duration(row['median']):>10}{duration(row['min']):>10}{spread:>22}"
            f"{_ratio(row, 'over_fastest_peer'):>16}{_ratio(row, 'book_over_this'):>13}"
        )
    for name, reason in entry["not_run"].items():
        yield f"  {name:<22}not run: {reason}"
    ratios = entry["ratios"]
    if ratios:
        text = (
            f"  {ratios['ours']} / {ratios['fastest_peer']} = "
            f"{ratios['ours_over_fastest_peer']:.2f}"
        )
        if "book_over_ours" in ratios:
            text += f"; book / {ratios['ours']} = {ratios['book_over_ours']:.2f}"
        yield text


def _ratio(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.2f}" if key in row else ""


def duration(seconds: float) -> str:
    if seconds >= 1.0:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
