"""Which files of an image folder are read, and what is left out, counted by kind."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedmerge.data.files.pictures import KINDS, SUFFIXES, is_picture
from fedmerge.errors import FedMergeError

JUNK = (
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found",
    "system volume information",
)  # fmt: skip
"""What file systems and viewers leave behind, beside names that begin with a dot."""
NOTES = (".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".log", ".pdf")
"""Files that say something of images and are none: they are counted, but nothing is lost without them."""
OTHERS = (".dcm", ".dicom", ".nii", ".mha", ".mhd", ".nrrd", ".svs", ".ndpi")
"""Kinds that are not read, whatever else their bytes may look like."""
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
DEEPER = "in deeper folders"
NO_SUFFIX, NO_TARGET, NO_FILE, NOT_THERE = (
    "without a suffix", "links to nothing", "no plain files", "not there",
)  # fmt: skip
KINDS_LEFT_OUT = frozenset((*NOTES, *OTHERS, DEEPER, NO_SUFFIX, NO_TARGET, NO_FILE, NOT_THERE))
"""Kinds of left-out files whose names say nothing of a hospital's own: any other suffix might."""
MOST_LOST = 0.1


@dataclass
class Found:
    """One folder of images. files: by split ("" where the folder has none) and class, in order of name.

    lost: by class or SPLIT/CLASS ("" for files beside them), how many files of each kind are left out though
    they may be images. skipped: how many others, by kind.
    """

    files: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    lost: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def remark(self, text: str) -> str:
        """Say in a sentence what is left out of the source ``text``; empty where nothing is."""
        kinds: Counter[str] = sum(self.lost.values(), Counter())
        parts = []
        if kinds:
            where = ", ".join(
                f"{name or 'beside the classes'} {n.total()}" for name, n in self.lost.items() if n
            )
            parts.append(f"{kinds.total()} files are left out ({counted(kinds)}; {where})")
        if self.skipped:
            parts.append(
                f"{self.skipped.total()} files that are no images are skipped ({counted(self.skipped)})"
            )
        return f"{text}: {'; '.join(parts)}." if parts else ""


def find_pictures(path: Path, allow: bool = False) -> Found:
    """List ``path/CLASS/FILE``, or ``path/SPLIT/CLASS/FILE`` where the subfolders are named like splits.

    A file is an image by its suffix, or by its content where the suffix is none of an image's. Links to files
    and folders are followed. Left out, and counted by kind: other files, and what lies deeper than a class.
    allow: a class may lose more than a tenth of its files. Raises ``FedMergeError`` where it does and may
    not, and for a folder without classes, a class without images, splits beside classes, and two class
    folders that differ only in case or in how their letters are encoded.
    """
    found = Found()
    splits = splits_in(path)
    for split, folder in splits.items():
        classes = {class_of(p): p for p in folders_in(folder)}
        if not classes:
            raise FedMergeError(
                f"{folder} has no subfolders: put the images of each class into a folder of its own."
            )
        found.files[split] = {
            name: _in_class(place, _place(split, name), found) for name, place in classes.items()
        }
        _beside(folder, found)
    if "" not in splits:
        _beside(path, found)
    _check_names(path, [name for files in found.files.values() for name in files], splits.values())
    _check_lost(path, found, allow)
    return found


def splits_in(path: Path) -> dict[str, Path]:
    """The folders of the splits, or the folder itself under an empty name."""
    folders = list(folders_in(path))
    kinds = {p.name: SPLIT_NAMES.get(p.name.casefold()) for p in folders}
    named = [name for name, kind in kinds.items() if kind]
    if not named:
        return {"": path}
    if others := [name for name, kind in kinds.items() if not kind]:
        raise FedMergeError(
            f"{path} has the folder '{named[0]}', which is the name of a split, beside '{others[0]}': have "
            "only train, val and test with the classes inside, or rename it if it is a class."
        )
    splits = {str(kinds[p.name]): p for p in folders}
    if len(splits) < len(folders):
        raise FedMergeError(f"{path} has two folders for one split ({', '.join(named)}): leave one.")
    if not {"train", "test"} <= set(splits):
        raise FedMergeError(
            f"{path} has the splits {', '.join(named)}, but train and test are needed: add the other, or put "
            "the classes into one folder, which is then divided."
        )
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def folders_in(path: Path) -> Iterator[Path]:
    return (p for p in sorted(path.iterdir()) if p.is_dir() and not is_junk(p.name))


def class_of(folder: Path) -> str:
    """Return a folder's class name in composed letters (NFC): macOS decomposes them."""
    return unicodedata.normalize("NFC", folder.name)


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.casefold() in JUNK


