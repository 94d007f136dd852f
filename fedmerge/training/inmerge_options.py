"""The settings of In-Model Merging."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedmerge.errors import FedMergeError
from fedmerge.schema.validation import NoBoolean
from fedmerge.training.conv_layers import LayerKind


class InMergeOptions(BaseModel):
    """The settings of In-Model Merging; the defaults are the paper's, but for ``skip``.

    alpha: what a filter keeps of itself. tau: the cosine above which (strictly) a pair is merged; below
    -1 every pair is. p: the probability that a filter tries a partner. layers: which convolutions count, see
    ``select_convs``; "spatial" are all of a VGG. every: optimizer steps per pass. mode: "simultaneous" reads
    only unmodified filters (the paper's), "sequential" goes through the filters in order and reads those
    already merged. bias "follow": the convolution's bias and the following batch norm's gamma, beta, running
    mean and running variance take the same step. momentum "mix": the optimizer's first moments of the merged
    parameters take it too. restore_norm: a merged filter is scaled back to its norm before the merge.
    partner: what a filter that is merged moves towards: "similar", the one it tried (the paper's), or
    "random", any other (see ``InMerge``).

    skip: how many convolutions, from the first, are left alone. The paper's L_s is a count, 10, whatever the
    network: it leaves 6 of VGG-19's 16 to merge, 3 of VGG-16's 13 and none of a network with 10 or fewer.
    The default, None, is the fraction that it is of VGG-19, 10/16 rounded down: 6 of 16 and 5 of 13 are left
    to merge, and some of any network. For the paper's on a VGG set skip to 10. On ResNets its code means the
    second convolution of each block, and L_s counts blocks: layers "block-conv2", of whose 16 in ResNet-34
    skip 10 leaves 6, and of whose 8 in ResNet-18 none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: Annotated[float, NoBoolean] = Field(0.8, ge=0, le=1)
    tau: Annotated[float, NoBoolean] = Field(0.3, ge=-2, le=1)
    p: Annotated[float, NoBoolean] = Field(0.3, ge=0, le=1)
    skip: Annotated[int | float | None, NoBoolean] = None
    layers: LayerKind = "spatial"
    every: Annotated[int, NoBoolean] = Field(1, ge=1)
    mode: Literal["simultaneous", "sequential"] = "simultaneous"
    bias: Literal["leave", "follow"] = "leave"
    momentum: Literal["leave", "mix"] = "leave"
    restore_norm: bool = False
    partner: Literal["similar", "random"] = "similar"

    @field_validator("skip")
    @classmethod
    def _count_or_fraction(cls, skip: int | float | None) -> int | float | None:
        if skip is not None and not (0 <= skip < 1 or (isinstance(skip, int) and skip >= 1)):
            raise ValueError("skip is a count (0, 1, 2, ...) or a fraction from 0 up to, not including, 1")
        return skip


def checked(**given: Any) -> InMergeOptions:
    """The options, or FedMergeError with the first that is out of range."""
    try:
        return InMergeOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise FedMergeError(
            f"InMerge, option '{first['loc'][0]}': {first['msg']} (given: {first['input']!r})."
        ) from None
