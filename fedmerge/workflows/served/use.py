"""How found models are used: a test-time method over them, a fusion of them, or one as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError, nearest, short
from fedmerge.experiment.configuration.changes import apply_change
from fedmerge.experiment.configuration.entries import MethodConfig, read_method
from fedmerge.experiment.folder.machine import pick_device
from fedmerge.experiment.stages.nodes import node_of
from fedmerge.merging import FUSION, merge
from fedmerge.models.cards import ModelCard, read_card
from fedmerge.schema.option_paths import option_at, with_option
from fedmerge.serving.served import Served
from fedmerge.testtime import TESTTIME, Static
from fedmerge.workflows.served.places import Found, load_model
from fedmerge.workflows.served.samples import inputs_at

STATIC, FROM_SCRATCH, PRETRAINED = "static", "stream-adaptive", ("federated", "mean")
"""What is served by default: one model; networks from scratch; pretrained ones, the first that is there."""
POLICY = "mixture"
"""The batch-norm policy where no run says another: that of the methods themselves."""


def served(
    found: Found,
    method: str | None = None,
    changes: Sequence[str] = (),
    device: str = "auto",
    samples: Tensor | None = None,
    normalise: str | None = None,
) -> Served:
    """Load the models and return how they are served.

    method: in this order the label of one of the run's test-time entries, a test-time method, the label of
    one of the run's fused networks, a fusion method that needs no images, or ``static``, one model as it is;
    by default ``stream-adaptive``; of pretrained networks the run's fused network ``federated``, or else the
    ``mean`` (docs/studies/test-time.md says why); and ``static`` for one model alone. changes: the method's
    options, ``name=value``, the value read as YAML. normalise: a source of this hospital's images, or
    ``run``, for models that take images by each hospital's own mean and deviation. Options and models that
    do not fit are refused here.
    """
    name = method or _recommended(found)
    options: dict[str, Any] = {}
    for change in changes:
        apply_change(options, change)
    inputs = inputs_at(found, normalise)
    what = _used(found, name, options, pick_device(device))
    return replace(what, samples=samples, read=found.read, inputs=inputs)


def _recommended(found: Found) -> str:
    """Return what our studies say is the best that these models can do."""
    if len(found.models) == 1:
        return STATIC
    if not any(card.model.pretrained for card, _ in found.models):
        return FROM_SCRATCH
    return next((name for name in PRETRAINED if name in found.fused), PRETRAINED[-1])


def _used(found: Found, name: str, options: dict[str, Any], where: str) -> Served:
    """Return the models as what ``name`` means makes use of them."""
    entry = _entry(found, name, options)
    if entry is not None:
        return _adapting(found, entry, where)
    if name in found.fused:
        return _fused(found, name, options, where)
    if name == STATIC:
        return _static(found, options, where)
    if name in FUSION:
        return _fusing(found, name, options, where)
    known = [*TESTTIME.names(), *found.fused, *FUSION.names(), STATIC]
    raise FedMergeError(
        f"unknown method '{short(name)}'.{nearest(name, known)} See fedmerge methods; of this run: "
        f"{', '.join(found.fused) or 'no fused network'}."
    )


def _entry(found: Found, name: str, options: dict[str, Any]) -> MethodConfig | None:
    """Return the run's entry with that label, or the bare method, with ``options`` on top; None for
    neither."""
    for given in found.config.get("testtime") or ():
        if isinstance(given, dict) and given.get("label") == name:
            chosen = found.chosen.get(name, {})
            _check_plain(given, chosen)
            for path, value in chosen.items():
                given = with_option(given, path, value)
            return _read(_over({**given, "tune": None}, options))
    return _read({"method": name, **options}) if name in TESTTIME else None


def _over(given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with options on top; those of a group leave its other fields as they are."""
    both = {key: (given.get(key), value) for key, value in options.items()}
    groups = {k: {**a, **b} for k, (a, b) in both.items() if isinstance(a, dict) and isinstance(b, dict)}
    return {**given, **options, **groups}


