"""The benchmarks beside something: another checkout, an earlier run, other load."""

import copy
import dataclasses
import itertools
import json
import re
import sys

import pytest
from helpers import ROOT

sys.path.append(str(ROOT))  # behind an installed xplayers: the benchmarks are not installed

from benchmarks import against, gate, machine, measure, pool
from benchmarks.__main__ import main
from benchmarks.workloads import find

RUN_TOY = ["--quick", "--only", "^step-6-5-4-3$", "--rounds", "2", "--seconds", "0.01"]
ROWS = ["--implementations", "^(xplayers-numpy|xplayers-numpy-step|book)$", "--threads", "1"]

pytestmark = pytest.mark.host


# Another checkout


def test_a_checkout_is_measured_against_another(tmp_path, capsys, monkeypatch):
    path = tmp_path / "results.json"
    monkeypatch.setattr(against, "PAIRS", 2)
    monkeypatch.setattr(against, "MOST_PAIRS", 3)
    monkeypatch.setattr(against, "LIMIT", 1e9)
    rows = ["--implementations", "^xplayers-(numpy|numpy-step)$", "--threads", "1"]
    arguments = [*RUN_TOY, *rows, "--rounds", "3", "--json", str(path), "--against", str(ROOT)]
    assert main(arguments) == 0
    entry = json.loads(path.read_text())["against"]["step-6-5-4-3"]
    assert set(entry["implementations"]) == {"xplayers-numpy", "xplayers-numpy-step"}
    assert not entry["slower"]
    shown = capsys.readouterr().out
    for name, row in entry["implementations"].items():
        before, after = row["before"], row["after"]
        assert len(before["rounds"]) == len(after["rounds"]) == 2 * 2  # rounds of each pair, up
        assert row["ratio"] == after["min"] / before["min"]
        assert after["min"] == min(after["rounds"]) <= after["median"]
        assert re.search(rf"^  {name} .* {row['ratio']:.3f}$", shown, re.M)
    monkeypatch.setattr(against, "LIMIT", 0.0)
    assert main(arguments) == 1
    assert "slower" in capsys.readouterr().out
    entry = json.loads(path.read_text())["against"]["step-6-5-4-3"]
    assert len(entry["implementations"]["xplayers-numpy"]["after"]["rounds"]) == 3 * 2


def test_the_package_of_the_other_checkout_is_the_one_that_is_measured(tmp_path):
    package = tmp_path / "xplayers"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the other package')")
    with (
        pool.workers(["xplayers-numpy"], 1, [tmp_path]) as (worker,),
        pytest.raises(pool.WorkerFailed, match="the other package"),
    ):
        worker.ask("start", workload=dataclasses.asdict(find("step-6-5-4-3")))


def test_a_folder_without_the_package_is_refused(tmp_path, capsys):
    assert main([*RUN_TOY, "--against", str(tmp_path)]) == 2
    assert "has no xplayers in it" in capsys.readouterr().err


# An earlier run


def run_of(**least):
    """Return the entries of a run of one workload, from least times by implementation."""
    return {"row": {"implementations": {name: {"min": t} for name, t in least.items()}}}


OURS = "xplayers-numpy"
EARLIER = run_of(**{OURS: 2.0}, book=4.0, jax=8.0)


@pytest.mark.parametrize(
    ("now", "state", "ratio"),
    [
        (EARLIER, "as before", 1.0),
        (run_of(**{OURS: 4.0}, book=8.0, jax=16.0), "as before", 1.0),  # a slower machine
        (run_of(**{OURS: 2.0}, book=2.0, jax=4.0), "slower", 2.0),  # a faster one, and not ours
        (run_of(**{OURS: 2.05}, book=4.0, jax=8.0), "as before", 1.025),
        (run_of(**{OURS: 2.07}, book=4.0, jax=8.0), "slower", 1.035),
        (run_of(**{OURS: 2.0}, book=4.0), "as before", 1.0),
        (run_of(**{OURS: 4.0}, other=1.0), "slower", 2.0),  # no peer in both
        (run_of(book=4.0, jax=8.0), "missing", None),
        ({"row": {"failed": "they disagree"}}, "missing", None),
        (EARLIER | {"row 2": run_of(**{OURS: 1.0})["row"]}, "as before", 1.0),
    ],
)  # fmt: skip
def test_a_run_is_compared_with_an_earlier_one_by_its_peers(now, state, ratio):
    rows = gate.compare(EARLIER, now, [OURS])
    assert rows[f"row, {OURS}"]["state"] == state
    assert rows[f"row, {OURS}"].get("ratio") == (None if ratio is None else pytest.approx(ratio))
    assert gate.failed(rows) == (state != "as before")
    if "row 2" in now:
        assert rows[f"row 2, {OURS}"] == {"state": "new"}


def test_a_row_without_peers_goes_by_those_of_other_rows():
    earlier = EARLIER | {"alone": run_of(**{OURS: 1.0})["row"]}
    now = run_of(**{OURS: 4.0}, book=8.0, jax=16.0) | {"alone": run_of(**{OURS: 2.0})["row"]}
    assert gate.compare(earlier, now, [OURS])[f"alone, {OURS}"]["ratio"] == 1.0


def test_what_was_not_asked_for_is_not_missing():
    rows = gate.compare(EARLIER | {"other": EARLIER["row"]}, run_of(book=4.0), ["book"])
    assert rows == {}
    assert gate.failed(rows)  # as nothing was compared
    assert "No row of ours is in both runs" in gate.table("then.json", rows)


