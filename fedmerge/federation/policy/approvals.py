"""A node's record of proposals and of people's decisions about them; no server writes here.

Proposals are in ``records/requests/HASH.json``, decisions in ``records/decisions.jsonl``, a log chained by
hash; each decision is in the audit log, too. The last decision about a proposal counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError, short
from fedmerge.federation.policy.audit import audit
from fedmerge.federation.policy.proposal import Proposal, code_for, proposal_hash
from fedmerge.schema.validation import validate
from fedmerge.storage.chained_log import ChainedLog
from fedmerge.storage.files import Damaged, make_folder, read_sealed, write_sealed

MOST = 200
"""The most proposals that may wait for a decision."""
SHORTEST = 8
"""The fewest letters of a hash that name a proposal."""


@dataclass(frozen=True)
class Decision:
    """A person's decision about a proposal, with its limits.

    by: the person. until: the last day. runs: the most runs. reason: why it was refused. day: the date.
    """

    approved: bool
    by: str
    until: date | None = None
    runs: int | None = None
    reason: str = ""
    day: date | None = None

    def stands(self, today: date, others: int) -> str | None:
        """Return why the decision does not allow this run, or None. others: the number of its other runs."""
        if not self.approved:
            return f"was refused by {self.by}" + (f" ({self.reason})" if self.reason else "")
        if self.until is not None and today > self.until:
            return f"was approved until {self.until} only"
        if self.until is not None and self.day is not None and today < self.day:
            return f"was approved on {self.day}, but this machine's clock says {today}: set the clock (NTP)"
        if self.runs is not None and others >= self.runs:
            return f"was approved for {self.runs} run{'s' if self.runs > 1 else ''}, and that was all"
        return None


class Approvals:
    """The proposals and decisions of one node, and the runs of each proposal."""

    def __init__(self, folder: Path) -> None:
        """folder: of the node."""
        self.folder = folder
        self.requests = folder / "records" / "requests"
        self.runs = folder / "records" / "runs"
        self.log = ChainedLog(folder / "records" / "decisions.jsonl")

    def keep(self, proposal: Proposal) -> str:
        """Keep a proposal for people to decide; return its hash. Raises FedMergeError if too many wait."""
        name = proposal_hash(proposal)
        path = self.requests / f"{name}.json"
        if path.exists():
            return name
        make_folder(self.requests)
        decided = self.decisions()
        waiting = [known for known in self.hashes() if known not in decided]
        if len(waiting) >= MOST:
            raise FedMergeError(
                f"{MOST} experiments wait for this hospital's approval already, and it looks at no more: its "
                "people decide about some first (`fedmerge deployment requests`)."
            )
        seen = datetime.now(UTC).isoformat(timespec="seconds")
        write_sealed(
            path, {"seen": seen, "code": code_for(proposal), "proposal": proposal.model_dump(mode="json")}
        )
        return name

    def hashes(self) -> list[str]:
        """Return the hashes of all kept proposals."""
        found = self.requests.glob("*.json") if self.requests.is_dir() else ()
        return sorted(path.stem for path in found if re.fullmatch("[0-9a-f]{64}", path.stem))

    def read(self, name: str) -> tuple[Proposal, str]:
        """Return a kept proposal, and when it came. Raises Damaged if the file was changed."""
        path = self.requests / f"{name}.json"
        body = read_sealed(path)
        proposal = validate(Proposal, body["proposal"], f"proposal {name}")
        if proposal_hash(proposal, body["code"]) != name:
            raise Damaged(f"'{path}' is damaged: it is another proposal than its name says.")
        return proposal, body["seen"]

    def find(self, given: str) -> str:
        """Return the one hash that begins with ``given``. Raises FedMergeError for none, or for several."""
        found = [name for name in self.hashes() if name.startswith(given.lower())]
        if len(given) < SHORTEST or len(found) != 1:
            what = f"{len(found)} requests begin" if len(found) > 1 else "no request begins"
            raise FedMergeError(
                f"{what} with '{short(given)}': give at least {SHORTEST} letters of a hash, or all of them; "
                "`fedmerge deployment requests` lists them."
            )
        return found[0]

    def decide(self, name: str, decision: Decision) -> None:
        """Record a decision in both logs."""
        body: dict[str, Any] = {
            "proposal": name,
            "decided": "approved" if decision.approved else "refused",
            "by": decision.by,
        }
        if decision.until is not None:
            body["until"] = decision.until.isoformat()
        if decision.runs is not None:
            body["runs"] = decision.runs
        if decision.reason:
            body["reason"] = decision.reason
        self.log.append(body | {"audited": audit(self.folder, "decision", **body)})

    def decisions(self) -> dict[str, Decision]:
        """Return the last decision about each proposal. Raises BrokenChain if the log was changed."""
        return {entry["proposal"]: _decision(entry) for entry in self.log.entries()}

    def used_in(self, name: str, but: int) -> int:
        """Return the number of runs other than ``but`` in which a proposal came and was approved."""
        return sum(name in self.run(run)["proposals"] for run in self._known_runs() if run != but)

    def run(self, run: int) -> dict[str, Any]:
        """Return a run's record: its ``proposals`` in order, and how often each kind was ``answered``."""
        path = self.runs / f"{run}.json"
        return dict(read_sealed(path)) if path.exists() else {"proposals": [], "answered": {}}

    def note(self, run: int, known: Mapping[str, Any]) -> None:
        """Write a run's record."""
        make_folder(self.runs)
        write_sealed(self.runs / f"{run}.json", dict(known))

    def _known_runs(self) -> list[int]:
        found = self.runs.glob("*.json") if self.runs.is_dir() else ()
        return [int(path.stem) for path in found if path.stem.isdigit()]


def _decision(entry: Mapping[str, Any]) -> Decision:
    until = date.fromisoformat(entry["until"]) if "until" in entry else None
    approved = entry["decided"] == "approved"
    day = datetime.fromisoformat(entry["at"]).date()
    return Decision(approved, entry["by"], until, entry.get("runs"), entry.get("reason", ""), day)
