"""The options of one site's training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedmerge.errors import unknown
from fedmerge.training.augment import AUGMENTATIONS
from fedmerge.training.inmerge_options import InMergeOptions
from fedmerge.training.schedule import Schedule

ClassWeight = Annotated[float, Field(gt=0, le=1_000_000)]


class TrainingOptions(BaseModel):
    """How a site trains its model.

    lr: the peak learning rate, which ``schedule`` scales. momentum, nesterov: of "sgd" alone ("adamw" keeps
    PyTorch's betas). batch_size: images per step. epochs: passes over the site's images per call. augment:
    names from ``AUGMENTATIONS``, applied in order. amp "auto": bfloat16 autocast on CUDA, nothing elsewhere.
    inmerge: settings of In-Model Merging, or None for plain training. proximal: mu of FedProx, how strongly
    the weights are held near those they began from; 0: not at all. Written only where it is set.
    class_weights: ``balanced``, so that a hospital's rare classes count as much in its loss as common ones,
    and a finding's presence as much as its absence (``Task.balanced_weights``); or a number a class, or a
    finding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.05, gt=0, le=10)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0, le=1)
    batch_size: int = Field(64, ge=1, le=10_000_000)
    epochs: int = Field(1, ge=1, le=100_000)
    schedule: Schedule = "cosine"
    augment: tuple[str, ...] = ()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    amp: Literal["auto", "off"] = "auto"
    inmerge: InMergeOptions | None = None
    proximal: float = Field(0.0, ge=0, le=1000)
    class_weights: Literal["none", "balanced"] | tuple[ClassWeight, ...] = "none"

    @field_validator("augment")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in AUGMENTATIONS:
                raise ValueError(str(unknown("augmentation", name, AUGMENTATIONS)))
        return names

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> TrainingOptions:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0: set momentum, or nesterov to false")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        plain = {"proximal": 0.0, "class_weights": "none"}
        return {key: value for key, value in written.items() if key not in plain or value != plain[key]}
