"""Export a cohort: a folder for each hospital with its images and its file, and the server's file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import fedmerge.storage.own_files as own_files
from fedmerge.data.cohort.cohort import Cohort, Site
from fedmerge.data.images.images import Split
from fedmerge.data.sources.npz_writing import write_npz
from fedmerge.data.sources.raw import SPLITS
from fedmerge.data.sources.sources import REMOTE
from fedmerge.errors import FedMergeError
from fedmerge.schema.validation import is_there
from fedmerge.storage.files import make_folder, saying, write, write_text
from fedmerge.tasks import MULTICLASS

SERVER = "server"


def export(cohort: Cohort, folder: Path) -> Path:
    """Write every site as ``folder/NAME/NAME.yaml`` with its images; return the server's cohort file.

    The images are as the scanner shows them, in the splits they have, so that what is trained on them has
    the same bits. The server's file, ``folder/server.yaml``, has the sites that train as remote and the
    images of the unseen ones. Raises FedMergeError for a folder that exists or cannot be
    written, or a site without images here.
    """
    if is_there(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise FedMergeError(f"'{folder}' is already there and not empty: choose a new folder.")
    with saying(folder):
        make_folder(folder)
        own_files.enter(folder)
        return _export(cohort, folder)


def _export(cohort: Cohort, folder: Path) -> Path:
    channels, height, width = cohort.shape
    common: dict[str, Any] = {"channels": channels, "classes": list(cohort.class_names)}
    common |= {} if cohort.task is MULTICLASS else {"task": cohort.task.name}
    common |= {"minimum": {"samples": 1, "classes": 1}}  # checked when the cohort was built
    listed = []
    for site in cohort.sites:
        own = folder / site.name
        make_folder(own)
        here = cohort.here(site.name)
        images = {f"{name}_images": split.images for name, split in _splits(here).items()}
        write(own / "images.npz", partial(write_npz, images=images, arrays=_labels(here)))
        said = {"name": site.name, "source": "npz:images.npz"}
        write_text(own / f"{site.name}.yaml", _yaml(common | {"sites": [said]}))
        seen = {"source": f"npz:{site.name}/images.npz", "unseen": True}
        listed.append({"name": site.name} | (seen if site.unseen else {"source": REMOTE}))
    size = {"size": height} if height == width else {}
    server = folder / f"{SERVER}.yaml"
    write_text(server, _yaml({"title": cohort.title} | size | common | {"sites": listed}))
    return server


def _labels(site: Site) -> dict[str, np.ndarray]:
    """Return the labels, and where all splits know them the patients, of each split."""
    splits = _splits(site)
    arrays = {}
    for name, split in splits.items():
        arrays[f"{name}_labels"] = split.labels.numpy()
        if all(each.groups is not None for each in splits.values()) and split.groups is not None:
            arrays[f"{name}_patients"] = split.groups.numpy()
    return arrays


def _splits(site: Site) -> dict[str, Split]:
    return dict(zip(SPLITS, (site.train, site.val, site.test), strict=True))


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
