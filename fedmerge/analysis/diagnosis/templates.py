"""Templates: what linear classifiers' weights, and a network's first kernels, look like, apart and merged."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject
from fedmerge.errors import FedMergeError
from fedmerge.registry import Needs


@ANALYSES.method(
    "templates",
    title="Templates in the weights",
    paper="Rethinking Weight-Averaged Model-merging, arXiv 2411.09263",
    needs=Needs(individual_models=True, fusion_labels=True),
)
def templates(subject: Subject, *, decay: float = 0.1, steps: int = 200) -> Finding:
    """Fit a linear classifier to the images and correlate its weights with the classes' mean images.

    The classifier minimises cross-entropy + decay / 2 |W|^2 on pixels (no bias, full batch, L-BFGS with at
    most ``steps`` iterations). At its minimum w_c = (1 / decay) mean_x (1[y = c] - p_c(x)) x, so row c is the
    mean image of class c minus those of what is taken for it. Classes without images are left out. A merged
    template is half of rows c and c + C/2 each, for the first half of the classes.

    Tables: ``templates`` (class, images, correlation with the class's mean image, and with its difference to
    the mean of all images); ``merged`` (first, second, correlation with the mean images of both, by the same
    difference); ``kernels``, for each two models the mean correlation of their first convolution's filters,
    in place, and the share of length that the mean keeps. Arrays: ``means``, ``weights``, ``merged`` (C x
    channels x H x W), ``kernels`` (models and mean: M + 1 x n x ...).
    """
    subject.check_alike()
    images, labels = subject.pictures, subject.classes
    present = torch.unique(labels)
    if len(present) < 2:
        raise FedMergeError("all images are of one class: a classifier needs two.")
    codes = torch.searchsorted(present, labels)
    pixels = images.flatten(1).double()
    weights = fitted(pixels, codes, len(present), decay, steps)
    means = torch.stack([pixels[codes == c].mean(0) for c in range(len(present))])
    centred = means - pixels.mean(0)
    frame = pd.DataFrame({
        "class": present.tolist(),
        "images": torch.bincount(codes).tolist(),
        "with_mean": _correlations(weights, means),
        "with_difference": _correlations(weights, centred),
    })  # fmt: skip
    half = len(present) // 2
    mixed = (weights[:half] + weights[half : 2 * half]) / 2
    merged = pd.DataFrame({
        "first": present[:half].tolist(),
        "second": present[half : 2 * half].tolist(),
        "with_first": _correlations(mixed, centred[:half]),
        "with_second": _correlations(mixed, centred[half : 2 * half]),
    })  # fmt: skip
    kernels, table = _kernels(subject)
    shape = (-1, *images.shape[1:])
    arrays = {
        name: value.reshape(shape).float().cpu().numpy()
        for name, value in (("means", means), ("weights", weights), ("merged", mixed))
    }
    number = float(frame["with_difference"].mean())
    both = float(merged[["with_first", "with_second"]].to_numpy().mean())
    said = (
        f"A class's weights correlate {number:.2f} with its mean image (less the mean of all), and half and "
        f"half of two classes {both:.2f} with each: "
    )
    said += (
        "merged weights show both classes." if both > 0.5 * number else "merged weights show neither clearly."
    )
    return Finding({"templates": frame, "merged": merged, "kernels": table}, said, number, arrays | kernels)


def fitted(pixels: Tensor, labels: Tensor, classes: int, decay: float, steps: int) -> Tensor:
    """Return the weights C x D of the linear classifier of ``templates`` (float64)."""
    weights = torch.zeros(
        classes, pixels.shape[1], dtype=torch.float64, device=pixels.device, requires_grad=True
    )
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=0
    )

    def loss() -> float:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(pixels @ weights.T, labels) + decay / 2 * weights.square().sum()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimiser.step(loss)
    return weights.detach()


def _correlations(first: Tensor, second: Tensor) -> list[float]:
    """The correlation of each row of one with the same row of the other."""
    a, b = (value - value.mean(1, keepdim=True) for value in (first, second))
    found: list[float] = nn.functional.cosine_similarity(a, b, dim=1).tolist()
    return found


def _kernels(subject: Subject) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """The first convolution's filters of each model and of their mean; nothing where there is none."""
    network = next(iter(subject.models.values()))
    first = next((name for name, each in network.named_modules() if isinstance(each, nn.Conv2d)), None)
    columns = ["first", "second", "correlation", "retained"]
    if first is None:
        return {}, pd.DataFrame(columns=columns)
    each = [state[f"{first}.weight"].detach().flatten(1).double() for state in subject.states]
    rows = []
    for i, j in combinations(range(len(each)), 2):
        kept = ((each[i] + each[j]) / 2).norm(dim=1) / ((each[i].norm(dim=1) + each[j].norm(dim=1)) / 2)
        alike = nn.functional.cosine_similarity(each[i], each[j], dim=1)
        rows.append((subject.names[i], subject.names[j], alike.mean().item(), kept.nanmean().item()))
    stacked = torch.stack([*each, torch.stack(each).mean(0)])
    shape = subject.states[0][f"{first}.weight"].shape
    return {"kernels": stacked.reshape(-1, *shape).float().cpu().numpy()}, pd.DataFrame(rows, columns=columns)
