"""A model's card as text: Markdown with a YAML head, as model hubs read it."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from fedmerge.models.cards import ModelCard
from fedmerge.models.inputs import Inputs, Normalisation
from fedmerge.version import package_version

HEAD = {"library_name": "fedmerge", "pipeline_tag": "image-classification"}
TAGS = ("federated-learning", "model-merging", "medical-imaging")


def card_text(card: ModelCard, ancestors: Iterable[tuple[int, str]]) -> str:
    """Return the text of a hub's README: what the model is, its inputs, lineage, scores and limits.

    Everything is from the card, which knows nothing of the data; the text says so. ancestors: ``lineage``.
    """
    network, inputs = card.model, card.normalisation
    head = HEAD | {"tags": [*TAGS, network.name, card.method.replace(" ", "-")]}
    scores = [f"| {name} | {value:.4g} |" for name, value in card.metrics.items()]
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        f"# {card.name}",
        "",
        f"Made by {card.method}. A {network.name} for {network.n_classes} classes: "
        f"{', '.join(card.class_names)}.",
        "",
        "## Input and output",
        "",
        f"Images of {network.in_channels} x {network.image_size} x {network.image_size}, uint8. The network "
        f"gets (x / 255 - mean) / std with {_numbers(inputs)}, and gives one logit a class.",
        *_spacing(card),
        "",
        "## Where it comes from",
        "",
        *(f"{'  ' * depth}- {words}" for depth, words in ancestors),
        "",
        *(["## Numbers", "", "| what | value |", "| --- | ---: |", *scores, ""] if scores else []),
        "## Limits",
        "",
        "Research use, not a medical device. The card does not say whose images the model was trained on; "
        "whoever publishes it should.",
        "",
        "## Identity",
        "",
        f"SHA-256 of the weights: `{card.sha256}`; seed {card.seed}; configuration "
        f"`{card.config_hash or 'none'}`; FedMerge {package_version()}.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _spacing(card: ModelCard) -> list[str]:
    if card.pixel_spacing is None:
        return []
    found = card.pixel_spacing
    varies = "; they differ between images" if found.varies else ""
    return [
        f"In the files that it was trained on, before they were resized, pixels are {found.rows:g} mm (rows) "
        f"and {found.columns:g} mm (columns) apart, as a median{varies}."
    ]


def _numbers(inputs: Inputs) -> str:
    if isinstance(inputs, Normalisation):
        return f"mean {list(inputs.mean)} and std {list(inputs.std)}"
    return "the mean and std of each hospital's own training images, channel by channel"
