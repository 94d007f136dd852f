"""Contradictions between sections of an experiment, found before an image is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fedmerge.errors import FedMergeError, short
from fedmerge.experiment.configuration.config import RESERVED, Experiment
from fedmerge.experiment.configuration.federations import federations
from fedmerge.experiment.configuration.needs import unfit, unmet_needs
from fedmerge.federation.plan.fault_injection import check_sites
from fedmerge.federation.plan.plan import START_IS_SHARED
from fedmerge.models.inputs import PER_SITE
from fedmerge.models.zoo import check_network
from fedmerge.schema.faults import Fault, faults_of, without
from fedmerge.testtime.tuning import check_enough

if TYPE_CHECKING:
    from fedmerge.data import CohortSpec

LISTS = ("fusion", "testtime")
"""Sections whose entries are checked one by one."""
PLAIN: dict[str, Any] = {
    "name": "plain",
    "cohort": "plain",
    "model": "plain",
    "training": {"rounds": 1, "fine_tune": {}},
    "fusion": [],
    "evaluation": {"streams": ["iid"]},
}
"""Values that replace a section that cannot be read."""


def between_sections(
    experiment: Experiment | None, data: dict[str, Any], wrong: Sequence[Fault], cohort: CohortSpec | None
) -> Iterator[str]:
    """Yield a sentence for each contradiction between sections.

    experiment: None where ``data`` has the faults ``wrong``; checks that read no faulty section are made
    nevertheless. cohort: None where it cannot be read.
    """
    bad: set[str] = set() if cohort is not None else {"cohort"}
    if experiment is None:
        experiment, faulty = _sound(data, wrong)
        bad |= faulty
    for reads, check in CHECKS:
        if experiment is not None and not bad & set(reads):
            yield from check(experiment, cohort)


def _sound(data: dict[str, Any], wrong: Sequence[Fault]) -> tuple[Experiment | None, set[str]]:
    """Return an experiment without its faults, and the names of the sections replaced by plain ones.

    An unknown field and a method that cannot be are left out, and the rest of their section is kept.
    """
    known: Any = data
    bad: set[str] = set()
    entries = {(str(f.path[0]), f.path[1]) for f in wrong if len(f.path) > 1 and f.path[0] in LISTS}
    for fault in wrong:
        if fault.kind == "extra_forbidden" and fault.path[0] not in LISTS:
            known = without(known, fault.path)
        elif fault.path[:1] not in [[name] for name in LISTS] or len(fault.path) == 1:
            bad.add(str(fault.path[0]) if fault.path else "")
    for section, i in sorted(entries, key=str, reverse=True):
        known = without(known, [section, i])
    plain = {section: value for section, value in known.items() if section not in bad}
    found, _ = faults_of(Experiment, PLAIN | plain)
    return found, bad


def _labels(experiment: Experiment, cohort: Any) -> Iterator[str]:
    labels = [entry.label for entry in (*experiment.fusion, *experiment.testtime)]
    for label in dict.fromkeys(label for label in labels if label in RESERVED):
        yield f"'{label}' is what a reference is called; give the method another 'label'."
    for label in dict.fromkeys(label for label in labels if labels.count(label) > 1):
        yield f"two methods are labelled '{label}'; give one of them another 'label'."


def _network(experiment: Experiment, cohort: Any) -> Iterator[str]:
    model = experiment.model
    yield from _said(lambda: check_network(model.name, model.options, model.pretrained))


def _start_file(experiment: Experiment, cohort: Any) -> Iterator[str]:
    """Yield what a file of weights to begin from does not go together with."""
    if not isinstance(experiment.model.pretrained, str):
        return
    if experiment.normalisation == "default":
        yield (
            f"how images were normalised when '{short(experiment.model.pretrained)}' was trained is not "
            "known: set normalisation: imagenet, half or none."
        )
    if experiment.training.start == "independent":
        yield START_IS_SHARED


def _needs(experiment: Experiment, cohort: Any) -> Iterator[str]:
    yield from unmet_needs(experiment)


def _task(experiment: Experiment, cohort: CohortSpec) -> Iterator[str]:
    yield from unfit(experiment, cohort.task)


def _who(experiment: Experiment, cohort: CohortSpec) -> Iterator[str]:
    yield from _said(lambda: federations(cohort, experiment))


def _tuning(experiment: Experiment, cohort: CohortSpec) -> Iterator[str]:
    """Yield a sentence for each test-time option that has too few sources to be tuned on."""
    tuned = [entry for entry in experiment.testtime if entry.tune is not None]
    try:
        who = federations(cohort, experiment) if tuned else []
    except FedMergeError:  # ``_who`` has reported it
        return
    for entry in tuned:
        for federation, target in ((each, target) for each in who for target in each.targets):
            assert entry.tune is not None
            enough = partial(check_enough, experiment.sources(target, federation.members), entry.tune.option)
            yield from (f"'{entry.label}' at {target}: {sentence}" for sentence in _said(enough))


def _normalisation(experiment: Experiment, cohort: Any) -> Iterator[str]:
    """Yield what keeps a hospital's own statistics from being known before its test images arrive."""
    if experiment.normalisation != PER_SITE or experiment.unseen == "none":
        return
    if experiment.evaluation.split == "all":
        yield (
            f"normalisation: {PER_SITE} takes an unseen hospital's mean and deviation from its own training "
            "images (without labels), so these must not arrive as test images, too: set evaluation.split: "
            "test."
        )
    if experiment.evaluation.mixed:
        yield (
            f"evaluation.mixed shows images of several hospitals as those of one, so normalisation: "
            f"{PER_SITE} does not say by whose mean and deviation: take one of them out."
        )


def _fault_injection(experiment: Experiment, cohort: CohortSpec) -> Iterator[str]:
    names = [site.name for site in cohort.sites]
    yield from _said(lambda: check_sites(experiment.federation.faults, names))


def _said(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except FedMergeError as error:
        yield from map(str, error.args)


CHECKS: tuple[tuple[tuple[str, ...], Callable[[Experiment, Any], Iterator[str]]], ...] = (
    (LISTS, _labels),
    (("model",), _network),
    (("model", "normalisation", "training"), _start_file),
    (("fusion_data", "training"), _needs),
    (("cohort", "selection"), _task),
    (("cohort", "unseen", "training", "evaluation"), _who),
    (("cohort", "unseen", "training", "evaluation"), _tuning),
    (("normalisation", "unseen", "evaluation"), _normalisation),
    (("cohort", "federation"), _fault_injection),
)
"""The sections that each check reads, and the check."""
