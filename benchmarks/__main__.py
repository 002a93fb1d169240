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

from benchmarks import machine, measure, report
from benchmarks.implementations import IMPLEMENTATIONS, NOT_QUICK
from benchmarks.pool import WorkerFailed
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
    p.add_argument("--rounds", type=int, help="turns of each worker (15; with --quick 3)")
    p.add_argument("--seconds", type=float, help="length of a turn (0.3; with --quick 0.1)")
    p.add_argument("--threads", type=int, default=machine.usable_cores(), help="for all libraries")
    p.add_argument("--json", metavar="PATH", type=Path, help="write the results there")
    return p


def selected(only: str | None, quick: bool) -> list[Workload]:
    if only:
        return [w for w in WORKLOADS if re.search(only, w.name)]
    return [w for w in WORKLOADS if not w.hidden and not (quick and w.slow)]


def implementations(pattern: str | None, also: Sequence[str], quick: bool) -> list[str]:
    names = [n for n in IMPLEMENTATIONS if re.search(pattern or "", n)]
    if quick and not pattern:
        names = [n for n in names if n not in NOT_QUICK]
    return names + list(also)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "gpu":
        from benchmarks.gpu import command

        return command.main(arguments[1:])
    args = parser().parse_args(arguments)
    chosen = selected(args.only, args.quick)
    names = implementations(args.implementations, args.also, args.quick)
    if args.list:
        for w in chosen:
            print(f"{w.name:<30}{w.title}{' (not with --quick)' if w.slow else ''}")
        print(f"implementations: {', '.join(names)}")
        return 0
    if not chosen or not names:
        print("nothing to measure: see --list", file=sys.stderr)
        return 2
    facts = machine.facts(args.threads)
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": facts,
        "rounds": args.rounds or (3 if args.quick else 15),
        "seconds": args.seconds or (0.1 if args.quick else 0.3),
        "attempts": 1 if args.quick else 3,
        "workloads": {},
    }
    print(report.header(results), flush=True)
    for workload in chosen:
        entry = _measured(workload, names, args.threads, results)
        results["workloads"][workload.name] = entry
        print(f"\n{report.table(workload.name, entry)}", flush=True)
        if args.json:  # after each workload: a run that is broken off has not been for nothing
            args.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any("failed" in entry for entry in results["workloads"].values()))


def _measured(
    workload: Workload, names: Sequence[str], threads: int, results: dict[str, Any]
) -> dict[str, Any]:
    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{workload.name}: {text}", end="\r", file=sys.stderr, flush=True)

    try:
        return measure.run(
            workload,
            names,
            threads=threads,
            rounds=results["rounds"],
            seconds=results["seconds"],
            attempts=results["attempts"],
            say=say,
        )
    except (measure.Disagreement, WorkerFailed) as error:
        return {"title": workload.title, "failed": str(error)}


if __name__ == "__main__":
    raise SystemExit(main())
