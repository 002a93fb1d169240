"""Random networks with random histories, trained in three ways that have to agree bit by bit.

    python tests/fuzz.py --library torch --seconds 600 --seed 3
    python tests/fuzz.py --library torch --seed 3 --case 17     # one case again, made small

`nox -s fuzz` runs it on NumPy and PyTorch, with Numba and without; see `fuzzer`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzzer.histories import Case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--library", choices=["numpy", "torch"], default="numpy")
    parser.add_argument("--jit", choices=["0", "1", ""], default="", help="XPLAYERS_JIT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this case alone")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cases", type=int, help="so many, however long they take")
    parser.add_argument("--most", type=int, default=20, help="end after so many failures")
    parser.add_argument("--without", default="", help="events to leave out, separated by commas")
    arguments = parser.parse_args()
    if arguments.jit:
        os.environ["XPLAYERS_JIT"] = arguments.jit
    if arguments.case is not None:
        return again(arguments)
    counts, failures = run(arguments)
    print(report(arguments, counts))
    return 1 if failures else 0


def command(a: argparse.Namespace, number: int) -> str:
    jit = f" --jit {a.jit}" if a.jit else ""
    return f"python tests/fuzz.py --library {a.library}{jit} --seed {a.seed} --case {number}"


def drawn(a: argparse.Namespace, number: int) -> Case:
    from fuzzer.histories import draw

    case, without = draw(a.library, a.seed, number), a.without.split(",")
    events = tuple(event for event in case.events if event.row not in without)
    return dataclasses.replace(case, events=events)


def run(a: argparse.Namespace) -> tuple[Counter[str], int]:
    from fuzzer.histories import play

    counts: Counter[str] = Counter()
    end, failures = time.monotonic() + a.seconds, 0
    for number in itertools.count() if a.cases is None else range(a.cases):
        if a.cases is None and time.monotonic() > end:
            break
        case = drawn(a, number)
        outcome = play(case)
        counts += outcome.counts
        counts["cases"] += 1
        if outcome.wrong:
            failures += 1
            kind = case.events[outcome.event].row
            print(f"{command(a, number)}\n    at {kind!r}: {outcome.wrong.splitlines()[0][:300]}",
                  flush=True)  # fmt: skip
            if failures >= a.most:
                break
    counts["failures"] = failures
    return counts, failures


def again(a: argparse.Namespace) -> int:
    from fuzzer.histories import play, shrink, sort

    case = drawn(a, a.case)
    outcome = play(case)
    if outcome.wrong:
        print(outcome.wrong)
        what = sort(outcome.wrong)
        at = outcome.event
        case = dataclasses.replace(case, events=case.events[: at + 1])
        case = shrink(case, lambda smaller: sort(play(smaller).wrong) == what)
        outcome = play(case)
        print("\nmade small:")
    print(told(case), outcome.wrong, sep="\n\n")
    return 1 if outcome.wrong else 0


def told(case: object) -> str:
    """Return a case in words."""
    import numpy as np

    from fuzzer.histories import make

    world = make(case, "plain", "")
    step = world.step
    lines = [
        f"{case.library}, {case.dtype}, placed={case.placed}, samples {case.network.shape}"
        f" -> {world.scores}, integers={world.builder.integers}, {case.manner}",
        repr(world.net), repr(step.loss), repr(step.optimizer), f"reduce: {step.reduce_grads}",
        *map(str, case.kinds), *(f"{e.row} (seed {e.seed})" for e in case.events),
    ]  # fmt: skip
    del np
    return "\n".join(lines)


def report(a: argparse.Namespace, counts: Counter[str]) -> str:
    head = ("cases", "failures", "steps taken", "steps replayed", "steps refused", "not finite")
    events = sorted((k, n) for k, n in counts.items() if k not in head)
    return (
        f"{a.library}, XPLAYERS_JIT={os.environ.get('XPLAYERS_JIT', '')}, seed {a.seed}: "
        + ", ".join(f"{counts[k]} {k}" for k in head)
        + "; events: " + ", ".join(f"{n} {k}" for k, n in events)
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
