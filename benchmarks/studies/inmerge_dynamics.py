"""What In-Model Merging does to a network's filters: merges, effective rank and similarity by epoch.

A network is trained plainly for ``--start-epochs`` and from there twice for ``--epochs``, with and without
InMerge, on the same batches; the learning rate falls along one cosine over both parts. Each epoch is one
call of ``fit``, like a federated round: its merges are its own, and momentum starts at zero. Writes
inmerge-MODEL-tau-TAU-{merges,effective-rank,similarity}.csv, where epoch 0 is the shared start.
Run `python -m benchmarks.studies.inmerge_dynamics --tau 0.1 --figures figures`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import RESULTS
from fedmerge.analysis.diagnosis.dynamics import Course, Dynamics, dynamics
from fedmerge.data import Split, build_cohort, concat, read_cohort
from fedmerge.models import ModelSpec, Normalisation, build
from fedmerge.reports.figures import merging, style
from fedmerge.seeding import generator
from fedmerge.training import InMergeOptions


def training_images(name: str, limit: int | None, seed: int) -> tuple[Split, int]:
    """The training images of a cohort's hospitals together, at most ``limit`` at random; and its classes."""
    cohort = build_cohort(read_cohort(name), seed)
    split = concat([site.train for site in cohort.training])
    order = torch.randperm(len(split), generator=generator(seed, "limit"))
    return split.select(order[:limit]), cohort.n_classes


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a line per epoch, and write the tables and figures."""
    args = _arguments(argv)
    torch.set_num_threads(args.threads)
    split, n_classes = training_images(args.data, args.limit, args.seed)
    _, channels, size, _ = split.images.shape
    spec = ModelSpec(name=args.model, in_channels=channels, n_classes=n_classes, image_size=size)
    found = dynamics(
        build(spec, args.seed),
        split,
        InMergeOptions(tau=args.tau, skip=args.skip),
        Course(args.epochs, args.start_epochs),
        normalise=Normalisation.named("half"),
        seed=args.seed,
        report=print,
    )
    stem = f"inmerge-{args.model}-tau-{args.tau:g}"
    args.out.mkdir(parents=True, exist_ok=True)
    for name, frame in found._asdict().items():
        path = args.out / f"{stem}-{name.replace('_', '-')}.csv"
        frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    if args.figures is not None:
        draw(found, args.figures, stem)


def draw(found: Dynamics, folder: Path, stem: str) -> None:
    """The three figures as PNG; rank and similarity of the layers that take part in the merging."""
    folder.mkdir(parents=True, exist_ok=True)
    part = set(found.merges["layer"])
    for name, frame in found._asdict().items():
        made = getattr(merging, name)(frame[frame["layer"].isin(part)].reset_index(drop=True))
        (folder / f"{stem}-{name.replace('_', '-')}.png").write_bytes(style.render(made, "png"))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--data", default="pneumonia", help="a cohort's name or file")
    parser.add_argument("--epochs", type=int, default=10, help="with and without InMerge")
    parser.add_argument("--start-epochs", type=int, default=5, help="plain epochs before, shared by both")
    parser.add_argument("--limit", type=int, help="at most so many training images")
    parser.add_argument("--tau", type=float, default=0.3)
    parser.add_argument("--skip", type=_skip, help="layers left alone: a count, or a fraction such as 0.6")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSVs")
    parser.add_argument("--figures", type=Path, help="draw PNGs into this folder")
    return parser.parse_args(argv)


def _skip(text: str) -> int | float:
    return float(text) if "." in text else int(text)


if __name__ == "__main__":
    main()
