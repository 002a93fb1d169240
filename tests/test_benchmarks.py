"""The harness of the benchmarks on a toy: what it lists, measures, refuses and writes."""

import json
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # behind an installed xplayers: the benchmarks are not installed

from benchmarks import machine, measure  # noqa: E402
from benchmarks.implementations import IMPLEMENTATIONS, load  # noqa: E402
from benchmarks.workloads import WORKLOADS, data  # noqa: E402

TOY = ["--quick", "--only", "^step-6-5-4-3$", "--rounds", "2", "--seconds", "0.01"]


def benchmarks(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_list_names_everything_without_measuring():
    shown = benchmarks("--list")
    assert shown.returncode == 0
    for workload in WORKLOADS:
        assert (workload.name in shown.stdout) != workload.hidden
    for name in IMPLEMENTATIONS:
        assert name in shown.stdout


def test_a_run_prints_a_table_and_writes_json(tmp_path):
    path = tmp_path / "results.json"
    ran = benchmarks(
        *TOY, "--implementations", "^(xplayers-numpy|book$)", "--json", str(path),
        OPENBLAS_CORETYPE="Haswell",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^removed .*OPENBLAS_CORETYPE", ran.stdout, re.MULTILINE)
    results = json.loads(path.read_text())
    assert set(results) == {"date", "machine", "rounds", "seconds", "attempts", "workloads"}
    assert {"cpu", "cores", "threads", "load", "versions"} <= set(results["machine"])
    assert {"numpy", "xplayers", "blas"} <= set(results["machine"]["versions"])

    entry = results["workloads"]["step-6-5-4-3"]
    rows = entry["implementations"]
    assert set(rows) == {"xplayers-numpy", "xplayers-numpy-step", "book"}
    for name, row in rows.items():
        assert name in ran.stdout
        assert len(row["rounds"]) == 2
        low, high = row["quartiles"]
        assert 0 < row["min"] <= low <= row["median"] <= high <= row["max"]
        assert row["over_fastest_peer"] > 0
        assert row["book_over_this"] > 0
    assert rows["book"]["book_over_this"] == 1
    assert entry["ratios"]["ours"].startswith("xplayers-numpy")
    assert entry["ratios"]["fastest_peer"] == "book"
    assert entry["ratios"]["ours_over_fastest_peer"] > 0
    assert entry["ratios"]["book_over_ours"] > 0


def test_the_shell_is_reported_in_microseconds(tmp_path):
    path = tmp_path / "results.json"
    ran = benchmarks(
        "--only", "^shell$", "--rounds", "1", "--seconds", "0.01", "--implementations",
        "^xplayers-numpy$", "--json", str(path),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(path.read_text())["workloads"]["shell"]["microseconds"]
    assert any("alone" in name for name in figures)
    assert any("Sequential" in name for name in figures)


@pytest.fixture
def wrong(tmp_path):
    """Return the environment in which ``wrong:Wrong`` can be named as an implementation."""
    (tmp_path / "wrong.py").write_text(
        textwrap.dedent(
            """
            from benchmarks.implementations.book import Book
            from benchmarks.implementations import Task

            class Wrong(Book):
                def step(self, data, lr):
                    return super().step(data, lr * 1.1)

            class Broken(Book):
                def step(self, data, lr):
                    raise ZeroDivisionError("on purpose")
            """
        )
    )
    return {"PYTHONPATH": str(tmp_path)}


def test_an_implementation_that_computes_something_else_is_refused(wrong, tmp_path):
    path = tmp_path / "results.json"
    ran = benchmarks(
        *TOY, "--implementations", "^book$", "--also", "wrong:Wrong", "--json", str(path), **wrong
    )
    assert ran.returncode == 1
    assert "FAILED: step-6-5-4-3: wrong:Wrong does not compute what book computes" in ran.stdout
    assert set(json.loads(path.read_text())["workloads"]["step-6-5-4-3"]) == {"title", "failed"}


def test_an_implementation_that_raises_is_shown_with_its_traceback(wrong):
    ran = benchmarks(*TOY, "--implementations", "^book$", "--also", "wrong:Broken", **wrong)
    assert ran.returncode == 1
    assert "ZeroDivisionError: on purpose" in ran.stdout


def test_agreement_is_asked_of_every_number():
    right = [(1.0, 1.0), (0.0, 10.0)]
    measure.check_agreement("w", {"book": right, "other": [(1.0005, 1.0), (0.005, 10.0)]})
    for other in ([(1.01, 1.0), (0.0, 10.0)], [(1.0, 1.0), (0.1, 10.0)], [(float("nan"), 1.0)] * 2):
        with pytest.raises(measure.Disagreement, match="other does not compute what book"):
            measure.check_agreement("w", {"book": right, "other": other})
    with pytest.raises(measure.Disagreement, match="1 instead of 2"):
        measure.check_agreement("w", {"book": right, "other": right[:1]})


def test_workers_start_without_variables_that_steer_one_library():
    shell = {"PATH": "/bin", "OPENBLAS_CORETYPE": "Haswell", "OMP_WAIT_POLICY": "active"}
    shell |= {"NVPL_BLAS_DEBUG_CPU_TYPE": "1", "XLA_FLAGS": "x", "OPENBLAS_NUM_THREADS": "7"}
    env = machine.worker_environment(3, shell)
    assert env["PATH"] == "/bin"
    assert not {"OPENBLAS_CORETYPE", "OMP_WAIT_POLICY", "XLA_FLAGS"} & set(env)
    assert not any("CORETYPE" in name or "DEBUG" in name for name in env)
    assert env["OPENBLAS_NUM_THREADS"] == env["OMP_NUM_THREADS"] == env["NPROC"] == "3"


def test_ratios_are_those_of_the_rounds():
    found = measure.compared(
        {"xplayers-numpy": [1.0, 2.0, 1.0], "book": [3.0, 6.0, 3.0], "jax": [2.0, 4.0, 2.0]}
    )
    assert found["ratios"] == {
        "ours": "xplayers-numpy",
        "fastest_peer": "jax",
        "ours_over_fastest_peer": 0.5,
        "book_over_ours": 3.0,
    }


@pytest.mark.parametrize(
    "workload",
    [w for w in WORKLOADS if math.prod(w.sizes) < 10**9],  # small ones
    ids=lambda w: w.name,
)
def test_data_are_the_same_every_time(workload):
    first, again = data(workload), data(workload)
    assert all((first[k] == again[k]).all() for k in ("x", "t", "dy") if k in first)


@pytest.mark.parametrize("name", ["book", "xplayers-numpy", "xplayers-numpy-step"])
def test_implementations_of_the_list_exist(name):
    assert callable(load(name))
