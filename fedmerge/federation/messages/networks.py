"""Checks of a network's description: whether it fits a hospital, its size, its tensors."""

from __future__ import annotations

from functools import lru_cache

from fedmerge.data import Site
from fedmerge.errors import FedMergeError
from fedmerge.federation.messages.tensors import Tensors
from fedmerge.models.meta import on_meta
from fedmerge.models.zoo import ModelSpec, build

MOST_NUMBERS = 2**30
"""The most numbers in a network that a hospital builds: 4 GiB of weights."""


def check_fits(spec: ModelSpec, site: Site) -> None:
    """Raise FedMergeError for a network of other images or classes than a hospital's, or one too large.

    The check comes before the network is built.
    """
    held, taken = tuple(site.train.images.shape[1:]), (spec.in_channels, spec.image_size, spec.image_size)
    if site.task.name != spec.task:
        raise FedMergeError(
            f"the labels of '{site.name}' are for task {site.task.name}, and the model is for {spec.task}: "
            "set task: in the hospital's file as the others have it."
        )
    if (held, site.n_classes) != (taken, spec.n_classes):
        raise FedMergeError(
            f"the images of '{site.name}' are {' x '.join(map(str, held))} (channels, height, width) of "
            f"{site.n_classes} classes, and the model takes {' x '.join(map(str, taken))} of "
            f"{spec.n_classes}: set size:, channels: and classes: in the hospital's file as the others "
            "have them."
        )
    tensors_of(spec)


def tensors_of(spec: ModelSpec) -> Tensors:
    """Return the schema of a network's state, without allocating it. Raises FedMergeError."""
    return _tensors(spec.untrained().model_dump_json())


@lru_cache(maxsize=4)
def _tensors(spec: str) -> Tensors:
    known = ModelSpec.model_validate_json(spec)
    try:
        with on_meta():
            state = build(known, 0).state_dict()
    except FedMergeError:
        raise
    except Exception as error:  # invalid options: torch raises various errors
        raise FedMergeError(
            f"the model '{known.name}' cannot be built as it is described ({type(error).__name__}: {error})."
        ) from None
    size = sum(value.numel() for value in state.values())
    if size > MOST_NUMBERS:
        raise FedMergeError(
            f"the model '{known.name}' has {size:,} numbers, and a hospital builds none of more than "
            f"{MOST_NUMBERS:,}: take a smaller one."
        )
    return Tensors.like(state)
