"""``python -m benchmarks``: see README.md."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    against,
    gate,
    machine,
    measure,
    memory,
    parallel,
    picture,
    profiling,
    report,
    resident,
    scaling,
)
from benchmarks.implementations import IMPLEMENTATIONS, LIMITS, NOT_QUICK
from benchmarks.workloads import WORKLOADS, Workload


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure xplayers.")
    p.add_argument("--list", action="store_true", help="list workloads and implementations")
    p.add_argument("--only", metavar="REGEX", help="the workloads whose name matches")
    p.add_argument("--implementations", metavar="REGEX", help="those whose name matches")
    p.add_argument(
        "--also",
        metavar="MODULE:CLASS",
        action="append",
        default=[],
        help="a further implementation, of the form benchmarks/implementations describes",
    )
    p.add_argument("--quick", action="store_true", help="two minutes; leaves out what is slow")
    report = p.add_mutually_exclusive_group()
    report.add_argument("--memory", action="store_true", help="instead, the peak memory of steps")
    report.add_argument(
        "--profile",
        action="store_true",
        help="instead, where the time of the steps of xplayers goes, call by call",
    )
    report.add_argument(
        "--scaling",
        metavar="PICTURE",
        type=Path,
        help="instead, how the time of a step grows, drawn there (.png, .svg, .pdf)",
    )
    report.add_argument(
        "--parallel",
        action="store_true",
        help="instead, a step in two processes beside one; needs an mpiexec",
    )
    report.add_argument(
        "--against",
        metavar="CHECKOUT",
        type=Path,
        help="instead, our rows beside those of another checkout of this repository, by turns: "
        f"status 1 if one takes more than {against.LIMIT} of the time",
    )
    report.add_argument(
        "--gate",
        metavar="FILE",
        type=Path,
        help="the JSON of an earlier run: status 1 if a row of ours is missing, or takes more than "
        f"{against.LIMIT} of its time then, divided by the same ratio of the peers. Times of two "
        "runs differ by the machine's noise, so measure the peers too; --against is more exact",
    )
    p.add_argument(
        "--rounds",
        type=int,
        help="turns of each worker (10; --quick: 2; --memory, --scaling, --parallel: 3; "
        "--against: 48)",
    )
    p.add_argument(
        "--seconds",
        type=float,
        help="length of a turn (0.3; --quick, --scaling: 0.1; --against: 0.05; --profile: 2)",
    )
    p.add_argument("--threads", type=int, default=machine.usable_cores(), help="for all libraries")
    p.add_argument("--json", metavar="PATH", type=Path, help="write the results there")
    return p


def selected(args: argparse.Namespace) -> list[Workload]:
    if args.memory or args.profile:
        usual = memory.WORKLOADS if args.memory else profiling.WORKLOADS
        names = "|".join(f"^{name}$" for name in usual)
        matching = [w for w in WORKLOADS if re.search(args.only or names, w.name)]
        return [w for w in matching if w.kind == "step"]
    if args.only:
        return [w for w in WORKLOADS if re.search(args.only, w.name)]
    return [w for w in WORKLOADS if not w.hidden and not (args.quick and w.slow)]


def implementations(args: argparse.Namespace) -> list[str]:
    if args.implementations:
        names = [n for n in IMPLEMENTATIONS | LIMITS if re.search(args.implementations, n)]
    elif args.memory:
        names = list(memory.IMPLEMENTATIONS)
    elif args.profile:
        names = list(profiling.IMPLEMENTATIONS)
    elif args.scaling:
        names = list(scaling.IMPLEMENTATIONS)
    elif args.against:
        names = [n for n in IMPLEMENTATIONS if n.startswith("xplayers")]
    else:
        names = [n for n in IMPLEMENTATIONS | LIMITS if not (args.quick and n in NOT_QUICK)]
    return names + args.also


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "gpu":
        from benchmarks.gpu import command

        return command.main(arguments[1:])
    args = parser().parse_args(arguments)
    if args.parallel:
        return parallel.main(args.rounds or 3)
    chosen, names = selected(args), implementations(args)
    if args.list:
        for w in chosen:
            print(f"{w.name:<30}{w.title}{' (not with --quick)' if w.slow else ''}")
        print(f"implementations: {', '.join(names)}")
        return 0
    if not chosen or not names:
        print("nothing to measure: see --list", file=sys.stderr)
        return 2
    if args.memory and not resident.measurable():
        print("--memory needs the /proc of Linux", file=sys.stderr)
        return 2
    if args.scaling and (problem := picture.problem(args.scaling)):
        print(f"--scaling: {problem}", file=sys.stderr)
        return 2
    if args.against and not (args.against / "xplayers" / "__init__.py").exists():
        print(f"--against: {args.against} has no xplayers in it", file=sys.stderr)
        return 2
    earlier = None
    if args.gate:
        try:
            earlier = gate.read(args.gate)
        except gate.Unreadable as error:
            print(f"--gate {args.gate}: {error}", file=sys.stderr)
            return 2
    short = args.quick or args.memory or args.scaling
    options: dict[str, Any] = {}
    if not args.profile:
        usual = 48 if args.against else 2 if args.quick else 3 if short else 10
        options["rounds"] = args.rounds or usual
    if not args.memory:
        usual = 0.05 if args.against else 0.1 if short else 2.0 if args.profile else 0.3
        options["seconds"] = args.seconds or usual
    if not (args.memory or args.profile or args.against):
        options["attempts"] = 1 if args.quick else 3
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.facts(args.threads),
        **options,
    }
    print(report.header(results), flush=True)
    options |= {"threads": args.threads, "say": _say}
    if args.memory:
        kind, table = "memory", memory.table
        entries = memory.entries(chosen, names, **options)
    elif args.profile:
        kind, table = "profile", profiling.table
        entries = profiling.entries(chosen, names, **options)
    elif args.scaling:
        kind, table = "scaling", scaling.table
        entries = scaling.entries(scaling.SERIES, names, **options)
    elif args.against:
        kind, table, options["checkout"] = "against", against.table, args.against.resolve()
        entries = against.entries(chosen, names, **options)
    else:
        kind, table = "workloads", report.table
        entries = measure.entries(chosen, names, fresh=not args.quick, **options)
    measured = results[kind] = {}
    for name, entry in entries:
        measured[name] = entry
        print(f"\n{table(name, entry)}", flush=True)
        _write(results, args.json)  # a run that is broken off has not been for nothing
    failed = any("failed" in entry or entry.get("slower") for entry in measured.values())
    if loaded := [name for name, entry in measured.items() if entry.get("beside_load")]:
        print(f"\nMEASURED BESIDE OTHER LOAD: {', '.join(loaded)}")
    if earlier is not None:
        rows = gate.compare(earlier, measured, names)
        for _ in range(gate.AGAIN):
            again = [w for w in chosen if w.name in gate.slower(rows)]
            for name, entry in measure.entries(again, names, fresh=True, **options):
                gate.add(measured[name], entry)
            rows = gate.compare(earlier, measured, names)
        results["gate"] = rows
        print(f"\n{gate.table(args.gate, rows)}")
        _write(results, args.json)
        failed = failed or gate.failed(rows)
    if args.scaling and not failed:
        picture.draw(measured, args.scaling)
    return int(failed)


def _write(results: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(results, indent=1) + "\n")


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
