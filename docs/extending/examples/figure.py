"""A figure of a run's report: a bar for each method's calibration error."""

from matplotlib.figure import Figure

import fedmerge as fm


def in_words(result: fm.Result) -> str:
    """Say which method's confidence can be trusted most."""
    errors = result.table.groupby("method")["ece"].mean()
    return f"Calibration error of {len(errors)} methods; {errors.idxmin()} has the least, {errors.min():.3f}."


@fm.FIGURES.figure("calibration-bars", title="Calibration, method by method", of="run", describe=in_words)
def calibration_bars(result: fm.Result, width: float) -> Figure | None:
    """Draw the mean calibration error of each method, the smallest on top; nothing without a row."""
    if result.table.empty:
        return None
    errors = result.table.groupby("method")["ece"].mean().sort_values(ascending=False)
    made = Figure(figsize=(width, 0.8 + 0.3 * len(errors)), layout="constrained")
    axes = made.subplots()
    axes.barh(list(errors.index), errors.to_numpy())
    axes.set_xlabel("calibration error (ECE)")
    return made
