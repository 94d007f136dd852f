"""A cohort and its hospitals: their images, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedmerge.data.images.facts import Facts
from fedmerge.data.images.images import Split, concat
from fedmerge.data.scanner import Appearance
from fedmerge.data.sources.file_facts import FileFacts
from fedmerge.data.sources.sources import REMOTE
from fedmerge.errors import FedMergeError, unknown
from fedmerge.tasks import MULTICLASS, Task

Splits = tuple[Split, Split, Split]
Names = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Site:
    """One hospital: its images (train, val, test; see ``Split``) and where they come from.

    facts: of all its images as they were before its scanner. registry: names what numbers its patients;
    patients of one number are one person where sites have one registry. files: of its source, where no other
    site divides it.
    """

    name: str
    source: str
    train: Split
    val: Split
    test: Split
    class_names: Names
    unseen: bool = False
    scanner: tuple[Appearance, ...] = ()
    facts: Facts | None = None
    task: Task = MULTICLASS
    registry: str = ""
    files: FileFacts | None = None

    @property
    def remote(self) -> bool:
        """Whether its images are at the hospital and not here; its splits are empty then."""
        return self.source == REMOTE

    @property
    def n_classes(self) -> int:
        """Number of classes of the task, whether or not this site has all of them."""
        return len(self.class_names)

    @property
    def everything(self) -> Split:
        """Train, val and test together: what an unseen site is deployed on."""
        return concat((self.train, self.val, self.test))


@dataclass(frozen=True, eq=False)
class Cohort:
    """The hospitals of one experiment; all images have one shape and all labels one meaning.

    folder: where relative paths of sources may start, beside the data folder. reading: remarks
    on how the sources were read, in sentences (``checks.remarks`` has more).
    """

    name: str
    title: str
    sites: tuple[Site, ...]
    folder: Path | None = None
    reading: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label."""
        return self.sites[0].class_names

    @property
    def task(self) -> Task:
        """What is asked of an image."""
        return self.sites[0].task

    @property
    def n_classes(self) -> int:
        """Number of classes, or of findings."""
        return self.sites[0].n_classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        c, h, w = self.sites[0].train.images.shape[1:]
        return c, h, w

    @property
    def training(self) -> tuple[Site, ...]:
        """The sites that train."""
        return tuple(site for site in self.sites if not site.unseen)

    @property
    def unseen(self) -> tuple[Site, ...]:
        """The sites that do not train."""
        return tuple(site for site in self.sites if site.unseen)

    def __getitem__(self, name: str) -> Site:
        """The site of that name; ``FedMergeError`` with the nearest name if there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise unknown("site", name, [site.name for site in self.sites])

    def here(self, name: str) -> Site:
        """The site of that name, whose images are here. Raises ``FedMergeError`` for a remote one."""
        site = self[name]
        if site.remote:
            raise FedMergeError(f"the images of '{name}' are at the hospital and never leave it.")
        return site
