"""How algorithms are timed: replays of graphs, on a device of which the test says the times."""

from __future__ import annotations

import math

import pytest

from xplayers.accelerate.cuda import planner
from xplayers.accelerate.cuda.planner import fastest, milliseconds


class Event:
    def record(self):
        self.at = Cuda.now
        return self

    def synchronize(self):
        pass


class Stream:
    captured = None

    def __init__(self, non_blocking):
        assert non_blocking, "the null stream cannot capture"
        self.waits = 0

    def __enter__(self):
        Cuda.log.append("enter")

    def __exit__(self, *error):
        Cuda.log.append("exit")

    def wait_event(self, event):
        Cuda.log.append("wait")

    def begin_capture(self):
        Stream.captured = []

    def end_capture(self):
        made, Stream.captured = Graph(Stream.captured), None
        Cuda.graphs.append(made)
        return made


class Current:
    @staticmethod
    def record():
        return Event()


class Graph:
    def __init__(self, calls):
        self.calls, self.launches = calls, 0

    def launch(self):
        self.launches += 1
        Cuda.now += sum(self.calls)


class Cuda:
    """Where a call takes as long as it says, and one from Python a launch more."""

    Stream, Event = Stream, Event
    LAUNCH = 0.006
    now, log, graphs = 0.0, [], []

    @staticmethod
    def get_current_stream():
        return Current

    @staticmethod
    def get_elapsed_time(start, end):
        return end.at - start.at


@pytest.fixture(autouse=True)
def _times(monkeypatch):
    """As they are on a GPU: the emulator has others."""
    Cuda.now, Cuda.log, Cuda.graphs = 0.0, [], []
    for name, value in {"CALLS": 20, "ROUNDS": 5, "WARM": 20.0, "LONG": 1.0}.items():
        monkeypatch.setattr(planner, name, value)


def taking(time):
    def run():
        if isinstance(time, Exception):
            raise time
        if Stream.captured is None:
            Cuda.now += max(time, Cuda.LAUNCH)
        else:
            Stream.captured.append(time)

    return run


def test_short_functions_take_less_than_their_launches():
    times = milliseconds(Cuda, [taking(0.002), taking(0.003), taking(2.0)])
    assert times == pytest.approx([0.002, 0.003, 2.0])
    assert [len(graph.calls) for graph in Cuda.graphs] == [20, 20, 1]
    assert Cuda.log == ["wait", "enter", "exit"]


def test_the_clock_comes_up_first():
    milliseconds(Cuda, [taking(0.002), taking(0.004)])
    warm = math.ceil(20.0 / (20 * 0.006))
    assert Cuda.graphs[0].launches == warm + 5


@pytest.mark.parametrize(
    "error", [RuntimeError("status"), MemoryError(), ValueError("of bindings")]
)
def test_what_fails_takes_for_ever(error):
    assert milliseconds(Cuda, [taking(error), taking(0.5)]) == [math.inf, pytest.approx(0.5)]
    assert milliseconds(Cuda, [taking(error)]) == [math.inf]


def test_what_fails_in_a_capture_takes_for_ever():
    def run():
        if Stream.captured is not None:
            raise RuntimeError("not permitted when stream is capturing")

    assert milliseconds(Cuda, [run, taking(0.5)]) == [math.inf, pytest.approx(0.5)]
    assert Stream.captured is None


@pytest.mark.parametrize(
    ("times", "first"),
    [((3.0, 1.0, 2.0), "b"), ((1.029, 1.0, 2.0), "a"), ((1.04, 1.0, 0.99), "b"),
     ((math.inf, 2.0, math.inf), "b"), ((math.inf,) * 3, "a")],
)  # fmt: skip
def test_the_first_that_is_as_fast_as_any(times, first):
    assert fastest("abc", lambda: times) == first


def test_one_is_not_timed():
    assert fastest("a", lambda: pytest.fail("timed")) == "a"
