"""Conductance of all layers in one pass a step, against one pass a layer and step: the same formulas.

VGG-11 (width 64) and ResNet-18 with the small-image stem at 32 x 32. Runs of the two alternate, so both see
the same machine; the ratio is that of the medians. The attributions of both are compared before anything is
timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedmerge.merging.attribution.conductance import conductance
from fedmerge.merging.attribution.importance import layer_places
from fedmerge.models.graph import Program
from fedmerge.models.zoo import ModelSpec, build

NETWORKS = ("vgg11", "resnet18")


def main() -> None:
    """Measure, and print a line a network or JSON."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    results = [measure(name, arguments.images, arguments.runs, arguments.device) for name in NETWORKS]
    text = json.dumps(results, indent=1)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    line = "{network}: {ratio:.1f} x ({layers} layers; {together:.2f} s, one by one {layer_by_layer:.2f} s)"
    print(text if arguments.json else "\n".join(line.format(**result) for result in results))


def measure(network: str, images: int, runs: int, device: str) -> dict[str, Any]:
    """Median seconds for all layers of one network, together and layer by layer, and their ratio."""
    spec = ModelSpec(name=network, in_channels=3, n_classes=10, image_size=32)
    model = build(spec, seed=0).to(device).eval()
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, 32, 32, generator=draws).to(device)
    labels = torch.randint(10, (images,), generator=draws).to(device)
    program = Program(model, x)
    values, places = program.values(model.state_dict(), device), layer_places(program)

    def together() -> dict[str, Tensor]:
        return conductance(program, values, x, labels, places)

    def layer_by_layer() -> dict[str, Tensor]:
        alone = [conductance(program, values, x, labels, {name: place}) for name, place in places.items()]
        return {name: sums for found in alone for name, sums in found.items()}

    ways = {"together": together, "layer_by_layer": layer_by_layer}
    difference = _difference(together(), layer_by_layer())
    assert difference < 1e-5, f"{network}: the two ways differ by {difference}"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs):
        for name in ways if run % 2 == 0 else reversed(ways):
            times[name].append(_seconds(ways[name], device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "network": network,
        "layers": len(places),
        "images": images,
        "ratio": medians["layer_by_layer"] / medians["together"],
        **medians,
        "largest_relative_difference": difference,
    }


def _difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of any channel's sum, relative to the largest sum in its layer."""
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in ours)


def _seconds(way: Any, device: str) -> float:
    started = time.perf_counter()
    way()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs to time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
