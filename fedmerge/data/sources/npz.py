"""Files with the six MedMNIST keys: images, labels and perhaps patients of train, val, test in one .npz."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fedmerge.data.images.images import Split
from fedmerge.data.sources.npz_sizes import check_sizes
from fedmerge.data.sources.npz_stored import stored_images
from fedmerge.data.sources.raw import SPLITS, RawSource, raw_source, split_from_arrays
from fedmerge.errors import FedMergeError

KEYS = tuple(f"{split}_{what}" for split in SPLITS for what in ("images", "labels"))
NAMES = "class_names"
PATIENTS = tuple(f"{split}_patients" for split in SPLITS)


def read_npz(path: Path, text: str, class_names: tuple[str, ...] | None = None) -> RawSource:
    """Read the six MedMNIST keys (MedMNIST v2, arXiv 2110.14795); other keys are left alone.

    Images are uint8 N x H x W or N x H x W x 3; labels integers N or N x 1, or 0 and 1, N x F, of F findings;
    ``class_names``, F texts, may name these. ``train_patients``,
    ``val_patients`` and ``test_patients``, all three or none: integers likewise, whose image each one is,
    numbered alike in all splits. Nothing is unpickled. Raises ``FedMergeError`` where the file is damaged,
    not an .npz, holds pickled arrays, lacks a key, or an array has another type or shape. Images of more than
    64 MiB in all come from the disk cache, image by image.
    """
    arrays = _arrays(path)
    splits: dict[str, Split] = {}
    for name in SPLITS:
        images, labels = arrays[f"{name}_images"], arrays[f"{name}_labels"]
        splits[name] = split_from_arrays(images, labels, str(path), name, arrays.get(f"{name}_patients"))
    if class_names is None and NAMES in arrays and splits["train"].labels.ndim == 2:
        class_names = tuple(str(name) for name in arrays[NAMES])
    return raw_source(text, splits, class_names, str(path))


def _are_texts(archive: np.lib.npyio.NpzFile) -> bool:
    """Whether the file names its findings: a list of texts, and not a pickled one."""
    return NAMES in archive.files and archive[NAMES].dtype.kind == "U" and archive[NAMES].ndim == 1


def _arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file; large images are a ``StoredImages`` each."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        if not is_zip:
            raise FedMergeError(f"{path} is not an .npz file: save it with numpy.savez_compressed.")
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive.files]
            if missing:
                raise FedMergeError(
                    f"{path} lacks {', '.join(missing)}: an .npz needs the six keys {', '.join(KEYS)}."
                )
            some = [key for key in PATIENTS if key in archive.files]
            if some and len(some) < len(PATIENTS):
                raise FedMergeError(
                    f"{path} has {', '.join(some)} alone: patients need the three keys {', '.join(PATIENTS)}."
                )
            many = stored_images(path, archive.zip)
            in_memory = [key for key in (*KEYS, *some) if key not in many]
            names = [NAMES] if NAMES in archive.files else []
            check_sizes(path, archive.zip, (*KEYS, *some, *names), [*in_memory, *names])
            named = [NAMES] if _are_texts(archive) else []
            found = {key: archive[key] for key in (*in_memory, *named)}
            return found | {key: read() for key, read in many.items()}
    except FedMergeError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        raise FedMergeError(f"{path} is damaged or cut short: delete it and get it again.") from None
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise FedMergeError(
                f"{path} holds pickled arrays, which are never loaded because they can run code: "
                f"save plain uint8 arrays."
            ) from None
        raise FedMergeError(f"{path} is damaged or cut short: delete it and get it again.") from None
    except OSError as error:
        raise FedMergeError(f"{path} cannot be read: {error.strerror or error}.") from None
