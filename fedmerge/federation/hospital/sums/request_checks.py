"""Check a request about sums: the layers and norms it names must exist, its tensors must fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmerge.errors import FedMergeError, short
from fedmerge.federation.messages.tensors import NO_TENSORS, Form, Tensors
from fedmerge.federation.packing import WALKING
from fedmerge.merging.neurons.statistics import LocalStatistics, norms

MIX = ".mix"


def request_tensors(statistics: LocalStatistics, kind: str, options: Mapping[str, Any]) -> Tensors:
    """Return the schema of a request's tensors: a walk's whole model, changed entries of it, or none."""
    if kind != "walk" and kind not in WALKING:
        return NO_TENSORS
    state = statistics.parents[0][1]
    forms = dict(Tensors.like(state).forms)
    if kind == "walk":
        return Tensors(forms)
    if kind == "layer":
        layer = next((each for each in statistics.fused.layers if each.name == options["name"]), None)
        if layer is not None:
            width = state[layer.weight].shape[0]
            forms[MIX] = Form("float64", (width, width * len(statistics.parents)))
    return Tensors(forms, frozenset(forms), needed=False)


def check_request(statistics: LocalStatistics, kind: str, options: Mapping[str, Any]) -> None:
    """Raise FedMergeError for a layer or norm that the network does not have, or a walk that never began."""
    known = {layer.name for layer in statistics.fused.layers}
    for name in [*options.get("layers", ()), *([options["name"]] if "name" in options else [])]:
        if name not in known:
            raise FedMergeError(f"the network has no layer '{short(name)}' to give sums about.")
    found = len(norms(statistics.fused))
    if options.get("index", -1) >= found:
        raise FedMergeError(
            f"the network has {found} batch norms, but the request is about number {options['index']}."
        )
    if kind in WALKING and not statistics.walking:
        raise FedMergeError(f"a request '{kind}' comes after a walk has begun, and none has.")
