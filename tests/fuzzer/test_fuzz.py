"""Random histories of steps: the same bits from replays, from plain steps and from the loop."""

from __future__ import annotations

from collections import Counter

import pytest

import xplayers as xl
from fuzzer.histories import draw, play
from fuzzer.networks import LAYERS
from xplayers.accelerate.host import elementwise as host

SEED = 0
CASES = 40  # half a minute


@pytest.fixture(autouse=True)
def only_where_steps_are_replayed(xpv):
    if xpv.backend not in ("numpy", "torch") or xpv.name == "torch-cuda":
        pytest.skip("steps are replayed on NumPy, and PyTorch on the CPU")


def play_all(numbers, xpv, jit):
    """Play cases; return the counts."""
    counts = Counter()
    for number in numbers:
        outcome = play(draw(xpv.backend, SEED, number))
        which = f"--library {xpv.backend} --jit {jit} --seed {SEED} --case {number}"
        assert not outcome.wrong, f"{outcome.wrong}\npython tests/fuzzer {which}"
        counts += outcome.counts
    return counts


@pytest.mark.parametrize("first", range(0, CASES, 10))
def test_histories(first, xpv):
    counts = play_all(range(first, first + 10), xpv, jit=0)
    assert counts["steps replayed"] > counts["steps taken"] / 4  # else nothing is compared


@pytest.mark.only("numpy")
def test_histories_with_kernels_of_numba(xpv, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(host, "elements_before", lambda: 0)
    play_all(range(CASES, CASES + 4), xpv, jit=1)


def test_the_table_has_every_layer():
    names = [n for n in xl.__all__ if isinstance(getattr(xl, n), type)]
    layers = {n for n in names if issubclass(getattr(xl, n), xl.Layer)}
    assert layers - {"Layer", "Container"} <= LAYERS.keys()
