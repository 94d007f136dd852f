"""What each analysis takes, against bare forward passes of the images that it sends through the networks.

Four small CNNs of width 16 with batch norm (random weights), 100 images of 28 x 28 px. A hook counts the
images that pass through any of the networks, by precision and by whose statistics batch norms take; the bare
passes are those of as many images of each kind, timed on one network in the same batches, before and after. A
pass in which norms take the images' own statistics costs more than one with running ones, whoever makes it:
``batch_statistics`` says how much more. Matching neurons runs networks operation by operation
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
from fedmerge.testtime.norms import BatchStatistics, use_batch_statistics

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=10, image_size=28, options={"width": 16})
IMAGES, MODELS = 100, 4
Kind = tuple[torch.dtype, bool]
"""Of a pass: its precision, and whether batch norms take the images' own statistics."""
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
    found.append(batch_statistics(args.repeats))
    print("{case}: {ratio:.2f} x bare".format(**found[-1]), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "analyses.json").write_text(json.dumps(found, indent=1) + "\n")


def measure(case: str, repeats: int) -> dict[str, Any]:
    """Return a case's median seconds, the images that passed, and the ratio to bare passes of as many."""
    name, models, options = CASES[case]
    subject = made(models, "group" if "group norm" in case else "batch")
    counts: Counter[Kind] = Counter()
    if name != "neurons":  # its graph cannot be followed under a hook
        with passed() as counts:
            ANALYSES[name].call(subject, **options)
    if sum(counts.values()) < IMAGES:  # nothing but a head was looked for: one pass over the images
        counts = Counter({(torch.float32, False): IMAGES})
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


def batch_statistics(repeats: int) -> dict[str, Any]:
    """Return what a bare pass costs whose batch norms take the images' statistics, against running ones."""
    subject, whole = made(2, "batch"), 20 * IMAGES
    pairs = [
        tuple(bare(subject, Counter({(torch.float32, anew): whole})) for anew in (True, False))
        for _ in range(repeats)
    ]
    ratio = statistics.median(anew / kept for anew, kept in pairs)
    seconds = statistics.median(anew for anew, _ in pairs)
    return {
        "case": "bare passes with the images' statistics",
        "seconds": seconds,
        "passed": whole,
        "ratio": ratio,
    }


def made(models: int, norm: str) -> Subject:
    """The models, images and labels of a case."""
    raw = torch.randint(0, 256, (IMAGES, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    images = Normalisation.named("half")(raw.to(torch.uint8))
    spec = SPEC.model_copy(update={"options": SPEC.options | {"norm": norm}})
    named = {f"model-{seed}": build(spec, seed).eval() for seed in range(models)}
    return Subject.of(named, images, torch.arange(IMAGES) % 10)


@contextmanager
def passed() -> Iterator[Counter[Kind]]:
    """Count the images that pass through networks of the zoo's class inside the block, by kind of pass."""
    counts: Counter[Kind] = Counter()
    kind = type(build(SPEC, 0))

    def hook(module: nn.Module, given: Any, output: Any) -> None:
        if type(module) is kind:
            anew = any(isinstance(each, BatchStatistics) for each in module.modules())
            counts[given[0].dtype, anew] += len(given[0])

    handle = register_module_forward_hook(hook)
    try:
        yield counts
    finally:
        handle.remove()


def bare(subject: Subject, counts: Counter[Kind]) -> float:
    """CPU seconds of bare passes of as many images, in whole sets."""
    total, images = 0.0, subject.pictures
    for (dtype, anew), number in counts.items():
        given, model = images.to(dtype), subject.network().to(dtype)
        if anew:
            use_batch_statistics(model)
        sets = max(1, min(20, number // len(images)))
        answers(model, given)
        began = time.process_time()
        for _ in range(sets):
            answers(model, given)
        total += (time.process_time() - began) / sets * number / len(images)
    return total


if __name__ == "__main__":
    main()
