"""What a fusion costs in the authors' program for Neuron Interpolation and in ours, with the same parents.

Their suite (arXiv 2507.00037) holds HF and KF, and their own OT fusion and Git Re-Basin. It is no part of
this project: give the folder of a copy with ``--program``, and let Python find it and the packages that it
needs besides ours (captum, lightning, torchsummary, torchmetrics). Its parents, perceptrons 784-256-10 on
shares of MNIST, come with it, as pickles: they are read with ``weights_only``. Both sides fuse 400 images in
one process, float32 in, one thread, in turns; the least of ``--repeats`` counts on each side, which other
work on the machine disturbs least. Ours is a second merge of the architecture; ``first`` is the first in this
process.

    PYTHONPATH=FOLDER:PACKAGES python -m benchmarks.speed.authors_program --program FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fedmerge as fm
from benchmarks.speed.fusion_speed import digits

PAPER = {"solver": "pinv", "towards": "zero"}
Case = tuple[str, Callable[[], Any], Callable[[], Any]]


def prepare() -> None:
    """Load their program; what it reads data sets with is not needed."""
    unused = types.ModuleType("datasets")
    unused.load_dataset = unused.concatenate_datasets = None  # type: ignore[attr-defined]
    sys.modules["datasets"] = unused
    importlib.import_module("utils.run_utils").add_safe_globals()


def parents(program: Path, count: int) -> list[Any]:
    """Return the first ``count`` of their perceptrons that were trained on as many shares."""
    folder = program / "example-base-models/non-iid/MLPs/MNIST" / f"split-by-{count}" / "seed1"
    files = [folder / f"model_{place}.pt" for place in range(count)]
    return [torch.load(file, weights_only=True, map_location="cpu").eval() for file in files]


def plain(model: Any) -> nn.Module:
    """Return one of their perceptrons as plain PyTorch."""
    layers = model.level1[1], model.level2[-1]
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, len(layers[0].weight)), nn.ReLU(), nn.Linear(256, 10))
    for ours, given in zip((net[1], net[3]), layers, strict=True):
        ours.load_state_dict(given.state_dict())
    return net.eval()


def cases(program: Path, images: Tensor, labels: Tensor) -> Iterator[Case]:
    """Yield a title, their fusion and ours."""
    import_ = importlib.import_module
    linear = import_("fusion_algorithms.hf_kf").LSFusion
    rebasin = import_("fusion_algorithms.git_rebasin").GitRebasin
    transport = import_("fusion_algorithms.otfusion").OTFusion
    two, four = parents(program, 2), parents(program, 4)
    ours = {2: [plain(model) for model in two], 4: [plain(model) for model in four]}
    acts = {"activations_dataset": images, "activation_labels": labels, "normalize_activations": False}
    acts |= {"neuron_importance_method": "uniform", "rescale_min_importance": None}

    def their_linear(models: list[Any], kind: str, score: str) -> Callable[[], Any]:
        return lambda: linear(models).fuse(images, labels, kind, score, norm_neuron_importance=False)

    def merged(count: int, method: str, **options: Any) -> Callable[[], Any]:
        return lambda: fm.merge(ours[count], method, data=images, labels=labels, **options)

    yield (
        "ot",
        lambda: transport(two[1:], two[0]).fuse_models({"mode": "acts", "acts": acts}),
        merged(2, "ot"),
    )
    yield "rebasin", lambda: rebasin(*two).fuse(images, labels, "uniform"), merged(2, "rebasin")
    for score in ("uniform", "conductance"):
        scored = {} if score == "uniform" else {"attribution": score}
        hungarian, means = their_linear(two, "hungarian", score), their_linear(two, "k_means", score)
        yield f"hf, {score}", hungarian, merged(2, "hf", **scored)
        yield f"hf, {score}, the paper's options", hungarian, merged(2, "hf", cost="l2", **PAPER, **scored)
        yield f"kf, {score}", means, merged(2, "kf", **scored)
        yield f"kf, {score}, the paper's options", means, merged(2, "kf", **PAPER, **scored)
        yield f"kf of four, {score}", their_linear(four, "k_means", score), merged(4, "kf", **scored)


def timed(act: Callable[[], Any]) -> float:
    """Seconds that ``act`` takes; it prints nothing."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        act()
    return time.perf_counter() - began


def main() -> None:
    """Time all cases, and write them down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", type=Path, required=True, help="a copy of the authors' program")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepare()
    images, labels = digits(400)
    found = []
    for title, their, our in cases(given.program, images, labels):
        first = timed(our)
        pairs = [(timed(their), timed(our)) for _ in range(given.repeats)]
        least, ours = (min(side) for side in zip(*pairs, strict=True))
        row = {"case": title, "theirs": round(least, 4), "ours": round(ours, 4), "first": round(first, 3)}
        found.append(row | {"times faster": round(least / ours, 2)})
        print(found[-1], flush=True)
    if given.out:
        text = {"threads": 1, "torch": torch.__version__, "repeats": given.repeats, "cases": found}
        given.out.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
