"""Derive the jobs that follow from an approved proposal; every other job is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fedmerge.errors import FedMergeError, short
from fedmerge.federation.plan.fault_injection import faults_for
from fedmerge.federation.plan.train_config import (
    common_config,
    control_config,
    fine_tune_config,
    personal_config,
    round_config,
)
from fedmerge.federation.policy.proposal import Proposal, canonical
from fedmerge.schema.validation import differences

Job = Mapping[str, Any]


def check_job(proposal: Proposal, kind: str, job: Job, site: str) -> str:
    """Return a job's name for counting. Raises FedMergeError unless the job follows from the proposal.

    kind: the message's type. site: this hospital. A job that is sent again has the same name.
    """
    if kind not in _CHECKS:
        raise FedMergeError(f"the server asks for '{short(kind)}', which no approved experiment does.")
    return _CHECKS[kind](proposal, dict(job), site)


def most(proposal: Proposal, what: str, scores: int) -> int | None:
    """Return how often ``what`` (from ``check_job``) may be answered in one run; None: no limit."""
    if what.startswith("train"):
        return proposal.plan.federation.attempts
    return scores if what == "evaluate" else None


def _train(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    _open(proposal, "weights")
    return _training(proposal, job, site)


def _train_secure(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    _masked(proposal)
    own = {"batch_norm": job.pop("batch_norm", None)}
    _same(own, {"batch_norm": proposal.plan.batch_norm})
    job.pop("label", None)
    return _training(proposal, job, site)


def _training(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    plan = proposal.plan
    round = _whole(job, "round")
    last = plan.rounds + (plan.fine_tune is not None)
    if not 1 <= round <= last:
        raise FedMergeError(f"the server asks for round {round}, but the approved experiment has {last}.")
    expected = round_config(plan, round) if round <= plan.rounds else fine_tune_config(plan)
    stateful = "personal" in expected or "control" in expected
    if stateful and "since" in job and not 0 <= _whole(job, "since") < round:
        raise FedMergeError(f"the job's field 'since' is {short(job['since'])}, no round before {round}.")
    faults = job.get("faults", [])
    allowed = [
        [fault.told() for fault in faults_for(plan.federation.faults, plan.seed, round, site, attempt)]
        for attempt in range(1, plan.federation.attempts + 1)
    ]
    if canonical(faults) not in map(canonical, allowed):
        raise FedMergeError(
            f"the server orders faults ({short(canonical(faults))}) that the approved experiment does not "
            f"have in round {round}."
        )
    _same({key: value for key, value in job.items() if key not in ("since", "faults")}, expected)
    if "since" in job and not stateful:
        raise FedMergeError("the job has a field 'since', which the approved experiment does not have.")
    return f"train {round}"


def _evaluate(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    _open(proposal, "scores")
    return _scores(proposal, job)


def _evaluate_secure(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    _masked(proposal)
    job.pop("label", None)
    return _scores(proposal, job)


def _scores(proposal: Proposal, job: dict[str, Any]) -> str:
    plan = proposal.plan
    expected = common_config(plan)
    expected |= {"calibrate": True} if "calibrate" in job else {}
    expected |= personal_config(plan) if "personal" in job else {}
    _same(job, expected)
    return "evaluate"


def _memory(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    plan = proposal.plan
    if not plan.federation.keeps_client_state:
        raise FedMergeError(
            "the server asks for what a hospital keeps between rounds, and in the approved experiment it "
            "keeps nothing."
        )
    restored = common_config(plan) | personal_config(plan) | control_config(plan)
    _same(job, {} if "model" not in job else restored)
    return "memory"


def _secure_sum(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    if proposal.sums is None or not proposal.plan.federation.masks_statistics:
        _masked(proposal)
    return "secure sum"


def _masked(proposal: Proposal) -> None:
    if not proposal.plan.federation.secure_aggregation:
        raise FedMergeError("the server asks for a secure sum, but the approved experiment has none.")


def _open(proposal: Proposal, what: str) -> None:
    if proposal.plan.federation.secure_aggregation:
        raise FedMergeError(
            f"the server asks for {what} in the open, but in the approved experiment they are summed under "
            "masks (secure_aggregation)."
        )


def _sums_begin(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    _sums_open(proposal)
    return _begin(proposal, job, site)


def _sums(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    _sums_open(proposal)
    _asked(proposal)
    return "sums"


def _secure_sums_begin(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    _sums_masked(proposal)
    return _begin(proposal, job, site)


def _secure_sums(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    _sums_masked(proposal)
    _asked(proposal)
    return "sums"


def _sums_open(proposal: Proposal) -> None:
    if proposal.plan.federation.masks_statistics:
        raise FedMergeError(
            "the server asks for sums over images in the open, but in the approved experiment they are added "
            "up under masks (secure_statistics)."
        )


def _sums_masked(proposal: Proposal) -> None:
    if not proposal.plan.federation.masks_statistics:
        raise FedMergeError(
            "the server asks for sums over images under masks, but in the approved experiment none are."
        )


def _begin(proposal: Proposal, job: dict[str, Any], site: str) -> str:
    asked = _asked(proposal)
    images = job.get("images")
    own = images.get(site) if isinstance(images, dict) else None
    if not isinstance(own, int) or isinstance(own, bool) or not 0 < own <= asked:
        raise FedMergeError(
            f"the server asks for sums over {short(own)} images, but the approved experiment has at most "
            f"{asked}."
        )
    own_fields = ("images", "session", "parents")
    expected = common_config(proposal.plan) | {"split": proposal.sums.split if proposal.sums else ""}
    _same({key: value for key, value in job.items() if key not in own_fields}, expected)
    return "sums"


def _asked(proposal: Proposal) -> int:
    if proposal.sums is None:
        raise FedMergeError(
            "the server asks for sums over images, which the approved experiment does not have."
        )
    return proposal.sums.images


def _whole(job: Job, field: str) -> int:
    value = job.get(field)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FedMergeError(f"the job's field '{field}' is {short(value)}, no whole number.")
    return value


def _same(job: Job, expected: Job) -> None:
    """Raise FedMergeError with the first field in which a job differs from the expected one."""
    wanted = json.loads(json.dumps(expected))
    if canonical(job) == canonical(wanted):
        return
    for field, given, approved in differences(job, wanted):
        raise FedMergeError(
            f"the job's field '{short(field)}' is {short(canonical(given))}, but the approved experiment "
            f"leads to {short(canonical(approved))}."
        )
    raise FedMergeError(
        "the job is written otherwise than the approved experiment leads to (numbers as others)."
    )


_CHECKS: dict[str, Callable[[Proposal, dict[str, Any], str], str]] = {
    "train": _train,
    "evaluate": _evaluate,
    "query.memory": _memory,
    "query.restore": _memory,
    "train.secure": _train_secure,
    "evaluate.secure": _evaluate_secure,
    "query.secure_shares": _secure_sum,
    "query.secure_masked": _secure_sum,
    "query.secure_confirm": _secure_sum,
    "query.secure_unmask": _secure_sum,
    "query.sums_begin": _sums_begin,
    "query.sums": _sums,
    "query.secure_sums_begin": _secure_sums_begin,
    "query.secure_sums": _secure_sums,
}
