"""A network: a perceptron with one hidden layer."""

from torch import nn

import fedmerge as fm


@fm.NETWORKS.method("tiny-mlp", title="Perceptron with one hidden layer")
def tiny_mlp(in_channels: int, n_classes: int, image_size: int, *, width: int = 32) -> nn.Module:
    """Two linear layers with a ReLU between; width: of the hidden layer. The last one is the head."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * image_size**2, width), nn.ReLU(), nn.Linear(width, n_classes)
    )
