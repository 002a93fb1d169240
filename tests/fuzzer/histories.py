"""Cases: drawn, played in all worlds, and made small where something differs."""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fuzzer.batches import Kind, draw_kinds
from fuzzer.events import EVENTS
from fuzzer.libraries import bits, library
from fuzzer.networks import Network, Node, draw_network, pick, seed_of
from fuzzer.replays import Counting
from fuzzer.settings import LOSSES, Manner, draw_manner, draw_optimizer, draw_reduction
from fuzzer.worlds import WAYS, World
from xplayers.accelerate.host.machine_code import elements_before


@dataclasses.dataclass(frozen=True)
class Event:
    """A row of the table of events, and the seed of what is drawn in it."""

    row: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Case:
    """All of a history."""

    library: str
    dtype: str
    network: Network
    placed: bool  # whether the network is where its inputs are before the first one comes
    loss: str
    manner: Manner
    kinds: tuple[Kind, ...]
    seed: int  # of the options of loss, optimizer and reduction
    events: tuple[Event, ...]


def draw(name: str, seed: int, number: int) -> Case:
    """Return a case: the same for the same numbers."""
    rng = np.random.default_rng([seed, number])
    lib = library(name)
    dtype = pick(rng, *lib.dtypes)
    network = draw_network(rng)
    often = np.asarray([row.often for row in EVENTS.values()])
    rows = rng.choice(list(EVENTS), int(rng.integers(3, 25)), p=often / often.sum())
    return Case(
        name, dtype, network, bool(rng.random() < 0.5), pick(rng, *LOSSES),
        draw_manner(rng, name, dtype), draw_kinds(rng), seed_of(rng),
        tuple(Event(str(row), seed_of(rng)) for row in rows),
    )  # fmt: skip


def make(case: Case, way: str, folder: str) -> World:
    rng = np.random.default_rng(case.seed)
    world = World(way, library(case.library), case.network, case.dtype, case.placed)
    world.folder, world.kinds, world.manner = folder, case.kinds, case.manner
    world.scores = case.network.scores()
    loss = LOSSES[case.loss](rng, world.scores[-1])
    optimizer, reduce = draw_optimizer(rng), draw_reduction(rng)
    world.step = world.make_step(loss, optimizer, reduce, case.manner)
    return world


@dataclasses.dataclass
class Outcome:
    """What came of a case: the first difference, and what was counted."""

    wrong: str = ""
    event: int = -1  # where
    counts: Counter[str] = dataclasses.field(default_factory=Counter)


