"""Vision transformers (Dosovitskiy et al., 2021), pre-norm: a tiny one, and torchvision's as S/14."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedmerge.errors import FedMergeError
from fedmerge.models.layers import check_positive, check_rate
from fedmerge.schema.option_groups import flat


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each after a layer norm and added to its input."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens N x T x dim to tokens of the same shape."""
        x = x + self.dropout(self._attend(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


@dataclass(frozen=True)
class VitShape:
    """patch: side of a patch in pixels. dim: of a token. pool: the class token, or the mean of tokens."""

    patch: int = 4
    dim: int = 128
    depth: Annotated[int, Field(le=1000)] = 6
    heads: int = 4
    pool: Literal["class", "mean"] = "class"
    dropout: float = 0.0


class TinyVit(nn.Module):
    """Patches, position embedding, ``depth`` blocks, layer norm, class token or mean of tokens, head."""

    def __init__(self, in_channels: int, n_classes: int, image_size: int, shape: VitShape) -> None:
        super().__init__()
        dim, pool, patches = shape.dim, shape.pool, (image_size // shape.patch) ** 2
        self.pool = pool
        self.patch_embed = nn.Conv2d(in_channels, dim, shape.patch, stride=shape.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if pool == "class" else None
        self.position = nn.Parameter(torch.zeros(1, patches + (pool == "class"), dim))
        self.blocks = nn.Sequential(*(Block(dim, shape.heads, shape.dropout) for _ in range(shape.depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Logits N x n_classes of images N x C x H x W, H and W as the network was built for."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.position))
        return self.head(x[:, 0] if self.class_token is not None else x.mean(dim=1))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.position, std=0.02)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)


@flat
def tiny_vit(in_channels: int, n_classes: int, image_size: int, *, shape: VitShape) -> nn.Module:
    """Tiny vision transformer; the image size must be a multiple of ``patch``, ``dim`` one of ``heads``."""
    check_positive("tiny-vit", patch=shape.patch, dim=shape.dim, depth=shape.depth, heads=shape.heads)
    check_rate("tiny-vit", dropout=shape.dropout)
    if image_size % shape.patch:
        raise FedMergeError(
            f"model 'tiny-vit' cuts images into patches of {shape.patch} px, but {image_size} px is not a "
            "multiple: set the option 'patch' to a divisor of the image size."
        )
    if shape.dim % shape.heads:
        raise FedMergeError(
            f"model 'tiny-vit': dim {shape.dim} is not a multiple of heads {shape.heads}; change one of them."
        )
    return TinyVit(in_channels, n_classes, image_size, shape)


def vit_s14(in_channels: int, n_classes: int, image_size: int, *, dropout: float = 0.0) -> nn.Module:
    """torchvision's VisionTransformer of the size S with patches of 14 px: 22 million parameters.

    The image size must be a multiple of 14 px. ``pretrained: FILE`` gives it weights: those of another image
    size fit, too (``models.start_file``).
    """
    check_rate("vit-s14", dropout=dropout)
    if image_size % 14:
        raise FedMergeError(
            f"model 'vit-s14' cuts images into patches of 14 px, but {image_size} px is not a multiple: set "
            f"'size' in the cohort to {max(1, round(image_size / 14)) * 14}, for instance."
        )
    from torchvision.models import VisionTransformer

    network = VisionTransformer(image_size, 14, 12, 6, 384, 1536, dropout=dropout, num_classes=n_classes)
    if in_channels != 3:
        network.conv_proj = nn.Conv2d(in_channels, 384, 14, stride=14)
    # torchvision begins with zeros, which give the rest no gradient
    nn.init.trunc_normal_(network.heads.head.weight, std=0.02)
    return network
