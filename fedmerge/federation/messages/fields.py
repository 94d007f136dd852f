"""The types of fields: the allowed values of numbers and texts from outside."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedmerge.data.cohort.spec import Name

__all__ = [
    "MOST_IMAGES",
    "ClassName",
    "Count",
    "Digest",
    "Hex",
    "Images",
    "Loss",
    "Name",
    "Round",
    "Seconds",
    "Share",
    "StrictReply",
    "Told",
    "ToldCount",
    "Undefined",
]

MOST_IMAGES = 10**9
"""The most images that a hospital may report."""
LARGEST_LOSS = 3.5e38
"""A loss is a float32."""


def _nan(value: float) -> float:
    if not math.isnan(value):
        raise ValueError("is no score")
    return value


ToldCount = (
    Annotated[int, Field(strict=True, ge=0, le=MOST_IMAGES)]
    | Annotated[str, Field(pattern=r"^(<\d{1,7}|hidden)$")]
)
"""A number of images, or what is told in its place."""
ClassName = Annotated[str, Field(max_length=200)]
Images = Annotated[int, Field(ge=1, le=MOST_IMAGES)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Round = Annotated[int, Field(ge=0, le=10**6)]
Share = Annotated[float, Field(ge=0, le=1)]
Undefined = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_nan)]
"""NaN in place of a score: it is not defined."""
Loss = Annotated[float, Field(ge=0, le=LARGEST_LOSS)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=2048)]


class Told(BaseModel):
    """The base of all jobs. Unknown names, other types and numbers that are not finite are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class StrictReply(BaseModel):
    """The base of a reply's fields, without its arrays."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )
