"""The picture of ``python -m benchmarks --scaling PICTURE``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from benchmarks.scaling import limit

# By Okabe and Ito: told apart by the colour-blind too; the markers tell them apart without colour.
STYLES = {
    "xplayers-numpy-step": ("#0072B2", "o"),
    "torch-eager": ("#D55E00", "s"),
    "jax": ("#009E73", "^"),
    "book": ("#CC79A7", "D"),
}
OTHERS = [("#E69F00", "v"), ("#56B4E9", "P"), ("#F0E442", "X"), ("#999999", "*")]
FORMATS = (".png", ".svg", ".pdf")


def problem(path: Path) -> str | None:
    """Say why no picture can be drawn there; it is asked before minutes of measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        return "a picture needs matplotlib: pip install matplotlib"
    if path.suffix not in FORMATS:
        return f"{path} does not end in one of {', '.join(FORMATS)}"
    return None if path.resolve().parent.is_dir() else f"there is no folder {path.parent}"


def draw(series: dict[str, Any], path: Path) -> None:
    """Draw the time of a step against each of the sizes, a panel for a series."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(series), 4.6), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
    for panel, entry in zip(panels, series.values(), strict=True):
        _draw_series(panel, entry)
    panels[0].set_ylabel("time of a training step with Adam [ms]")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(path)


def _draw_series(panel: Any, entry: dict[str, Any]) -> None:
    points = entry["points"]
    sizes = [point["size"] for point in points]
    more = iter(OTHERS)
    for name in points[0]["implementations"]:
        if name.startswith("products"):
            continue
        color, marker = STYLES.get(name) or next(more)
        rows = [point["implementations"][name] for point in points]
        low, high = ([row["quartiles"][i] * 1e3 for row in rows] for i in (0, 1))
        panel.plot(
            sizes, [row["median"] * 1e3 for row in rows], color=color, marker=marker, label=name
        )
        panel.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
    panel.plot(
        sizes,
        [limit(point) * 1e3 for point in points],
        "k--",
        label="matrix products of the step alone",
    )
    panel.set(xscale="log", yscale="log", xlabel=entry["axis"], title=entry["title"])
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
