"""A metric: log loss, the mean of -log p of the right class."""

from torch.nn.functional import cross_entropy

import fedmerge as fm


@fm.METRICS.metric(
    "log_loss",
    title="log loss",
    better="lower",
    range=None,
    format="three",
    needs=("labels", "probabilities"),
)
def log_loss(predictions: fm.Predictions) -> float:
    """Mean over images of -log p of the right class, in nats; a guess among C classes has log C."""
    return float(cross_entropy(predictions.logits, predictions.labels))
