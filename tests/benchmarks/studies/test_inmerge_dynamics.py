from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from benchmarks.studies import inmerge_dynamics
from fedmerge.analysis.diagnosis.dynamics import Course, dynamics
from fedmerge.data import Split
from fedmerge.models import ModelSpec, Normalisation, build
from fedmerge.training import InMergeOptions


def measured(inmerge: InMergeOptions) -> tuple[pd.DataFrame, ...]:
    """One plain epoch, then two with and without InMerge, on 130 images: three batches an epoch."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (130, 1, 8, 8), generator=draws).to(torch.uint8)
    network = build(ModelSpec(name="small-cnn", in_channels=1, n_classes=2, image_size=8), 0)
    split = Split(images, torch.arange(130) % 2)
    half = Normalisation.named("half")
    return dynamics(network, split, inmerge, Course(epochs=2, start_epochs=1), normalise=half, seed=0)


def of_run(frame: pd.DataFrame, run: str) -> pd.DataFrame:
    return frame[frame["run"] == run].drop(columns="run").reset_index(drop=True)


def test_where_every_filter_merges_an_epoch_counts_filters_times_steps() -> None:
    """Three steps, of 64, 64 and 2 images; by default one of the network's three layers is left alone."""
    merges, rank, similarity = measured(InMergeOptions(p=1, tau=-1.01))
    assert merges.columns.tolist() == ["epoch", "layer", "merges", "filters"]
    assert merges["epoch"].tolist() == [1, 1, 2, 2]
    assert merges["layer"].tolist() == ["features.4", "features.8"] * 2
    assert merges["filters"].tolist() == [64, 128] * 2
    assert (merges["merges"] == 3 * merges["filters"]).all()
    assert rank.columns.tolist() == ["run", "epoch", "layer", "rank", "filters"]
    assert similarity.columns.tolist() == ["run", "epoch", "layer", "low", "high", "share"]


def test_both_runs_start_alike_and_merging_lowers_the_rank() -> None:
    _, rank, similarity = measured(InMergeOptions(alpha=0.5, p=1, tau=-1.01))
    plain, merged = of_run(rank, "without"), of_run(rank, "with")
    pd.testing.assert_frame_equal(plain[plain["epoch"] == 0], merged[merged["epoch"] == 0])
    late = (plain["epoch"] == 2) & plain["layer"].isin(["features.4", "features.8"])
    assert (merged["rank"][late] < plain["rank"][late]).all()
    start = similarity[similarity["epoch"] == 0]
    pd.testing.assert_frame_equal(of_run(start, "without"), of_run(start, "with"))
    assert set(similarity["epoch"]) == {0, 2}


def test_without_merges_both_runs_are_one() -> None:
    """No cosine exceeds 1, and the batches are the same."""
    merges, *frames = measured(InMergeOptions(tau=1))
    assert merges["merges"].sum() == 0
    for frame in frames:
        pd.testing.assert_frame_equal(of_run(frame, "without"), of_run(frame, "with"))


def test_it_writes_tables_and_figures(tmp_path: Path) -> None:
    given = "--data digits-scanners --limit 96 --epochs 1 --start-epochs 1 --tau 0.05 --skip 0.3 --threads 1"
    folders = ["--out", str(tmp_path / "tables"), "--figures", str(tmp_path / "figures")]
    inmerge_dynamics.main([*given.split(), *folders])
    names = {f"inmerge-small-cnn-tau-0.05-{name}" for name in ("merges", "effective-rank", "similarity")}
    assert {path.stem for path in (tmp_path / "tables").glob("*.csv")} == names
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == names
    merges = pd.read_csv(tmp_path / "tables" / "inmerge-small-cnn-tau-0.05-merges.csv")
    assert merges["layer"].tolist() == ["features.0", "features.4", "features.8"]
