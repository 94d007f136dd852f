"""What the methods of an experiment need, and the sentences where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedmerge.experiment.configuration.entries import CALIBRATION
from fedmerge.merging import FUSION
from fedmerge.registry import Needs
from fedmerge.tasks import TASKS
from fedmerge.testtime import TESTTIME

if TYPE_CHECKING:
    from fedmerge.experiment.configuration.config import Experiment
    from fedmerge.experiment.configuration.entries import MethodConfig


def needs_of(entry: MethodConfig) -> Needs:
    """Return what a fusion method needs with its options; repairing its result takes sums over images."""
    needs = FUSION[entry.method].needs_with(entry.options)
    return needs | Needs(fusion_sums=True) if entry.after != "none" else needs


def needs_data(needs: Needs) -> bool:
    """Whether a method takes images, wherever they are."""
    return needs.fusion_images or needs.fusion_sums or needs.fusion_labels


def unmet_needs(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence for each method whose needs the experiment does not meet."""
    data = experiment.fusion_data
    for entry in experiment.fusion:
        needs = needs_of(entry)
        if needs.shared_start and experiment.training.start == "independent":
            yield (
                f"{_name(entry)} needs the weights from which all models were trained, but with "
                "training.start: independent there are none: set it to shared, or take the method out."
            )
        if needs_data(needs) and data is None:
            yield (
                f"{_name(entry)} needs {_words(needs)}: set fusion_data, for example "
                "fusion_data: {from: union, images: 400}, or take the method out."
            )
        if needs.fusion_images and data is not None and data.origin == "hospitals":
            yield (
                f"{_name(entry)} needs images at the server, but with fusion_data.from: hospitals "
                "images do not leave the hospital: set it to union or server, or choose a method that "
                "needs sums over images only."
            )
        if data is not None and data.origin == "hospitals" and experiment.federation.masks_statistics:
            yield from _not_masked(entry, needs)
    if experiment.training.fine_tune == "none":
        yield from _without_own_models(experiment)
    for entry in experiment.testtime:
        if entry.start != "merged":
            yield from _one_network(entry)
        if entry.needs_federated:
            yield from _no_rounds(experiment, entry)
        if entry.calibrated:
            yield from _calibrated(entry)


def unfit(experiment: Experiment, name: str) -> Iterator[str]:
    """Yield a sentence for each method, and for the selection, that is not for the cohort's task."""
    task = TASKS[name]
    for entry in experiment.testtime:
        if why := TESTTIME[entry.method].misfit(name):
            yield (
                f"test-time method '{entry.method}' is not for task {name}, because {why}: take it out, or "
                "choose another (docs/tasks.md)."
            )
    for entry in experiment.fusion:
        if why := FUSION[entry.method].misfit(name):
            yield f"fusion method '{entry.method}' is not for task {name}, because {why}: take it out."
        elif needs_of(entry).fusion_labels and not task.class_outputs:
            yield (
                f"{_name(entry)} attributes the class of each fusion image to neurons, but with task {name} "
                "an image has no class with an output of its own: set attribution: uniform."
            )
    able = dict.fromkeys((task.headline, "accuracy", "balanced_accuracy"))
    if experiment.selection not in able:
        yield (
            f"selection: {experiment.selection} is no score that hospitals give with task {name}: set it to "
            f"one of {', '.join(able)}."
        )


def _not_masked(entry: MethodConfig, needs: Needs) -> Iterator[str]:
    if needs.own_sums:
        yield (
            f"{_name(entry)} asks each hospital for sums of its own model, which masks "
            "(federation.secure_statistics) cannot hide in a sum: take attribution out, choose hf, kf, ot or "
            "rebasin, or take secure_statistics out."
        )


def _without_own_models(experiment: Experiment) -> Iterator[str]:
    fusion = [(_name(entry), needs_of(entry)) for entry in experiment.fusion]
    testtime = [
        (f"test-time method '{entry.method}'", TESTTIME[entry.method].needs_with(entry.options))
        for entry in experiment.testtime
        if entry.start == "merged"
    ]
    for name, needs in fusion + testtime:
        if needs.individual_models or needs_data(needs):
            yield (
                f"{name} needs the hospitals' individual models, but with training.fine_tune: none "
                "they hand out none: let them fine-tune, or take the method out."
            )


def _no_rounds(experiment: Experiment, entry: MethodConfig) -> Iterator[str]:
    name = f"test-time method '{entry.method}'"
    if not experiment.training.rounds:
        yield (
            f"{name} takes the model of the federated rounds, but with rounds: 0 there is none: set rounds "
            "to at least 1, or take start or the anchor out."
        )
    if experiment.training.fine_tune == "none":
        yield (
            f"{name} has the model of the rounds already, because with fine_tune: none there is no other: "
            "take start or the anchor out."
        )
    if entry.tune is not None and entry.start == "merged":
        yield (
            f"{name} cannot be tuned with anchor: federated, because every source had a part in that model: "
            "take one of the two out."
        )


def _one_network(entry: MethodConfig) -> Iterator[str]:
    name = f"test-time method '{entry.method}'"
    if TESTTIME[entry.method].needs_with(entry.options).individual_models:
        yield (
            f"{name} needs the hospitals' individual models, but start: {entry.start} gives it one "
            "network: take start out, or choose a method that adapts one model."
        )
    elif entry.tune is not None:
        yield (
            f"{name} cannot be tuned with start: {entry.start}, because no source can be held out of a "
            "network that saw all their images: take one of the two out."
        )


def _calibrated(entry: MethodConfig) -> Iterator[str]:
    name = f"test-time method '{entry.method}'"
    if entry.start != "merged":
        yield (
            f"{name} cannot be calibrated with start: {entry.start}, because a temperature for each source "
            "takes the hospitals' own models, and this start is one network: take one of the two out."
        )
    elif CALIBRATION not in TESTTIME[entry.method].options.model_fields:
        able = [method.name for method in TESTTIME if CALIBRATION in method.options.model_fields]
        yield (
            f"{name} cannot be calibrated: it takes no temperature for each source. Take calibrated "
            f"out, or choose a method that does: {', '.join(able) or 'none so far'}."
        )


def _name(entry: MethodConfig) -> str:
    return f"fusion method '{entry.method}'" + (
        f" with after: {entry.after}" if entry.after != "none" else ""
    )


def _words(needs: Needs) -> str:
    what = "images to fuse with" if needs.fusion_images else "sums over images"
    return f"{what} and their labels" if needs.fusion_labels else what
