"""The guard of a deployed hospital: it checks every message against policy, approval and plan, and logs it.

The policy and the decisions are read for every message, so a person's change counts from the next message
on. A refusal is a sentence that the server reads; a reply is in the log before it leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Message

from fedmerge.data import Site
from fedmerge.errors import FedMergeError
from fedmerge.federation.messages.reading import job_of
from fedmerge.federation.messages.records import reason_of
from fedmerge.federation.messages.tensors import named
from fedmerge.federation.policy.approvals import Approvals
from fedmerge.federation.policy.audit import audit, fingerprint
from fedmerge.federation.policy.derived import check_job, most
from fedmerge.federation.policy.keeping import check_group, check_plugins, check_proposal, strip
from fedmerge.federation.policy.proposal import KEY, Proposal, proposal_hash, read_proposal
from fedmerge.federation.policy.rules import Policy, policy_hash, read_policy
from fedmerge.federation.policy.seen import seen
from fedmerge.federation.simulated import PENDING, failed
from fedmerge.version import package_version

GREETING, INSPECTION = "query", "query.inspect"


Count = Callable[[], None]


def _nothing() -> None:
    """Count no reply."""


class Pending(FedMergeError):
    """Nobody has decided about the proposal yet."""


class Guarded(Protocol):
    """The part of a hospital that its guard needs."""

    site: Site


class Guard:
    """Checks every message to one node against its policy and approvals, and writes its audit log.

    folder: of the node. seed, threads: from the run's configuration, which the server sets, too.
    """

    def __init__(self, folder: Path, seed: int, threads: int = 1) -> None:
        self.folder = folder
        self.seed = seed
        self.threads = threads
        self.approvals = Approvals(folder)

    @property
    def policy(self) -> Policy:
        """The policy in force now. Raises FedMergeError for an invalid policy.yaml."""
        return read_policy(self.folder)

    @cached_property
    def server(self) -> str:
        """The fingerprint of the certificate authority of the server."""
        return fingerprint(self.folder / "ca.crt")

    def reply(self, hospital: Guarded, run: int, message: Message, how: Callable[[], Message]) -> Message:
        """Return ``how()`` if the message may be answered, else a refusal; log either before it leaves.

        Raises FedMergeError if the log cannot be written: then nothing leaves.
        """
        about = message.metadata
        asked = {"run": run, "kind": named(about.message_type), "group": named(about.group_id)}
        try:
            asked |= seen(message, "in")
            about_it, count = self._check(hospital, run, message)
            asked |= about_it
            reply_message = how()
            if not reply_message.has_error():
                count()
                strip(reply_message, self.policy)
        except FedMergeError as error:
            code = {"code": PENDING} if isinstance(error, Pending) else {}
            reply_message = failed(message, error, **code)
        except Exception as error:  # a bug here: the audit log has it, too
            self._log("failed", asked, reason=type(error).__name__)
            raise
        if reply_message.has_error():
            waiting = reply_message.error.code == PENDING
            self._log("waits for approval" if waiting else "refused", asked, reason=reason_of(reply_message))
        else:
            self._log("answered", asked, **seen(reply_message, "out"))
        return reply_message

    def _check(self, hospital: Guarded, run: int, message: Message) -> tuple[dict[str, Any], Count]:
        """Return the log's fields and a function to count the reply. Raises FedMergeError for a refusal.

        A reply is counted when it is ready and before it leaves: a node that is killed at work has given none
        and is asked again.
        """
        policy, kind = self.policy, message.metadata.message_type
        job = job_of(message)
        if kind == INSPECTION:
            return self._inspected(policy)
        known, count = self.approvals.run(run), _nothing
        if kind == GREETING:
            name = self._greeted(policy, job, run, known)
        else:
            if not known["proposals"]:
                raise FedMergeError("the server did not say what it is going to ask, before it asked.")
            name = known["proposals"][-1]
            proposal, _ = self.approvals.read(name)
            if proposal_hash(proposal) != name:
                raise FedMergeError("this hospital's FedMerge was changed since the run said what it asks.")
            self._check_proposal(policy, name, proposal, run)
            what = check_job(proposal, kind, job, hospital.site.name)
            limit = most(proposal, what, policy.limits.scores)
            self._counted(run, f"{name} {what}", what, limit)
            count = partial(self._count, run, f"{name} {what}", what, limit)
        check_group(policy, hospital.site, kind)
        return {"proposal": name}, count

    def _inspected(self, policy: Policy) -> tuple[dict[str, Any], Count]:
        """Check an inspection against the policy alone, because it belongs to no experiment."""
        if not policy.inspection:
            raise FedMergeError(
                "this hospital does not tell about its images before an experiment (policy.yaml: inspection)."
            )
        return {}, _nothing

    def _greeted(self, policy: Policy, job: dict[str, Any], run: int, known: dict[str, Any]) -> str:
        """Keep the proposal in a greeting; later messages of the run are checked against it."""
        asked = job.get(KEY)
        named = asked.get("plugins") if isinstance(asked, dict) else None
        if isinstance(named, list):  # without them the rest might not be readable
            check_plugins(policy, named)
        proposal = read_proposal(job)
        name = self.approvals.keep(proposal)
        self._check_proposal(policy, name, proposal, run)
        if known["proposals"][-1:] != [name]:
            known["proposals"] = [each for each in known["proposals"] if each != name] + [name]
            self.approvals.note(run, known)
        return name

    def _check_proposal(self, policy: Policy, name: str, proposal: Proposal, run: int) -> None:
        check_proposal(policy, proposal, package_version(), self.threads)
        if proposal.plan.seed != self.seed:
            raise FedMergeError(
                f"the run's configuration has seed {self.seed}, but its plan has {proposal.plan.seed}: a run "
                "has one seed."
            )
        if policy.approval == "any":
            return
        decision = self.approvals.decisions().get(name)
        if decision is None:
            raise Pending(
                f"this hospital has not approved the experiment {name}: its people look at it with `fedmerge "
                "deployment requests NODE`, and approve it with `fedmerge deployment approve NODE "
                f"{name[:16]} --by NAME`."
            )
        others = self.approvals.used_in(name, run) if decision.runs is not None else 0
        wrong = decision.stands(datetime.now(UTC).date(), others)
        if wrong is not None:
            raise FedMergeError(f"the experiment {name} {wrong}.")

    def _counted(self, run: int, key: str, what: str, limit: int | None) -> int:
        """Return how often ``key`` was answered in this run. Raises FedMergeError at the limit."""
        before = int(self.approvals.run(run)["answered"].get(key, 0))
        if limit is not None and before >= limit:
            raise FedMergeError(
                f"this hospital has answered '{what}' {before} times in this run, and more is not allowed."
            )
        return before

    def _count(self, run: int, key: str, what: str, limit: int | None) -> None:
        """Count a reply that is about to leave. Raises FedMergeError at the limit."""
        if limit is not None:
            before = self._counted(run, key, what, limit)
            known = self.approvals.run(run)
            known["answered"][key] = before + 1
            self.approvals.note(run, known)

    def _log(self, event: str, asked: dict[str, Any], **fields: Any) -> None:
        rules = policy_hash(self.folder)
        audit(self.folder, event, **asked, **fields, server=self.server, policy=rules)
