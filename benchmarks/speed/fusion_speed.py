"""Linear fusion from second moments against the naive implementation of the same formulas, side by side.

Each case fuses the same parents twice, by ``benchmarks/speed/naive_fusion.py`` (raw activations,
pseudo-inverses, loops over neurons, as the authors' program) and by ``fm.merge`` with the paper's options
(``solver: pinv``, ``towards: zero``, ``cost: l2``), in one process, with the same number of threads, in
float64; outputs for other images must be equal to 1e-5 of the largest. Ours is run before and after the naive
one (``--repeats`` in all, the median counts); the naive one once. ``following`` is what only the first fusion
of an architecture in a process takes besides: the network's operations are followed before an image is seen,
and remembered. ``ours_by_default`` is ours with its own options, which give other weights. The authors'
k-means measures the distances to all centroids again at every pick; what is timed here keeps the least
distance, which is much faster, and ``again_one_try`` is one try (of ten) as they do it. The naive Hungarian
cost is taken row by row, all j of one i at once; ``naive_pair_by_pair`` loops over pairs.

Memory is the peak resident size of a process that fuses two VGG-11 of full width by ``kf``, less its size
when networks and images are there (Linux). MLPs are trained for a few epochs on digits if FEDMERGE_DATA has
them; all else is initial weights and random images. Run `python -m benchmarks.speed.fusion_speed`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fedmerge as fm
from benchmarks.speed.naive_fusion import Chain, hungarian, kmeans
from fedmerge.models import ModelSpec, build
from fedmerge.models.graph import Program, check_neurons, find_neurons

TOLERANCE = 1e-5


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Images N x 1 x 28 x 28 in [0, 1] and their classes: MNIST where FEDMERGE_DATA has it, else noise."""
    path = Path(os.environ.get("FEDMERGE_DATA", "")) / "digits_mnist.npz"
    if not path.is_file():
        rng = torch.Generator().manual_seed(0)
        return torch.rand(count, 1, 28, 28, generator=rng), torch.randint(10, (count,), generator=rng)
    with np.load(path) as file:
        images, labels = file["train_images"][:count], file["train_labels"][:count]
    x = torch.from_numpy(images).reshape(-1, 1, 28, 28).float() / 255
    return x, torch.from_numpy(labels).reshape(-1).long()


