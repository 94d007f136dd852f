"""Does In-Model Merging help? Test accuracy on PneumoniaMNIST with and without it, seed by seed.

The same network, start, batches and epochs on both sides; only the merging differs. The test split is
looked at once, after training. Needs pneumoniamnist.npz under FEDMERGE_DATA.
Run `python benchmarks/inmerge_accuracy.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from scipy import stats

from fedmerge.analysis import scores
from fedmerge.data import load_source
from fedmerge.models import ModelSpec, Normalisation, build, predict
from fedmerge.training import InMergeOptions, TrainingOptions, fit


def accuracy(seed: int, model: str, epochs: int, inmerge: InMergeOptions | None) -> dict[str, float]:
    """Train once and score on the test split; returns accuracy, AUROC and the number of merges."""
    source = load_source("medmnist:pneumoniamnist")
    network = build(ModelSpec(name=model, in_channels=1, n_classes=2, image_size=28), seed)
    options = TrainingOptions(lr=0.05, batch_size=64, epochs=epochs, augment=("shift",), inmerge=inmerge)
    normalise = Normalisation.named("half")
    result = fit(network, source.train.images, source.train.labels, options, normalise=normalise, seed=seed)
    found = scores(predict(network, source.test.images, normalise), source.test.labels)
    return {"accuracy": found.accuracy, "auroc": found.auroc, "merges": sum(result.merges.values())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tau", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # the small CNN has three convolutions: all but the first take part
    inmerge = InMergeOptions(skip=1 if args.model == "small-cnn" else None, tau=args.tau)
    runs = [
        {
            "seed": seed,
            "without": accuracy(seed, args.model, args.epochs, None),
            "with": accuracy(seed, args.model, args.epochs, inmerge),
        }
        for seed in range(args.seeds)
    ]
    gains = [100 * (run["with"]["accuracy"] - run["without"]["accuracy"]) for run in runs]
    half = stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    result = {
        "model": args.model,
        "epochs": args.epochs,
        "tau": args.tau,
        "runs": runs,
        "gain_points": round(statistics.mean(gains), 2),
        "half_width_95": round(half, 2),
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
