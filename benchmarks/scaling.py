"""How the time of a step grows: the figures of ``python -m benchmarks --scaling PICTURE``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import measure
from benchmarks.implementations import LIMITS
from benchmarks.measure import failures
from benchmarks.pool import Process, workers
from benchmarks.report import duration, titled
from benchmarks.workloads import Workload, step

IMPLEMENTATIONS = ("xplayers-numpy-step", "torch-eager", "jax", "book")


@dataclass(frozen=True)
class Series:
    """Steps of multilayer perceptrons of which one size grows."""

    name: str
    axis: str
    title: str
    sizes: tuple[int, ...]
    workload: Callable[[int], Workload]


SERIES = (
    Series(
        "width", "width of the layers", "3 affine layers, batch 128",
        (4, 16, 64, 256, 1024, 4096), lambda n: step(n, n, n, 10, batch=128),
    ),
    Series(
        "depth", "number of affine layers", "width 64, batch 128",
        (1, 4, 16, 64, 256), lambda n: step(64, *[64] * (n - 1), 10, batch=128, name=f"depth-{n}"),
    ),
    Series(
        "batch", "samples in the batch", "widths 784-256-256-10",
        (1, 4, 16, 64, 256, 1024, 8192), lambda n: step(784, 256, 256, 10, batch=n),
    ),
)  # fmt: skip


def entries(
    series: Sequence[Series],
    implementations: Sequence[str],
    *,
    threads: int,
    say: Callable[[str], None],
    **options: Any,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure each series, and yield its name and its entry of the JSON.

    The matrix products of a step, alone, are measured beside the step and by turns with it; the
    rest as in `measure.run`.
    """
    for each in series:
        with (
            failures(each.title) as entry,
            workers([*dict.fromkeys([*implementations, *LIMITS])], threads) as processes,
        ):
            entry |= {"axis": each.axis, "points": []}
            for size in each.sizes:
                say(f"{each.name} {size}")
                entry["points"].append({"size": size} | _point(each, size, processes, options))
        yield each.name, entry


def _point(each: Series, size: int, processes: Sequence[Process], options: Any) -> dict[str, Any]:
    entry = measure.run(each.workload(size), processes, **options)
    rows = {
        name: {key: row[key] for key in ("median", "min", "max", "quartiles", "rounds")}
        for name, row in entry["implementations"].items()
    }
    return {"others": entry["others"], "not_run": entry["not_run"], "implementations": rows}


def limit(point: dict[str, Any]) -> float:
    """Return the seconds of the matrix products alone, by the library that is faster at them."""
    rows = point["implementations"]
    return min(rows[name]["median"] for name in LIMITS if name in rows)


def table(name: str, entry: dict[str, Any]) -> str:
    return titled(name, entry, _rows)


def _rows(entry: dict[str, Any]) -> Iterator[str]:
    points = entry["points"]
    yield f"  {entry['axis']:<22}" + "".join(f"{point['size']:>10}" for point in points)
    for name in points[0]["implementations"]:
        times = (duration(point["implementations"][name]["median"]) for point in points)
        yield f"  {name:<22}" + "".join(f"{time:>10}" for time in times)
    for name, reason in points[0]["not_run"].items():
        yield f"  {name:<22}not run: {reason}"
