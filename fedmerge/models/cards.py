"""The card of a model, in JSON beside its weights: what the model is and where it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from fedmerge.errors import FedMergeError
from fedmerge.models.inputs import Inputs
from fedmerge.models.state import State
from fedmerge.models.weights import write_weights
from fedmerge.models.zoo import ModelSpec
from fedmerge.storage.files import write_text
from fedmerge.storage.outside import LARGEST_CARD, read_bounded


class PixelSpacing(BaseModel):
    """How far apart the pixels of a hospital's files are, before images are resized: medians, mm.

    varies: whether an image differs from them by more than 1 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: float
    columns: float
    varies: bool


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, beside how it was made.

    parents: the ``sha256`` of the models it was made of. seed, config_hash: of the run. batch_norm: the
    policy for batch-norm statistics, in words. pixel_spacing: of the images that it was trained on.
    """

    parents: Sequence[str] = ()
    seed: int | None = None
    config_hash: str = ""
    batch_norm: str = ""
    pixel_spacing: PixelSpacing | None = None


UNKNOWN = Origin()


class ModelCard(BaseModel):
    """What a model is and where it comes from; it stands beside the weights as NAME.json.

    position: its place in the order of addition. parents: the ``sha256`` of the models it was made of.
    method: how it was made ("local training", "mean", ...). metrics: scores by name. batch_norm: the
    policy for batch-norm statistics, in words. sha256: :func:`~fedmerge.models.state.state_hash`.
    pixel_spacing: of the images that a hospital trained on, where files say it; written only there.
    file_sha256: of the file with the weights. seal: of this card's text without it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    position: int
    model: ModelSpec
    normalisation: Inputs
    class_names: tuple[str, ...]
    parents: tuple[str, ...] = ()
    method: str
    metrics: dict[str, float] = {}
    seed: int | None = None
    config_hash: str = ""
    batch_norm: str = ""
    sha256: str
    file_sha256: str = ""
    seal: str = ""
    pixel_spacing: PixelSpacing | None = None

    @model_serializer(mode="wrap")
    def _where_known(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if key != "pixel_spacing" or value is not None}

    def sealed(self, file_sha256: str) -> ModelCard:
        """Return the card as it is written beside a file of weights."""
        plain = self.model_copy(update={"file_sha256": file_sha256, "seal": ""})
        return plain.model_copy(update={"seal": hashlib.sha256(plain.text.encode()).hexdigest()})

    @property
    def text(self) -> str:
        """The content of NAME.json."""
        return self.model_dump_json(indent=2) + "\n"


def write_model(path: Path, state: State, card: ModelCard | None) -> ModelCard | None:
    """Write weights to ``path`` (NAME.safetensors) and then, if there is one, the card beside them, sealed.

    Each file is written whole or not at all. Returns the card. Raises DiskError where the folder cannot be
    written.
    """
    found = write_weights(path, state)
    if card is None:
        return None
    written = card.sealed(found)
    write_text(path.with_suffix(".json"), written.text)
    return written


def read_card(path: Path) -> ModelCard:
    """Read the card in a JSON file. Raises FedMergeError if that is no card, or another model's."""
    try:
        card = ModelCard.model_validate_json(read_bounded(path, LARGEST_CARD, "a model card"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise FedMergeError(
            f"'{path}' is not a model card ({where}: {first['msg']}): restore it, "
            "or remove it with its weights."
        ) from None
    if card.name != path.stem:
        raise FedMergeError(f"'{path}' is the card of a model '{card.name}': name the file after the model.")
    return card


def check_cards(cards: Sequence[ModelCard]) -> None:
    """Raise FedMergeError where models that are to be merged differ in their network, classes or inputs.

    Networks whose weights have the same shapes may differ all the same: in a number of heads, or a rate.
    """
    for first, card in pairwise(cards):
        for what, one, other in (
            ("networks", _network_of(first), _network_of(card)),
            ("classes", first.class_names, card.class_names),
            ("normalisations of their inputs", first.normalisation, card.normalisation),
        ):
            if one != other:
                raise FedMergeError(
                    f"'{first.name}' and '{card.name}' have different {what} on their cards ({one}; "
                    f"{other}): a merged model would have to take one of them. Merge models that share them."
                )


def _network_of(card: ModelCard) -> ModelSpec:
    return card.model.untrained()