def mlps(count: int, images: Tensor, labels: Tensor, epochs: int) -> list[Chain]:
    """Perceptrons 784-256-10, each trained by SGD on a share of its own."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
        own, classes = images[seed::count], labels[seed::count]
        for _ in range(epochs):
            for batch in torch.randperm(len(own)).split(64):
                optimizer.zero_grad()
                cross_entropy(net(own[batch]), classes[batch]).backward()
                optimizer.step()
        found.append(net.double().eval())
    return found


def vggs(count: int, width: int) -> list[Chain]:
    """VGG-11 of the zoo without batch norm, as plain chains, at their initial weights."""
    spec = ModelSpec(
        name="vgg11", in_channels=3, n_classes=10, image_size=32, options={"width": width, "norm": "none"}
    )
    found = []
    for seed in range(count):
        model = build(spec, seed)
        parts = [*model.features, model.head]
        found.append(nn.Sequential(*(p for p in parts if not isinstance(p, nn.Identity | nn.Dropout))))
    return [chain.double().eval() for chain in found]


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def following(model: nn.Module, images: Tensor) -> None:
    """What the first ``merge`` does before it sees an image: follow operations, find and check neurons."""
    program = Program(model, images[:2])
    values = program.values(model.state_dict())
    check_neurons(program, model.state_dict(), find_neurons(program, values))


def case(
    title: str, method: str, models: list[Chain], images: Tensor, unseen: Tensor, repeats: int, again: bool
) -> dict[str, Any]:
    """Times of one fusion, ours and the naive one, in seconds; raises AssertionError where they differ."""
    options: dict[str, Any] = {"cost": "l2", "solver": "pinv", "towards": "zero"}
    ours = [seconds(lambda: fm.merge(models, method, data=images, **options)) for _ in range(repeats // 2)]
    if method == "hf":
        naive_time, naive = seconds(lambda: hungarian(models[0], models[1], images))
    else:
        naive_time, naive = seconds(lambda: kmeans(models, images, again=False))
    late = repeats - repeats // 2
    ours += [seconds(lambda: fm.merge(models, method, data=images, **options)) for _ in range(late)]
    default = statistics.median(
        seconds(lambda: fm.merge(models, method, data=images))[0] for _ in range(repeats)
    )
    once = statistics.median(seconds(lambda: following(models[0], images))[0] for _ in range(repeats))
    with torch.no_grad():
        wanted = naive(unseen)
        difference = float((wanted - ours[0][1].model(unseen)).abs().max() / wanted.abs().max())
    assert difference < TOLERANCE, f"{title}, {method}: outputs differ by {difference:.1e}"
    whole = statistics.median(duration for duration, _ in ours)
    found = {
        "case": title,
        "method": method,
        "parents": len(models),
        "images": len(images),
        "naive": naive_time,
        "ours": whole,
        "following": once,
        "ours_by_default": default,
        "naive_over_ours": naive_time / whole,
        "naive_over_the_first": naive_time / (whole + once),
        "naive_over_default": naive_time / default,
        "difference": difference,
    }
    if again and method == "hf":
        found["naive_pair_by_pair"] = seconds(lambda: hungarian(*models, images, pairwise=True))[0]
        found["pair_by_pair_over_ours"] = found["naive_pair_by_pair"] / whole
    elif again:
        found["again_one_try"] = seconds(lambda: kmeans(models, images, tries=1))[0]
    return {key: round(v, 3) if isinstance(v, float) and v > 1e-3 else v for key, v in found.items()}


def memory(threads: int) -> float:
    """Megabytes that ``kf`` of two VGG-11 (400 images of 32 x 32) takes at its peak, in a new process."""
    command = [sys.executable, "-m", __spec__.name, "--child", "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child() -> None:
    spec = ModelSpec(
        name="vgg11", in_channels=3, n_classes=10, image_size=32, options={"norm": "none", "width": 64}
    )
    models = [build(spec, seed).eval() for seed in range(2)]
    images = torch.randn(400, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    following(models[0], images)  # so that what torch.export imports is there
    before = _resident("VmRSS:")
    fm.merge(models, "kf", data=images)
    print(_resident("VmHWM:") - before)


def _resident(field: str) -> float:
    return int(Path("/proc/self/status").read_text().split(field)[1].split()[0]) / 1024


def main() -> None:
    """Measure, and print JSON; a line for each case goes to the error output as it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parents", type=int, nargs="*", default=[2, 4, 8], help="of the MLPs")
    parser.add_argument("--width", type=int, default=32, help="of VGG-11; 0 leaves it out")
    parser.add_argument("--vgg-images", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child()
        return
    x, labels = digits(4000)
    images, unseen = x[:400].double(), x[-400:].double()
    first = mlps(2, x[:3600], labels[:3600], 0)
    fm.merge(first, "hf", data=images)  # imports
    cases = []
    for parents in args.parents:
        models = mlps(parents, x[:3600], labels[:3600], args.epochs)
        for method in ("hf", "kf") if parents == 2 else ("kf",):
            again = parents == 2
            cases.append(case("MLP 784-256-10", method, models, images, unseen, args.repeats, again))
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    if args.width:
        draws = torch.Generator().manual_seed(0)
        images = torch.randn(args.vgg_images, 3, 32, 32, generator=draws).double()
        unseen = torch.randn(100, 3, 32, 32, generator=draws).double()
        for method in ("hf", "kf"):
            title = f"VGG-11, width {args.width}, 32 px"
            cases.append(case(title, method, vggs(2, args.width), images, unseen, args.repeats, False))
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)
    result = {"threads": args.threads, "torch": torch.__version__, "cases": cases}
    if not args.no_memory:
        result["kf_peak_megabytes_vgg11_400_images"] = round(memory(args.threads))
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
