"""The hospitals of an experiment, as written in ``sites/*.yaml``."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from fedmerge.data.reading import Reading, ReadOptions, TableOptions, over
from fedmerge.data.scanner import Appearance
from fedmerge.data.sources.sources import REMOTE, Arrays, parse_source
from fedmerge.errors import Faults, FedMergeError, short, unknown
from fedmerge.schema.validation import LONGEST_NAME, Distinct, is_folder, is_there, load_yaml, validate
from fedmerge.tasks import TASKS, TaskName

PACKAGE = Path(__file__).resolve().parents[2]
SHIPPED = (PACKAGE / "_shipped" / "sites", PACKAGE.parent / "sites")


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"'{short(name)}' names files too: use letters, digits, '-', '_' and '.' only")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"'{short(name)}' names files too: use at most {LONGEST_NAME} letters")
    return name


def _known_form(source: str) -> str:
    try:
        parse_source(source)
    except FedMergeError as error:
        raise ValueError(*error.args) from None
    return source


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


ClassName = Annotated[str, AfterValidator(_composed)]
"""In composed letters, as the names of folders are read."""
Skew = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ClassLabel = Annotated[int, Field(ge=0)]
Name = Annotated[str, AfterValidator(_plain_name)]


def _texts(given: Any) -> Any:
    """Return a mapping with its keys as texts: YAML reads the class 0 as a number."""
    numbers = isinstance(given, dict) and all(type(key) in (int, str) for key in given)
    return {str(key): value for key, value in given.items()} if numbers else given


Labels = Annotated[dict[str, ClassName], BeforeValidator(_texts), Field(min_length=1)]
SourceText = Annotated[str, AfterValidator(_known_form)]
SourceArrays = Annotated[InstanceOf[Arrays], PlainSerializer(str, return_type=str)]


class Frozen(BaseModel):
    """Options read from YAML: fixed once read, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Readable(Frozen):
    """The sections ``read`` and ``table`` of a cohort or a site; written only where they are set."""

    read: ReadOptions | None = None
    table: TableOptions | None = None

    @model_serializer(mode="wrap")
    def _where_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        later = ("read", "table", "labels")
        return {key: value for key, value in written.items() if key not in later or value is not None}


class Minimum(Frozen):
    """The least training images and classes that a hospital must have.

    classes: of several findings an image, findings that an image has; 0 lets in a hospital of none.
    """

    samples: int = Field(default=10, ge=1)
    classes: int = Field(default=2, ge=0)


class SiteSpec(Readable):
    """One hospital.

    source: default is the cohort's; ``remote``: the images are at the hospital, whose own file says the
    rest. share: its part of a source that several sites divide, relative to theirs, on average over seeds
    (``draw_proportions``); under ``disjoint`` its classes decide instead. label_skew: concentration of its
    class proportions (Dirichlet); small is skewed, None is none.
    classes: by name or label, the only ones it takes of its source; a class that several list is divided
    by share, and one that nobody lists goes to the sites without a list. limit: at most so many training
    images. scanner: appearance shifts, applied in order. unseen: it does not train, it is where the fused
    model is deployed. labels: what the cohort calls a class that this hospital calls otherwise; several may
    become one. read, table: how its files are read; what they do not set is the cohort's.
    """

    name: Name
    title: str = ""
    source: SourceText | SourceArrays | None = None
    share: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    label_skew: Skew | None = None
    classes: Annotated[tuple[ClassLabel | ClassName, ...], Distinct] | None = Field(
        default=None, min_length=1
    )
    limit: int | None = Field(default=None, ge=1)
    scanner: tuple[Appearance, ...] = ()
    unseen: bool = False
    labels: Labels | None = None

    @property
    def follows(self) -> bool:
        """Whether the cohort's label skew holds: the site trains and sets no classes and no label_skew."""
        return not self.unseen and self.classes is None and self.label_skew is None


def _named_apart(sites: tuple[SiteSpec, ...]) -> tuple[SiteSpec, ...]:
    names = [site.name for site in sites]
    if twice := dict.fromkeys(name for name in names if names.count(name) > 1):
        raise ValueError(*(f"two sites are named '{name}': give each its own name" for name in twice))
    return sites


