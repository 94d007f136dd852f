"""The jobs and replies of sums under masks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Json, model_validator

from fedmerge.federation.messages.fields import Name, Seconds, Told
from fedmerge.federation.messages.jobs import EvaluateJob, SumsJob, TrainJob
from fedmerge.federation.messages.replies import ReplyBody
from fedmerge.models.state import BatchNormPolicy

MOST = 1000  # hospitals in a sum; the scheme's own limits are higher
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Cipher = Annotated[str, Field(pattern=r"^[0-9a-f]{160}$")]  # two shares of 32 bytes, and a tag of 16
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{2,300}$")]
Label = Annotated[str, Field(min_length=1, max_length=300)]
Identity = Annotated[str, Field(max_length=400)]
Names = Annotated[list[Name], Field(max_length=MOST)]


class Advert(Told):
    """The keys of one hospital for one sum, signed by it.

    label: of the sum. identity: the public key for ``signature``. masking, sharing: public keys made for this
    sum, from which masks are made and with which shares are encrypted.
    """

    label: Label
    name: Name
    identity: Identity
    masking: Key
    sharing: Key
    signature: Signature


class SecureTrainJob(TrainJob):
    """Train and reply with keys; weights and numbers are summed later. batch_norm: how to encode them."""

    label: Label
    batch_norm: BatchNormPolicy


class SecureEvaluateJob(EvaluateJob):
    """Score a model and reply with keys; the numbers are summed later."""

    label: Label


OWN = ("inputs", "importance")
"""Requests about a hospital's own model, which only that hospital answers, so no sum hides the answer."""


class SecureSumsJob(SumsJob):
    """Answer one request with keys; the sums over images are added to others' later. label: ends with the
    digest of the request (``sums.masks.masked_digest``)."""

    label: Label

    @model_validator(mode="after")
    def _adds_up(self) -> SecureSumsJob:
        if self.kind in OWN:
            raise ValueError(
                f"'{self.kind}' is answered by one hospital for its own model: there is no sum to hide it in"
            )
        return self


class SharesJob(Told):
    """Reply with shares of the secrets behind the masks. adverts: the keys of all participants."""

    label: Label
    adverts: Annotated[list[Advert], Field(max_length=MOST)]


class MaskedJob(Told):
    """Reply with masked numbers. parties: who gave shares. shares: theirs, encrypted for this hospital."""

    label: Label
    parties: Names
    shares: dict[Name, Cipher] = Field(max_length=MOST)


class ConfirmJob(Told):
    """Sign the list of survivors: those whose masked numbers are in the sum."""

    label: Label
    survivors: Names


class UnmaskJob(Told):
    """Reply with shares of survivors' own masks and others' keys. confirmed: signatures, by name."""

    label: Label
    survivors: Names
    confirmed: dict[Name, Signature] = Field(max_length=MOST)


class Offered(ReplyBody):
    """Keys for a sum: the fields of an ``Advert``."""

    label: Label
    name: Name
    identity: Identity
    masking: Key
    sharing: Key
    signature: Signature

    @property
    def advert(self) -> Advert:
        """The keys as an ``Advert``, for the other hospitals."""
        return Advert(**{name: getattr(self, name) for name in Advert.model_fields})


class SumsOffered(Offered):
    """Keys for sums over images; ``known`` as in ``Summed``. Placeholder keys if there is nothing to sum."""

    known: Literal[0, 1]


class TrainedSecretly(Offered):
    """Keys, and the time of the training, which the server can measure itself; see ``Trained``."""

    seconds: Seconds = 0.0
    delay: Annotated[float, Field(ge=0, allow_inf_nan=True)] = 0.0


class Shared(ReplyBody):
    """Encrypted shares by receiver, and the SHA-256 of the secret of a hospital's own mask."""

    shares: Json[Annotated[dict[Name, Cipher], Field(max_length=MOST)]]
    commitment: Key


class Confirmed(ReplyBody):
    """A signature of the list of survivors."""

    signature: Signature


class Unmasked(ReplyBody):
    """Shares of the survivors' own masks, and of the other participants' masking keys, by name."""

    own: Json[Annotated[dict[Name, Key], Field(max_length=MOST)]]
    pair: Json[Annotated[dict[Name, Key], Field(max_length=MOST)]]
