"""What a hospital may say in an answer: a class for each kind, under the names that stand in the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from fedmerge.federation.schema.fields import Count, Images, Loss, Name, Round, Said, Seconds, Share

if TYPE_CHECKING:
    from fedmerge.federation.clients import Client

MOST_CLASSES = 100_000


class Answered(Said):
    """The base of all answers."""

    def against(self, member: Client) -> str | None:
        """Why it contradicts what the hospital said in its greeting, or None."""
        return None

    def row(self) -> dict[str, Any]:
        """What was said, by name, in the order of the declaration."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Greeting(Answered):
    """Who a hospital is: its name, and its images by split and class.

    suppressed_below: where its policy hides counts below that, which are 0 then.
    """

    name: Name
    examples: Images = Field(alias="num-examples")
    validation: Images = Field(alias="num-validation")
    class_counts: list[Count] = Field(alias="class-counts", min_length=1, max_length=MOST_CLASSES)
    suppressed_below: Images | None = Field(None, alias="suppressed-below")

    @model_validator(mode="after")
    def _sum(self) -> Greeting:
        counted = sum(self.class_counts)
        if counted > self.examples or (counted < self.examples and self.suppressed_below is None):
            raise ValueError(f"it counts {counted} training images by class, but {self.examples} in all")
        return self


class Inspected(Answered):
    """What images a hospital has, as JSON (``inspection.Inspection``)."""

    text: str = Field(alias="json", max_length=2_000_000)


class Trained(Answered):
    """The numbers of a training. A hospital's policy may keep back those that have a default.

    delay: how much later than measured the reply is, by fault injection; inf: it never comes. forgot: 1 where
    it no longer has the part of the model that it keeps to itself.
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
        """It trained on the images that it greeted with."""
        return _as_many("trained", self.examples, member.examples)


class Evaluated(Answered):
    """The numbers of a model on the validation images; temperature: where it was asked for."""

    examples: Images = Field(alias="num-examples")
    loss: Loss
    accuracy: Share
    balanced_accuracy: Share
    temperature: float | None = Field(None, gt=0, le=1e9)

    def against(self, member: Client) -> str | None:
        """It scored the images that it greeted with."""
        return _as_many("scored the model", self.examples, member.validation)


class Remembered(Answered):
    """What a hospital keeps between rounds; the round in which it was made."""

    round: Round


class SumsBegun(Answered):
    """Whether the parents of a fusion are there, and the images of the hospital's share."""

    known: Literal[0, 1]
    images: Images | None = None


class Summed(Answered):
    """Whether the parents of a fusion were still there; then the sums are in the arrays."""

    known: Literal[0, 1]


class Masked(Answered):
    """A secure sum's part; all of it is in the arrays."""


def _as_many(did: str, said: int, greeted: int) -> str | None:
    if said == greeted:
        return None
    return f"it says that it {did} on {said} images, but it greeted with {greeted}"
