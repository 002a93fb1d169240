"""The harness of the benchmarks on a toy: what it lists, measures, refuses and writes."""

import json
import os
import re
import sys
import textwrap

import numpy as np
import pytest
from helpers import ROOT, python

sys.path.append(str(ROOT))  # behind an installed xplayers: the benchmarks are not installed

from benchmarks import (
    machine,
    measure,
    memory,
    picture,
    resident,
    scaling,
    worker,
)
from benchmarks.__main__ import main
from benchmarks.implementations import IMPLEMENTATIONS, LIMITS, NotRun, load, products
from benchmarks.networks import mlp
from benchmarks.workloads import (
    WARM_UP,
    WORKLOADS,
    Workload,
    data,
    find,
)

RUN_TOY = ["--quick", "--only", "^step-6-5-4-3$", "--rounds", "2", "--seconds", "0.01"]


def benchmarks(*arguments, **env):
    return python("-m", "benchmarks", *arguments, cwd=ROOT, env=os.environ | env)


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
        *RUN_TOY, "--implementations", "^(xplayers-numpy|book$)", "--json", str(path),
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
            import numpy as np

            from benchmarks.implementations.book import Book
            from benchmarks.implementations import Task

            class Wrong(Book):
                def step(self, data, lr):
                    return super().step(data, lr * 1.1)

            class Broken(Book):
                def step(self, data, lr):
                    raise ZeroDivisionError("on purpose")

            class HalfBroken(Book):
                def softmax_with_loss(self, data, lr):
                    raise ZeroDivisionError("on purpose")

            class Hog(Book):
                def __init__(self):
                    self.kept = []

                def step(self, data, lr):
                    made = super().step(data, lr)

                    def run():
                        if data["x"].shape[1] == 6:  # not in the tiny step before
                            self.kept.append(np.ones(40 << 20, np.uint8))
                            np.ones(100 << 20, np.uint8)
                        return made.run()

                    return Task(run)
            """
        )
    )
    return {"PYTHONPATH": str(tmp_path)}


def test_an_implementation_that_computes_something_else_is_refused(wrong, tmp_path):
    path = tmp_path / "results.json"
    ran = benchmarks(
        *RUN_TOY,
        "--implementations",
        "^book$",
        "--also",
        "wrong:Wrong",
        "--json",
        str(path),
        **wrong,
    )
    assert ran.returncode == 1
    assert "FAILED: step-6-5-4-3: wrong:Wrong does not compute what book computes" in ran.stdout
    assert set(json.loads(path.read_text())["workloads"]["step-6-5-4-3"]) == {"title", "failed"}


def test_an_implementation_that_raises_is_shown_with_its_traceback(wrong):
    ran = benchmarks(*RUN_TOY, "--implementations", "^book$", "--also", "wrong:Broken", **wrong)
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
    found = measure.compared({
        "xplayers-numpy": [1.0, 2.0, 1.0], "book": [3.0, 6.0, 3.0], "jax": [2.0, 4.0, 2.0],
        "products-numpy": [0.5, 1.0, 0.5],  # no peer
    })  # fmt: skip
    assert found["ratios"] == {
        "ours": "xplayers-numpy",
        "fastest_peer": "jax",
        "ours_over_fastest_peer": 0.5,
        "book_over_ours": 3.0,
    }


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_data_are_the_same_every_time(workload):
    first, again = data(workload), data(workload)
    assert all((first[k] == again[k]).all() for k in ("x", "t", "dy") if k in first)
    for one, other in zip(first.get("layers", []), again.get("layers", []), strict=True):
        assert all((one.arrays[k] == other.arrays[k]).all() for k in one.arrays)


@pytest.mark.parametrize(
    "name", ["book", "xplayers-numpy", "xplayers-numpy-step", "products-numpy"]
)
def test_implementations_of_the_list_exist(name):
    assert callable(load(name))


@pytest.mark.parametrize(
    "workload", [w for w in (*WORKLOADS, WARM_UP) if w.kind == "step" and not w.slow],
    ids=lambda w: w.name,
)  # fmt: skip
def test_steps_are_compared_at_a_rate_that_tells_them_apart(workload):
    made = data(workload)
    task = load("book")().step(made, worker._checked_rate(made))
    first, *_, last = [float(task.run()[0]) for _ in range(worker.REPEATED)]
    assert (first - last) / first > 5 * measure.TOLERANCE
    assert first < 16


def test_workers_go_on_after_one_has_failed(wrong, tmp_path):
    path = tmp_path / "results.json"
    ran = benchmarks(
        "--quick", "--only", "^(loss-128x10|step-6-5-4-3)$", "--rounds", "1", "--seconds", "0.01",
        "--implementations", "^$", "--also", "wrong:HalfBroken", "--also", "wrong:Book",
        "--json", str(path), **wrong,
    )  # fmt: skip
    assert ran.returncode == 1
    found = json.loads(path.read_text())["workloads"]
    assert "ZeroDivisionError" in found["loss-128x10"]["failed"]
    assert set(found["step-6-5-4-3"]["implementations"]) == {"wrong:Book", "wrong:HalfBroken"}


linux = pytest.mark.skipif(not resident.measurable(), reason="needs the /proc of Linux")


@linux
def test_the_memory_of_a_step_is_its_peak(wrong, tmp_path):
    path = tmp_path / "results.json"
    ran = benchmarks(
        "--memory", "--only", "^step-6", "--implementations", "^book$", "--also", "wrong:Hog",
        "--rounds", "1", "--json", str(path), **wrong,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    entry = json.loads(path.read_text())["memory"]["step-6-5-4-3"]
    assert entry["state"] == 4 * 4 * (6 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3)
    book, hog = (entry["implementations"][name] for name in ("book", "wrong:Hog"))
    assert memory.above(book, "step") < 10 << 20
    # Each step keeps 40 MiB, and needs 100 more for a while; the tiny step before is in the level.
    assert abs(hog["level"] - book["level"]) < 10 << 20
    assert memory.above(hog, "first") / 2**20 == pytest.approx(2 * 40 + 100, abs=10)
    assert memory.above(hog, "step") / 2**20 == pytest.approx(4 * 40 + 100, abs=10)
    assert re.search(r"wrong:Hog +\S+ +\+1[78]\d\.\d +\+2[56]\d\.\d", ran.stdout)


@linux
def test_a_peak_can_be_forgotten():
    held = np.ones(64 << 20, np.uint8)
    level = resident.now()
    before = resident.peak()
    assert level >= held.nbytes
    assert before > level - (1 << 20)  # Linux counts pages of threads with some delay
    del held
    resident.forget_peak()
    assert resident.peak() < before - (32 << 20)


def test_a_profile_has_all_calls_of_a_step(tmp_path):
    path = tmp_path / "results.json"
    ran = benchmarks(
        "--profile", "--only", "^step-6", "--implementations", "^(xplayers-numpy-step|book)$",
        "--seconds", "0.01", "--json", str(path),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    entry = json.loads(path.read_text())["profile"]["step-6-5-4-3"]
    assert entry["not_run"] == {"book": "its steps are not replayed"}
    rows = entry["implementations"]["xplayers-numpy-step"]
    assert all(row["seconds"] > 0 for row in rows)
    made = [row["call"] for row in rows]
    assert sum(call.startswith("matmul(") for call in made) == 3 + 3 + 2  # of three layers
    assert "matmul(a0, [6 x 5], [8 x 5])" in made
    assert sum("relu" in call for call in made) == 2 * 2
    assert re.search(r"8 x|in \d+ calls, of which matrix products \d+ us", ran.stdout)


def test_profiles_are_of_steps_only():
    assert benchmarks("--profile", "--only", "^relu").returncode == 2


def test_memory_asks_for_steps_only():
    shown = benchmarks("--memory", "--list").stdout
    assert re.findall(r"^\S+(?= )", shown, re.MULTILINE)[:-1] == list(memory.WORKLOADS)
    assert benchmarks("--memory", "--only", "^relu").returncode == 2


def test_the_limit_has_all_products_of_a_step_but_one():
    workload = Workload("w", "step", (7, 6), "w", mlp(5, 4, 3))
    pairs = products.operands(data(workload))
    assert [(a.shape, b.shape) for a, b in pairs] == [
        ((7, 6), (6, 5)), ((6, 7), (7, 5)),
        ((7, 5), (5, 4)), ((5, 7), (7, 4)), ((7, 4), (4, 5)),
        ((7, 4), (4, 3)), ((4, 7), (7, 3)), ((7, 3), (3, 4)),
    ]  # fmt: skip
    with pytest.raises(NotRun):
        products.operands(data(find("step-cnn")))
    assert load("products-numpy")().step(data(workload), 0.0).run() == ()
    rows = {name: {"median": seconds} for name, seconds in zip(LIMITS, (1.0, 2.0), strict=True)}
    point = {"implementations": rows | {"jax": {"median": 0.1}}}
    assert scaling.limit(point) == 1.0
    point["implementations"]["products-torch"]["median"] = 0.5
    assert scaling.limit(point) == 0.5


def test_scaling_is_measured_and_drawn(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    series = scaling.Series(
        "width", "width", "toy", (2, 4), lambda n: Workload("w", "step", (8, n), "", mlp(n, 3))
    )
    monkeypatch.setattr(scaling, "SERIES", [series])
    drawn, path = tmp_path / "picture.svg", tmp_path / "results.json"
    status = main(
        [
            "--scaling", str(drawn), "--implementations", "^book$", "--threads", "1",
            "--rounds", "1", "--seconds", "0.01", "--json", str(path),
        ]
    )  # fmt: skip
    assert status == 0
    points = json.loads(path.read_text())["scaling"]["width"]["points"]
    assert [point["size"] for point in points] == [2, 4]
    for point in points:
        assert {"book", "products-numpy"} <= set(point["implementations"])
        assert 0 < scaling.limit(point) < point["implementations"]["book"]["median"]
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("width: toy")
    assert lines[start + 1].split() == ["width", "2", "4"]
    assert lines[start + 2].split()[0] == "book"
    text = drawn.read_text()
    for words in ("book", "width", "toy", "matrix products of the step alone", "[ms]"):
        assert words in text


def test_the_sizes_of_scaling_are_decades():
    spans = {s.name: s.sizes[-1] / s.sizes[0] for s in scaling.SERIES}
    assert spans["width"] >= 1000
    assert spans["batch"] >= 1000
    assert spans["depth"] >= 256
    for s in scaling.SERIES:
        made = [s.workload(n) for n in s.sizes]
        assert len({(tuple(w.shape), w.layers) for w in made}) == len(s.sizes)
    depths = [sum(spec[0] == "affine" for spec in w.layers) for w in made_of("depth")]
    assert depths == list(scaling.SERIES[1].sizes)


def made_of(name):
    (series,) = [s for s in scaling.SERIES if s.name == name]
    return [series.workload(n) for n in series.sizes]


def test_a_picture_that_cannot_be_drawn_is_refused_at_once(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(scaling, "SERIES", [])  # nothing to wait for if it is not refused
    assert picture.problem(tmp_path / "a.png") is None
    for name, problem in (("a.txt", "does not end in"), ("b/a.png", "no folder")):
        assert main(["--scaling", str(tmp_path / name)]) == 2
        assert problem in capsys.readouterr().err
