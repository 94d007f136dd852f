"""What ``fedmerge analyse`` found, as its page needs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedmerge.analysis.diagnosis import Finding, why


@dataclass(frozen=True)
class Analysed:
    """What ``analyse`` found.

    title, about: the page's heading, and what was looked at. findings: by analysis. left: why others gave
    none. folder: where the tables lie; None: nowhere.
    """

    title: str
    about: str
    findings: dict[str, Finding]
    left: dict[str, str]
    folder: Path | None = None

    @property
    def answer(self) -> str:
        """Whether the models can be averaged; else the first finding, or why there is none."""
        first = [each.sentence for each in self.findings.values()][:1]
        apart = [self.left["drift"]] if "drift" in self.left else []  # not of one architecture
        return why(self.findings) or " ".join([*apart, *first]) or " ".join(self.reasons)

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Why analyses gave none: by reason, which."""
        found: dict[str, list[str]] = {}
        for name, reason in self.left.items():
            found.setdefault(reason, []).append(name)
        return found
