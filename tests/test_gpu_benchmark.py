"""``python -m benchmarks gpu`` where there is no GPU: its refusal, its tables, and tiny steps."""

import json
import stat
import sys
import warnings
from types import SimpleNamespace

import emulator
import numpy as np
import pytest
from helpers import ROOT, python
from loss_cases import LOSSES

sys.path.append(str(ROOT))  # behind an installed xplayers: the benchmarks are not installed

import xplayers as xl
from benchmarks.__main__ import main
from benchmarks.gpu import checks, command, ours, timing, worker
from benchmarks.gpu.workloads import TOYS, WORKLOADS, Workload, data
from xplayers.arrays import devices


def test_without_a_gpu_it_says_why(monkeypatch, capsys):
    found = devices.LibraryInfo(
        "cupy", "14.2.0", why="finds no NVIDIA driver", fix="install the driver"
    )
    monkeypatch.setattr(devices, "look", lambda name: found)
    assert main(["gpu"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err == "benchmarks gpu: cupy 14.2.0 finds no NVIDIA driver; install the driver.\n"


def test_sections_are_listed_and_chosen(capsys):
    assert main(["gpu", "--list"]) == 0
    assert capsys.readouterr().out == f"sections: {', '.join(worker.SECTIONS)}\n"
    assert main(["gpu", "--only", "nothing of that name"]) == 2
    with pytest.raises(SystemExit):
        main(["gpu", "--device", "tpu"])
    assert command.BUDGET.keys() == worker.SECTIONS.keys()
    assert set(command.ON_CPU) <= worker.SECTIONS.keys()
    assert command.TOTAL <= 8 * 60


def test_tiny_steps_on_the_cpu(tmp_path):
    path = tmp_path / "gpu.json"
    ran = python(
        "-m", "benchmarks", "gpu", "--device", "cpu", "--only", "^xplayers$",
        "--seconds", "0.01", "--json", path, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = json.loads(path.read_text())
    assert set(results) == {"date", "device", "versions", "seconds", "sections", "ratios"}
    rows = results["sections"]["xplayers"]
    assert [row["row"] for row in rows] == [w.name for w in TOYS]
    for row in rows:
        assert row["row"] in ran.stdout
        low, high = row["time"]["quartiles"]
        assert 0 < row["time"]["min"] <= low <= row["time"]["median"] <= high
        assert row["time"]["samples"] >= timing.FEWEST
        assert len(row["losses"]) == worker.CHECKED
        assert len(set(row["losses"])) == worker.CHECKED


# What sections do


@pytest.mark.parametrize(
    ("module", "library"), [("with_torch", "torch"), ("with_jax", "jax"), ("ours", "numpy")]
)
def test_implementations_compute_the_same(module, library):
    pytest.importorskip(library)
    section = next(s for s, name in worker.SECTIONS.items() if name.startswith(module))
    sections = {"xplayers": list(worker.rows("xplayers", "cpu", 0.0))}
    sections["other"] = list(worker.rows(section, "cpu", 0.0))
    command.compare(sections)
    assert [row.get("error") for row in sections["other"]] == [None, None]
    first, _, last = sections["other"][0]["losses"]
    assert last < first - 2 * command.CLOSE * first  # a step more or less would be seen


def test_the_tables_of_the_tests_are_right_on_numpy():
    rows = list(checks.correctness("cpu", 0.0))
    assert [row.get("error") for row in rows] == [None] * 4
    names = [row["row"].partition(" ")[2] for row in rows]
    assert names == ["layers", "losses", "layers, fused", "losses, fused"]


def test_a_layer_that_is_wrong_is_found(monkeypatch):
    """In float32 alone, as a kernel of the device is, or with NaN."""
    right = xl.Tanh.vjp
    for factor, error in ((1.0001, "relative error 0.0001"), (np.nan, "relative error inf")):

        def wrong(self, cache, dy, factor=factor):
            dx, grads = right(self, cache, dy)
            return dx * np.float32(factor if dx.dtype == "float32" else 1), grads

        monkeypatch.setattr("xplayers.Tanh.vjp", wrong)
        rows = {row["row"]: row for row in checks.correctness("cpu", 0.0)}
        assert rows["layers: Tanh"]["error"] == error
        assert "error" not in rows[f"{len(LOSSES)} losses"]


def test_every_epilogue_is_compared(monkeypatch):
    pytest.importorskip("cupy")
    from emulator.emulated_gpu import EmulatedRuntime, fabricated, host

    from xplayers.accelerate.cuda import layouts
    from xplayers.accelerate.cuda.gemm import Gemm

    monkeypatch.setattr(checks, "to_numpy", lambda a: a if isinstance(a, np.ndarray) else host(a))
    runtime = EmulatedRuntime()
    lt = Gemm(runtime=runtime)
    for dtype, tolerance in (("float32", 1e-5), ("float16", 2e-3)):
        rows = list(checks.epilogues(lt, dtype, tolerance, fabricated))
        assert [row["row"] for row in rows] == [f"{name}, {dtype}" for name in layouts.EPILOGUES]
        assert [row.get("error") for row in rows] == [None] * len(rows)
    # and a library that leaves out the bias is found
    finish = runtime.lt._finish
    monkeypatch.setattr(
        runtime.lt, "_finish", lambda how, *rest: finish({**how, "EPILOGUE": 1}, *rest)
    )
    wrong = {
        row["row"] for row in checks.epilogues(lt, "float32", 1e-5, fabricated) if "error" in row
    }
    assert wrong == {f"{name}, float32" for name in layouts.EPILOGUES if name != "none"}
    lt.close()


@pytest.mark.parametrize("several", [False, True])
def test_the_captured_step_is_the_plain_one(monkeypatch, several):
    """On the emulated GPU of test_cuda_graph.py."""
    from emulator.emulated_graph import EmulatedCuda, EmulatedGemm

    cuda, EmulatedGemm.made, workload = EmulatedCuda(), [], TOYS[0]
    monkeypatch.setattr("xplayers.optimizers.base._NUMBERS", (float, int, np.generic))
    monkeypatch.setattr("xplayers.optimizers.base.host_number", lambda a: None)
    losses = next(worker.rows("xplayers", "cpu", 0.0))["losses"]
    monkeypatch.setattr(ours, "library", lambda device: SimpleNamespace(asarray=cuda.array))
    monkeypatch.setattr(ours, "STEPS", 3)
    captured = ours.captured

    def on_the_host(workload, device):
        take, given, *rest = captured(workload, device, gemm=EmulatedGemm, cuda=cuda)
        count = given[3]["optimizer"]["count"]
        given[3]["optimizer"]["count"] = cuda.array(count)
        return take, given, *rest

    monkeypatch.setattr(ours, "captured", on_the_host)
    run = (ours.many if several else ours.graph)(workload, "cuda")
    got = run() if several else [run() for _ in range(3)]
    np.testing.assert_allclose([float(v) for v in got], losses, rtol=1e-6)


def test_passes_over_memory(monkeypatch):
    """On NumPy in the place of CuPy, with arrays that are small."""
    monkeypatch.setitem(sys.modules, "cupy", np)
    monkeypatch.setattr(checks, "COPY", 1 << 22)
    copy, *rows = checks.bandwidth("cpu", 0.001)
    assert copy["value"].endswith(" TB/s")
    names = (
        "relu", "adam", "max pooling", "its gradient", "sums of channels", "softmax cross entropy",
    )  # fmt: skip
    assert [row["row"] for row in rows] == [
        f"{n}, {how}" for how in ("plain", "fused") for n in names
    ]
    assert all(row["value"].endswith("% of copy") for row in rows)


def test_products_alone(monkeypatch):
    class Gemm:
        def __init__(self, compute):
            self.ran = []

        def matmul(self, a, b, *, out=None, dtype=None):
            self.ran.append((a.shape, b.shape))
            assert dtype in (None, "float32")
            return np.matmul(a, b, out=out)

        def close(self):
            ran.append(self.ran)

    ran = []
    (row,) = checks._products_of(TOYS[0], np, Gemm, 0.001, lambda result: None)
    assert row["row"] == "mlp-toy"
    assert row["time"]["median"] > 0
    step = [((8, 12), (12, 16)), ((8, 16), (16, 10)), ((16, 8), (8, 10)), ((8, 10), (10, 16)),
            ((12, 8), (8, 16))]  # fmt: skip
    assert ran[0][:5] == step


SMALL = (
    Workload("mlp", 8, (12, 16, 10)),
    Workload("cnn", 2, filters=(4, 8)),
    *(Workload(f"mlp-{p}", 16, (32, 32, 32), precision=p) for p in ("tf32", "bfloat16")),
)
ON_CUPY = [s for s, name in worker.SECTIONS.items() if not name or name.startswith("ours.")]


@pytest.mark.parametrize("section", ON_CUPY)
def test_every_section_on_cupy(section, monkeypatch):
    """With small arrays: nothing goes wrong, and all implementations have the same losses."""
    if not emulator.installed():
        pytest.skip("there is no emulator; on a GPU the command itself is run")
    for module in ("nvmath", "ml_dtypes"):
        pytest.importorskip(module)
    for module in (checks, worker):
        monkeypatch.setattr(module, "WORKLOADS", SMALL)
    monkeypatch.setattr(checks, "COPY", 1 << 20)
    monkeypatch.setattr(checks, "PRODUCTS", [(16, 24, 8)])
    monkeypatch.setattr(checks, "SAMPLES", 1)
    monkeypatch.setattr(checks, "ROWS", 2)
    monkeypatch.setattr(timing, "SAMPLE", 1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # CuPy: it will see no synchronisation
        rows = list(worker.rows(section, "cuda", 0.0))
    assert rows
    assert not [row for row in rows if "error" in row]
    trained = [row for row in rows if "losses" in row]
    plain = worker.rows("xplayers", "cuda", 0.0) if trained else ()
    right = {row["row"]: row["losses"] for row in plain}
    for row in trained:
        assert np.allclose(row["losses"], right[row["row"]], rtol=5e-2), row


def test_an_implementation_that_fails_is_a_row(monkeypatch):
    def fails(workload, device):
        if workload.filters:
            raise ValueError("on purpose\nwith more lines")
        return ours.train_step(workload, np.asarray)[0].loss.check  # not a step

    monkeypatch.setattr(ours, "plain", fails)
    mlp, cnn = worker.rows("xplayers", "cpu", 0.0)
    assert mlp["error"].startswith("TypeError: ")
    assert cnn == {"row": "cnn-toy", "error": "ValueError: on purpose"}


@pytest.mark.parametrize("workload", [WORKLOADS[0], *TOYS], ids=lambda w: w.name)
def test_data_are_the_same_every_time(workload):
    first, again = data(workload), data(workload)
    assert (first["x"] == again["x"]).all()
    assert (first["t"] == again["t"]).all()
    assert first["x"].shape[0] == workload.batch


def test_the_workloads_are_those_of_the_target():
    small, cnn, *large = WORKLOADS
    assert (small.sizes, small.batch) == ((784, 512, 256, 10), 128)
    assert cnn.filters
    assert [w.precision for w in large] == ["float32", "tf32", "bfloat16"]
    assert {(w.sizes, w.batch) for w in large} == {((4096,) * 5, 8192)}
    assert Workload("w", 1, (100,)).lr == 1e-3


# Sections in their processes


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Run a shell script in the place of Python."""

    def script(text):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(command.sys, "executable", str(path))

    return script


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_section_that_takes_too_long_keeps_its_rows(script, monkeypatch):
    monkeypatch.setattr(command, "LEAST", 0.0)
    script('echo \'{"row": "one", "value": "1"}\'; exec sleep 60')
    rows = command.run("gemm", "cpu", 0.1, 0.5)
    assert rows == [{"row": "one", "value": "1"}, {"row": "gemm", "error": "ended after 0 s"}]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_section_that_dies_keeps_its_rows(script):
    script('echo \'{"row": "one"}\'; printf \'{"row": "tw\'; echo "CUDA error" >&2; exit 3')
    rows = command.run("gemm", "cpu", 0.1, 30.0)
    assert rows == [{"row": "one"}, {"row": "gemm", "error": "status 3: CUDA error"}]


def test_a_section_without_time_is_not_begun():
    (row,) = command.run("gemm", "cuda", 0.1, 4.0)
    assert row == {"row": "gemm", "error": "not run: the time of the whole command is up"}


def test_a_failure_is_the_status_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(command, "run", lambda *a: [{"row": "r", "error": "E: on purpose"}])
    assert main(["gpu", "--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert out.count("FAILED: E: on purpose") == len(command.ON_CPU)


# The figures


def test_losses_that_differ_are_an_error():
    sections = {
        "torch": [{"row": "a", "losses": [1.0, 2.0]}, {"row": "b-bfloat16", "losses": [1.0]}],
        "jax": [{"row": "a", "losses": [1.0, 2.02]}, {"row": "b-bfloat16", "losses": [1.02]}],
        "ours": [{"row": "a", "losses": [1.001, 2.0]}, {"row": "a", "losses": [float("nan"), 2.0]}],
    }
    command.compare(sections)
    assert [[row.get("error") for row in rows] for rows in sections.values()] == [
        [None, None],
        ["loss 2.02, and the first implementation has 2", None],
        [None, "loss nan, and the first implementation has 1"],
    ]


def timed(seconds):
    return {"time": {"median": seconds, "min": seconds, "quartiles": [seconds, seconds]}}


def test_ratios():
    sections = {
        "products": [{"row": "m", **timed(2.0)}],
        "xplayers": [{"row": "m", **timed(9.0)}, {"row": "n", **timed(1.0)}],
        "xplayers-graph": [{"row": "m", **timed(3.0)}, {"row": "o", "error": "no"}],
        "torch": [{"row": "m", **timed(8.0)}],
        "torch-graph": [{"row": "m", **timed(4.0)}],
        "jax": [{"row": "m", **timed(6.0)}, {"row": "o", **timed(1.0)}],
    }
    assert command.ratios(sections) == {
        "m: xplayers / jax": 0.5,
        "m: xplayers / torch-graph": 0.75,
        "m: xplayers / products": 1.5,
    }


def test_a_line_has_time_spread_and_what_went_wrong():
    row = {"row": "m", "time": {"median": 2e-3, "min": 1e-3, "quartiles": [1.5e-3, 2.5]}}
    assert command.line(row).split() == ["m", "2", "ms", "1", "ms", "1.5", "ms", "to", "2.5", "s"]
    assert command.line({**row, "error": "E: no"}).endswith("to 2.5 s  FAILED: E: no")
    assert command.line({"row": "m", "value": "3 TB/s"}).split() == ["m", "3", "TB/s"]


def test_the_time_of_a_call(monkeypatch):
    """A clock of its own: each call takes 1 ms, each wait 10 ms."""
    now, calls = 0.0, 0

    def run():
        nonlocal now, calls
        now, calls = now + 1e-3, calls + 1
        return calls

    def wait(result):
        nonlocal now
        assert result == calls  # the last one is waited for
        now += 1e-2

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    found = timing.measure(run, wait, 0.5, per=2)
    n = found["calls_per_sample"]
    assert found["median"] == pytest.approx((1e-3 + 1e-2 / n) / 2)
    assert found["samples"] >= 0.5 / (n * 1e-3 + 1e-2) - 1


def test_ten_steps_a_launch_are_not_compared_with_one():
    def of(time):
        return [{"row": "mlp-small", "time": {"median": time}}]

    sections = {"xplayers-fused": of(3.0), "xplayers-fused-10": of(1.0), "torch-graph": of(2.0)}
    assert command.ratios(sections) == {"mlp-small: xplayers / torch-graph": 1.5}
