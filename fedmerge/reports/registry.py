"""The registry of further figures of reports: which page each is on, how it is drawn, and what it says in
words.

The sections of FedMerge's own figures are in ``run_report`` and ``study_report``; these come after them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from matplotlib.figure import Figure

from fedmerge.blame import guarded
from fedmerge.errors import FedMergeError
from fedmerge.registry import Catalogue
from fedmerge.reports import page
from fedmerge.reports.figures import NARROW, WIDE, Caption
from fedmerge.reports.page import Picture

F = TypeVar("F", bound=Callable[..., Any])
Page = Literal["run", "study", "analysis"]


@dataclass(frozen=True)
class Drawing:
    """A registered figure. of: the page that it is on. call: ``(what, width) -> Figure``; None: nothing to
    show.

    what: of a run's page its ``Result``, of a study's the ``Study``, of an analysis's the ``Analysed``.
    width: in inches, once ``WIDE`` and once ``NARROW``. describe: the same in words, for those who cannot see
    it.
    """

    name: str
    title: str
    of: Page
    call: Callable[[Any, float], Figure | None]
    describe: Callable[[Any], Caption | str] | None = None

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.call) or "").split("\n", 1)[0]

    def picture(self, what: Any) -> Picture | None:
        """Draw it for both widths of screen, with its description; None where there is nothing to show."""
        wide, narrow = (page.image_of(self.call, what, width) for width in (WIDE, NARROW))
        if not wide or not narrow:
            return None
        said: Caption | str = self.title
        if self.describe is not None:
            said = guarded(self.describe, f"figure '{self.name}'")(what)
        return Picture(wide, narrow, said if isinstance(said, str) else said.text)


class Figures(Catalogue[Drawing]):
    """All figures of reports, in the order of their sections."""

    def figure(
        self,
        name: str,
        *,
        title: str,
        of: Page,
        describe: Callable[[Any], Caption | str] | None = None,
    ) -> Callable[[F], F]:
        """Decorate a function ``(what, width) -> Figure or None`` to register it; see ``Drawing``.

        title: of its section. Make the figure with ``matplotlib.figure.Figure``, not with pyplot.
        """

        def register(call: F) -> F:
            self.add(Drawing(name, title, of, call, describe))
            return call

        return register

    def sections(self, of: Page, what: Any, plugins: Sequence[str]) -> list[dict[str, Any]]:
        """Return the sections that a page gets of these plug-ins: title, picture, or why there is none."""
        return [
            section
            for drawing in self.among(plugins)
            if drawing.of == of
            for section in _section(drawing, what)
        ]


def _section(drawing: Drawing, what: Any) -> list[dict[str, Any]]:
    try:
        picture, failed = drawing.picture(what), ""
    except FedMergeError as error:
        picture, failed = None, str(error)
    shown = {"title": drawing.title, "picture": picture, "failed": failed}
    return [shown] if picture or failed else []


FIGURES = Figures("figure", "fedmerge.figures")
