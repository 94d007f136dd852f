"""From an entry of a configuration to a test-time node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.entries import CALIBRATION, MethodConfig
from fedmerge.models.cards import ModelCard
from fedmerge.schema.option_paths import with_option
from fedmerge.testtime import TESTTIME, Node


def node_of(
    entry: MethodConfig,
    models: Mapping[str, nn.Module],
    batch_norm: str,
    card: Callable[[str], ModelCard],
    chosen: Mapping[str, Any] | None = None,
) -> Node:
    """Make the test-time method of an entry over these models.

    models: by name, in order. batch_norm: the policy of an entry that sets none. card: gives a model's card,
    which also says whether the networks were pretrained, to a method that asks and an entry that does not.
    A calibrated entry gets the temperature on each one's card; raises FedMergeError where a card has none.
    chosen: tuned options by path, on top of the entry's own.
    """
    method = TESTTIME[entry.method]
    given: dict[str, Any] = {}
    if "batch_norm" in method.options.model_fields:
        given["batch_norm"] = batch_norm
    if "pretrained" in method.options.model_fields and entry.start == "merged":
        given["pretrained"] = any(card(name).model.pretrained for name in models)
    if entry.calibrated:
        given[CALIBRATION] = [_temperature(card(name)) for name in models]
    options = entry.options
    for path, value in (chosen or {}).items():
        options = with_option(options, path, value)
    own = method.check(options)  # mappings of a file become what the method takes
    node: Node = method.call(list(models.values()), **(given | own))
    return node


def _temperature(card: ModelCard) -> float:
    if "temperature" not in card.metrics:
        raise FedMergeError(
            f"the card of '{card.name}' has no temperature, which calibrated: true needs: it was made by an "
            "older version. Do the run again, into a new folder."
        )
    return card.metrics["temperature"]
