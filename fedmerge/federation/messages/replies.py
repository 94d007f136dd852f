"""The replies of hospitals: a class for each kind, with the names used in the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from fedmerge.federation.messages.fields import (
    Count,
    Images,
    Loss,
    Name,
    Round,
    Seconds,
    Share,
    StrictReply,
    Undefined,
)
from fedmerge.tasks import TASKS, TaskName

if TYPE_CHECKING:
    from fedmerge.federation.client_registry import Client

Millimetres = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
MOST_CLASSES = 100_000


class ReplyBody(StrictReply):
    """The base of all replies."""

    def against(self, member: Client) -> str | None:
        """Return why the reply contradicts the hospital's greeting, or None."""
        return None

    def row(self) -> dict[str, Any]:
        """Return the fields that were sent, by name, in the order of the declaration."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Greeting(ReplyBody):
    """A hospital's name, and its images by split and class.

    suppressed_below: if its policy hides counts, as 0, because some are smaller. task: if not multiclass;
    with several findings an image, counts are of images with each. spacing: medians of the mm between rows
    and between columns, and 1 where images differ, else 0.
    """

    name: Name
    examples: Images = Field(alias="num-examples")
    validation: Images = Field(alias="num-validation")
    class_counts: list[Count] = Field(alias="class-counts", min_length=1, max_length=MOST_CLASSES)
    suppressed_below: Images | None = Field(None, alias="suppressed-below")
    task: TaskName = "multiclass"
    spacing: list[Millimetres] | None = Field(None, alias="pixel-spacing", min_length=3, max_length=3)

    @model_validator(mode="after")
    def _sum(self) -> Greeting:
        if TASKS[self.task].many:
            if (most := max(self.class_counts)) > self.examples:
                raise ValueError(
                    f"it counts {most} training images with a finding, but {self.examples} in all"
                )
            return self
        counted = sum(self.class_counts)
        if counted > self.examples or (counted < self.examples and self.suppressed_below is None):
            raise ValueError(f"it counts {counted} training images by class, but {self.examples} in all")
        return self


class Inspected(ReplyBody):
    """A description of a hospital's images, as JSON (``inspection.Inspection``)."""

    text: str = Field(alias="json", max_length=2_000_000)


class Trained(ReplyBody):
    """The numbers of a training. A hospital's policy may withhold those with a default.

    delay: seconds that fault injection adds to the measured time; inf: the reply never comes. forgot: 1 if
    the hospital lost its personal part of the model.
    """

    examples: Images = Field(alias="num-examples")
    loss: Loss
    accuracy: Share
    seconds: Seconds = 0.0
    steps: Count = 0
    merges: Count = 0
    delay: Annotated[float, Field(ge=0, allow_inf_nan=True)] = 0.0
    forgot: Literal[0, 1] = Field(0, exclude=True)

    def against(self, member: Client) -> str | None:
        """Compare the number of training images with the greeting."""
        return _as_many("trained", self.examples, member.examples)


class Evaluated(ReplyBody):
    """The numbers of a model on the validation images; temperature: if requested.

    auroc, kappa: of tasks that these are the score of; NaN where the images do not define them.
    """

    examples: Images = Field(alias="num-examples")
    loss: Loss
    accuracy: Share
    balanced_accuracy: Share
    auroc: Share | Undefined | None = None
    kappa: Annotated[float, Field(ge=-1, le=1)] | Undefined | None = None
    temperature: float | None = Field(None, gt=0, le=1e9)

    def against(self, member: Client) -> str | None:
        """Compare the number of validation images with the greeting."""
        return _as_many("scored the model", self.examples, member.validation)


class Remembered(ReplyBody):
    """The round of the client state, which is in the arrays."""

    round: Round


class SumsBegun(ReplyBody):
    """Whether the hospital has the parents of a fusion, and the number of images in its share."""

    known: Literal[0, 1]
    images: Images | None = None


class Summed(ReplyBody):
    """Whether the hospital still has the parents of a fusion; then the sums are in the arrays."""

    known: Literal[0, 1]


class Masked(ReplyBody):
    """Masked numbers for a secure sum; all of them are in the arrays."""


def _as_many(did: str, said: int, greeted: int) -> str | None:
    if said == greeted:
        return None
    return f"it says that it {did} on {said} images, but it greeted with {greeted}"
