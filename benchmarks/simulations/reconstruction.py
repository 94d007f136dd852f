"""What a server can rebuild of a hospital's images from its sums, without and with a node's rules.

`before`: no ledger, no rule about rows, as many requests as are asked (minimum as the row says). `after`:
the rules of a node in a deployment (`SumRules()`), unless the row says otherwise. The network reads a whole
image with its first layer, 784 numbers, which is the worst case. Figures are |correlation| of pixels with the
images of the share, and the largest error in grey levels of 0 to 1 where an image is rebuilt to scale:

- direct: the leading eigenvector of X^T X over a share of one image.
- difference: X^T X over n + 1 images minus that over n.
- components: FastICA in the row space of X^T X; each image's best component, mean over the share. `control`
  is the same against as many images that are not in the share: what any digit has in common with others.
- trap: weights that let only the brightest image through a gate, and its pixels in 16 parts.

Run `python -m benchmarks.simulations.reconstruction --out benchmarks/results/reconstruction.json`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import FastICA
from torch import Tensor, nn

from fedmerge.data import Cohort, CohortSpec, SiteSpec, build_cohort
from fedmerge.data.cohort.fusion import share
from fedmerge.errors import FedMergeError
from fedmerge.federation import FederationPlan, Hospital, LocalGrid, Server, client_app
from fedmerge.federation.hospital.sums.rules import SumRules
from fedmerge.federation.packing import MINIMUM
from fedmerge.merging.neurons.statistics import Sums
from fedmerge.models import ModelSpec, Normalisation, build
from fedmerge.models.state import State
from fedmerge.models.zoo import NETWORKS
from fedmerge.training import TrainingOptions

SIZE, PIXELS, SITE = 28, 28 * 28, "hospital"
PART, GATES = 50, 40


@NETWORKS.method("whole-image", title="A network whose first layer reads the whole image", paper="")
def whole_image(in_channels: int, n_classes: int, image_size: int, *, width: int = 64) -> nn.Module:
    """Two layers of ``width`` neurons and a head."""
    first, second = nn.Linear(in_channels * image_size**2, width), nn.Linear(width, width)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, n_classes))


def plan_of(width: int = 64, n_classes: int = 2) -> FederationPlan:
    spec = ModelSpec(
        name="whole-image", in_channels=1, n_classes=n_classes, image_size=SIZE, options={"width": width}
    )
    options = TrainingOptions()
    return FederationPlan(
        model=spec,
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=0,
        local=options,
        fine_tune=options,
    )


class Attacker:
    """A server that asks one hospital. ledger: whether the hospital remembers earlier requests."""

    def __init__(self, cohort: Cohort, rules: SumRules, ledger: bool) -> None:
        self.cohort, self.rules, self.ledger = cohort, rules, ledger
        self.hospital = Hospital(cohort[SITE], sum_rules=rules)

    def ask(
        self,
        images: int,
        kind: str,
        options: dict[str, Any],
        state: State | None = None,
        width: int = 64,
    ) -> Sums:
        if not self.ledger:
            self.hospital = Hospital(self.cohort[SITE], sum_rules=self.rules)
        plan = plan_of(width, self.cohort.n_classes)
        server = Server(LocalGrid(client_app(lambda _: self.hospital), 1), plan)
        parents = {SITE: build(plan.model, 0).state_dict() | (state or {})}
        return server.statistics(parents, {SITE: images}, "train").ask(kind, options, {})

    def gram(self, images: int) -> Tensor:
        """X^T X of the first layer's inputs: the pixels, in [-1, 1]."""
        return self.ask(images, "inputs", {})["0/1"]

    def held(self, images: int) -> Tensor:
        """The images of the share, N x 784, in [-1, 1]."""
        held = share(self.cohort[SITE], images, "train", 0).images
        return plan_of().normalisation(held).flatten(1).double()


def direct(attacker: Attacker) -> dict[str, float]:
    return _image(attacker.gram(1), attacker.held(1))


def difference(attacker: Attacker, images: int) -> dict[str, float]:
    few = attacker.gram(images)
    return _image(attacker.gram(images + 1) - few, attacker.held(images + 1))


def components(attacker: Attacker, images: int) -> dict[str, float]:
    values, vectors = torch.linalg.eigh(attacker.gram(images))
    rank = min(images, int((values > 1e-6 * values[-1]).sum()))
    space = vectors[:, -rank:] * values[-rank:].sqrt()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ica = FastICA(whiten="unit-variance", random_state=0, max_iter=500, tol=1e-3)
        found = torch.from_numpy(ica.fit_transform(space.numpy())).T
    held = attacker.held(images)
    other = share(attacker.cohort["other"], images, "train", 0).images.flatten(1).double()
    return {"correlation": _best(found, held), "control": _best(found, other)}


def trap(attacker: Attacker, images: int) -> dict[str, float]:
    """Find a threshold of brightness that one image passes, then ask for its pixels, part by part."""
    low, high = 0.0, 2.0
    for _ in range(3):  # each look is nearer
        thresholds = torch.linspace(low, high, GATES, dtype=torch.float64)
        outer = attacker.ask(images, "outer", {"layers": ["3"]}, _gates(thresholds, []), GATES + 1)["3"]
        above = outer[-1, :-1]  # sum over images of (brightness - threshold) where positive
        passing = (above[:-1] - above[1:]) / (thresholds[1] - thresholds[0])  # of each step, how many
        one = int((passing > 0.5).nonzero()[-1]) if bool((passing > 0.5).any()) else 0
        low, high = float(thresholds[max(one - 1, 0)]), float(thresholds[one + 1])
    threshold = thresholds[one]
    parts = []
    for first in range(0, PIXELS, PART):
        wanted = list(range(first, min(first + PART, PIXELS)))
        state = _gates(threshold[None], wanted)
        got = attacker.ask(images, "outer", {"layers": ["3"]}, state, len(wanted) + 2)["3"]
        parts.append(got[0, 1:-1] / got[0, -1])
    return {"correlation": _best(torch.cat(parts)[None] - 1, attacker.held(images), most=True)}


def _gates(thresholds: Tensor, pixels: list[int]) -> State:
    """Neurons relu(mean + 1 - threshold) each, pixel + 1 each, and a constant; passed on as they are."""
    width = len(thresholds) + len(pixels) + 1
    state = {
        key: torch.zeros_like(v)
        for key, v in build(plan_of(width).model, 0).state_dict().items()
        if key[0] in "13"
    }
    gates = len(thresholds)
    state["1.weight"][:gates] = 1 / PIXELS
    state["1.bias"][:gates] = 1 - thresholds.float()
    for place, pixel in enumerate(pixels):
        state["1.weight"][gates + place, pixel] = 1.0
    state["1.bias"][gates:] = 1.0
    state["3.weight"] = torch.eye(width)
    return state


def _image(gram: Tensor, held: Tensor) -> dict[str, float]:
    """The image in a matrix of rank one against those that were held."""
    values, vectors = torch.linalg.eigh(gram)
    found = vectors[:, -1] * values[-1].clamp(min=0).sqrt()
    error = min(float((sign * found - image).abs().max()) / 2 for sign in (1, -1) for image in held)
    return {"correlation": _best(found[None], held, most=True), "error": float(f"{error:.1e}")}


def _best(found: Tensor, held: Tensor, most: bool = False) -> float:
    """Each held image's best |correlation| with any found: the mean, or the largest."""
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.corrcoef(found.numpy(), held.numpy())[: len(found), len(found) :]
    best = np.abs(np.nan_to_num(table)).max(0)
    return round(float(best.max() if most else best.mean()), 2)


Attack = Callable[[Attacker], dict[str, float]]


def attacks() -> list[tuple[str, int, int, Attack, SumRules]]:
    """Return for each attack: name, images, the minimum before, function, and the rules after."""
    node, small = SumRules(), SumRules(minimum_images=1)
    rows: list[tuple[str, int, int, Attack, SumRules]] = [
        ("direct", 1, 1, direct, node),
        ("direct", 1, 1, direct, small),
        ("difference", 16, MINIMUM, lambda a: difference(a, 16), node),
        ("difference", 16, MINIMUM, lambda a: difference(a, 16), SumRules(rows="off")),
        ("difference", 800, MINIMUM, lambda a: difference(a, 800), node),
    ]
    for images in (5, 20, 100, 400, 784, 1500):
        rows.append(("components", images, min(images, MINIMUM), lambda a, n=images: components(a, n), node))
    return [*rows, ("trap", 64, MINIMUM, lambda a: trap(a, 64), node)]


def measure(attack: Callable[[Attacker], dict[str, float]], attacker: Attacker) -> dict[str, Any]:
    try:
        return attack(attacker)
    except FedMergeError as error:
        return {"refused": str(error).partition(f"{SITE}: ")[2] or str(error)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="medmnist:pneumoniamnist", help="where the images come from")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    sites = tuple(SiteSpec(name=name) for name in (SITE, "other"))
    cohort = build_cohort(CohortSpec(name="images", source=args.source, size=SIZE, sites=sites), seed=0)
    rows = []
    for name, images, minimum, attack, rules in attacks():
        old = SumRules(minimum_images=minimum, rows="off", requests=None)
        row = {"attack": name, "images": images, "minimum_before": minimum}
        row |= {"before": measure(attack, Attacker(cohort, old, ledger=False))}
        row |= {"rules": rules.model_dump(exclude_defaults=True)}
        rows.append(row | {"after": measure(attack, Attacker(cohort, rules, ledger=True))})
        print(json.dumps(rows[-1]), flush=True)
    noised: list[tuple[str, int, Attack]] = [
        ("components", 20, lambda a: components(a, 20)),
        ("trap", 64, lambda a: trap(a, 64)),
    ]
    for noise in (0.0001, 0.001, 0.01, 0.1, 1.0):
        for name, images, attack in noised:
            rules = SumRules(noise=noise, rows="off")
            attacker = Attacker(cohort, rules, ledger=True)
            found = measure(attack, attacker)
            cost = float(f"{rules.spent(attacker.hospital.sums.ledger.noised()):.3g}")
            row = {"attack": name, "images": images, "rules": rules.model_dump(exclude_defaults=True)}
            rows.append(row | {"epsilon": cost, "after": found})
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"source": args.source, "size": SIZE, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