def test_what_is_slower_is_measured_again_and_its_least_times_count():
    now = run_of(**{OURS: 4.0}, book=4.0)
    assert gate.slower(gate.compare(EARLIER, now, [OURS])) == {"row"}
    gate.add(now["row"], {"failed": "they disagree"})
    gate.add(now["row"], run_of(**{OURS: 2.0}, book=5.0)["row"])
    assert now == run_of(**{OURS: 2.0}, book=4.0)
    assert not gate.slower(gate.compare(EARLIER, now, [OURS]))


def test_without_peers_the_table_says_what_the_ratio_is():
    rows = gate.compare(run_of(**{OURS: 2.0}), run_of(**{OURS: 2.0}), [OURS])
    assert "No peer is in both runs" in gate.table("then.json", rows)


def test_the_gate_of_the_command(tmp_path, capsys):
    path, then = tmp_path / "now.json", tmp_path / "then.json"
    assert main([*RUN_TOY, *ROWS, "--json", str(path)]) == 0
    results = json.loads(path.read_text())

    def gated(ours=None, more=()):
        """Return status and table of a run beside one in which ours had other times."""
        earlier = copy.deepcopy(results)
        rows = earlier["workloads"]["step-6-5-4-3"]["implementations"]
        for name, row in rows.items():
            row["min"] *= ours if ours and name != "book" else 1.0
        rows |= {name: {"min": 1.0} for name in more}
        then.write_text(json.dumps(earlier))
        capsys.readouterr()
        status = main([*RUN_TOY, *ROWS, "--gate", str(then), "--json", str(path)])
        return status, capsys.readouterr().out

    status, shown = gated(100.0)
    assert status == 0, shown
    assert "slower" not in shown
    states = {row["state"] for row in json.loads(path.read_text())["gate"].values()}
    assert states == {"as before"}
    status, shown = gated(0.01)
    assert status == 1
    assert re.search(r"^  step-6-5-4-3, xplayers-numpy +\S+ +\S+ +\S+  slower$", shown, re.M)
    assert gated(100.0, ["xplayers-torch"])[0] == 0  # was not asked for


@pytest.mark.parametrize(
    "text",
    [
        None, "", "{", "[]", "{}", '{"workloads": []}', '{"workloads": {"a": []}}',
        '{"workloads": {"a": {"implementations": {"b": {}}}}}',
        '{"workloads": {"a": {"implementations": {"b": {"min": "1"}}}}}',
        '{"workloads": {"a": {"implementations": {"b": {"min": 0.0}}}}}',
        '{"workloads": {"a": {"implementations": {"b": {"min": NaN}}}}}', "\0\xff",
    ],
)  # fmt: skip
def test_a_file_without_an_earlier_run_is_refused_before_anything_is_measured(
    tmp_path, capsys, text
):
    path = tmp_path / "then.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    assert main([*RUN_TOY, "--gate", str(path)]) == 2
    streams = capsys.readouterr()
    assert not streams.out
    reason = "No such file" if text is None else "it is not the JSON of a run of times"
    assert streams.err.startswith(f"--gate {path}: ")
    assert reason in streams.err


@pytest.mark.parametrize("other", [["--memory"], ["--profile"], ["--against", "."]])
def test_the_gate_is_of_times(other, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--gate", "then.json", *other])
    assert exit_.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


# Other load


def test_other_load_is_what_the_measured_did_not_use(monkeypatch):
    busy, clock = iter([100.0, 103.0]), iter([10.0, 12.0])
    monkeypatch.setattr(machine, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    assert machine.OtherLoad().share(2.0) == 0.25  # one of four seconds


def test_other_load_is_unknown_without_the_figures_of_the_system(monkeypatch):
    monkeypatch.setattr(machine, "busy_seconds", lambda: None)
    assert machine.OtherLoad().share(1.0) is None


@pytest.mark.skipif(machine.busy_seconds() is None, reason="needs the /proc of Linux")
def test_other_load_is_of_the_usable_cores(monkeypatch):
    (core, *_) = machine.os.sched_getaffinity(0)
    every = machine.busy_seconds()
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {core})
    assert machine.busy_seconds() <= every + 1.0
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set())
    assert machine.busy_seconds() == 0.0


@pytest.mark.parametrize(("share", "marked"), [(0.0, False), (0.04, False), (0.3, True)])
@pytest.mark.parametrize("report", ["workloads", "against"])
def test_what_was_measured_beside_other_load_is_marked(
    monkeypatch, tmp_path, capsys, share, marked, report
):
    path = tmp_path / "results.json"
    monkeypatch.setattr(machine.OtherLoad, "share", lambda self, own: share)
    monkeypatch.setattr(against, "PAIRS", 1)
    monkeypatch.setattr(against, "LIMIT", 1e9)
    more = ["--against", str(ROOT)] if report == "against" else []
    main([*RUN_TOY, *ROWS[2:], "--implementations", f"^{OURS}$", "--json", str(path), *more])
    entry = json.loads(path.read_text())[report]["step-6-5-4-3"]
    assert entry["beside_load"] == marked
    assert entry["others"]["max"] == share
    lines = capsys.readouterr().out.splitlines()
    marks = [line for line in lines if "MEASURED BESIDE OTHER LOAD" in line]
    assert len(marks) == 2 * marked
    assert not marked or marks[-1].endswith(": step-6-5-4-3")


def test_a_turn_beside_other_load_is_taken_again(monkeypatch):
    shares, numbers = iter([0.5, 0.2, 0.01]), itertools.count()
    monkeypatch.setattr(machine.OtherLoad, "share", lambda self, own: next(shares))

    class Worker:
        def rest(self):
            pass

        def ask(self, do):
            return {"cpu_seconds": 0.0, "seconds": next(numbers)}

    assert measure.turn(Worker(), attempts=2) == {"cpu_seconds": 0.0, "seconds": 1, "others": 0.2}
    assert measure.turn(Worker(), attempts=2)["others"] == 0.01
