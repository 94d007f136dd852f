"""Begin from weights in a file: ``model: {pretrained: FILE.safetensors}``."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmerge.errors import FedMergeError, short
from fedmerge.models.heads import find_head, group_of
from fedmerge.models.state import State, non_finite, without_wrappers
from fedmerge.models.weights import load_weights
from fedmerge.schema.validation import is_there
from fedmerge.storage.data_folder import VARIABLE, named_folder
from fedmerge.storage.files import digest


def check_start(name: str) -> None:
    """Raise FedMergeError for what is not called ``.safetensors``; whether it is there, training asks."""
    if not name.endswith(".safetensors"):
        raise FedMergeError(
            f"model.pretrained is '{short(name)}', but weights to begin from are a .safetensors file: give "
            "its path, or true for the network's own pretrained weights."
        )


def start_file(name: str) -> Path:
    """Return the file of weights ``name``: looked for in FEDMERGE_DATA's folder, then in the current one.

    Raises FedMergeError where it is in neither, or is not called ``.safetensors``.
    """
    check_start(name)
    if (found := _find(name)) is not None:
        return found
    looked = " or ".join(str(place.resolve()) for place in _places())
    raise FedMergeError(
        f"model.pretrained: there is no file '{short(name)}' in {looked}: put it there, give its whole path, "
        f"or set {VARIABLE} to the folder that has it."
    )


def start_digest(pretrained: bool | str) -> str:
    """Return the SHA-256 of the file that ``pretrained`` names; empty where it names none, or none is there.

    So a finished run can be looked at without the file that it began from; who builds from it is told.
    """
    found = _find(pretrained) if isinstance(pretrained, str) else None
    return "" if found is None else digest(found)


def _find(name: str) -> Path | None:
    files = (place / os.path.expanduser(name) for place in _places())
    return next((file for file in files if is_there(file) and file.is_file()), None)


def _places() -> list[Path]:
    return [folder for folder in (named_folder(), Path()) if folder is not None]


def begin_from(network: nn.Module, name: str, images: tuple[int, int]) -> None:
    """Fill ``network`` with the weights of the file ``name``, in the network's own precision.

    images: channels and size (px) of the images that the network takes. What may differ: the head (the last
    layer with its classes), which stays as it was drawn where the file has none or one of another shape; the
    first convolution, summed over its colours for grey images, as drawn for another number of channels; the
    position embeddings (1 x tokens x width) of another image size, interpolated bicubically between the
    patches. Prefixes ``module.`` and ``_orig_mod.`` are taken off. Raises FedMergeError for anything else
    that does not fit, and for numbers that are not finite.
    """
    path = start_file(name)
    given, own = without_wrappers(load_weights(path)), network.state_dict()
    head = find_head(network, torch.zeros(2, images[0], images[1], images[1]))
    fitted = _fitted(given, own, head)
    misfits = [key for key in own if key not in fitted and not _may_be_drawn(key, given, own, head)]
    strange = sorted(given.keys() - own.keys())
    if misfits or strange:
        raise FedMergeError(_misfit(path, misfits, strange, given, own))
    if bad := non_finite(fitted):
        raise FedMergeError(f"'{path}' has numbers that are not finite, in {_few(bad)}: use another file.")
    network.load_state_dict(own | fitted)


def _fitted(given: State, own: State, head: str) -> State:
    """Return the entries of ``given`` in the shapes of ``own``, where they can be brought to them."""
    fitted: State = {}
    for key in own.keys() & given.keys():
        value = _shaped(given[key], own[key]) if group_of(key, head) == "encoder" else given[key]
        if value.shape == own[key].shape:
            fitted[key] = value.to(own[key].dtype)
    return fitted


def _shaped(value: Tensor, wanted: Tensor) -> Tensor:
    if value.shape == wanted.shape:
        return value
    if value.ndim == 4 and value.shape[1] == 3 and wanted.shape == (value.shape[0], 1, *value.shape[2:]):
        return value.sum(dim=1, keepdim=True)
    if value.ndim == 3 and wanted.ndim == 3 and value.shape[::2] == wanted.shape[::2] == (1, value.shape[2]):
        return _positions(value, wanted.shape[1])
    return value


def _positions(value: Tensor, tokens: int) -> Tensor:
    """Interpolate position embeddings 1 x T x D to ``tokens``; a class token before the patches stays."""
    for first in (0, 1):
        old, new = math.isqrt(value.shape[1] - first), math.isqrt(tokens - first)
        if old * old == value.shape[1] - first and new * new == tokens - first:
            grid = value[:, first:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
            wide = functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
            return torch.cat([value[:, :first].float(), wide.flatten(2).transpose(1, 2)], dim=1)
    return value


def _may_be_drawn(key: str, given: State, own: State, head: str) -> bool:
    if group_of(key, head) == "head" or key.endswith("num_batches_tracked"):
        return True
    value, wanted = given.get(key), own[key]
    first = next(name for name, held in own.items() if held.ndim == 4) if wanted.ndim == 4 else ""
    return value is not None and key == first and value.shape[::2] == wanted.shape[::2]


def _misfit(path: Path, misfits: list[str], strange: list[str], given: State, own: State) -> str:
    shapes = [
        f"{key} is {tuple(given[key].shape)}, not {tuple(own[key].shape)}" for key in misfits if key in given
    ]
    missing = [key for key in misfits if key not in given]
    said = [
        *([f"entries of other shapes ({_few(shapes)})"] if shapes else []),
        *([f"no {_few(missing)}"] if missing else []),
        *([f"entries that the network does not have ({_few(strange)})"] if strange else []),
    ]
    return (
        f"'{path}' does not fit the network: it has {', and '.join(said)}. Give weights of this network, or "
        "name the one that they are of."
    )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
