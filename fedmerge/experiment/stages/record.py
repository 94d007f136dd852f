"""The record of a run: everything measured so far, row by row, and the run's progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from fedmerge.engine.rows import Row, RowBuffer
from fedmerge.experiment.stages.evaluation import Measured

if TYPE_CHECKING:
    from fedmerge.federation import MergeStrategy

Progress = Callable[[str, float, float], None]
"""``progress(stage, done, total)``: called often; a stage begins when its text changes."""
Step = Callable[[str, int, int], None]
"""``step(part, done, total)``: how far the present part of a stage is."""

LISTS = ("results", "history", "coefficients", "decisions", "failures", "reliability", "diagnosis")


class Record(RowBuffer):
    """The rows of a run. ``common`` stands in every result row (experiment, cohort, model, config hash).

    remarks: sentences about an earlier process's work. images: remarks on the hospitals' images
    (``data.checks``), and on a second process that failed, by kind. pause: called between two pieces of work,
    where the run may end with nothing lost.
    listen: called with each new row of history, results and failures; not with rows of a checkpoint that is
    loaded.
    """

    def __init__(
        self,
        common: Row,
        progress: Progress | None = None,
        *,
        pause: Callable[[], None] = lambda: None,
        listen: Callable[[str, Row], None] | None = None,
    ) -> None:
        super().__init__(LISTS)
        self.common, self.progress, self.pause, self.listen = common, progress, pause, listen
        self.results, self.history = self.rows["results"], self.rows["history"]
        self.coefficients, self.decisions = self.rows["coefficients"], self.rows["decisions"]
        self.failures, self.reliability = self.rows["failures"], self.rows["reliability"]
        self.diagnosis = self.rows["diagnosis"]
        self.remarks: list[str] = []
        self.images: dict[str, str] = {}
        self._stopping = ""
        self._heard: tuple[MergeStrategy | None, tuple[int, int]] = (None, (0, 0))

    def stage(self, text: str, jobs: int = 1) -> Step:
        """Begin a stage of ``jobs`` equal parts (a stream to measure, say); 0: the number is unknown.

        The function that is returned reports steps of this stage, also after another one was begun.
        """
        finished = 0
        self.show(text, 0.0, jobs)

        def step(part: str, done: int, total: int) -> None:
            nonlocal finished
            self.show(f"{text}, {part}", finished + done / total, jobs)
            finished += done == total

        return step

    def stopping(self, text: str) -> None:
        """Show this text from now on: the run ends after what is in flight."""
        self._stopping = text
        self.show(text, 0, 0)

    def show(self, text: str, done: float, total: float) -> None:
        """Report to whoever looks on, if anybody does."""
        if self.progress is not None:
            self.progress(*((self._stopping, 0, 0) if self._stopping else (text, done, total)))

    def result(self, seed: int, site: str, measured: Measured) -> None:
        """Add a result row, the coefficients behind it and its calibration by bin."""
        where = {"seed": seed, "site": site}
        self.results.append(self.common | where | measured.row)
        self._tell("results", where | measured.row)
        self.coefficients += [where | {"method": measured.row["method"]} | entry for entry in measured.trace]
        self.reliability += [where | entry for entry in measured.bins]
        for name, reason in measured.failures.items():
            self.failure(seed, f"metric {name} of {measured.row['method']}", site, reason)

    def fusion(self, seed: int, site: str, label: str, decisions: list[Row]) -> None:
        """Add the decision log of a fusion method, or of a test-time method that was tuned."""
        self.decisions += [{"seed": seed, "site": site, "method": label} | entry for entry in decisions]

    def failure(self, seed: int, where: str, site: str, reason: str) -> None:
        """Add a failure whose part was left out: where in the run, at which site, and why."""
        row = {"seed": seed, "where": where, "site": site, "reason": reason}
        self.failures.append(row | {"attempt": 1, "then": "left out", "kind": "error", "injected": ""})
        self._tell("failures", self.failures[-1])

    def federation(self, seed: int, name: str, strategy: MergeStrategy) -> None:
        """Add the new rows in the history and failures of a federation."""
        known, since = self._heard
        history, failures = strategy.rows(since if known is strategy else (0, 0))
        self._heard = strategy, (len(strategy.history), len(strategy.failures))
        for row in history:
            self.history.append({"seed": seed, "federation": name} | row)
            self._tell("history", self.history[-1])
        for failure in failures:
            where = f"round {failure['round']} ({failure['phase']})" if failure["round"] else failure["phase"]
            del failure["round"], failure["phase"]
            self.failures.append({"seed": seed, "where": where} | failure)
            self._tell("failures", self.failures[-1])

    def skip(self, strategy: MergeStrategy, rows: tuple[int, int] | None = None) -> None:
        """Take the first rows in the history and failures of a federation, or all, as recorded."""
        self._heard = strategy, rows or (len(strategy.history), len(strategy.failures))

    def frame(self, name: str, columns: list[str]) -> pd.DataFrame:
        """Return one of the lists as a DataFrame with at least ``columns``, in that order, first."""
        frame = pd.DataFrame(self.rows[name])
        return frame.reindex(columns=[*columns, *(c for c in frame.columns if c not in columns)])

    def tell(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Tell the listener of rows that another process has measured for this run just now."""
        for kind in ("history", "results", "failures"):
            for row in rows.get(kind, ()):
                self._tell(kind, {key: value for key, value in row.items() if key not in self.common})

    def _tell(self, kind: str, row: Row) -> None:
        if self.listen is not None:
            self.listen(kind, row)