def play(case: Case) -> Outcome:
    """Play a case in all worlds, up to the first difference."""
    outcome = Outcome()
    ways = WAYS if case.manner.is_plain else WAYS[:2]
    with (
        np.errstate(all="warn", under="ignore"), tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(), Counting() as replays,
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        worlds = [make(case, way, folder) for way in ways]
        for i, event in enumerate(case.events):
            found = []
            for world in worlds:
                replays.of = world
                found.append(_happen(world, event))
            outcome.counts[event.row] += 1
            outcome.wrong = _difference(worlds, found)
            if outcome.wrong:
                outcome.event = i
                break
        auto = worlds[0]
        outcome.counts["steps taken"] = auto.taken
        outcome.counts["steps refused"] = auto.refused
        outcome.counts["steps replayed"] = auto.replayed
        outcome.counts["not finite"] = int(
            any(not np.isfinite(_host(a)).all() for a in auto.net.params.values())
        )
    return outcome


def _host(a: Any) -> Any:
    import xplayers as xl

    return xl.to_numpy(a).astype("float64")


def _happen(world: World, event: Event) -> Any:
    """Return what an event returns, or the error that it raises."""
    rng = np.random.default_rng(event.seed)
    if not EVENTS[event.row].still:
        world.computed.clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            return EVENTS[event.row].happen(world, rng)
        except Exception as error:
            world.traceback = traceback.format_exc()
            return error
        finally:
            # Of NumPy's warnings, without the name of the ufunc.
            world.warned = {str(w.message).partition(" in ")[0] for w in found}


def _difference(worlds: list[World], found: list[Any]) -> str:
    first, plain, *loop = worlds
    for world, value in zip(worlds, found, strict=True):
        if isinstance(value, AssertionError):
            return f"{world.way}: {value}"
        wrong = world.written()
        if wrong:
            return f"{world.way}: {wrong}"
    wrong = _values(found[0], found[1], "result", words=True)
    wrong = wrong or _states(first, plain)
    # Kernels of Numba do not warn.
    if not wrong and math.isinf(elements_before()) and first.warned != plain.warned:
        wrong = f"warnings are {first.warned} / {plain.warned}"
    if wrong:
        return f"auto / plain: {wrong}{_where(worlds, found)}"
    if loop and not (plain.apart and plain.dtype in ("float16", "bfloat16")):
        # The loop calls layers and losses by their shells, whose errors have other words.
        wrong = _values(found[1], found[2], "result", words=False) or _states(plain, loop[0])
        if wrong:
            return f"plain / loop: {wrong}{_where(worlds, found)}"
    return ""


def _where(worlds: list[World], found: list[Any]) -> str:
    """Return where errors have come from."""
    lines: list[str] = []
    for world, value in zip(worlds, found, strict=True):
        if isinstance(value, Exception):
            lines += [f"{world.way}:", *world.traceback.splitlines()[-12:]]
    return "\n" + "\n".join(lines) if lines else ""


def _values(a: Any, b: Any, name: str, *, words: bool) -> str:
    if isinstance(a, Exception) or isinstance(b, Exception):
        same = type(a) is type(b) and (not words or str(a) == str(b))
        return "" if same else f"{_short(a)} / {_short(b)}"
    if isinstance(a, list | tuple):
        return next(
            (w for i, (c, d) in enumerate(zip(a, b, strict=True))
             if (w := _values(c, d, f"{name}[{i}]", words=words))), "",
        )  # fmt: skip
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{name} has {sorted(a)} / {sorted(b)}"
        return _values([a[k] for k in sorted(a)], [b[k] for k in sorted(a)], name, words=words)
    if hasattr(a, "dtype") and hasattr(b, "dtype"):
        return "" if bits(a) == bits(b) else f"{name} is {a} / {b}"
    return "" if a == b or a != a else f"{name} is {_short(a)} / {_short(b)}"


def _short(a: Any) -> str:
    return f"{type(a).__name__}: {a}"[:400]


def _states(a: World, b: World) -> str:
    mine, other = a.snapshot(), b.snapshot()
    if b.way == "loop":
        # A step that is refused may have brought weights of the loss to where the parameters are.
        for one, two in ((mine, other), (other, mine)):
            for name in [n for n in one if n.startswith("loss ") and n not in two]:
                del one[name]
    if mine.keys() != other.keys():
        return f"only one has {sorted(mine.keys() ^ other.keys())[:4]}"
    wrong = [name for name in mine if mine[name] != other[name]]
    if not wrong:
        return ""
    seen = "; ".join(_shown(n, mine[n], other[n]) for n in wrong[:3])
    return f"{len(wrong)} of {len(mine)} arrays differ: {seen}"


def _shown(name: str, a: Any, b: Any) -> str:
    if not isinstance(a, tuple) or not isinstance(b, tuple) or a[:2] != b[:2]:
        return f"{name} is {str(a)[:60]} / {str(b)[:60]}"
    dtype = a[0] if a[0] != "bfloat16" else "float32"
    one, two = (np.frombuffer(v[2], dtype) for v in (a, b))
    far = np.nanmax(np.abs(one.astype("float64") - two.astype("float64")), initial=0.0)
    first = (
        np.flatnonzero(
            one.view("uint8").reshape(one.size, -1) != two.view("uint8").reshape(one.size, -1)
        )[0]
        // one.itemsize
    )
    return f"{name} ({a[0]}{list(a[1])}) by {far:.3g}, as {one[first]!r} / {two[first]!r}"


def told(case: Case) -> str:
    """Return a case in words."""
    world = make(case, "plain", "")
    step = world.step
    return "\n".join([
        f"{case.library}, {case.dtype}, placed={case.placed}, {case.manner}",
        f"samples {case.network.shape} -> {world.scores}, integers={world.builder.integers}",
        repr(world.net), repr(step.loss), repr(step.optimizer), f"reduce: {step.reduce_grads}",
        *map(str, case.kinds), *(f"{e.row} (seed {e.seed})" for e in case.events),
    ])  # fmt: skip


def sort(wrong: str) -> str:
    """Return what sort of difference it is: its words up to the first number."""
    return re.split(r"\d", wrong, maxsplit=1)[0]


def shrink(case: Case, differs: Callable[[Case], bool], seconds: float = 60.0) -> Case:
    """Return a smaller case that differs too: events, layers and options are dropped."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for smaller in _smaller(case):
            if time.monotonic() > end:
                break
            if differs(smaller):
                case = smaller
                break
        else:
            break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    n = len(case.events)
    for size in (n // 2, n // 4, 2, 1):
        for i in range(0, n, max(size, 1)):
            if 0 < size < n:
                yield dataclasses.replace(case, events=case.events[:i] + case.events[i + size :])
    for nodes in _without(case.network.nodes):
        network = dataclasses.replace(case.network, nodes=nodes)
        yield dataclasses.replace(case, network=network)
    if not case.manner.is_plain:
        yield dataclasses.replace(case, manner=Manner())
    if len(case.kinds) > 1:
        for kind in case.kinds:
            yield dataclasses.replace(case, kinds=(kind,))
    for kind in case.kinds:
        simple = Kind(kind.n if kind.n < 3 else 3)
        if kind != simple:
            kinds = tuple(simple if k == kind else k for k in case.kinds)
            yield dataclasses.replace(case, kinds=kinds)
    if case.dtype != "float32":
        yield dataclasses.replace(case, dtype="float32")
    if case.network.width > 6:
        yield dataclasses.replace(case, network=dataclasses.replace(case.network, width=6))


def _without(nodes: tuple[Node, ...]) -> Iterator[tuple[Node, ...]]:
    for i, node in enumerate(nodes):
        if len(nodes) > 1:
            yield nodes[:i] + nodes[i + 1 :]
        for inside in _without(node.inside) if node.inside else ():
            yield (*nodes[:i], dataclasses.replace(node, inside=inside), *nodes[i + 1 :])
