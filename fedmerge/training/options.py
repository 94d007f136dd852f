"""The options of one site's training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedmerge.schema.validation import off_as_written
from fedmerge.training.augment import Augmentation, known
from fedmerge.training.inmerge_options import InMergeOptions
from fedmerge.training.schedule import Schedule

SELDOM = ("proximal", "recipe", "probe_epochs", "norm_momentum", "first_layer_rate", "class_weights")
"""Fields that are written only where they are not as usual."""

AugmentationName = Annotated[str, AfterValidator(known)]
ClassWeight = Annotated[float, Field(gt=0, le=1_000_000)]


class TrainingOptions(BaseModel):
    """How a site trains its model.

    lr: the peak learning rate, which ``schedule`` scales. momentum, nesterov: of "sgd" alone ("adamw" keeps
    PyTorch's betas). batch_size: images per step. epochs: passes over the site's images per call. augment:
    names from ``AUGMENTATIONS``, or ``Augmentation``, applied in order. amp "auto": bfloat16 autocast on
    CUDA, nothing elsewhere. inmerge: settings of In-Model Merging, or None for plain training. proximal: mu
    of FedProx, how strongly the weights are held near those they began from; 0: not at all.

    recipe: what learns when (``recipe``): everything, the head alone, or first the head for ``probe_epochs``
    (None: half of the epochs, rounded up), then everything. norm_momentum: how fast batch norms' running
    statistics follow the batches; 0: they are frozen, and used in training too; None: the network's own.
    first_layer_rate: the learning rate of the first layer as a share of the last one's, geometric in between.
    class_weights: ``balanced``, so that a hospital's rare classes count as much in its loss as common ones,
    and a finding's presence as much as its absence (``Task.balanced_weights``); ``sqrt``, their roots; or a
    number a class, or a finding.

    Fields of ``SELDOM`` are written only where they are set.
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
    augment: tuple[AugmentationName | Augmentation, ...] = ()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    amp: Literal["auto", "off"] = "auto"
    inmerge: InMergeOptions | None = None
    proximal: float = Field(0.0, ge=0, le=1000)
    recipe: Literal["finetune", "linear-probe", "lp-ft"] = "finetune"
    probe_epochs: int | None = Field(None, ge=1, le=100_000)
    norm_momentum: float | None = Field(None, ge=0, le=1)
    first_layer_rate: float = Field(1.0, gt=0, le=1)
    class_weights: Literal["none", "balanced", "sqrt"] | tuple[ClassWeight, ...] = "none"

    _off = field_validator("amp", mode="before")(off_as_written)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> TrainingOptions:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0: set momentum, or nesterov to false")
        return self

    @model_validator(mode="after")
    def _probe_epochs_are_of_lp_ft(self) -> TrainingOptions:
        if self.probe_epochs is not None and self.recipe != "lp-ft":
            raise ValueError(f"probe_epochs is for recipe: lp-ft, not for {self.recipe}: take it out")
        if self.probe_epochs is not None and self.probe_epochs > self.epochs:
            raise ValueError(
                f"probe_epochs is {self.probe_epochs}, but there are {self.epochs} epochs in all"
            )
        return self

    @model_validator(mode="after")
    def _inmerge_has_an_encoder_that_learns(self) -> TrainingOptions:
        if self.inmerge is not None and self.recipe == "linear-probe":
            raise ValueError(
                "inmerge merges filters of an encoder, which recipe: linear-probe leaves as it is"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        own = type(self).model_fields
        return {
            key: value for key, value in written.items() if key not in SELDOM or value != own[key].default
        }
