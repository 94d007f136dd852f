"""The page of a cohort's check: findings, a contact sheet, and counts by hospital, class and split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedmerge.data import Cohort
from fedmerge.data.checks.report import CohortCheck
from fedmerge.reports import figures
from fedmerge.reports.page import picture, write_page


def write_cohort_page(
    check: CohortCheck, cohort: Cohort | None, path: Path, needs: Sequence[str] = ()
) -> Path:
    """Write one HTML file that stands alone; return its path.

    cohort: None leaves out the images. needs: lines about the time and memory of an experiment.
    """
    sheet = None if cohort is None else picture(figures.samples, figures.describe_samples, cohort)
    contents = {
        "title": check.cohort,
        "summary": summary(check),
        "findings": check.findings,
        "sites": check.sites,
        "sheet": sheet,
        "needs": needs,
    }
    return write_page("cohort.html.jinja", contents, path)


def summary(check: CohortCheck) -> str:
    """Return a check in a sentence or two."""
    kinds = [finding.severity for finding in check.findings]
    said = [f"{kinds.count(kind)} {kind}s" for kind in ("error", "warning", "note") if kind in kinds]
    channels, height, width = check.shape
    images = sum(sum(site.images.values()) for site in check.sites)
    size = f"{images:,} images of {width} x {height} px, {'grey' if channels == 1 else 'colour'}, "
    return f"{size}{check.bytes / 1e9:,.2f} GB decoded. Findings: {', '.join(said) or 'none'}."