class CohortSpec(Readable):
    """The hospitals of one experiment.

    source: default of the sites. size: all images as size x size. channels: all images grey (1) or RGB (3).
    task: what is asked of an image: one class of several (``multiclass``), which of several findings are
    there (``multilabel``), a grade (``ordinal``), or yes or no by one output (``binary``); docs/tasks.md.
    classes: names by label, or of the findings; needed where sources disagree on them. label_skew: that of
    the sites that train and set neither classes nor label_skew, or ``disjoint``: the classes, in an order
    drawn by the seed, are cut into as many groups as a source has such sites, and each takes one group; the
    other sites without a list of classes keep their share of every class. left_out: ``allow`` reads image
    folders although a class loses more than a tenth of its files, because they are none that can be read or
    lie deeper, and tables although files that they name are not there. read, table: how files are read, of
    sites that do not say it. From Python, a source may be ``Arrays``.
    """

    name: Name
    title: str = ""
    task: TaskName = "multiclass"
    source: SourceText | SourceArrays | None = None
    size: int | None = Field(default=None, ge=8)
    channels: Literal[1, 3] | None = None
    classes: Annotated[tuple[ClassName, ...], Distinct] | None = Field(default=None, min_length=2)
    label_skew: Skew | Literal["disjoint"] | None = None
    minimum: Minimum = Minimum()
    left_out: Literal["allow"] | None = None
    sites: Annotated[tuple[SiteSpec, ...], AfterValidator(_named_apart)] = Field(min_length=1)
    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """The folder of the YAML file, where relative paths of sources may start."""
        return self._folder

    def source_of(self, site: SiteSpec) -> str | Arrays:
        """The site's own source, or the cohort's."""
        source = site.source if site.source is not None else self.source
        assert source is not None
        return source

    def reading_of(self, site: SiteSpec) -> Reading:
        """Return how a site's files are read: what it does not set is the cohort's."""
        read = over(ReadOptions, self.read, site.read)
        return Reading(read, over(TableOptions, self.table, site.table), site.name)

    @model_validator(mode="after")
    def _sites_fit(self) -> CohortSpec:
        faults = []
        for site in self.sites:
            if site.source is None and self.source is None:
                faults.append(f"site '{site.name}' has no source: set source: for it or for the cohort")
            said = set(site.model_dump(exclude_defaults=True)) - {"name", "title", "source", "unseen"}
            if (site.source or self.source) == REMOTE and said:
                faults.append(
                    f"site '{site.name}' is remote, so {', '.join(sorted(said))} cannot be applied here: set "
                    "it in the hospital's own file"
                )
        faults += self._unfit()
        if all(site.unseen for site in self.sites):
            faults.append("every site is unseen: at least one must train, so set unseen: false for it")
        if faults:
            raise ValueError(*faults)
        return self

    def _unfit(self) -> list[str]:
        """Return what the task cannot have, in sentences."""
        listed = [site.name for site in self.sites if site.classes is not None]
        faults = []
        if TASKS[self.task].many and (listed or self.label_skew == "disjoint"):
            what = f"site '{listed[0]}' lists classes" if listed else "label_skew is disjoint"
            faults.append(
                f"{what}, but with task: {self.task} an image has several findings, so no site can have some "
                "of them alone: take it out, or set label_skew: to a number"
            )
        if self.task == "binary" and self.classes is not None and len(self.classes) != 2:
            faults.append(f"task: binary has two classes, but {len(self.classes)} are named under classes")
        return faults

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        usual = {"task": "multiclass", "read": None, "table": None}
        return {key: value for key, value in written.items() if key not in usual or value != usual[key]}


def read_cohort(name_or_path: str | Path, near: Path | None = None) -> CohortSpec:
    """Read a cohort by path or by name.

    A path is taken as it is, or from ``near``, the folder of the configuration that names it. A name is
    looked for in ``near/../sites``, then in ``./sites``, then among those shipped with the package. The
    cohort's name is the file's unless the file says another. Raises ``FedMergeError`` for an unknown cohort
    (with the nearest) and for a file that is broken or has a fault in a field.
    """
    text = str(name_or_path)
    path = Path(os.path.expanduser(text))
    is_path = path.suffix in (".yaml", ".yml")
    candidates = [path, *([near / path] if near else [])] if is_path else []
    candidates += [folder / (text if is_path else f"{text}.yaml") for folder in _folders(near)]
    found = next(
        (candidate for candidate in candidates if is_there(candidate) and not is_folder(candidate)), None
    )
    if found is None and is_path:
        raise FedMergeError(f"there is no cohort file {short(text)}: check the path. {_known(near)}")
    if found is None:
        raise unknown("cohort", text, cohort_names(near))
    faults, spec = Faults(), None
    data = load_yaml(found, faults)
    with faults.kept():
        spec = validate(CohortSpec, {"name": found.stem, **data}, str(found))
        spec._folder = found.resolve().parent
    faults.say()
    assert spec is not None
    return spec


def cohort_names(near: Path | None = None) -> list[str]:
    """The names that ``read_cohort`` knows, sorted."""
    return sorted(
        {path.stem for folder in _folders(near) if folder.name == "sites" for path in folder.glob("*.yaml")}
    )


def _known(near: Path | None) -> str:
    return f"Cohorts known by name: {', '.join(cohort_names(near))}."


def _folders(near: Path | None) -> list[Path]:
    folders = [Path("sites"), *SHIPPED]
    return [near / ".." / "sites", *folders] if near else folders
