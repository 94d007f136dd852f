"""How a hospital's files are read: a cohort's sections ``read`` (pixels) and ``table`` (columns)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedmerge.schema.validation import Distinct

Fit = Literal["stretch", "crop", "pad"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


def _two(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != 2:
        raise ValueError(f"two numbers are expected, but {len(values)} are given")
    return values


Pair = Annotated[tuple[Number, ...], AfterValidator(_two)]


class ReadOptions(BaseModel):
    """How pixels are read and brought to 8 bits and to the cohort's size.

    window: centre and width of the values that become 0 to 255, linear between; ``file``: the first window
    of a DICOM file; ``full``: all values that the file's bits can say. percentiles: of an image's own values,
    these two become 0 and 255, in place of a window. fit: how an image that is not square becomes the
    cohort's square: ``crop`` its middle, ``pad`` it with black, or ``stretch`` it. frames: what is done with
    DICOM files of several frames. slice, axis: which plane of a NIfTI volume is read, counted from 0; a
    table may have a column ``slice``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Literal["file", "full"] | Pair | None = None
    percentiles: Pair | None = None
    fit: Fit | None = None
    frames: Literal["refuse", "first"] = "refuse"
    slice: Annotated[int, Field(ge=0)] | Literal["middle"] | None = None
    axis: Literal[0, 1, 2] = 2

    @model_validator(mode="after")
    def _fits(self) -> ReadOptions:
        faults = []
        if self.window is not None and self.percentiles is not None:
            faults.append("window and percentiles are two ways to do one thing: set one of them")
        if isinstance(self.window, tuple) and self.window[1] < 1:
            faults.append(
                f"a window's width is {self.window[1]:g}: write [centre, width], the width from 1 on"
            )
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            faults.append("percentiles are two numbers from 0 to 100, the smaller one first")
        if faults:
            raise ValueError(*faults)
        return self


class TableOptions(BaseModel):
    """The columns of a table of images (``csv:FILE``).

    path: the file of each row. label: its class, one name or number a row. findings: instead of ``label``,
    several columns, each 0 or 1. split: ``train``, ``val`` or ``test``. patient: whose image it is. site,
    value: the rows of a hospital are those whose column ``site`` holds ``value``, by default the hospital's
    name. root: the folder where the paths start, by default the table's own. ``split`` and ``patient`` are
    columns of these names where there are such.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Text = "path"
    label: Text = "label"
    findings: Annotated[tuple[Text, ...], Distinct] | None = Field(default=None, min_length=1)
    split: Text | None = None
    patient: Text | None = None
    site: Text | None = None
    value: Text | None = None
    root: Text | None = None

    @model_validator(mode="after")
    def _fits(self) -> TableOptions:
        if self.findings is not None and "label" in self.model_fields_set:
            raise ValueError("label and findings are two ways to say what an image shows: set one of them")
        return self


M = TypeVar("M", bound=BaseModel)
INSTEAD = {"window": "percentiles", "percentiles": "window", "label": "findings", "findings": "label"}
"""Options of which one replaces the other."""


def over(kind: type[M], common: M | None, own: M | None) -> M:
    """Return a site's options over the cohort's: what the site sets counts, also against its alternative."""
    if common is None or own is None:
        return own or common or kind()
    mine = own.model_dump(exclude_unset=True)
    theirs = common.model_dump(exclude_unset=True)
    return kind(**{key: value for key, value in theirs.items() if INSTEAD.get(key) not in mine} | mine)


@dataclass(frozen=True)
class Reading:
    """How one hospital's source is read. site: its name, which selects rows of a table."""

    read: ReadOptions = field(default_factory=ReadOptions)
    table: TableOptions = field(default_factory=TableOptions)
    site: str = ""

    @property
    def key(self) -> tuple[ReadOptions, TableOptions, str]:
        """Equal for hospitals whose images of one source are the same."""
        rows = (self.table.value or self.site) if self.table.site else ""
        return self.read, self.table, rows