def _in_class(folder: Path, name: str, found: Found) -> list[Path]:
    """List the images of one class in order of name; count its other files in ``found``."""
    lost, pictures = found.lost.setdefault(name, Counter()), []
    for place in sorted(folder.iterdir()):
        if is_junk(place.name):
            found.skipped[junk_kind(place)] += 1
        elif place.is_dir():
            _count_deeper(place, lost, found.skipped)
        elif _is_image(place):
            pictures.append(place)
        elif place.suffix.lower() in NOTES:
            found.skipped[place.suffix.lower()] += 1
        else:
            lost[_kind(place)] += 1
    return pictures


def _is_image(place: Path) -> bool:
    suffix = place.suffix.lower()
    return place.is_file() and (suffix in SUFFIXES or (suffix not in NOTES + OTHERS and is_picture(place)))


def _kind(place: Path) -> str:
    if not place.exists():
        return NO_TARGET
    return place.suffix.lower() or NO_SUFFIX if place.is_file() else NO_FILE


def junk_kind(place: Path) -> str:
    return "._*" if place.name.startswith("._") else place.name


def _count_deeper(folder: Path, lost: Counter[str], skipped: Counter[str]) -> None:
    for _, folders, files in os.walk(folder):
        junk = [name for name in (*folders, *files) if is_junk(name)]
        skipped.update(junk_kind(Path(name)) for name in junk)
        folders[:] = [name for name in folders if name not in junk]
        rest = [Path(name).suffix.lower() for name in files if name not in junk]
        skipped.update(suffix for suffix in rest if suffix in NOTES)
        if n := sum(suffix not in NOTES for suffix in rest):
            lost[DEEPER] += n


def _beside(folder: Path, found: Found) -> None:
    """Count in ``found`` the files that lie beside the folders of classes or splits."""
    lost = found.lost.setdefault("", Counter())
    for place in sorted(folder.iterdir()):
        if is_junk(place.name):
            found.skipped[junk_kind(place)] += 1
        elif not place.is_dir():
            suffix = place.suffix.lower()
            known = suffix in SUFFIXES + OTHERS
            (lost if known else found.skipped)[suffix or "without a suffix"] += 1


def _check_names(path: Path, names: Iterable[str], folders: Iterable[Path]) -> None:
    first: dict[str, str] = {}
    for name in names:
        alike = first.setdefault(name.casefold().strip(), name)
        if alike != name:
            raise FedMergeError(
                f"{path} has the classes '{alike}' and '{name}', which differ only in case or spaces: give "
                "one class one folder."
            )
    for folder in folders:
        places = list(folders_in(folder))
        if len({class_of(place) for place in places}) < len(places):
            raise FedMergeError(f"{folder} has two folders of one name, encoded in two ways: leave one.")


def _check_lost(path: Path, found: Found, allow: bool) -> None:
    read = {
        _place(split, name): len(pictures)
        for split, files in found.files.items()
        for name, pictures in files.items()
    }
    for name in {name for files in found.files.values() for name in files}:
        if not any(found.files[split].get(name) for split in found.files):
            kinds = sum(
                (found.lost[_place(split, name)] for split in found.files if name in found.files[split]),
                Counter(),
            )
            was = f", but {counted(kinds)}" if kinds else ""
            raise FedMergeError(
                f"{path}: the class '{name}' holds no images{was}: images are {KINDS}, directly in "
                "the folder of their class. Add some, or remove the folder."
            )
    read[""] = sum(read.values())
    over = [
        f"{lost.total()} of {lost.total() + read[name]} of '{name}'"
        if name
        else f"{lost.total()} beside the classes"
        for name, lost in found.lost.items()
        if lost.total() > MOST_LOST * (lost.total() + read[name])
    ]
    if over and not allow:
        kinds = sum(found.lost.values(), Counter[str]())
        more = f" and {len(over) - 5} more" if len(over) > 5 else ""
        raise FedMergeError(
            f"{path}: more than a tenth of the files would be left out ({', '.join(over[:5])}{more}): "
            f"{counted(kinds)}. Save them as {KINDS}, directly in the folder of their class, or set "
            "left_out: allow in their cohort to go on without them."
        )


def _place(split: str, name: str) -> str:
    return f"{split}/{name}" if split else name


def counted(kinds: Counter[str]) -> str:
    first = kinds.most_common(6)
    more = f", {len(kinds) - 6} more kinds" if len(kinds) > 6 else ""
    return ", ".join(f"{n} {kind}" for kind, n in first) + more
