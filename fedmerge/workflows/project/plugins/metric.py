"""A metric of one's own: of the class that is found least often, the share that is found."""

import fedmerge as fm


@fm.METRICS.metric(
    "least_found",
    title="recall of the worst class",
    heading="worst class",
    short="worst class",
    better="higher",
    range=(0.0, 1.0),
    format="percent",
    needs=("labels",),
)
def least_found(predictions: fm.Predictions) -> float:
    """min_c (images of class c that are given class c) / (images of class c), over the classes present."""
    present = predictions.counts.nonzero().flatten().tolist()
    return min(float(predictions.hits[predictions.labels == c].double().mean()) for c in present)
