"""Train random networks with random histories in three ways, which have to agree bit by bit.

    python tests/fuzzer --seconds 3600 --seed 3             # NumPy, PyTorch; with Numba, without
    python tests/fuzzer --library torch --jit 0 --seed 3    # one of the four
    python tests/fuzzer --library torch --jit 0 --seed 3 --case 17      # a case again, made small

`nox -s fuzz` is the first of them, for an hour. What differs is printed as a command of the last
form, and kept in build/fuzz.txt. The package `fuzzer` says what is drawn.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

TESTS = Path(__file__).resolve().parents[1]
sys.path[0] = str(TESTS)  # where the package `fuzzer` is

if TYPE_CHECKING:
    from fuzzer.histories import Case

RESULTS = TESTS.parent / "build" / "fuzz.txt"
KINDS = [(library, jit) for library in ("numpy", "torch") for jit in ("0", "1")]
STEPS = ("cases", "failures", "steps taken", "steps replayed", "steps refused", "not finite")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--library", choices=["numpy", "torch"])
    parser.add_argument("--jit", choices=["0", "1"], help="XPLAYERS_JIT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this case alone, of a library")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of all that is asked for")
    parser.add_argument("--most", type=int, default=20, help="end after so many failures")
    parser.add_argument("--without", default="", help="events to leave out, separated by commas")
    arguments = parser.parse_args()
    kinds = [
        (library, jit) for library, jit in KINDS
        if arguments.library in (None, library) and arguments.jit in (None, jit)
    ]  # fmt: skip
    if len(kinds) > 1 and arguments.case is None:
        return all_of(kinds, arguments)
    library, jit = kinds[0]
    os.environ["XPLAYERS_JIT"] = jit  # before the package is imported
    arguments.library, arguments.jit = library, jit
    if library == "torch":
        import torch

        torch.set_num_threads(1)  # arrays are small
    return fuzz(arguments) if arguments.case is None else again(arguments)


def all_of(kinds: list[tuple[str, str]], a: argparse.Namespace) -> int:
    """Run each in a process of its own, one after the other."""
    failed = 0
    for i, (library, jit) in enumerate(kinds):
        options = {
            "library": library, "jit": jit, "seed": a.seed + i, "seconds": a.seconds / len(kinds),
            "most": a.most, "without": a.without,
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        failed |= subprocess.run([sys.executable, __file__, *words], check=False).returncode
    return failed


def fuzz(a: argparse.Namespace) -> int:
    """Play one case after the other, until the time is over."""
    from fuzzer.histories import play

    counts: Counter[str] = Counter()
    end = time.monotonic() + a.seconds
    for number in itertools.count():
        if time.monotonic() > end or counts["failures"] >= a.most:
            break
        case = drawn(a, number)
        outcome = play(case)
        counts += outcome.counts
        counts["cases"] += 1
        if outcome.wrong:
            counts["failures"] += 1
            said = f"{case.events[outcome.event].row}: {outcome.wrong.splitlines()[0][:300]}"
            print(f"{command(a, number)}\n    {said}", flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a", encoding="utf-8") as file:
                print(f"{command(a, number)}  # {said}", file=file)
    print(report(a, counts), flush=True)
    return 1 if counts["failures"] else 0


def command(a: argparse.Namespace, number: int) -> str:
    without = f" --without {a.without!r}" if a.without else ""
    which = f"--library {a.library} --jit {a.jit} --seed {a.seed} --case {number}{without}"
    return f"python tests/fuzzer {which}"


def drawn(a: argparse.Namespace, number: int) -> Case:
    from fuzzer.histories import draw

    case, without = draw(a.library, a.seed, number), a.without.split(",")
    events = tuple(event for event in case.events if event.row not in without)
    return dataclasses.replace(case, events=events)


def again(a: argparse.Namespace) -> int:
    """Play one case, and where it fails make it small."""
    from fuzzer.histories import play, shrink, sort, told

    case = drawn(a, a.case)
    outcome = play(case)
    if outcome.wrong:
        print(outcome.wrong, "\nMade small:\n", sep="\n")
        what = sort(outcome.wrong)
        case = dataclasses.replace(case, events=case.events[: outcome.event + 1])
        case = shrink(case, lambda smaller: sort(play(smaller).wrong) == what)
        outcome = play(case)
    print(told(case), outcome.wrong or "No difference.", sep="\n\n")
    return 1 if outcome.wrong else 0


def report(a: argparse.Namespace, counts: Counter[str]) -> str:
    events = sorted((k, n) for k, n in counts.items() if k not in STEPS)
    return (
        f"{a.library}, XPLAYERS_JIT={a.jit}, seed {a.seed}: "
        + ", ".join(f"{counts[k]:,} {k}" for k in STEPS)
        + "\n    events: " + ", ".join(f"{n:,} {k}" for k, n in events)
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
