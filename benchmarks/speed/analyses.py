"""What each analysis takes, against bare forward passes of the images that it sends through the networks.

Four small CNNs of width 16 with batch norm (random weights), 100 images of 28 x 28 px. A hook counts the
images that pass through any of the networks, by precision; the bare passes are those of as many images, timed
on one network in the same batches, before and after. Matching neurons runs networks operation by operation
and fits layers, which no hook sees: its ratio, like those of drift and templates, is to one bare pass over
the images. Writes analyses.json into benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from benchmarks import RESULTS
from fedmerge.analysis.diagnosis import ANALYSES, Subject
from fedmerge.analysis.diagnosis.contract import answers
from fedmerge.models.inputs import Normalisation
from fedmerge.models.zoo import ModelSpec, build

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=10, image_size=28, options={"width": 16})
IMAGES, MODELS = 100, 4
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "drift": ("drift", MODELS, {}),
    "heads": ("heads", MODELS, {}),
    "a path of 21 points, group norm": ("barriers", 2, {"to_mean": False}),
    "a path of 21 points, batch norms kept and anew": ("barriers", 2, {"to_mean": False}),
    "landscape, 9 x 9": ("landscape", MODELS, {"grid": 9}),
    "features": ("features", MODELS, {"timed": False, "counts": (2,)}),
    "magnification": ("magnification", MODELS, {"factors": (0.1, 1.0, 100.0)}),
    "filters": ("filters", MODELS, {}),
    "templates": ("templates", MODELS, {}),
    "neurons: mean": ("neurons", MODELS, {"methods": ("mean",)}),
    "neurons: kf": ("neurons", 2, {"methods": ("kf",)}),
}
"""By name: the analysis, of how many models, and its options."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every case and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    found = []
    for name in CASES:
        found.append(measure(name, args.repeats))
        line = "{case}: {seconds:.3f} s, {passed} images passed, {ratio:.2f} x bare"
        print(line.format(**found[-1]), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "analyses.json").write_text(json.dumps(found, indent=1) + "\n")


def measure(case: str, repeats: int) -> dict[str, Any]:
    """Return a case's median seconds, the images that passed, and the ratio to bare passes of as many."""
    name, models, options = CASES[case]
    subject = made(models, "group" if "group norm" in case else "batch")
    counts: Counter[torch.dtype] = Counter()
    if name != "neurons":  # its graph cannot be followed under a hook
        with passed() as counts:
            ANALYSES[name].call(subject, **options)
    if sum(counts.values()) < IMAGES:  # nothing but a head was looked for: one pass over the images
        counts = Counter({torch.float32: IMAGES})
    ratios, seconds = [], []
    for _ in range(repeats):
        before = bare(subject, counts)
        began = time.process_time()
        ANALYSES[name].call(subject, **options)
        seconds.append(time.process_time() - began)
        both = (before + bare(subject, counts)) / 2
        ratios.append(seconds[-1] / both)
    return {
        "case": case,
        "seconds": statistics.median(seconds),
        "passed": sum(counts.values()),
        "ratio": statistics.median(ratios),
    }


def made(models: int, norm: str) -> Subject:
    """The models, images and labels of a case."""
    raw = torch.randint(0, 256, (IMAGES, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    images = Normalisation.named("half")(raw.to(torch.uint8))
    spec = SPEC.model_copy(update={"options": SPEC.options | {"norm": norm}})
    named = {f"model-{seed}": build(spec, seed).eval() for seed in range(models)}
    return Subject.of(named, images, torch.arange(IMAGES) % 10)


@contextmanager
def passed() -> Iterator[Counter[torch.dtype]]:
    """Count the images that pass through networks of the zoo's class inside the block, by precision."""
    counts: Counter[torch.dtype] = Counter()
    kind = type(build(SPEC, 0))

    def hook(module: nn.Module, given: Any, output: Any) -> None:
        if type(module) is kind:
            counts[given[0].dtype] += len(given[0])

    handle = register_module_forward_hook(hook)
    try:
        yield counts
    finally:
        handle.remove()


def bare(subject: Subject, counts: Counter[torch.dtype]) -> float:
    """CPU seconds of bare passes of as many images, in whole sets."""
    total, images = 0.0, subject.pictures
    for dtype, number in counts.items():
        given, model = images.to(dtype), subject.network().to(dtype)
        sets = max(1, min(20, number // len(images)))
        answers(model, given)
        began = time.process_time()
        for _ in range(sets):
            answers(model, given)
        total += (time.process_time() - began) / sets * number / len(images)
    return total


if __name__ == "__main__":
    main()
