"""Convert fusion images of many forms to tensors, and check that the models take them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from fedmerge.errors import FedMergeError
from fedmerge.merging.parents import Parents
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of
from fedmerge.tasks import Task, task_of
from fedmerge.tasks.pairs import label_fault

IMAGES = ("image", "images", "pixel_values", "img", "x", "input", "inputs", "data")
LABELS = ("label", "labels", "target", "targets", "y")
Given = Tensor | np.ndarray | Iterable[Any]


def collected(data: Given | None, labels: Any = None) -> tuple[Tensor | None, Tensor | None]:
    """Return images and labels as one tensor each; None for what is not given.

    data: a tensor or an array N x ...; a loader or a list of batches ``x``, ``(x, y)`` or dicts with one of
    ``IMAGES`` and perhaps one of ``LABELS``; or a dataset or a list of single images of these forms. Images
    with a single label each, and tensors of three dimensions without any, are single ones. labels: N classes,
    or N x F of 0 and 1.
    Raises FedMergeError for other forms, no image, NaN or infinity, and labels that are no classes.
    """
    if data is not None and not isinstance(data, Tensor | np.ndarray):
        data, found = _joined(data)
        labels = found if labels is None else labels
    images = None if data is None else _tensor(data, "data=")
    if images is not None and (images.ndim == 0 or len(images) == 0):
        raise FedMergeError("data= holds no image: give at least one.")
    if images is not None and not bool(images.isfinite().all()):
        raise FedMergeError("data= holds NaN or infinity: remove those images.")
    if labels is None:
        return images, None
    classes = _classes(labels)
    if images is not None and len(images) != len(classes):
        raise FedMergeError(
            f"data has {len(images)} images but labels has {len(classes)}: give one label an image."
        )
    return images, classes


def fitting(
    parents: Parents, images: Tensor | None, labels: Tensor | None, *, each: bool = False
) -> Tensor | None:
    """Return the images as the models take them: in the models' precision, where they take no other.

    Two images are tried on the first model, or with ``each`` on every one. Raises FedMergeError where a model
    does not take them, or a label is not one of its classes.
    """
    if images is None:
        return None
    for index in range(len(parents) if each else 1):
        network, name = parents.network(index) if each else parents.template, parents.names[index]
        images, logits = taken(network, images, name)
        if labels is not None:
            _check_labels(task_of(network), labels, logits, name)
    return images


def taken(network: nn.Module, images: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return the images in a precision that a model takes, and its logits of two; its modes are kept.

    Raises FedMergeError where it does not take them.
    """
    weight = next(network.parameters(), images)
    failure = None
    for dtype in dict.fromkeys([images.dtype, weight.dtype]):
        if dtype != images.dtype and not (images.is_floating_point() and dtype.is_floating_point):
            continue
        try:
            with torch.no_grad(), evaluating(network), torch.random.fork_rng(devices=[]):
                output = network(images[:2].to(weight.device, dtype))
        except Exception as error:
            failure = failure or error
            continue
        return images.to(dtype), logits_of(output, f"'{name}'")
    reason = (str(failure).strip() or type(failure).__name__).splitlines()[0].rstrip(".")
    advice = "" if images.is_floating_point() else ", normalised (x / 255, minus mean, over deviation)"
    raise FedMergeError(
        f"'{name}' does not take the images of data= ({str(images.dtype).removeprefix('torch.')}, "
        f"{' x '.join(map(str, images.shape))}): {reason}. Give them as the models take them{advice}."
    ) from None


def _check_labels(task: Task, labels: Tensor, logits: Tensor, name: str) -> None:
    width = logits.flatten(1).shape[1] if logits.ndim > 1 else 0
    if fault := label_fault(task, labels, width):
        raise FedMergeError(f"labels= of '{name}' {fault}.")


def _joined(data: Iterable[Any]) -> tuple[Tensor, Tensor | None]:
    """Batches, or single images, of a loader, a list or a dataset."""
    pairs = [_pair(item) for item in _items(data)]
    if not pairs:
        raise FedMergeError("data= gave no batch: give at least one image.")
    images = [_tensor(image, "data=") for image, _ in pairs]
    labels = [None if label is None else torch.as_tensor(label) for _, label in pairs]
    known = [label for label in labels if label is not None]
    single = known[0].ndim == 0 if known else images[0].ndim == 3
    if len({image.shape[0 if single else 1 :] for image in images}) > 1 or images[0].ndim == 0:
        shapes = ", ".join(str(tuple(image.shape)) for image in images[:3])
        raise FedMergeError(
            f"data= gave images of several shapes ({shapes}, ...): give batches N x C x H x W of one size, "
            "or images and labels apart, as data= and labels=."
        )
    joined = torch.stack(images) if single else torch.cat(images)
    if len(known) < len(pairs):
        return joined, None
    several = not single and known[0].ndim == 2 and known[0].shape[1] > 1
    return joined, torch.cat(known if several else [label.reshape(-1) for label in known])


def _items(data: Iterable[Any]) -> Iterator[Any]:
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        yield from (data[index] for index in range(len(data)))  # type: ignore[arg-type]
        return
    try:
        yield from data
    except TypeError:
        raise FedMergeError(
            f"data= is of type {type(data).__name__}: give a tensor, an array, or a loader of batches."
        ) from None


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        image = next((item[name] for name in IMAGES if name in item), None)
        if image is None:
            raise FedMergeError(
                f"data= gave dicts with {', '.join(map(str, item))}: name the images one of "
                f"{', '.join(IMAGES)}."
            )
        return image, next((item[name] for name in LABELS if name in item), None)
    if isinstance(item, list | tuple):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    raise FedMergeError(
        f"{what} gave {kind}, not images as tensors or arrays of numbers: convert them first."
    )


def _classes(labels: Any) -> Tensor:
    try:
        found = torch.as_tensor(labels)
        found = found if found.ndim == 2 and found.shape[1] > 1 else found.reshape(-1)
        whole = found.long()
    except (TypeError, ValueError, RuntimeError):
        raise FedMergeError(
            f"labels= is of type {type(labels).__name__}: give one class number an image."
        ) from None
    if found.is_floating_point() and not torch.equal(whole.to(found.dtype), found):
        raise FedMergeError("labels= holds numbers that are not whole: give one class number an image.")
    return whole
