"""A second process beside a run changes no bit, whether it lives or dies."""

from types import SimpleNamespace

import numpy as np
import pytest
from facts import refused
from same_runs import outcome, same

from fedmerge import run
from fedmerge.engine.executors.processes import Processes
from fedmerge.experiment.stages import second
from fedmerge.experiment.stages.evaluate import STAGES
from fedmerge.reports import run_report
from fedmerge.workflows import run as module

TRACKER = """
from fedmerge.trackers import TRACKERS

@TRACKERS.method("rows", title="Rows")
class Rows:
    def start(self, config, folder):
        self.file = folder / "told.txt"

    def log(self, kind, row, step):
        assert "config_hash" not in row
        with self.file.open("a") as told:
            told.write(f"{kind} {sorted(row)}\\n")

    def finish(self, finished):
        pass
"""


@pytest.fixture
def counted(experiment, cohort_spec, tmp_path):
    """The tiny experiment, of files, with a tracker of its own that notes the rows it is told."""
    for site in cohort_spec.sites:
        labels = site.source.labels
        parts = zip(("train", "val", "test"), (slice(30), slice(30, 40), slice(40, None)), strict=True)
        named = {
            f"{part}_{what}": array[some]
            for part, some in parts
            for what, array in (("images", site.source.images), ("labels", labels))
        }
        np.savez(tmp_path / f"{site.name}.npz", **named)
    sites = [
        {"name": site.name, "source": f"npz:{tmp_path / site.name}.npz", "unseen": site.unseen}
        for site in cohort_spec.sites
    ]
    (tmp_path / "rows.py").write_text(TRACKER)
    more = {"cohort": {"name": "corners", "sites": sites}, "diagnose": "off", "fusion": ["mean"]}
    return experiment | more | {"trackers": ["rows"], "plugins": [str(tmp_path / "rows.py")]}


def told(folder):
    """What the tracker was told, in any order."""
    return sorted((folder / "told.txt").read_text().splitlines())


@pytest.fixture
def small(counted, tmp_path):
    """Alone in this process: what it leaves, and what a tracker was told."""
    run(counted, out=tmp_path / "alone", backend={"kind": "local", "workers": 1})
    return counted, outcome(tmp_path / "alone"), told(tmp_path / "alone")


def test_the_second_process_trains_what_asks_no_hospital(small, tmp_path, monkeypatch):
    experiment, alone, rows = small

    def not_here(stage):
        raise AssertionError("pooled training is done there")

    monkeypatch.setitem(STAGES, "pooled", not_here)
    run(experiment, out=tmp_path / "both", backend={"kind": "local", "workers": 2})
    same(outcome(tmp_path / "both"), alone)
    assert told(tmp_path / "both") == rows


def test_what_it_does_not_finish_is_done_here(small, tmp_path, monkeypatch):
    experiment, alone, rows = small
    submit = Processes.submit

    def kill(crew, assignment):
        future = submit(crew, assignment)
        for child in list(crew._busy[0]._processes.values()):
            child.kill()
        return future

    monkeypatch.setattr(Processes, "submit", kill)
    monkeypatch.setattr(module, "write_report", lambda result, **_: None)
    result = run(experiment, out=tmp_path / "both", backend={"kind": "local", "workers": 2})
    same(outcome(tmp_path / "both"), alone)
    assert told(tmp_path / "both") == rows
    assert any("second process" in remark and "pooled" in remark for remark in result.remarks)


def test_left_to_choose_short_work_has_one_process(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(second, "available_cpus", lambda: 64)
    monkeypatch.setattr(second, "Processes", lambda *given: pytest.fail("it does not pay"))
    run(counted, out=tmp_path / "run", backend="local")


@pytest.mark.parametrize(("cpus", "begun"), [(1, False), (2, True)])
def test_left_to_choose_long_work_has_two_where_a_cpu_is_free(cpus, begun, tmp_path, monkeypatch):
    monkeypatch.setattr(second, "available_cpus", lambda: cpus)
    monkeypatch.setattr(second, "_pays", lambda cell, names: True)
    made = []
    monkeypatch.setattr(second, "Processes", lambda *given: made.append(given))
    with second.second_process(tmp_path, {}, "cpu", None) as process:
        process.workers(SimpleCell(), [])
    assert bool(made) == begun


class SimpleCell:
    """A cell as the second process asks it."""

    setup = type("Setup", (), {"seed": 0})
    federation = type("Federation", (), {"name": "federation"})


def test_kind_local_has_one_process_or_two(counted, tmp_path):
    with refused("workers", "3", "local"):
        run(counted, out=tmp_path / "run", backend={"kind": "local", "workers": 3})
    with refused("cpus", "local"):
        run(counted, out=tmp_path / "run", backend={"kind": "local", "cpus": 2})


def test_figures_that_the_other_process_cannot_draw_are_drawn_here(make_result, monkeypatch):
    result = make_result()
    page = run_report.write_report(result).read_text(encoding="utf-8")

    class Broken:
        def result(self):
            raise OSError("it is gone")

    asked = []

    def call(function, folder, names):
        asked.append((folder, tuple(names)))
        return Broken()

    assert run_report.write_report(result, meanwhile=call).read_text(encoding="utf-8") == page
    assert asked == [(result.folder, run_report.IN_THE_OTHER)]


@pytest.mark.parametrize("busy", [0.0, 1.5])
def test_idle_cpus_are_counted_over_the_time_that_they_were_watched(
    monkeypatch: pytest.MonkeyPatch, busy: float
) -> None:
    """Of two CPUs: a counter of idle seconds that grows as fast as the others leave it."""
    monkeypatch.setattr(second.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(second.time, "perf_counter", iter([10.0, 10.2]).__next__)
    idle = iter([100.0, 100.0 + (2 - busy) * 0.2])
    monkeypatch.setattr(second.psutil, "cpu_times", lambda: SimpleNamespace(idle=next(idle)))
    assert second._idle_cpus() == pytest.approx(2 - busy)
