"""What In-Model Merging adds to a training step: ResNet-18 with the small-image stem, 28 x 28, batch 64.

Steps with and without InMerge alternate on the same network, so both see the same machine; the ratio is
that of the medians. Random weights hardly ever pass the threshold, so ``--tau -1.01`` also times the worst
case, where every pair that is drawn is merged.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedmerge.models.zoo import ModelSpec, build
from fedmerge.training import InMerge


def main() -> None:
    """Measure, and print one line or JSON."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.steps, arguments.tau, arguments.device)
    text = json.dumps(result)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    line = "InMerge: {ratio:.3f} x per training step ({without:.1f} ms without, {with:.1f} ms with)"
    print(text if arguments.json else line.format(**result))


def measure(steps: int, tau: float, device: str) -> dict[str, float]:
    """Medians over ``steps`` pairs of training steps, in milliseconds, and their ratio."""
    spec = ModelSpec(name="resnet18", in_channels=3, n_classes=10, image_size=28)
    model = build(spec, seed=0).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    inmerge = InMerge(model, tau=tau)
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 28, 28, generator=draws).to(device)
    labels = torch.randint(10, (64,), generator=draws).to(device)
    for _ in range(2):
        _step(model, optimizer, images, labels)
    times: dict[str, list[float]] = {"without": [], "with": []}
    for pair in range(steps):
        for name in ("without", "with") if pair % 2 == 0 else ("with", "without"):
            if name == "with":
                inmerge.attach(optimizer)
            started = time.perf_counter()
            _step(model, optimizer, images, labels)
            times[name].append(1000 * (time.perf_counter() - started))
            inmerge.detach()
    medians = {name: statistics.median(values) for name, values in times.items()}
    merged = sum(inmerge.merges.values()) / steps
    return {"ratio": medians["with"] / medians["without"], **medians, "merged_per_step": merged}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    cross_entropy(model(images), labels).backward()
    optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="pairs of steps to time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tau", type=float, default=0.3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