def _read(given: Mapping[str, Any]) -> MethodConfig:
    try:
        return read_method(TESTTIME, dict(given))
    except ValueError as error:
        raise FedMergeError(*map(str, error.args)) from None


def _check_plain(given: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    name = given["label"]
    if given.get("tune") is not None and not chosen:
        raise FedMergeError(
            f"'{name}' has an option that the run tuned for each of its targets: say which with --target, or "
            f"give the value: --method {given['method']} --set OPTION=VALUE."
        )
    anchor = option_at(given, "predict.anchor")
    if "federated" in (given.get("start"), anchor):
        raise FedMergeError(
            f"'{name}' takes the model of the federated rounds: give that network's file, "
            "start/start.safetensors in the run's federation, with "
            f"--method {given['method']}, or --method static for it alone."
        )
    if given.get("start") == "pooled":
        raise FedMergeError(
            f"'{name}' starts from pooled training: give that network's file, "
            f"TARGET/references/pooled.safetensors in the run, with --method {given['method']}."
        )


def _adapting(found: Found, entry: MethodConfig, device: str) -> Served:
    cards = {card.name: card for card, _ in found.models}
    models = {name: model.to(device) for name, model in found.load().items()}
    policy = str(found.config.get("batch_norm", POLICY))
    node_of(entry, models, policy, cards.__getitem__)
    return Served(
        tuple(cards.values()),
        entry.label,
        TESTTIME[entry.method].title,
        lambda: node_of(entry, models, policy, cards.__getitem__),
        options=entry.choices,
        device=device,
    )


def _fused(found: Found, label: str, options: dict[str, Any], device: str) -> Served:
    """Serve a network that the run fused."""
    _no_options(label, options)
    path = found.fused[label]
    card = read_card(path.with_suffix(".json"))
    names = {one.sha256: one.name for one, _ in found.models}
    shares = {
        key.removeprefix("coefficient:"): share
        for key, share in card.metrics.items()
        if key.startswith("coefficient:")
    }
    title = f"fused by {card.method} of {', '.join(names.get(each, each[:12]) for each in card.parents)}"
    return _as_it_is(load_model(card, path), (card,), label, title, device, shares)


def _static(found: Found, options: dict[str, Any], device: str) -> Served:
    _no_options(STATIC, options)
    if len(found.models) > 1:
        raise FedMergeError(
            f"'{STATIC}' is one model as it is, and there are {len(found.models)}: give one file, or another "
            "--method."
        )
    ((card, path),) = found.models
    return _as_it_is(load_model(card, path), (card,), STATIC, f"{card.method}, as it is", device, {})


def _fusing(found: Found, name: str, options: dict[str, Any], device: str) -> Served:
    """Fuse the models now, by a method that takes nothing but them, and serve the result."""
    method, cards = FUSION[name], tuple(card for card, _ in found.models)
    checked, needs = method.check(options), method.needs_with(options)
    wanting = {"individual models", "features"}
    if missing := [each for each in needs.names() if each not in wanting]:
        raise FedMergeError(
            f"'{name}' needs {', '.join(missing)}: fuse first with fedmerge merge, and serve the file it "
            "writes."
        )
    spec = cards[0].model
    result = merge(
        list(found.load().values()),
        name,
        names=[card.name for card in cards],
        batch_norm=found.config.get("batch_norm", POLICY),
        data=torch.zeros(2, spec.in_channels, spec.image_size, spec.image_size),
        **checked,
    )
    title, shares = f"{method.title}, fused when the service began", result.coefficients
    return _as_it_is(result.model, cards, name, title, device, shares, options)


def _as_it_is(
    model: nn.Module,
    cards: tuple[ModelCard, ...],
    method: str,
    title: str,
    device: str,
    shares: Mapping[str, float],
    options: Mapping[str, Any] | None = None,
) -> Served:
    fixed = model.to(device).eval()
    return Served(cards, method, title, lambda: Static(fixed), options or {}, shares, device)


def _no_options(name: str, options: Mapping[str, Any]) -> None:
    if options:
        raise FedMergeError(
            f"'{name}' is made already, so it takes no options: take --set {', '.join(options)} out."
        )
