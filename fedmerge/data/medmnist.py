"""MedMNIST sets by name: a file that is here already, or the package's own download."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError, unknown


def info(name: str) -> dict[str, Any]:
    """MedMNIST's own entry for a set of 2-D images with one label each.

    Raises ``FedMergeError`` for an unknown name, and for 3-D and multi-label sets, which are not supported.
    """
    from medmnist import INFO  # slow: it loads pandas and scikit-learn

    usable = [n for n, entry in INFO.items() if not n.endswith("3d") and "multi-label" not in entry["task"]]
    if name in INFO and name not in usable:
        what = "3-D volumes" if name.endswith("3d") else "several labels an image"
        raise FedMergeError(
            f"medmnist:{name} has {what}, which is not supported: 2-D images with one class each are "
            f"({', '.join(sorted(usable))})."
        )
    if name not in INFO:
        raise unknown("MedMNIST set", name, usable)
    return INFO[name]


def class_names(name: str) -> tuple[str, ...]:
    """The classes by label, as MedMNIST names them."""
    labels = info(name)["label"]
    return tuple(labels[str(i)] for i in range(len(labels)))


def cache_folder() -> Path:
    """MedMNIST's cache, ``~/.medmnist``."""
    return Path.home() / ".medmnist"


def download(name: str) -> Path:
    """Fetch a set with the medmnist package (which checks its MD5) into the cache; return the file.

    It becomes visible under its name only when it is complete.
    """
    import medmnist

    target = cache_folder() / f"{name}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            getattr(medmnist, info(name)["python_class"])(split="train", download=True, root=folder)
        except (OSError, RuntimeError):
            raise FedMergeError(
                f"medmnist:{name} is not on this machine and could not be downloaded: fetch "
                f"{info(name)['url']} where there is a network, and put {name}.npz into {target.parent} or "
                f"into the folder that the environment variable FEDMERGE_DATA names."
            ) from None
        os.replace(Path(folder) / target.name, target)
    return target
