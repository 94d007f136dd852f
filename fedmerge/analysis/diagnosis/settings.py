"""A rule for the settings of gradient fusion: fuse on four fifths of the images, compare on the last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject, answers, score
from fedmerge.analysis.diagnosis.words import points
from fedmerge.errors import FedMergeError
from fedmerge.merging import FUSION, merge
from fedmerge.registry import Needs
from fedmerge.schema.option_paths import with_option
from fedmerge.seeding import generator

CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "descent": {"closed_form": {"use": False}},
    "fast descent": {"closed_form": {"use": False}, "descent": {"lr": 1e-2}},
    "kl head": {"loss": {"head": "kl"}, "closed_form": {"use": False}},
    "towards zero": {"closed_form": {"towards": "zero"}},
}
"""Options of ``kf-gradient`` that the rule chooses among, by name."""


@ANALYSES.method(
    "settings",
    title="Settings of gradient fusion",
    paper="Model Fusion via Neuron Interpolation, arXiv 2507.00037",
    needs=Needs(individual_models=True, fusion_images=True),
)
def settings(subject: Subject, *, epochs: int = 30) -> Finding:
    """Choose the settings of ``kf-gradient`` without labels, and measure whether the choice is no worse.

    Half of the images, drawn by the seed, are the fusion set; the rule (``choose``) sees these alone. The
    other half then gives agreement with the logit ensemble, and accuracy where there are labels, of a fusion
    by each candidate on the whole fusion set. Table ``settings``: name, held_out (what the rule compares,
    less is better), chosen, seconds, agreement, accuracy. The number is the accuracy (or agreement) of the
    chosen candidate less that of the default.
    """
    subject.check_alike()
    order = torch.randperm(len(subject.pictures), generator=generator(subject.seed, "settings"))
    fusion, kept = (part.to(subject.device) for part in order.tensor_split(2))
    models = list(subject.models.values())
    images = subject.pictures
    candidates = {
        name: with_option(options, "descent.epochs", epochs) for name, options in CANDIDATES.items()
    }
    held, best = choose(models, images[fusion], candidates, subject.seed)
    ensemble = torch.stack([answers(model, images[kept]) for model in models]).mean(0).argmax(1)
    rows, unlabelled = [], subject.labels is None
    for name, options in candidates.items():
        began = time.perf_counter()
        made = merge(models, "kf-gradient", data=images[fusion], seed=subject.seed, **options).model
        logits = answers(made.to(subject.device), images[kept])
        rows.append({
            "name": name, "held_out": held[name], "chosen": name == best,
            "seconds": time.perf_counter() - began,
            "agreement": (logits.argmax(1) == ensemble).double().mean().item(),
            "accuracy": torch.nan if unlabelled else score(logits, subject.classes[kept]).accuracy,
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    by = "agreement" if subject.labels is None else "accuracy"
    scores = frame.set_index("name")[by]
    gain = float(scores[best] - scores["default"])
    span = float(scores.max() - scores.min())
    said = (
        f"The held-out fifth chooses '{best}', {points(gain)} of {by} from the default; between the "
        f"worst and the best settings lie {points(span)}."
    )
    return Finding({"settings": frame}, said, gain)


def choose(
    models: Sequence[nn.Module], images: Tensor, candidates: Mapping[str, Mapping[str, Any]], seed: int = 0
) -> tuple[dict[str, float], str]:
    """Return each candidate's held-out divergence, and the name of the least; the first among equals.

    images: fusion images, without labels. Each candidate, options of ``kf-gradient``, fuses on four fifths of
    them, drawn by the seed; on the last fifth it is KL(mean of the models' probabilities || the fused
    model's), in nats. Raises FedMergeError for fewer than ten images and for options that the method refuses.
    """
    if len(images) < 10:
        raise FedMergeError(
            f"{len(images)} images are too few to hold a fifth of them out: give at least 10."
        )
    for options in candidates.values():
        FUSION["kf-gradient"].check(dict(options))
    order = torch.randperm(len(images), generator=generator(seed, "held-out settings")).to(images.device)
    rest, held = order[len(order) // 5 :], order[: len(order) // 5]
    wanted = torch.stack([answers(model, images[held]).double().softmax(1) for model in models]).mean(0)
    found = {}
    for name, options in candidates.items():
        made = merge(models, "kf-gradient", data=images[rest], seed=seed, **options).model.to(images.device)
        logs = answers(made, images[held]).double().log_softmax(1)
        found[name] = float(kl_div(logs, wanted, reduction="batchmean"))
    return found, min(found, key=lambda name: found[name])
